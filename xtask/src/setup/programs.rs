//! Cargo's extensions, and the crates that the tree depends on: what needs no root.

use crate::{process, tree};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// Programs of the toolchain, by the component that has them.
const COMPONENTS: &[(&str, &str)] = &[("clippy", "cargo-clippy"), ("rustfmt", "rustfmt")];

/// Programs that cargo installs, by the crate of the same name.
const EXTENSIONS: &[&str] = &["cargo-nextest", "cargo-deny", "cargo-fuzz"];

/// The workspaces, whose dependencies are downloaded.
const WORKSPACES: &[&str] = &["Cargo.toml", "host/kmod/Cargo.toml", "fuzz/Cargo.toml"];

/// Installs what is missing.
pub fn install() -> Result<()> {
    for (component, program) in COMPONENTS {
        if is_missing(program) {
            add_component(component)?;
        }
    }
    for extension in EXTENSIONS {
        if is_missing(extension) {
            println!("missing: {extension}: compiling it takes some minutes");
            process::run(process::cargo().args(["install", "--locked", extension]))?;
        }
    }
    for manifest in WORKSPACES {
        fetch(manifest)?;
    }
    Ok(())
}

fn is_missing(program: &str) -> bool {
    process::find(program).is_none() && !cargo_home().join("bin").join(program).is_file()
}

/// Where cargo installs programs.
fn cargo_home() -> PathBuf {
    let home = || std::env::var_os("HOME").map_or_else(PathBuf::new, PathBuf::from).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

fn add_component(component: &str) -> Result<()> {
    if process::find("rustup").is_none() {
        bail!("'{component}' is missing: install it as the Rust toolchain was installed");
    }
    process::run(std::process::Command::new("rustup").args(["component", "add", component]))
}

/// Downloads a workspace's dependencies, so that the gate needs no network.
fn fetch(manifest: &str) -> Result<()> {
    let mut offline = process::cargo();
    offline.current_dir(tree::root());
    offline.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    offline.arg("--manifest-path").arg(Path::new(manifest));
    // Resolving it offline works only with all of it there.
    if offline.output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    let mut fetch = process::cargo();
    fetch.current_dir(tree::root()).args(["fetch", "--locked", "--manifest-path", manifest]);
    process::run(&mut fetch)
}
