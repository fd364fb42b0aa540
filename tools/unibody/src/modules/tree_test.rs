use std::os::unix::fs::symlink;

use super::*;
use crate::modules::fixture::{fill, module};
use crate::modules::wanted::{Driver, Wanted};
use crate::modules::{Modules, beside_kernel};

const ORDER_TEXT: &[u8] = b"fs/fuse/fuse.o\nfs/fuse/virtiofs.o\nkernel/fs/xfs/xfs.ko\ndrivers/gone.o\n../../etc/x.o\nbroken/broken.o\n";

/// A tree that was built, with a module that is none, which nobody wants.
fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let virtiofs = module(&["alias=fs-virtiofs", "depends=fuse,virtio_ring", "name=virtiofs"]);
    fill(
        folder.path(),
        &[
            ("arch/x86/boot/bzImage", b""),
            ("vmlinux", b""),
            ("include/config/kernel.release", b"6.9.0-mine+\n"),
            ("modules.order", ORDER_TEXT),
            ("modules.builtin", b"kernel/drivers/virtio/virtio_ring.ko\n"),
            ("fs/fuse/fuse.ko", &module(&["depends=", "name=fuse"])),
            ("fs/fuse/virtiofs.ko", &virtiofs),
            ("fs/xfs/xfs.ko", &module(&["softdep=pre: fuse", "depends=", "name=xfs"])),
            ("broken/broken.ko", b"no module"),
        ],
    );
    folder
}

#[test]
fn modules_are_those_of_the_tree_that_the_kernel_is_in() {
    let folder = tree();
    let top = folder.path().canonicalize().unwrap();
    let expected = Some(Beside::Tree(top.clone(), "6.9.0-mine+".into()));
    for kernel in ["arch/x86/boot/bzImage", "vmlinux", "link"] {
        let kernel = top.join(kernel);
        if kernel.ends_with("link") {
            symlink("arch/x86/boot/bzImage", &kernel).unwrap();
        }
        assert_eq!(beside(&kernel, Some("6.9.0-mine+")), expected);
        assert_eq!(beside(&kernel, None), expected);
        assert_eq!(beside(&kernel, Some("6.9.0")), None, "it was built again since");
    }
    assert_eq!(beside(&top.join("fs/fuse/fuse.ko"), None), None);
    assert_eq!(beside(&top.join("nowhere/vmlinux"), None), None);
    fs::remove_file(top.join("modules.order")).unwrap();
    assert_eq!(beside(&top.join("vmlinux"), None), None);
}

#[test]
fn only_what_is_wanted_is_read_and_all_that_it_depends_on() {
    let folder = tree();
    let table = read(folder.path(), &["virtiofs", "xfs", "gone", "unheard"]).unwrap();
    let names: Vec<&str> = table.modules.keys().map(String::as_str).collect();
    assert_eq!(names, ["fuse", "virtiofs", "xfs"]);
    assert_eq!(table.modules["virtiofs"].path, "fs/fuse/virtiofs.ko");
    let told = read(folder.path(), &["broken"]).unwrap_err().to_string();
    assert!(told.contains("broken.ko' is no kernel module"), "{told}");
}

#[test]
fn a_guest_is_given_them_in_the_order_of_loading() {
    let folder = tree();
    let wanted = Wanted { drivers: vec![Driver::Pci, Driver::FileSystem], ..Wanted::default() };
    let kernel = folder.path().join("vmlinux");
    let found = beside_kernel(&kernel, None, &wanted).unwrap().unwrap();
    assert_eq!(found.release, "6.9.0-mine+");
    assert_eq!(found.loaded, ["fs/fuse/fuse.ko", "fs/fuse/virtiofs.ko"]);
    assert!(found.missing.is_empty(), "{:?}", found.missing);
    let all = Modules::open_tree(folder.path().into(), "6.9.0-mine+".into(), &wanted).unwrap();
    assert_eq!(all.closure(&["virtiofs"]).unwrap().modules.len(), 2);
}
