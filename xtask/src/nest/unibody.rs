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
    if reduced(&manifest).is_err() {
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

/// Adds of a pulled folder what `unibody run` reads. Most of it are modules, which nobody needs.
fn add_store(contents: &mut Contents, folder: &Path) -> Result<()> {
    let file = folder.join("manifest.json");
    let cannot_read = || format!("cannot read '{}'", file.display());
    let text = fs::read_to_string(&file).with_context(cannot_read)?;
    let (manifest, paths) = reduced(&text).with_context(cannot_read)?;
    contents.file(&format!("{STORE}/manifest.json"), 0o644, manifest.into_bytes());
    for path in paths {
        contents.copy(&folder.join(&path), &format!("{STORE}/{path}"))?;
    }
    Ok(())
}

/// The format of a manifest (`tools/unibody/src/pull/store.rs`).
const FORMAT: u32 = 3;

/// A manifest which lists the kernel, unpacked if it can be, and BusyBox only, and the paths of these.
fn reduced(manifest: &str) -> Result<(String, Vec<String>)> {
    let mut manifest: Value = serde_json::from_str(manifest)?;
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
    let Some(files) = manifest["files"].as_array_mut() else {
        bail!("it lists no files");
    };
    files.retain(|file| paths.iter().any(|path| file["path"] == path.as_str()));
    Ok((manifest.to_string(), paths))
}

#[cfg(test)]
mod tests {
    use super::reduced;

    #[test]
    fn a_manifest_is_reduced_to_the_kernel_and_busybox() {
        let manifest = r#"{"format":3,"kernel":"k","unpacked":null,"busybox":"b","files":[
            {"path":"b","size":1},{"path":"k","size":2},{"path":"m","size":3}]}"#;
        let (text, paths) = reduced(manifest).expect("it is one");
        assert_eq!(paths, ["k", "b"]);
        assert!(text.contains(r#""format":3"#) && text.contains(r#""size":2"#));
        assert!(!text.contains(r#""m""#));
        let (_, paths) = reduced(&manifest.replace("null", r#""u""#)).expect("it is one");
        assert_eq!(paths, ["k", "u", "b"]);
        assert!(reduced(&manifest.replace(r#""k","u"#, r#"null,"u"#)).is_err());
        assert!(reduced(&manifest.replace(r#""unpacked":null,"#, "")).is_err());
        // An older version's.
        assert!(reduced(&manifest.replace(":3,", ":2,")).is_err());
        assert!(super::reduced("{}").is_err());
    }
}
