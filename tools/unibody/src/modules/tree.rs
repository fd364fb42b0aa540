//! Modules where a kernel was built, or installed with it: [`beside`] finds them by where the kernel is, [`read`] makes a table of those in a
//! tree that was built.
//!
//! A tree may have thousands, of which few are wanted: only those are opened. What else they would like to have is found by its name, not by
//! an alias, which would take all of them.
//!
//! See: Linux, Documentation/kbuild/kbuild.rst, `modules.order` and `modules.builtin`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::table::{Module, Table};
use super::{Error, modinfo, name, text};

/// The modules that were built, in the order of linking: a path a line, `.ko` until Linux 6.3 and `.o` since.
const ORDER: &str = "modules.order";

/// Where a build says its release.
const RELEASE: &str = "include/config/kernel.release";

/// Where `make` leaves a kernel, from the tree's top.
const BUILT: [&str; 2] = ["arch/x86/boot/bzImage", "vmlinux"];

/// Where distributions install a kernel, and its modules.
const BOOT: &str = "/boot";
const INSTALLED: &str = "/lib/modules";

/// Modules that belong to a kernel's file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// The tree that it was built in, and the release.
    Tree(PathBuf, String),
    /// The folder that they were installed to, and the release.
    Installed(PathBuf, String),
}

/// Finds the modules of a kernel of this release, if it says one, by where its file is.
pub(super) fn beside(kernel: &Path, release: Option<&str>) -> Option<Beside> {
    let whole = fs::canonicalize(kernel).ok()?;
    if let Some(release) = release.filter(|release| name::is_release(release))
        && whole.parent() == Some(Path::new(BOOT))
    {
        let folder = Path::new(INSTALLED).join(release);
        return folder.is_dir().then(|| Beside::Installed(folder, release.to_string()));
    }
    let built = BUILT.iter().find(|built| whole.ends_with(built))?;
    let tree = whole.ancestors().nth(Path::new(built).components().count())?;
    let own = text::read(tree, RELEASE).ok()??;
    let own = own.trim();
    // Of a tree that was built again since, they are another kernel's.
    let fits = name::is_release(own) && release.is_none_or(|release| release == own);
    let has_modules = fits && tree.join(ORDER).is_file();
    has_modules.then(|| Beside::Tree(tree.to_path_buf(), own.to_string()))
}

/// The table of the modules of these names in a tree, and of all that they depend on.
pub(super) fn read(tree: &Path, names: &[&str]) -> Result<Table, Error> {
    let order = text::read(tree, ORDER)?.unwrap_or_default();
    let paths = built(&order);
    let mut table = Table::default();
    let mut left: Vec<String> = names.iter().filter_map(|wanted| name::canonical(wanted)).collect();
    while let Some(name) = left.pop() {
        let Some(path) = paths.get(&name).filter(|_| !table.modules.contains_key(&name)) else {
            continue;
        };
        let file = tree.join(path);
        // It is on the list before it is there.
        if !file.is_file() {
            continue;
        }
        let info = modinfo::read(&file)?;
        left.extend(info.depends.iter().cloned());
        left.extend(info.soft.iter().filter_map(|wish| name::canonical(wish)));
        table.aliases.extend(info.aliases.into_iter().map(|alias| (alias, name.clone())));
        if !info.soft.is_empty() {
            table.soft.entry(name.clone()).or_default().extend(info.soft);
        }
        table.add(name, Module { path: path.clone(), depends: info.depends });
    }
    Ok(table)
}

/// Names of the modules that were built, and their files' paths in the tree.
fn built(order: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let path = line.trim();
        let path = path.strip_prefix("kernel/").unwrap_or(path);
        let path =
            path.strip_suffix(".o").map_or_else(|| path.to_string(), |stem| format!("{stem}.ko"));
        let path = name::path(&path)?;
        Some((name::of_file(path)?, path.to_string()))
    };
    order.lines().filter_map(line).collect()
}

#[cfg(test)]
#[path = "tree_test.rs"]
mod tree_test;
