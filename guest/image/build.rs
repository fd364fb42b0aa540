//! Builds `guest/init` as a small static program and puts it at `$OUT_DIR/init`.
//!
//! "Static" is the gnu target with `crt-static`: it needs nothing that a host with a C compiler
//! lacks. The inner cargo has a target folder of its own below `OUT_DIR`, because the outer one
//! holds the lock of its own while this runs.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Guests are of this kind whatever the host is.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A profile of the workspace.
const PROFILE: &str = "guest";

/// A fixed address instead of a relocatable program: init is alone in its address space, and the
/// guest need not relocate it at each start.
const RUSTFLAGS: [&str; 2] = ["-Ctarget-feature=+crt-static", "-Crelocation-model=static"];

/// What the program is made of, relative to the workspace's root.
const SOURCES: [&str; 6] = [
    "guest/init/src",
    "guest/init/Cargo.toml",
    "guest/protocol/src",
    "guest/protocol/Cargo.toml",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = package.ancestors().nth(2).expect("this package is guest/image");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let built = build(root, &out.join("target"));
    fs::copy(&built, out.join("init"))
        .unwrap_or_else(|error| panic!("cannot copy '{}': {error}", built.display()));
}

/// Runs cargo for init and returns where the program is.
fn build(root: &Path, target_dir: &Path) -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    for (name, _) in env::vars_os() {
        if is_about_the_outer_build(&name) {
            cargo.env_remove(name);
        }
    }
    cargo
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        // The outer cargo has brought the lock file up to date. Nothing needs the network: the only
        // outside dependency is one of the tool's as well, so that it has been downloaded by now.
        .args(["build", "--quiet", "--locked", "--package", "guest-init"])
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    let output = cargo.output().unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    if !output.status.success() {
        panic!("cannot build guest/init:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    target_dir.join(TARGET).join(PROFILE).join("guest-init")
}

/// Whether a variable says how the outer build is done: its flags, profile and wrappers, such as
/// clippy's or a coverage tool's, are not for the guest. What says where cargo's cache and the
/// toolchain are stays.
fn is_about_the_outer_build(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let exact = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_TARGET_DIR",
        "CLIPPY_ARGS",
        "LLVM_PROFILE_FILE",
    ];
    let prefixes =
        ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_FEATURE_", "CARGO_CFG_"];
    exact.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}
