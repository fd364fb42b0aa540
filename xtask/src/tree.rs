//! Where things are.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The top of the source tree.
pub fn root() -> PathBuf {
    // `cargo run` says where the tree is now; the compiler knew where it was.
    let own = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Cargo's target directory: everything that a command writes goes there.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) if !directory.is_empty() => root().join(directory),
        _ => root().join("target"),
    }
}

/// All files of the tree, from its top and in order, without what git and cargo keep there.
pub fn files() -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(&root(), "", &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(directory: &Path, prefix: &str, files: &mut Vec<String>) -> Result<()> {
    let cannot_list = || format!("cannot list '{}'", directory.display());
    for entry in fs::read_dir(directory).with_context(cannot_list)? {
        let entry = entry.with_context(cannot_list)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if matches!(name.as_str(), ".git" | "target") {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.file_type().with_context(cannot_list)?.is_dir() {
            collect(&entry.path(), &format!("{path}/"), files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
