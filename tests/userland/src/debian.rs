//! A root file system of Debian's packages, [`Root`]: unpacked, nothing in it was ever configured.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::{Shelf, command, image};

/// What makes a root that programs can run in.
const BASE: [&str; 5] = ["base-files", "coreutils", "dash", "grep", "sed"];
/// Folders that are links into `/usr`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A root file system.
#[derive(Clone, Debug)]
pub struct Root {
    /// As a folder, from which its programs can be run on the host.
    pub folder: PathBuf,
    /// As an initial file system: a cpio archive, not compressed.
    pub archive: PathBuf,
}

/// GCC, Python with its tests, OpenSSL.
pub fn programs(shelf: &Shelf) -> Result<Root> {
    let packages = ["gcc", "libc6-dev", "openssl", "python3"];
    root(shelf, "programs-2", &packages, &["python3"], &[])
}

/// stress-ng, and what else puts a machine under load; in the root's own folder there are `files`.
pub fn stress(shelf: &Shelf, files: &[PathBuf]) -> Result<Root> {
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    let name = format!("stress-1-{:016x}", hasher.finish());
    root(shelf, &name, &["kmod", "stress-ng", "util-linux"], &[], files)
}

/// A root with `packages`, and the test suites of `tested`, which are interpreters of which the
/// current version is a package of its own; and with `files`.
fn root(
    shelf: &Shelf,
    name: &str,
    packages: &[&str],
    tested: &[&str],
    files: &[PathBuf],
) -> Result<Root> {
    let kept = shelf.get(name, |folder| {
        let work = folder.join("apt");
        let apt = Apt::new(&work)?;
        let mut names: Vec<String> =
            [&BASE[..], packages].concat().into_iter().map(String::from).collect();
        for package in tested {
            let version = |name: &String| {
                name.strip_prefix(package).is_some_and(|rest| rest.starts_with('.'))
            };
            let versions = apt.dependencies(package)?.into_iter().filter(version);
            names.extend(versions.map(|name| format!("lib{name}-testsuite")));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let tree = folder.join("root");
        unpack(&apt.packages(&names)?, &tree)?;
        for file in files {
            let name = file.file_name().context("a file has a name")?;
            fs::copy(file, tree.join(name))
                .with_context(|| format!("cannot copy '{}'", file.display()))?;
        }
        image::archive(&tree, &folder.join("root.cpio"))?;
        Ok(fs::remove_dir_all(work)?)
    })?;
    Ok(Root { folder: kept.join("root"), archive: kept.join("root.cpio") })
}

/// Unpacks packages over each other.
fn unpack(packages: &[PathBuf], root: &Path) -> Result<()> {
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(Path::new("usr").join(name), root.join(name))?;
    }
    for package in packages {
        let mut open = Command::new("dpkg-deb");
        let mut place = Command::new("tar");
        // Some packages still have /lib where the root has a link.
        place.args(["--extract", "--keep-directory-symlink", "--no-same-owner", "--directory"]);
        command::pipe(open.arg("--fsys-tarfile").arg(package), place.arg(root))?;
    }
    Ok(())
}
