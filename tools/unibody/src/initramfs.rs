//! The guest's initial file system: [`userland`] with BusyBox, or [`overlay`] over a person's own.

use guest_image::INIT;
use vmm::boot::cpio::{Error, Writer};
use vmm::boot::input::Input;

/// The guest's name.
pub(crate) const HOSTNAME: &str = "unibody";

/// Folders and their permissions; each after the one that it is in.
const FOLDERS: [(&str, u32); 16] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("lib", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
    ("var/tmp", 0o1777),
];

const FILES: [(&str, &str); 5] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hostname", "unibody\n"),
    ("etc/hosts", "127.0.0.1 localhost unibody\n"),
    ("etc/profile", "export PS1='\\h:\\w\\$ '\n"),
];

/// A file system of BusyBox: `applets` are the paths of links to it. The archive is in parts: the large files are copied but once,
/// to where the guest has them.
pub(crate) fn userland(busybox: Input, applets: &[String]) -> Result<Vec<Input>, Error> {
    let mut archive = Writer::new();
    let mut parts = Vec::new();
    for (name, permissions) in FOLDERS {
        archive.directory(name, permissions)?;
    }
    add_init(&mut archive, &mut parts)?;
    archive.character_device("dev/null", 0o666, 1, 3)?;
    for (name, text) in FILES {
        archive.file(name, 0o644, text.as_bytes())?;
    }
    add_apart(&mut archive, &mut parts, "bin/busybox", busybox)?;
    for applet in applets {
        // An applet elsewhere is not worth failing for: it can still be called through BusyBox.
        match archive.symlink(applet, "/bin/busybox") {
            Ok(()) | Err(Error::NoParent(_) | Error::Duplicate(_) | Error::Name(_)) => {}
            Err(error) => return Err(error),
        }
    }
    parts.push(Input::bytes(archive.finish()));
    Ok(parts)
}

/// What is unpacked over a person's own file system: Unibody's `/init`. In parts, too.
pub(crate) fn overlay() -> Result<Vec<Input>, Error> {
    let mut archive = Writer::new();
    let mut parts = Vec::new();
    archive.directory("dev", 0o755)?;
    add_init(&mut archive, &mut parts)?;
    parts.push(Input::bytes(archive.finish()));
    Ok(parts)
}

/// The first process, and the console that the kernel opens for it.
fn add_init(archive: &mut Writer, parts: &mut Vec<Input>) -> Result<(), Error> {
    add_apart(archive, parts, "init", Input::bytes(INIT))?;
    archive.character_device("dev/console", 0o600, 5, 1)
}

/// A program, whose bytes are a part of their own.
fn add_apart(
    archive: &mut Writer,
    parts: &mut Vec<Input>,
    name: &str,
    program: Input,
) -> Result<(), Error> {
    let before = archive.file_apart(name, 0o755, program.length())?;
    parts.extend([Input::bytes(before), program]);
    Ok(())
}

#[cfg(test)]
#[path = "initramfs_test.rs"]
mod initramfs_test;
