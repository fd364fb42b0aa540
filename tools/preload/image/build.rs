//! Builds `tools/preload` as a shared library and puts it at `$OUT_DIR/preload.so`.
//!
//! It is for the programs of this machine, which have glibc, however the tool itself is linked.

use embed::Inner;

/// Who looks for callers from within a handler, as a program that tells where it crashed, finds them through the library.
const RUSTFLAGS: &[&str] = &["-Ctarget-feature=-crt-static", "-Cforce-unwind-tables=yes"];

/// The library is the one thing in the tree that has the C library's names.
const CARGO: &[&str] = &["rustc", "--lib", "--crate-type", "cdylib", "--features", "interpose"];

/// What the library is made of, relative to the workspace's root.
const SOURCES: &[&str] = &[
    "abi/src",
    "abi/Cargo.toml",
    "virt/src",
    "virt/Cargo.toml",
    "arch/x86/src",
    "arch/x86/Cargo.toml",
    "engine/soft/src",
    "engine/soft/build",
    "engine/soft/build.rs",
    "engine/soft/Cargo.toml",
    "host/user/src",
    "host/user/Cargo.toml",
    "tools/preload/src",
    "tools/preload/Cargo.toml",
];

fn main() {
    let library = Inner {
        package: "preload",
        profile: "preload",
        rustflags: RUSTFLAGS,
        cargo: CARGO,
        file: "libpreload.so",
        sources: SOURCES,
        depth: 3,
    };
    library.build("preload.so");
}
