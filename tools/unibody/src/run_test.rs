use std::io::Write;

use clap::Parser;

use super::*;
use crate::cli::Verb;

fn options(arguments: &[&str]) -> cli::Run {
    match Cli::parse_from([&["unibody", "run"], arguments].concat()).verb {
        Verb::Run(options) => *options,
        Verb::Pull(_) | Verb::WithKvm(_) | Verb::Doctor(_) | Verb::ShareServer(_) => {
            panic!("run was asked for")
        }
    }
}

#[test]
fn an_own_init_takes_an_own_initrd() {
    assert!(has_own_init(&options(&["--initrd", "x", "--cmdline", "quiet rdinit=/bin/sh"])));
    assert!(has_own_init(&options(&["--initrd", "x", "--cmdline", "a", "--cmdline", "init=/i"])));
    assert!(!has_own_init(&options(&["--initrd", "x", "--cmdline", "noinit=/i"])));
    assert!(!has_own_init(&options(&["--cmdline", "init=/i"])));
}

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

#[test]
fn an_impossible_command_is_refused_before_the_boot() {
    let error = told(session(&options(&["--", "a\0b"]), &Files::default(), false));
    assert!(error.starts_with("unibody: cannot run the command: "), "{error}");
    assert!(session(&options(&[]), &Files::default(), true).is_ok());
}
