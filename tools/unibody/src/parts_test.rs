use std::io::Write;

use super::*;

fn told(result: Result<impl Sized, Error>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn an_initrd_is_looked_at_before_a_guest_is_made() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let name = quoted(file.path());
    assert_eq!(
        told(read_initrd(file.path(), 1 << 20)),
        format!(
            "unibody: cannot use initrd {name}: it is an empty file. \
             Give a cpio archive, or leave --initrd out to use BusyBox"
        )
    );
    file.write_all(b"some text").unwrap();
    assert!(told(read_initrd(file.path(), 1 << 20)).contains("it is no cpio archive"));
    assert!(told(read_initrd(file.path(), 9)).contains("larger than the guest's memory"));
    assert!(told(read_initrd(Path::new("/nowhere"), 9)).contains("'/nowhere': no such file"));
    assert!(told(read_initrd(Path::new("/"), 9)).contains("it is a directory"));
    let archive = vmm::boot::cpio::Writer::new().finish();
    file.reopen().unwrap().write_all(&archive).unwrap();
    assert_eq!(read_initrd(file.path(), 1 << 30).unwrap().head(1 << 30).unwrap(), archive);
}

#[test]
fn a_kernel_that_is_none_is_told_with_its_name() {
    assert_eq!(
        told(open_kernel(Path::new("bzimage"))),
        "unibody: cannot open kernel 'bzimage': no such file. \
         Build one, or leave --kernel out to use the distribution's"
    );
    assert!(told(open_kernel(Path::new("/etc/passwd"))).starts_with("unibody: cannot use kernel"));
}
