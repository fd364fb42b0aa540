//! The kernel's modules that the nest loads: which, and in which order.

use super::contents::Contents;
use crate::{initramfs, process};
use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is to be loaded; what it depends on is before it.
const WANTED: &str = "kvm_amd";

/// Where modules are in the nest: their names are in the order in which they are to be loaded.
const DIRECTORY: &str = "nest/modules";

/// Adds the modules of a kernel, given the directory with all its modules.
pub fn add(contents: &mut Contents, directory: &Path) -> Result<()> {
    let mut files = HashMap::new();
    find(directory, &mut files)?;
    let mut modules = HashMap::new();
    let order = load_order(WANTED, &mut |name| {
        let file = files.get(name).with_context(|| {
            format!("there is no module '{name}' below '{}'", directory.display())
        })?;
        let module = read(file)?;
        let needed = dependencies(&module)
            .with_context(|| format!("'{}' is no kernel module", file.display()))?;
        modules.insert(name.to_owned(), module);
        Ok(needed)
    })?;
    for (index, name) in order.iter().enumerate() {
        let module = modules.remove(name).unwrap_or_default();
        contents.file(&format!("{DIRECTORY}/{index:02}-{name}.ko"), 0o644, module);
    }
    Ok(())
}

/// Gathers the modules below a directory by name.
fn find(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    let cannot_list = || format!("cannot list '{}'", directory.display());
    for entry in fs::read_dir(directory).with_context(cannot_list)? {
        let path = entry.with_context(cannot_list)?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| module_name(name.to_str()?)) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The name of the module in a file, as dependencies name it: `kvm-amd.ko.xz` has `kvm_amd`.
fn module_name(file: &str) -> Option<String> {
    let (name, packed) = file.split_once(".ko")?;
    (packed.is_empty() || packed.starts_with('.')).then(|| name.replace('-', "_"))
}

/// A module, unpacked.
fn read(file: &Path) -> Result<Vec<u8>> {
    let packed = file.extension().unwrap_or_default().to_string_lossy();
    match packed.as_ref() {
        "ko" => fs::read(file).with_context(|| format!("cannot read '{}'", file.display())),
        "xz" => {
            let busybox = initramfs::busybox().context("no static busybox")?;
            Ok(process::capture(Command::new(busybox).arg("xzcat").arg(file))?.stdout)
        }
        _ => bail!("cannot unpack '{}': it is neither .ko nor .xz", file.display()),
    }
}

/// The names in a module's `depends=`. `None`: it is none.
fn dependencies(module: &[u8]) -> Option<Vec<String>> {
    let module = object::File::parse(module).ok()?;
    let about = module.section_by_name(".modinfo")?.data().ok()?;
    let about = String::from_utf8_lossy(about);
    let depends = about.split('\0').find_map(|field| field.strip_prefix("depends="))?;
    let names = depends.split(',').filter(|name| !name.is_empty());
    Some(names.map(|name| name.replace('-', "_")).collect())
}

/// A module and all that it needs, each after what it needs itself.
fn load_order(
    wanted: &str,
    needs: &mut dyn FnMut(&str) -> Result<Vec<String>>,
) -> Result<Vec<String>> {
    let mut order = Vec::new();
    visit(wanted, needs, &mut order)?;
    Ok(order)
}

// Modules never depend on each other in a circle: the kernel could load none of them.
fn visit(
    name: &str,
    needs: &mut dyn FnMut(&str) -> Result<Vec<String>>,
    order: &mut Vec<String>,
) -> Result<()> {
    if order.iter().any(|loaded| loaded == name) {
        return Ok(());
    }
    for needed in needs(name)? {
        visit(&needed, needs, order)?;
    }
    order.push(name.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{load_order, module_name};

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let order = load_order("a", &mut |name| {
            let needed: &[&str] = match name {
                "a" => &["b", "c"],
                "b" => &["c"],
                _ => &[],
            };
            Ok(needed.iter().map(|name| (*name).to_owned()).collect())
        });
        assert_eq!(order.expect("all are there"), ["c", "b", "a"]);
    }

    #[test]
    fn modules_are_told_from_other_files() {
        assert_eq!(module_name("kvm-amd.ko").as_deref(), Some("kvm_amd"));
        assert_eq!(module_name("kvm.ko.xz").as_deref(), Some("kvm"));
        assert_eq!(module_name("modules.order"), None);
        assert_eq!(module_name("x.korn"), None);
    }
}
