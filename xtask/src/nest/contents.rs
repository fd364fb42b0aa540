//! What is in the nest's initramfs: files by path, and the directories that they are in.

use crate::initramfs::cpio::Archive;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Files and directories by path, which has no slash at its start.
#[derive(Default)]
pub struct Contents {
    // In order, so that a directory is before what is in it.
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Directory,
    File { permissions: u32, bytes: Vec<u8> },
}

impl Contents {
    /// Adds a directory, and those that it is in.
    pub fn directory(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for end in ends {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Directory);
        }
    }

    /// Adds a file, and the directories that it is in.
    pub fn file(&mut self, path: &str, permissions: u32, bytes: Vec<u8>) {
        if let Some((directory, _)) = path.rsplit_once('/') {
            self.directory(directory);
        }
        self.entries.insert(path.to_owned(), Entry::File { permissions, bytes });
    }

    /// Adds a file of this host, with its permissions.
    pub fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let cannot_read = || format!("cannot read '{}'", from.display());
        let permissions = fs::metadata(from).with_context(cannot_read)?.permissions().mode();
        self.file(to, permissions & 0o777, fs::read(from).with_context(cannot_read)?);
        Ok(())
    }

    /// Whether there is something with this path.
    pub fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// The archive of it all.
    pub fn archive(self) -> Vec<u8> {
        let mut archive = Archive::default();
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory => archive.directory(path),
                Entry::File { permissions, bytes } => archive.file(path, *permissions, bytes),
            }
        }
        archive.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Contents;

    #[test]
    fn directories_come_with_what_is_in_them() {
        let mut contents = Contents::default();
        contents.file("a/b/c", 0o644, Vec::new());
        contents.file("a/b-c", 0o644, Vec::new());
        let paths: Vec<&str> = contents.entries.keys().map(String::as_str).collect();
        assert_eq!(paths, ["a", "a/b", "a/b-c", "a/b/c"]);
        assert!(contents.has("a/b") && !contents.has("b"));
    }
}
