//! Makes the table of a folder's modules out of the modules themselves: what depmod does when a kernel is installed.

use std::fs;
use std::path::Path;

use super::table::{Module, Table};
use super::{Error, modinfo, name};

/// Folders in folders, of which a kernel's tree has eight.
const DEEPEST: usize = 16;
/// More than any kernel has: some have 7,000.
const MOST: usize = 1 << 16;

/// Reads the modules below `folder`.
pub(super) fn scan(folder: &Path) -> Result<Table, Error> {
    let mut paths = Vec::new();
    find(folder, folder, 0, &mut paths)?;
    paths.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    let mut table = Table::default();
    for path in paths {
        let Some(name) = name::of_file(&path) else { continue };
        let info = modinfo::read(&folder.join(&path))?;
        if table.add(name.clone(), Module { path, depends: info.depends }) {
            table.aliases.extend(info.aliases.into_iter().map(|alias| (alias, name.clone())));
            if !info.soft.is_empty() {
                table.soft.entry(name).or_default().extend(info.soft);
            }
        }
    }
    Ok(table)
}

/// Of two modules of a name the one in the first place counts. See: depmod.d(5), `search updates built-in`.
fn rank(path: &str) -> usize {
    let order = ["updates/", "kernel/"];
    order.iter().position(|folder| path.starts_with(folder)).unwrap_or(order.len())
}

/// Finds the modules in `folder` and the folders in it: not behind links, such as the one to the kernel's source.
fn find(root: &Path, folder: &Path, depth: usize, paths: &mut Vec<String>) -> Result<(), Error> {
    let too_much = |what| Error::TooMuch { path: root.to_path_buf(), what };
    if depth > DEEPEST {
        return Err(too_much("has more folders in folders than a kernel has"));
    }
    for entry in fs::read_dir(folder).map_err(Error::read(folder))? {
        let entry = entry.map_err(Error::read(folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::read(&path))?;
        if kind.is_dir() {
            find(root, &path, depth + 1, paths)?;
            continue;
        }
        let relative = path.strip_prefix(root).ok().and_then(Path::to_str);
        let Some(module) = relative.and_then(name::path).filter(|_| kind.is_file()) else {
            continue;
        };
        if paths.len() == MOST {
            return Err(too_much("has more modules than a kernel has"));
        }
        paths.push(module.to_string());
    }
    Ok(())
}
