//! The two lock files: the kernel's half must be of the same dependencies as user space's.
//!
//! `host/kmod` is a workspace of its own, so cargo keeps a lock file for each.

use crate::tree;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Versions by package.
type Locked = BTreeMap<String, BTreeSet<String>>;

/// Fails if the module is built from a version that user space does not use.
pub fn check() -> Result<()> {
    let user = read(&tree::root().join("Cargo.lock"))?;
    let kernel = read(&tree::root().join("host/kmod/Cargo.lock"))?;
    let differing = differences(&user, &kernel);
    if !differing.is_empty() {
        bail!(
            "the module and user space are locked to different versions:\n  {}\n\
             In host/kmod: cargo update PACKAGE --precise VERSION",
            differing.join("\n  ")
        );
    }
    Ok(())
}

fn read(file: &Path) -> Result<Locked> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read '{}'", file.display()))?;
    Ok(parse(&text))
}

/// Takes the pairs of `name = "…"` and `version = "…"` lines.
fn parse(text: &str) -> Locked {
    let mut locked = Locked::new();
    let mut package = "";
    for line in text.lines() {
        if let Some(name) = value(line, "name") {
            package = name;
        } else if let Some(version) = value(line, "version") {
            locked.entry(package.to_owned()).or_default().insert(version.to_owned());
        }
    }
    locked
}

fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')
}

/// Packages of the kernel that user space has, but in other versions only.
fn differences(user: &Locked, kernel: &Locked) -> Vec<String> {
    kernel
        .iter()
        .filter_map(|(package, versions)| {
            let in_user = user.get(package)?;
            let show = |versions: &BTreeSet<String>| {
                versions.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
            };
            (!versions.is_subset(in_user)).then(|| {
                format!(
                    "{package}: {} in the kernel, {} in user space",
                    show(versions),
                    show(in_user)
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{differences, parse};

    #[test]
    fn a_version_of_the_kernels_own_is_found() {
        let user = parse("version = 4\n[[package]]\nname = \"a\"\nversion = \"1.2.0\"\n");
        let kernel = parse(
            "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.3.0\"\n[[package]]\nname = \"kmod\"\nversion = \"0.1.0\"\n",
        );
        assert_eq!(differences(&user, &user), Vec::<String>::new());
        assert_eq!(differences(&user, &kernel), ["a: 1.3.0 in the kernel, 1.2.0 in user space"]);
    }
}
