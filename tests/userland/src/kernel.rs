//! The kernel's sources, as Debian's packages `linux-source-*` have them: [`Sources`]. The kernel's own tests are built from
//! these, of x86 ([`crate::selftests`]) and of KVM ([`crate::kvm_selftests`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// Where the packages put their archives.
const FOLDER: &str = "/usr/src";

/// An archive of them.
#[derive(Clone, Debug)]
pub struct Sources {
    archive: PathBuf,
    /// Which these are, as a part of a file's name.
    pub version: String,
}

impl Sources {
    /// Those of the newest version that is there.
    pub fn newest() -> Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(FOLDER)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("linux-source-") && name.contains(".tar.") {
                found.push(path);
            }
        }
        found.sort();
        let archive = found.pop().context(
            "no sources of a kernel in /usr/src: `cargo xtask setup` installs linux-source",
        )?;
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        let name = name.split(".tar").next().unwrap_or_default();
        let version = format!("{name}-{}", archive.metadata()?.len());
        Ok(Self { archive, version })
    }

    /// Takes `parts`, paths of the kernel's tree, out of the archive into `folder`.
    pub fn unpack(&self, parts: &[&str], folder: &Path) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--file").arg(&self.archive).arg("--directory").arg(folder);
        tar.args(["--strip-components=1", "--wildcards", "--no-wildcards-match-slash"]);
        command::run(tar.args(parts.iter().map(|part| format!("*/{part}"))))?;
        Ok(())
    }
}
