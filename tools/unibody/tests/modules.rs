//! The kernel's modules in a guest: what init loads, what is loaded when it is asked for, and what is told of those that can't be.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{finish, outcome, own_file, own_folder, pulled, text, unibody};
use vmm::boot::cpio::Writer;

/// `unibody run` with these options, and a shell's script in the guest.
fn shell(options: &[&str], script: &str) -> Command {
    let mut command = unibody();
    command.args(support::run()).args(options).args(["--", "sh", "-c", script]);
    command
}

/// What a script in a guest prints, which has to succeed and leave stderr alone.
fn prints(options: &[&str], script: &str) -> String {
    let output = finish(shell(options, script), b"");
    let told = (output.status.code(), text(&output.stderr));
    assert_eq!(told, (Some(0), String::new()), "{}", text(&output.stdout));
    text(&output.stdout)
}

/// The folder that the distribution's kernel has been pulled to, as if its modules had been installed there.
fn installed() -> String {
    pulled().to_str().expect("a plain path").to_string()
}

/// The folder of its modules, and the kernel's release.
fn modules() -> (PathBuf, String) {
    let folders = fs::read_dir(pulled().join("lib/modules")).expect("they are pulled");
    let folder = folders.map(|entry| entry.expect("readable").path()).next().expect("there is one");
    let release = folder.file_name().and_then(|name| name.to_str()).expect("a plain name");
    (folder.clone(), release.to_string())
}

/// A pulled module's file.
fn module(name: &str) -> Vec<u8> {
    fn find(folder: &Path, name: &str) -> Option<PathBuf> {
        let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable"));
        entries.into_iter().find_map(|entry| match entry.path() {
            path if path.is_dir() => find(&path, name),
            path => (entry.file_name().to_str() == Some(name)).then_some(path),
        })
    }
    fs::read(find(&modules().0, name).expect("it is there")).expect("readable")
}

#[test]
fn a_guest_that_needs_no_driver_has_no_modules() {
    let options = ["--console", "serial"];
    let printed =
        prints(&options, "cat /proc/modules; ls -d /.unibody /lib/modules 2>/dev/null; true");
    assert_eq!(printed, "");
}

#[test]
fn drivers_are_loaded_before_the_command_runs() {
    let printed = prints(&["--modules", &installed()], "cat /proc/modules");
    let loaded: Vec<&str> = printed.lines().filter_map(|line| line.split(' ').next()).collect();
    let drivers = [
        "virtio_pci",
        "virtio_blk",
        "virtio_net",
        "virtio_console",
        "virtio_rng",
        "virtio_balloon",
        "vmw_vsock_virtio_transport",
    ];
    for name in drivers {
        assert!(loaded.contains(&name), "{name} is not among {loaded:?}");
    }
    assert!(!loaded.contains(&"xfs"), "what nobody has asked for is not loaded");
}

#[test]
fn file_systems_are_loaded_when_they_are_mounted() {
    let script = "
        set -e
        modprobe loop
        dd if=/dev/zero of=/tmp/disk bs=1M count=8 2>/dev/null
        mkdosfs /tmp/disk >/dev/null
        mount -t vfat -o loop /tmp/disk /mnt
        echo kept >/mnt/file
        umount /mnt
        mount -t vfat -o loop /tmp/disk /mnt
        cat /mnt/file
        umount /mnt
        mke2fs -F /tmp/disk >/dev/null 2>&1
        mount -t ext4 -o loop /tmp/disk /mnt
        mkdir /mnt/folder
        umount /mnt
        for name in xfs btrfs squashfs iso9660; do
            # There is no such file system in it: but that is told by the kernel's own.
            mount -t $name -o loop /tmp/disk /mnt 2>/dev/null && exit 1
        done
        grep -o -w -e vfat -e ext4 -e xfs -e btrfs -e squashfs -e iso9660 /proc/filesystems | sort
    ";
    let printed = prints(&["--modules", &installed()], script);
    let expected = ["kept", "btrfs", "ext4", "iso9660", "squashfs", "vfat", "xfs"];
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
}

/// In a person's own file system `/lib` may be a link, and stays one.
#[test]
fn drivers_are_loaded_in_a_file_system_of_ones_own() {
    let busybox = fs::read(pulled().join("bin/busybox")).expect("it is pulled");
    let mut archive = Writer::new();
    let made = ["bin", "dev", "usr", "usr/lib"]
        .iter()
        .try_for_each(|folder| archive.directory(folder, 0o755))
        .and_then(|()| archive.symlink("lib", "usr/lib"))
        .and_then(|()| archive.file("bin/busybox", 0o755, &busybox))
        .and_then(|()| archive.symlink("bin/sh", "/bin/busybox"));
    made.expect("it can be packed");
    let initrd = own_file("linked.cpio", &archive.finish());
    let initrd = initrd.to_str().expect("a plain path");
    let script = "busybox readlink /lib
                  busybox grep -c virtio_blk /proc/modules
                  busybox modprobe xfs && busybox grep -c ^xfs /proc/modules";
    let printed = prints(&["--modules", &installed(), "--initrd", initrd], script);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0], "usr/lib");
    assert!(lines.len() == 3 && lines[1..].iter().all(|count| *count != "0"), "{printed}");
}

/// Of some modules one is packed, one can't be loaded, and most are not there.
#[test]
fn a_module_that_cannot_be_loaded_is_told_and_stops_nobody() {
    let folder = own_folder("odd-modules");
    let own = folder.join("lib/modules").join(modules().1);
    fs::create_dir_all(&own).expect("it is ours");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&module("virtio_ring.ko")).expect("in memory");
    let dependencies = "virtio_ring.ko.gz:\nvirtio.ko: virtio_ring.ko.gz\n\
                        virtio_blk.ko: virtio.ko virtio_ring.ko.gz\nvirtio-rng.ko: absent.ko\n";
    for (name, bytes) in [
        ("virtio_ring.ko.gz", gzip.finish().expect("in memory")),
        ("virtio.ko", module("virtio.ko")),
        ("virtio_blk.ko", b"no module".to_vec()),
        ("virtio-rng.ko", module("virtio-rng.ko")),
        ("modules.dep", dependencies.as_bytes().to_vec()),
    ] {
        fs::write(own.join(name), bytes).expect("it is ours");
    }
    let folder = folder.to_str().expect("a plain path");
    let output = finish(shell(&["--modules", folder], "cut -d ' ' -f 1 /proc/modules"), b"");
    assert_eq!(output.status.code(), Some(0));
    let loaded = text(&output.stdout);
    assert!(loaded.lines().any(|name| name == "virtio_ring"), "{loaded}");
    assert!(!loaded.contains("virtio_blk"), "{loaded}");
    let told = text(&output.stderr);
    let lines: Vec<&str> = told.lines().collect();
    let [missing, bad] = &lines[..] else { panic!("{told}") };
    assert_eq!(*missing, "unibody: there is no module absent, which virtio_rng depends on");
    let expected = "unibody: the guest cannot load the module virtio_blk: ";
    assert!(bad.starts_with(expected), "{told}");
}

#[test]
fn a_folder_without_the_kernels_modules_is_told() {
    let empty = own_folder("no-modules");
    let other = own_folder("other-modules");
    fs::create_dir_all(other.join("lib/modules/1.2.3-other")).expect("it is ours");
    for (folder, said) in [
        (Path::new("/no/such/folder"), "no such file"),
        (&empty, "there are no modules of "),
        (&other, "but of 1.2.3-other"),
    ] {
        let folder = folder.to_str().expect("a plain path");
        let (status, stdout, stderr) = outcome(shell(&["--modules", folder], "true"));
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{stderr}");
        let start = format!("unibody: cannot use the kernel's modules in '{folder}': ");
        assert!(stderr.starts_with(&start) && stderr.contains(said), "{stderr}");
        assert!(stderr.contains("make modules_install"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn an_init_of_ones_own_is_given_no_modules() {
    let mut command = unibody();
    let initrd = own_file("any.cpio", &Writer::new().finish());
    command.args(support::run()).arg("--initrd").arg(initrd);
    command.args(["--cmdline", "rdinit=/first", "--modules", "/"]);
    let (status, _, stderr) = outcome(command);
    assert!(status == Some(2) && stderr.contains("--modules"), "{stderr}");
}
