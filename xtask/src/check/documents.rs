//! Files and folders that the documents name and that are not there.
//!
//! What stands between backquotes, looks like a path of this tree and is one is fine;
//! so is the end of one (`vcpu/inbox.rs`). Links are checked as well. Code
//! blocks are not: they show commands and output. A file called `foo` stands for any.
//!
//! And the version that DKMS knows the module by is the workspace's.

use crate::tree;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;

/// What a file's name ends with, if it has no folder before it.
const ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".c", ".h", ".lds", ".S"];

/// Checks every document at the top of the tree and below `docs/`.
pub fn check() -> Result<()> {
    let files = tree::files()?;
    let known = with_folders(&files);
    let is_document = |file: &&String| {
        file.ends_with(".md") && (!file.contains('/') || file.starts_with("docs/"))
    };
    let mut dead = Vec::new();
    let mut count = 0;
    for document in files.iter().filter(is_document) {
        let text = fs::read_to_string(tree::root().join(document))
            .with_context(|| format!("cannot read '{document}'"))?;
        for (line, path) in paths(&text) {
            count += 1;
            if !exists(&known, &path) {
                dead.push(format!("{document}:{line}: there is no '{path}'"));
            }
        }
    }
    if !dead.is_empty() {
        bail!("\n  {}", dead.join("\n  "));
    }
    println!("{count} names of files and folders, all of them there");
    check_version()
}

/// Compares the versions of `dkms.conf` and the workspace.
fn check_version() -> Result<()> {
    let read = |file: &str| {
        fs::read_to_string(tree::root().join(file)).with_context(|| format!("cannot read '{file}'"))
    };
    let (ours, dkms) = (read("Cargo.toml")?, read("dkms.conf")?);
    let ours = assigned(&ours, "version").context("Cargo.toml has no version")?;
    let dkms = assigned(&dkms, "PACKAGE_VERSION").context("dkms.conf has no PACKAGE_VERSION")?;
    if ours != dkms {
        bail!("dkms.conf has version {dkms}, and the workspace {ours}");
    }
    Ok(())
}

/// The first value in quotes that a line gives to a name.
fn assigned<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.trim_start().strip_prefix('=')?;
        value.split('"').nth(1)
    })
}

/// The files, and the folders that they are in, which end with a slash.
fn with_folders(files: &[String]) -> BTreeSet<String> {
    let mut known: BTreeSet<String> = files.iter().cloned().collect();
    for file in files {
        for (slash, _) in file.match_indices('/') {
            known.insert(file[..=slash].to_owned());
        }
    }
    known
}

/// Whether it is a file or folder of the tree, or the end of one's path.
fn exists(known: &BTreeSet<String>, path: &str) -> bool {
    let folder = format!("{}/", path.trim_end_matches('/'));
    let is = |name: &String| {
        let named = if name.ends_with('/') { folder.as_str() } else { path };
        name.strip_suffix(named).is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    known.iter().any(is)
}

/// What the text names, with the line.
fn paths(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        let spans = line.split('`').skip(1).step_by(2).filter(|span| looks_like_path(span));
        found.extend(spans.map(|span| (index + 1, span.to_owned())));
        let links = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let targets = links.map(|link| link.split('#').next().unwrap_or_default());
        let local = targets.filter(|link| !link.is_empty() && !link.contains(':'));
        found.extend(local.map(|link| (index + 1, link.to_owned())));
    }
    found
}

fn looks_like_path(span: &str) -> bool {
    let of_path = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    // `foo` stands for any name.
    let elsewhere = ["/", "-", "target/", "Documentation/", "foo"];
    span.chars().all(of_path)
        && !elsewhere.iter().any(|start| span.starts_with(start))
        && (span.contains('/') || ENDINGS.iter().any(|ending| span.ends_with(ending)))
}

#[cfg(test)]
mod tests {
    use super::{assigned, exists, paths, with_folders};

    #[test]
    fn a_version_is_found_by_its_name() {
        let text = "# version\nversion-of-x = \"1\"\nversion = \"0.1.0\"\nversion = \"2\"\n";
        assert_eq!(assigned(text, "version"), Some("0.1.0"));
        assert_eq!(assigned("PACKAGE_VERSION=\"3.4\"\n", "PACKAGE_VERSION"), Some("3.4"));
        assert_eq!(assigned(text, "PACKAGE_VERSION"), None);
    }

    #[test]
    fn names_of_files_are_found() {
        let text = "`a/b.rs` and `Vec<u8>`, `--kernel`, `/dev/kvm`, `c.md`\n```\n`d/e`\n```\n[x](LICENSE) [y](https://z)";
        let expected = [(1, "a/b.rs"), (1, "c.md"), (5, "LICENSE")];
        assert_eq!(paths(text), expected.map(|(line, path)| (line, path.to_owned())));
    }

    #[test]
    fn a_path_or_its_end_exists() {
        let known = with_folders(&["arch/x86/src/vcpu/inbox.rs".to_owned()]);
        for path in
            ["arch/x86/src/vcpu/inbox.rs", "vcpu/inbox.rs", "inbox.rs", "arch/x86", "arch/x86/"]
        {
            assert!(exists(&known, path), "{path}");
        }
        for path in ["box.rs", "vcpu/outbox.rs", "arch/x8"] {
            assert!(!exists(&known, path), "{path}");
        }
    }
}
