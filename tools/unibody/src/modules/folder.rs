//! Where a kernel's modules are: [`find`].

use std::fs;
use std::path::{Path, PathBuf};

use super::{Error, name};

/// Where `make modules_install` puts them, and Linux's tools look for them.
const INSTALLED: &str = "lib/modules";

/// Finds the modules of the kernel `release` in what a person says: the folder that they were installed to, or their folder itself. Gives it and
/// the release, which is the folder's name if the kernel doesn't say.
pub(crate) fn find(told: &Path, release: Option<&str>) -> Result<(PathBuf, String), Error> {
    fs::read_dir(told).map_err(Error::read(told))?;
    let installed = told.join(INSTALLED);
    if let Some(release) = release.filter(|release| name::is_release(release))
        && installed.join(release).is_dir()
    {
        return Ok((installed.join(release), release.to_string()));
    }
    let others = releases(&installed);
    if let (None, [only]) = (release, others.as_slice()) {
        return Ok((installed.join(only), only.clone()));
    }
    if is_one(told) {
        let own = own_release(told);
        return match (release, own) {
            (Some(release), Some(own)) if own != release => {
                Err(Error::Folder(format!("its modules are of {own}, the kernel is {release}")))
            }
            (Some(release), _) => Ok((told.to_path_buf(), release.to_string())),
            (None, Some(own)) => Ok((told.to_path_buf(), own)),
            (None, None) => Err(Error::Folder("the kernel does not say its release".into())),
        };
    }
    let of = release.map(|release| format!(" of {release}")).unwrap_or_default();
    let but = match others.as_slice() {
        [] => String::new(),
        some => format!(", but of {}", some.join(", ")),
    };
    Err(Error::Folder(format!("there are no modules{of} in it{but}")))
}

/// Whether the folder is one of modules, and not one that they were installed to.
fn is_one(folder: &Path) -> bool {
    ["modules.dep", "modules.builtin", "modules.order", "kernel"]
        .iter()
        .any(|part| folder.join(part).exists())
}

/// The release that a folder of modules is named after, if it is in its usual place.
fn own_release(folder: &Path) -> Option<String> {
    let whole = fs::canonicalize(folder).ok()?;
    let is_usual = whole.parent()?.file_name()? == "modules";
    let name = whole.file_name()?.to_str()?;
    (is_usual && name::is_release(name)).then(|| name.to_string())
}

/// The releases that there are modules of, a few of them.
fn releases(installed: &Path) -> Vec<String> {
    let entries = fs::read_dir(installed).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).take(5).collect();
    names.sort();
    names
}

#[cfg(test)]
#[path = "folder_test.rs"]
mod folder_test;
