//! The distribution's packages, by `apt-get`.
//!
//! A package may not go with others of the same source that are installed in
//! another version, as QEMU's programs from Debian's backports do with QEMU
//! itself from the release. Those are then brought to the wanted package's version.

use crate::process;
use anyhow::{Result, bail};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

/// Installs packages, or says how.
pub fn install(names: &[&str]) -> Result<()> {
    if process::find("apt-get").is_none() {
        bail!("there is no apt-get here: install the above in this system's own way");
    }
    if !is_root() {
        bail!(
            "only root can install packages:\n  sudo apt-get install --no-install-recommends {}",
            names.join(" ")
        );
    }
    process::run(apt_get().arg("update"))?;
    let Err(error) = process::run(install_command().args(names)) else {
        return Ok(());
    };
    let siblings = siblings(names)?;
    if siblings.is_empty() {
        return Err(error);
    }
    println!("once more, with {}", siblings.join(" "));
    process::run(install_command().arg("--allow-downgrades").args(names).args(&siblings))
}

/// Removes nothing that is installed: whose machine it is may need it.
fn install_command() -> Command {
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-install-recommends", "--no-remove"]);
    command
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Installed packages of the wanted ones' sources, each with the version that goes with the wanted.
fn siblings(names: &[&str]) -> Result<Vec<String>> {
    let installed = output(
        "dpkg-query",
        &["--show", "--showformat=${db:Status-Status} ${source:Package} ${Package}\n"],
    )?;
    let mut siblings = Vec::new();
    for name in names {
        let candidate = output("apt-cache", &["show", "--no-all-versions", name])?;
        let Some(version) = field(&candidate, "Version") else {
            continue;
        };
        let source = field(&candidate, "Source").unwrap_or(name);
        for package in of_source(&installed, source) {
            let versions = output("apt-cache", &["madison", package])?;
            if versions.split('|').any(|column| column.trim() == version) {
                siblings.push(format!("{package}={version}"));
            }
        }
    }
    siblings.sort();
    siblings.dedup();
    Ok(siblings)
}

/// What a program prints.
fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = process::capture(Command::new(program).args(arguments).env("LC_ALL", "C"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A field's first word: `Source: qemu (1:7.2)` is of the source `qemu`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?
        .split_whitespace()
        .next()
}

/// The installed packages of a source.
fn of_source<'a>(installed: &'a str, source: &str) -> Vec<&'a str> {
    let package = |line: &'a str| {
        let mut words = line.split_whitespace();
        (words.next()? == "installed" && words.next()? == source).then(|| words.next())?
    };
    installed.lines().filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::{field, of_source};

    #[test]
    fn packages_of_the_same_source_are_found() {
        let installed =
            "installed qemu qemu-utils\nconfig-files qemu qemu-kvm\ninstalled ipxe ipxe-qemu\n";
        assert_eq!(of_source(installed, "qemu"), ["qemu-utils"]);
    }

    #[test]
    fn a_field_is_read() {
        let shown =
            "Package: qemu-system-x86\nSource: qemu (1:7.2+dfsg-7)\nVersion: 1:7.2+dfsg-7+b3\n";
        assert_eq!(field(shown, "Source"), Some("qemu"));
        assert_eq!(field(shown, "Version"), Some("1:7.2+dfsg-7+b3"));
        assert_eq!(field(shown, "Homepage"), None);
    }
}
