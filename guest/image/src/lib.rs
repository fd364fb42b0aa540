//! Init, the first process of a guest, as the bytes of a static program.
//!
//! The build script compiles `guest/init` for guests, so that a plain `cargo run` needs no step
//! before it. Whoever packs an initramfs puts [`INIT`] at `/init`.
#![forbid(unsafe_code)]

/// A static ELF program for x86-64 Linux.
pub static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

#[cfg(test)]
mod lib_test;
