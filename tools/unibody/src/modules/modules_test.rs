//! Tests of a whole folder of modules: with what depmod makes and without, and what of it a guest is given.

use super::fixture::{fill, kernel, module};
use super::wanted::Driver;
use super::*;

fn open(folder: &Path) -> Modules {
    Modules::open(folder.to_path_buf(), "6.1.0").unwrap()
}

fn block_and_file_systems() -> Wanted {
    Wanted { drivers: vec![Driver::Block, Driver::Rng], file_systems: true, ..Wanted::default() }
}

#[test]
fn modules_say_themselves_what_depmod_would() {
    let folder = tempfile::tempdir().unwrap();
    kernel(folder.path());
    assert!(!is_described(folder.path()));
    let scanned = open(folder.path());
    for (name, text) in describe(folder.path()).unwrap() {
        fs::write(folder.path().join(name), text).unwrap();
    }
    assert!(is_described(folder.path()));
    let read = open(folder.path());
    let names = ["virtio_blk", "virtio-rng", "ext4", "gone"];
    let (scanned, read) = (scanned.closure(&names).unwrap(), read.closure(&names).unwrap());
    let of = |closure: &Closure<'_>| -> Vec<String> {
        closure.modules.iter().map(|(_, module)| module.path.clone()).collect()
    };
    assert_eq!(
        of(&scanned),
        [
            "kernel/drivers/virtio/virtio_ring.ko",
            "kernel/drivers/virtio/virtio.ko",
            "kernel/drivers/block/virtio_blk.ko",
            "kernel/drivers/char/virtio-rng.ko"
        ]
    );
    assert_eq!(of(&read), of(&scanned));
    assert_eq!(read.missing, scanned.missing);
    let [missing] = &read.missing[..] else { panic!("{:?}", read.missing) };
    assert_eq!((missing.name.as_str(), &missing.for_module), ("gone", &None));
}

#[test]
fn a_guest_gets_what_it_loads_and_what_it_may_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    kernel(folder.path());
    let guest = open(folder.path()).for_guest(&block_and_file_systems()).unwrap();
    assert_eq!(guest.release, "6.1.0");
    assert_eq!(guest.loaded.len(), 4);
    assert_eq!(guest.loaded[2], "kernel/drivers/block/virtio_blk.ko");
    let paths: Vec<&str> = guest.files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths[4..], ["kernel/fs/xfs/xfs.ko", "kernel/crypto/crc32c-intel.ko"]);
    assert!(guest.missing.is_empty(), "drivers that may be part of the kernel are not missed here");
    let table = |file: &str| {
        let found = guest.tables.iter().find(|(name, _)| *name == file);
        found.unwrap_or_else(|| panic!("{file}")).1.as_str()
    };
    assert!(table("modules.alias").contains("alias fs-xfs xfs\n"));
    assert!(
        table("modules.dep")
            .contains("kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko\n")
    );
    assert!(!table("modules.dep").contains("other"));
    assert_eq!(table("modules.softdep"), "softdep xfs pre: crc32c\n");
    assert!(table("modules.builtin").contains("ext4"));
}

#[test]
fn what_is_loaded_later_is_not_loaded_twice() {
    let folder = tempfile::tempdir().unwrap();
    kernel(folder.path());
    let (drivers, later) = (vec![Driver::Block], vec![Driver::Rng]);
    let wanted = Wanted { drivers, later, file_systems: false };
    assert!(!Wanted { drivers: Vec::new(), ..wanted.clone() }.is_nothing());
    let guest = open(folder.path()).for_guest(&wanted).unwrap();
    assert_eq!(guest.loaded[2..], ["kernel/drivers/block/virtio_blk.ko"]);
    assert_eq!(guest.later, ["kernel/drivers/char/virtio-rng.ko"]);
    assert_eq!(guest.files.len(), 4);
}

#[test]
fn packed_modules_are_unpacked_for_the_guest() {
    use std::io::Write;

    let folder = tempfile::tempdir().unwrap();
    let blk = module(&["depends="]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&blk).unwrap();
    fill(folder.path(), &[("kernel/virtio_blk.ko.gz", &gzip.finish().unwrap())]);
    let wanted = Wanted { drivers: vec![Driver::Block], ..Wanted::default() };
    let guest = open(folder.path()).for_guest(&wanted).unwrap();
    let [(path, input)] = &guest.files[..] else { panic!("{guest:?}") };
    assert_eq!((path.as_str(), input.head(usize::MAX).unwrap()), ("kernel/virtio_blk.ko", blk));
    assert_eq!(guest.loaded, ["kernel/virtio_blk.ko"]);
    assert_eq!(guest.tables[0].1, "kernel/virtio_blk.ko:\n");
}

#[test]
fn of_two_modules_of_a_name_the_updated_one_counts() {
    let folder = tempfile::tempdir().unwrap();
    let module = module(&["depends="]);
    let paths = ["extra/virtio_blk.ko", "kernel/virtio_blk.ko", "updates/dkms/virtio-blk.ko"];
    fill(folder.path(), &paths.map(|path| (path, module.as_slice())));
    // Links lead elsewhere: to a kernel's source.
    std::os::unix::fs::symlink("/", folder.path().join("build")).unwrap();
    let modules = open(folder.path());
    let closure = modules.closure(&["virtio_blk"]).unwrap();
    assert_eq!(closure.modules[0].1.path, "updates/dkms/virtio-blk.ko");
}

#[test]
fn what_a_module_depends_on_and_is_nowhere_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), &[("kernel/virtio_blk.ko", &module(&["depends=gone"]))]);
    let wanted = Wanted { drivers: vec![Driver::Block], file_systems: true, ..Wanted::default() };
    let guest = open(folder.path()).for_guest(&wanted).unwrap();
    let [missing] = &guest.missing[..] else { panic!("{guest:?}") };
    assert_eq!(
        (missing.name.as_str(), missing.for_module.as_deref()),
        ("gone", Some("virtio_blk"))
    );
}

#[test]
fn what_cannot_be_read_is_told_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), &[("kernel/a.ko", b"no module")]);
    let error = Modules::open(folder.path().to_path_buf(), "6.1.0").unwrap_err().to_string();
    assert!(error.contains("/kernel/a.ko' is no kernel module"), "{error}");
    // A table that names what is not there.
    fill(folder.path(), &[("modules.dep", b"kernel/virtio_blk.ko:\n")]);
    let wanted = Wanted { drivers: vec![Driver::Block], ..Wanted::default() };
    let error = open(folder.path()).for_guest(&wanted).unwrap_err().to_string();
    assert!(error.contains("virtio_blk.ko': no such file"), "{error}");
    assert!(Modules::open(folder.path().to_path_buf(), "../6.1").is_err());
}
