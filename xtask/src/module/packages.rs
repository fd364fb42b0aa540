//! What must be installed to build and test the module.

use crate::process;
use anyhow::{Result, bail};
use std::path::Path;

/// A package of Debian's that the module's build or test needs.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// What for.
    pub purpose: &'static str,
    /// Needed for `--test` only.
    pub test_only: bool,
    /// Whether what it brings is there, whichever way it came.
    pub present: fn() -> bool,
}

/// Debian's own compiler. Rustup's does not carry the sources of `core` unless asked.
pub const RUSTC: &str = "/usr/bin/rustc";
/// Where its sources of `core` and `alloc` are.
const LIBRARY: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";
/// Debian's headers: the package whose presence `--headers` makes unnecessary.
const HEADERS: &str = "linux-headers-cloud-amd64";
/// What it takes to boot a stock kernel. The headers say which one.
const MACHINE: [&str; 3] = [HEADERS, "qemu-system-x86", "busybox-static"];

const PACKAGES: &[Package] = &[
    Package {
        name: "rustc-web",
        purpose: "the compiler for the kernel's half",
        test_only: false,
        present: || Path::new(RUSTC).is_file(),
    },
    Package {
        name: "rust-web-src",
        purpose: "the sources of Rust's core library, compiled for the kernel",
        test_only: false,
        present: || Path::new(LIBRARY).is_file(),
    },
    Package {
        name: HEADERS,
        purpose: "the kernel to build against, and its objtool",
        test_only: false,
        present: || super::kernel::newest_headers().is_some(),
    },
    Package {
        name: "build-essential",
        purpose: "gcc, ld and make, which Kbuild runs",
        test_only: false,
        present: || {
            ["gcc", "ld", "objcopy", "make"].iter().all(|tool| process::find(tool).is_some())
        },
    },
    Package {
        name: "qemu-system-x86",
        purpose: "the machine that the test boots",
        test_only: true,
        present: || process::find("qemu-system-x86_64").is_some(),
    },
    Package {
        name: "busybox-static",
        purpose: "the programs in the test's initramfs",
        test_only: true,
        present: || crate::initramfs::busybox().is_some(),
    },
];

/// What must be installed to build and test the module.
pub fn required_packages() -> &'static [Package] {
    PACKAGES
}

/// Fails, if building and testing the module takes more than is installed, with the command that
/// installs it.
pub fn check(test: bool, own_headers: bool) -> Result<()> {
    require(|package| (test || !package.test_only) && !(own_headers && package.name == HEADERS))
}

/// The same for what it takes to boot a stock kernel.
pub fn check_machine() -> Result<()> {
    require(|package| MACHINE.contains(&package.name))
}

fn require(needed: impl Fn(&Package) -> bool) -> Result<()> {
    let missing: Vec<&Package> = required_packages()
        .iter()
        .filter(|package| needed(package) && !(package.present)())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut text = String::from("some of what it takes is not installed:\n");
    for package in &missing {
        text.push_str(&format!("  {:<26} {}\n", package.name, package.purpose));
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    bail!("{text}Install it: apt-get install {}", names.join(" "));
}
