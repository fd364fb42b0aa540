//! `unsafe` only where ARCHITECTURE.md says.
//!
//! The list there is a code block with the info string `unsafe-code`: on each line a
//! file, and why. A crate without such a file forbids `unsafe` at its root. That each
//! use argues for its safety is clippy's to check (`undocumented_unsafe_blocks`).

use super::rust_text::{code_only, lines_with};
use crate::{layering, tree};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;

const DOCUMENT: &str = "ARCHITECTURE.md";
const INFO: &str = "```unsafe-code";
const FORBID: &str = "#![forbid(unsafe_code)]";

/// Checks the tree.
pub fn check() -> Result<()> {
    let read = |file: &str| {
        fs::read_to_string(tree::root().join(file)).with_context(|| format!("cannot read '{file}'"))
    };
    let listed = list(&read(DOCUMENT)?)?;
    let mut found = BTreeSet::new();
    let mut defects = Vec::new();
    let sources = tree::files()?;
    for file in sources.iter().filter(|file| file.ends_with(".rs")) {
        let lines = lines_with(&code_only(&read(file)?), "unsafe");
        let Some(first) = lines.first() else {
            continue;
        };
        if !listed.contains(file) {
            defects
                .push(format!("{file}:{first}: `unsafe` in a file that {DOCUMENT} does not list"));
        }
        found.insert(file.clone());
    }
    for file in listed.difference(&found) {
        defects.push(format!("{DOCUMENT} lists {file}, which has no `unsafe`"));
    }
    for package in layering::packages()? {
        let may = listed.iter().any(|file| file.starts_with(&format!("{}/src/", package.folder)));
        for root in &package.roots {
            if !may && !code_only(&read(root)?).contains(FORBID) {
                defects.push(format!("{root}: lacks {FORBID}"));
            }
        }
    }
    if !defects.is_empty() {
        bail!("\n  {}", defects.join("\n  "));
    }
    println!("{} files have `unsafe`, all of them listed", found.len());
    Ok(())
}

/// The files of the list.
fn list(document: &str) -> Result<BTreeSet<String>> {
    let mut lines = document.lines().skip_while(|line| line.trim() != INFO).skip(1);
    let mut files = BTreeSet::new();
    loop {
        let Some(line) = lines.next() else {
            bail!("{DOCUMENT} has no code block that begins with {INFO}");
        };
        if line.trim() == "```" {
            return Ok(files);
        }
        let Some((file, why)) = line.trim().split_once(char::is_whitespace) else {
            bail!("{DOCUMENT}: '{line}' does not say why");
        };
        if why.trim().is_empty() || !files.insert(file.to_owned()) {
            bail!("{DOCUMENT}: '{line}' says nothing, or stands there twice");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn the_list_is_read() {
        let files =
            list("text\n```unsafe-code\na/b.rs  why\nc.rs  also why\n```\nd.rs\n").expect("a list");
        assert_eq!(files.into_iter().collect::<Vec<_>>(), ["a/b.rs", "c.rs"]);
    }

    #[test]
    fn a_list_without_reasons_or_without_end_is_refused() {
        assert!(list("```unsafe-code\na/b.rs\n```\n").is_err());
        assert!(list("```unsafe-code\na/b.rs  why\n").is_err());
        assert!(list("no list").is_err());
    }
}
