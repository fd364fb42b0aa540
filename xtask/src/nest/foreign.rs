//! A VMM that is not ours, for the nest: [`qemu`], Debian's QEMU with what its machines `microvm` and `pc` read.

use super::Extra;
use crate::process;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// What QEMU's microvm and its PC read, and where it is on Debian.
const FIRMWARE: [&str; 6] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/bios-microvm.bin",
    "/usr/share/qemu/qboot.rom",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/multiboot_dma.bin",
];

/// Where QEMU looks for it, when it is in /usr/bin.
const FIRMWARE_FOLDER: &str = "usr/share/qemu";

/// The program, and its firmware.
pub fn qemu() -> Result<Vec<Extra>> {
    let qemu = process::find("qemu-system-x86_64");
    let from = qemu.context("no qemu-system-x86_64: `cargo xtask setup` installs it")?;
    let mut files = vec![Extra { from, to: "usr/bin/qemu-system-x86_64".to_owned() }];
    for from in FIRMWARE.map(PathBuf::from) {
        let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(Extra { from, to: format!("{FIRMWARE_FOLDER}/{name}") });
    }
    Ok(files)
}
