//! The initial file system in which a list of test programs runs: [`Image`].

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::report;

/// What the script and [`crate::qemu`]'s init use of BusyBox.
const APPLETS: [&str; 7] = ["basename", "cat", "mkdir", "mount", "sh", "sleep", "timeout"];

/// Makes a cpio archive, as kernels take it, of a folder. All in it belongs to root.
pub fn archive(folder: &Path, file: &Path) -> Result<()> {
    let mut pack = Command::new("bsdtar");
    pack.args(["--create", "--format", "newc", "--uid", "0", "--gid", "0", "--file"]);
    command::run(pack.arg(file).arg("--directory").arg(folder).arg("."))?;
    Ok(())
}

/// A file system with test programs, and a script that runs them all.
#[derive(Clone, Debug)]
pub struct Image {
    /// The programs, on the host.
    pub programs: PathBuf,
    /// The archive.
    pub archive: PathBuf,
}

impl Image {
    /// The script, in the guest: it runs each program and prints what [`crate::report`] reads.
    pub const SCRIPT: &str = "/run-tests";

    /// Packs the programs in `folder/programs` into `folder/image.cpio`. `busybox` runs the script.
    pub fn make(folder: &Path, busybox: &Path, seconds: u32) -> Result<()> {
        let programs = folder.join("programs");
        let tree = folder.join("image");
        fs::create_dir_all(tree.join("bin"))?;
        fs::create_dir_all(tree.join("tests"))?;
        for name in ["dev", "proc", "sys", "tmp"] {
            fs::create_dir(tree.join(name))?;
        }
        fs::copy(busybox, tree.join("bin/busybox"))
            .with_context(|| format!("cannot copy '{}'", busybox.display()))?;
        for applet in APPLETS {
            symlink("busybox", tree.join("bin").join(applet))?;
        }
        for entry in fs::read_dir(&programs)? {
            let entry = entry?;
            fs::copy(entry.path(), tree.join("tests").join(entry.file_name()))?;
        }
        script(&tree.join(&Self::SCRIPT[1..]), &report::script(seconds))?;
        script(&tree.join("init"), crate::qemu::INIT)?;
        archive(&tree, &folder.join("image.cpio"))?;
        Ok(fs::remove_dir_all(tree)?)
    }

    /// What [`make`](Self::make) has put into `folder`.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { programs: folder.join("programs"), archive: folder.join("image.cpio") }
    }
}

fn script(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text)?;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o755))?)
}
