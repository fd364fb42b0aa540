//! `cargo xtask setup`: installs what the gate needs, on Debian 12 or newer.
//!
//! - [`apt`]: the distribution's packages; only root can install those;
//! - [`programs`]: cargo's own extensions, and the crates that the tree depends on;
//! - [`userland`]: what other people's programs are built with, which run as tests.
//!
//! What is there stays as it is. As an ordinary user it installs what needs
//! no root, and names the one command for the rest.

mod apt;
mod programs;
mod userland;

use crate::module::packages::{Package, required_packages};
use crate::{Command, process};
use anyhow::{Result, bail};

/// The command.
pub const COMMAND: Command = Command { name: "setup", about: "install what the gate needs", run };

fn run(arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        println!("Usage: cargo xtask setup\n\nInstalls what `cargo xtask check` needs.");
        return Ok(());
    }
    programs::install()?;
    let missing = missing();
    if missing.is_empty() {
        println!("everything that the gate needs is installed");
        return Ok(());
    }
    for package in &missing {
        println!("missing: {:<26} {}", package.name, package.purpose);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    apt::install(&names)?;
    // Installed is what is there, whatever the package manager says.
    match self::missing().first() {
        Some(package) => bail!("'{}' was installed, and is not there", package.name),
        None => Ok(()),
    }
}

/// What libFuzzer is compiled with.
const FUZZER: &[Package] = &[Package {
    name: "g++",
    purpose: "libFuzzer, which the fuzz targets are linked with",
    test_only: true,
    present: || process::find("g++").is_some(),
}];

/// What looks at the disks that guests have written to.
const DISKS: &[Package] = &[
    Package {
        name: "qemu-utils",
        purpose: "images in formats of QEMU's, for disks of guests",
        test_only: true,
        present: || process::find("qemu-img").is_some(),
    },
    Package {
        name: "e2fsprogs",
        purpose: "ext4 on such a disk",
        test_only: true,
        present: || process::find("e2fsck").is_some(),
    },
    Package {
        name: "xfsprogs",
        purpose: "XFS on such a disk",
        test_only: true,
        present: || process::find("xfs_repair").is_some(),
    },
];

fn missing() -> Vec<&'static Package> {
    let all = required_packages().iter().chain(userland::PACKAGES).chain(FUZZER).chain(DISKS);
    all.filter(|package| !(package.present)()).collect()
}
