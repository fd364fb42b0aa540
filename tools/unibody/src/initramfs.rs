//! The guest's initial file system: [`userland`] with BusyBox, or [`overlay`] over a person's own.

use std::collections::BTreeSet;

use guest_image::INIT;
use guest_protocol::{LATER_MODULES, LOADED_MODULES, MODULES_FOLDER};
use vmm::boot::cpio::{Error, Writer};
use vmm::boot::input::Input;

use crate::modules::for_guest::ForGuest;

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
pub(crate) fn userland(
    busybox: Input,
    applets: &[String],
    modules: Option<ForGuest>,
) -> Result<Vec<Input>, Error> {
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
    add_apart(&mut archive, &mut parts, "bin/busybox", 0o755, busybox)?;
    for applet in applets {
        // An applet elsewhere is not worth failing for: it can still be called through BusyBox.
        match archive.symlink(applet, "/bin/busybox") {
            Ok(()) | Err(Error::NoParent(_) | Error::Duplicate(_) | Error::Name(_)) => {}
            Err(error) => return Err(error),
        }
    }
    add_modules(&mut archive, &mut parts, modules)?;
    parts.push(Input::bytes(archive.finish()));
    Ok(parts)
}

/// What is unpacked over a person's own file system: Unibody's `/init`, and what that loads. In parts, too.
pub(crate) fn overlay(modules: Option<ForGuest>) -> Result<Vec<Input>, Error> {
    let mut archive = Writer::new();
    let mut parts = Vec::new();
    archive.directory("dev", 0o755)?;
    add_init(&mut archive, &mut parts)?;
    add_modules(&mut archive, &mut parts, modules)?;
    parts.push(Input::bytes(archive.finish()));
    Ok(parts)
}

/// The first process, and the console that the kernel opens for it.
fn add_init(archive: &mut Writer, parts: &mut Vec<Input>) -> Result<(), Error> {
    add_apart(archive, parts, "init", 0o755, Input::bytes(INIT))?;
    archive.character_device("dev/console", 0o600, 5, 1)
}

/// The kernel's modules, and the lists of those that init loads.
///
/// They are in a folder that nobody else has, to which init leads who looks in the usual place: in a person's own file system `/lib` may be a
/// link, which a folder of that name would replace.
fn add_modules(
    archive: &mut Writer,
    parts: &mut Vec<Input>,
    modules: Option<ForGuest>,
) -> Result<(), Error> {
    let Some(modules) = modules else { return Ok(()) };
    let root = format!("{MODULES_FOLDER}/{}", modules.release);
    let mut folders = BTreeSet::new();
    let mut add_folders = |archive: &mut Writer, path: &str| {
        let ends = path.match_indices('/').map(|(end, _)| &path[..end]);
        for folder in ends.filter(|folder| !folder.is_empty()) {
            if folders.insert(folder.to_string()) {
                archive.directory(folder, 0o755)?;
            }
        }
        Ok::<(), Error>(())
    };
    for (list, paths) in [(LOADED_MODULES, &modules.loaded), (LATER_MODULES, &modules.later)] {
        add_folders(archive, list)?;
        let lines: String = paths.iter().map(|path| format!("{root}/{path}\n")).collect();
        archive.file(list, 0o644, lines.as_bytes())?;
    }
    for (name, text) in &modules.tables {
        let path = format!("{root}/{name}");
        add_folders(archive, &path)?;
        archive.file(&path, 0o644, text.as_bytes())?;
    }
    for (path, module) in modules.files {
        let path = format!("{root}/{path}");
        add_folders(archive, &path)?;
        add_apart(archive, parts, &path, 0o644, module)?;
    }
    Ok(())
}

/// A file whose bytes are a part of their own.
fn add_apart(
    archive: &mut Writer,
    parts: &mut Vec<Input>,
    name: &str,
    permissions: u32,
    bytes: Input,
) -> Result<(), Error> {
    let before = archive.file_apart(name, permissions, bytes.length())?;
    parts.extend([Input::bytes(before), bytes]);
    Ok(())
}

#[cfg(test)]
#[path = "initramfs_test.rs"]
mod initramfs_test;
