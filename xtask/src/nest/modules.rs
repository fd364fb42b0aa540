//! The kernel's modules that the nest loads: which, and in which order. BusyBox's `depmod` says what they depend on.

use super::contents::Contents;
use crate::{initramfs, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What is to be loaded; what it depends on is before it.
const WANTED: &str = "kvm_amd";

/// Where modules are in the nest: their names are in the order in which they are to be loaded.
const DIRECTORY: &str = "nest/modules";

/// Adds the modules of a kernel, given the directory with all its modules: `lib/modules/RELEASE/kernel`.
pub fn add(contents: &mut Contents, directory: &Path) -> Result<()> {
    let own = directory.parent().context("it is in a directory of its release's")?;
    let table = depmod(own)?;
    let order = load_order(WANTED, &table)
        .with_context(|| format!("there is no module '{WANTED}' below '{}'", own.display()))?;
    for (index, path) in order.iter().enumerate() {
        let name = module_name(path).unwrap_or_default();
        contents.file(&format!("{DIRECTORY}/{index:02}-{name}.ko"), 0o644, read(&own.join(path))?);
    }
    Ok(())
}

/// The content of `modules.dep`, which is in no kernel's package.
fn depmod(own: &Path) -> Result<String> {
    // Below it are lib, modules and the release.
    let base = own.ancestors().nth(3).context("modules are in lib/modules")?;
    let release = own.file_name().context("a release has a name")?;
    let busybox = initramfs::busybox().context("no static busybox")?;
    let mut depmod = Command::new(busybox);
    depmod.args(["depmod", "-n", "-b"]).arg(base).arg(release);
    Ok(String::from_utf8_lossy(&process::capture(&mut depmod)?.stdout).into_owned())
}

/// The paths of a module and all that it needs, each after what it needs itself.
/// See: depmod's `modules.dep`, of whose lines it is the other way round.
fn load_order<'a>(wanted: &str, table: &'a str) -> Option<Vec<&'a str>> {
    let (path, needed) = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(path, _)| module_name(path).as_deref() == Some(wanted))?;
    Some(needed.split_whitespace().rev().chain([path]).collect())
}

/// The name of the module in a file, as the kernel has it: `kvm-amd.ko.xz` has `kvm_amd`.
fn module_name(path: &str) -> Option<String> {
    let (_, file) = path.rsplit_once('/')?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
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

#[cfg(test)]
mod tests {
    use super::load_order;

    #[test]
    fn what_is_needed_comes_first() {
        let table = "kernel/virt/bypass.ko:\n\
            kernel/kvm/kvm-amd.ko.xz: kernel/kvm/kvm.ko.xz kernel/virt/bypass.ko\n\
            alias symbol:kvm_amd kvm\n";
        let paths = ["kernel/virt/bypass.ko", "kernel/kvm/kvm.ko.xz", "kernel/kvm/kvm-amd.ko.xz"];
        assert_eq!(load_order("kvm_amd", table).expect("it is there"), paths);
        assert_eq!(load_order("bypass", table).expect("it is there"), paths[..1]);
        assert_eq!(load_order("amd", table), None);
    }
}
