//! The kernel that the module is built against, and what there is of it to boot.

use crate::{process, tree};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory of kernel headers with Kbuild in it.
pub struct Headers {
    /// As `/usr/src/linux-headers-6.1.0-9-cloud-amd64`.
    pub directory: PathBuf,
    /// As `6.1.0-9-cloud-amd64`.
    pub release: String,
    /// The kernel's configuration: lines as `CONFIG_…=y`.
    configuration: String,
}

impl Headers {
    /// The given directory, or the newest that is installed.
    pub fn find(directory: Option<PathBuf>) -> Result<Headers> {
        let directory = match directory.or_else(newest_headers) {
            Some(directory) => directory,
            None => bail!("no kernel headers: apt-get install linux-headers-cloud-amd64"),
        };
        let read = |file: &str| {
            let file = directory.join(file);
            fs::read_to_string(&file).with_context(|| format!("cannot read '{}'", file.display()))
        };
        // Not include/config/kernel.release: that is upstream's version in Debian's headers.
        let release = read("include/generated/utsrelease.h")?;
        let release = match release.split('"').nth(1) {
            Some(release) => release.to_owned(),
            None => bail!("'{}' does not say which release it is of", directory.display()),
        };
        let configuration = read("include/config/auto.conf")?;
        Ok(Headers { release, configuration, directory })
    }

    /// Whether an option is built in, named without its `CONFIG_`.
    pub fn has(&self, option: &str) -> bool {
        self.value(option) == Some("y")
    }

    /// What an option is set to, named likewise.
    pub fn value(&self, option: &str) -> Option<&str> {
        let values = self.configuration.lines().filter_map(|line| line.split_once('='));
        let mut of_option = values.filter(|(name, _)| name.strip_prefix("CONFIG_") == Some(option));
        of_option.next().map(|(_, value)| value)
    }

    /// The image of that very kernel: the installed one, or that of Debian's package.
    pub fn image(&self) -> Result<PathBuf> {
        let name = format!("boot/vmlinuz-{}", self.release);
        let installed = Path::new("/").join(&name);
        if fs::File::open(&installed).is_ok() {
            return Ok(installed);
        }
        self.of_package(&[&name])
    }

    /// The directory of that very kernel's own modules, likewise.
    pub fn modules(&self) -> Result<PathBuf> {
        let name = format!("lib/modules/{}/kernel", self.release);
        let installed = Path::new("/").join(&name);
        if installed.is_dir() {
            return Ok(installed);
        }
        // Everything is below /usr in a newer Debian.
        self.of_package(&[&name, &format!("usr/{name}")])
    }

    /// What has one of these names in Debian's package of the kernel, which is downloaded and unpacked
    /// below the target directory if that was not done before.
    fn of_package(&self, names: &[&str]) -> Result<PathBuf> {
        let kernels = tree::target().join("module/kernel");
        let directory = kernels.join(&self.release);
        if !directory.is_dir() {
            // Under another name until it is whole.
            let unpacked = kernels.join(format!("{}.new", self.release));
            fs::create_dir_all(&unpacked)
                .with_context(|| format!("cannot create '{}'", unpacked.display()))?;
            self.download(&unpacked)?;
            fs::rename(&unpacked, &directory)
                .with_context(|| format!("cannot move '{}'", unpacked.display()))?;
        }
        let mut paths = names.iter().map(|name| directory.join(name));
        paths
            .find(|path| path.exists())
            .with_context(|| format!("the package of Linux {} has no {}", self.release, names[0]))
    }

    /// Fetches the package of the kernel, and unpacks its image and its modules.
    fn download(&self, directory: &Path) -> Result<()> {
        let package = format!("linux-image-{}", self.release);
        process::capture(
            Command::new("apt-get").args(["download", &package]).current_dir(directory),
        )
        .with_context(|| {
            format!("cannot download '{package}'; is its version still offered? Try apt-get update")
        })?;
        let archive =
            newest(directory, |name| name.starts_with(&package) && name.ends_with(".deb"))
                .with_context(|| format!("apt-get left no '{package}' package"))?;
        let mut unpack = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&archive)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start 'dpkg-deb'")?;
        let files = unpack.stdout.take().context("dpkg-deb has no output")?;
        let mut tar = Command::new("tar");
        tar.args(["-x", "--wildcards", "./boot/vmlinuz-*", "*/lib/modules/*"]);
        process::run(tar.current_dir(directory).stdin(files))?;
        // tar stops reading when it wants to: how dpkg-deb ended says nothing.
        unpack.wait().context("cannot wait for 'dpkg-deb'")?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove '{}'", archive.display()))
    }
}

/// The newest headers of Debian's kernel for virtual machines.
pub fn newest_headers() -> Option<PathBuf> {
    newest(Path::new("/usr/src"), |name| {
        name.starts_with("linux-headers-") && name.ends_with("-cloud-amd64")
    })
}

/// The entry of a directory with the highest version in its name.
fn newest(directory: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    entries
        .flatten()
        .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .max_by_key(|path| version(&path.to_string_lossy()))
}

/// The numbers in a name, in order: `6.1.0-56` is newer than `6.1.0-9`.
fn version(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_compare_by_number() {
        assert!(
            version("linux-headers-6.1.0-56-cloud-amd64")
                > version("linux-headers-6.1.0-9-cloud-amd64")
        );
        assert!(
            version("linux-headers-6.12.1-1-cloud-amd64")
                > version("linux-headers-6.2.0-1-cloud-amd64")
        );
    }
}
