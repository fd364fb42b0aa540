//! `unibody` in the nest: the program, and the kernel and BusyBox that it has pulled.

use super::contents::Contents;
use crate::{process, tree};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The only kind of host that the nest is.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where the nest's user keeps what was pulled: `$HOME/.cache/unibody/current`.
const STORE: &str = "root/.cache/unibody/current";

/// Adds the program and its store.
pub fn add(contents: &mut Contents) -> Result<()> {
    let program = build("unibody")?;
    contents.copy(&program, "bin/unibody")?;
    add_store(contents, &pulled(&program)?)
}

/// Builds a package's program of the same name, static, as it is released but for what debuggers read.
///
/// It has a target directory of its own: with other flags, cargo would compile all for the one
/// and for the other again and again.
pub fn build(package: &str) -> Result<PathBuf> {
    let directory = tree::target().join("nest/build");
    let mut cargo = process::cargo();
    cargo
        .current_dir(tree::root())
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .args(["build", "--quiet", "--locked", "--release", "--package", package])
        .args(["--config", "profile.release.strip=true", "--target", TARGET, "--target-dir"])
        .arg(&directory);
    process::run(&mut cargo).with_context(|| format!("cannot build a static {package}"))?;
    Ok(directory.join(TARGET).join("release").join(package))
}

/// The folder of what this host's user has pulled. If there is nothing, or of an older version, it is pulled now.
fn pulled(program: &Path) -> Result<PathBuf> {
    let folder = cache()?.join("unibody/current");
    let manifest = fs::read_to_string(folder.join("manifest.json")).unwrap_or_default();
    if paths(&manifest).is_err() {
        process::run(Command::new(program).arg("pull"))
            .context("the nest's unibody needs a kernel, which unibody pull gets")?;
    }
    Ok(folder)
}

/// Where this user's caches are.
fn cache() -> Result<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set to an absolute path")
}

/// What says of the kernel's modules which there are, and what they depend on.
const TABLES: [&str; 4] = ["modules.alias", "modules.builtin", "modules.dep", "modules.softdep"];

/// Folders of drivers for a guest's devices, of file systems (`tools/unibody/src/modules/wanted.rs`), and of what they depend on.
const MODULES: [&str; 11] = [
    "arch",
    "crypto",
    "drivers/block",
    "drivers/cdrom",
    "drivers/char",
    "drivers/firmware",
    "drivers/misc",
    "drivers/virtio",
    "fs",
    "lib",
    "net/vmw_vsock",
];

/// Adds of a pulled folder what `unibody run` reads. Most of it are modules, of which few are needed.
fn add_store(contents: &mut Contents, folder: &Path) -> Result<()> {
    let file = folder.join("manifest.json");
    let cannot_read = || format!("cannot read '{}'", file.display());
    let text = fs::read_to_string(&file).with_context(cannot_read)?;
    let paths = paths(&text).with_context(cannot_read)?;
    contents.file(&format!("{STORE}/manifest.json"), 0o644, text.into_bytes());
    for path in paths {
        contents.copy(&folder.join(&path), &format!("{STORE}/{path}"))?;
    }
    add_modules(contents, folder)
}

/// Adds the modules of a pulled kernel that guests are given.
fn add_modules(contents: &mut Contents, folder: &Path) -> Result<()> {
    for modules in list(&folder.join("lib/modules"))? {
        let tables = TABLES.iter().map(|name| modules.join(name)).filter(|table| table.is_file());
        let mut left: Vec<PathBuf> = tables.collect();
        left.extend(MODULES.iter().map(|name| modules.join("kernel").join(name)));
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(list(&path)?);
            } else if path.is_file() {
                let name = path.strip_prefix(folder).context("it is in the folder")?;
                contents.copy(&path, &format!("{STORE}/{}", name.display()))?;
            }
        }
    }
    Ok(())
}

/// What is in a folder.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot_list = || format!("cannot list '{}'", folder.display());
    let entries = fs::read_dir(folder).with_context(cannot_list)?;
    entries.map(|entry| Ok(entry.with_context(cannot_list)?.path())).collect()
}

/// The format of a manifest (`tools/unibody/src/pull/store.rs`).
const FORMAT: u32 = 4;

/// The paths of what a manifest lists: the kernel, unpacked if it can be, and BusyBox.
fn paths(manifest: &str) -> Result<Vec<String>> {
    let manifest: Value = serde_json::from_str(manifest)?;
    if manifest["format"] != FORMAT {
        bail!("its format is not {FORMAT}");
    }
    let mut paths = Vec::new();
    for name in ["kernel", "unpacked", "busybox"] {
        match manifest.get(name) {
            Some(Value::String(path)) => paths.push(path.to_owned()),
            Some(Value::Null) if name == "unpacked" => {}
            _ => bail!("it names no {name}"),
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::paths;

    #[test]
    fn a_manifest_names_the_kernel_and_busybox() {
        let manifest = r#"{"format":4,"kernel":"k","unpacked":null,"busybox":"b","files":[]}"#;
        assert_eq!(paths(manifest).expect("it is one"), ["k", "b"]);
        let paths_of = |from: &str, to: &str| paths(&manifest.replace(from, to));
        assert_eq!(paths_of("null", r#""u""#).expect("it is one"), ["k", "u", "b"]);
        assert!(paths_of(r#""k""#, "null").is_err());
        assert!(paths_of(r#""unpacked":null,"#, "").is_err());
        // An older version's.
        assert!(paths_of(":4,", ":3,").is_err());
        assert!(paths("{}").is_err());
    }
}
