//! [`Apt`]: downloads packages and sources of packages, as an ordinary user.
//!
//! From where the machine has its own packages, with the machine's keys and proxies; but lists and
//! downloads are kept apart, and nothing counts as installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

/// apt with folders of its own.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Reads the lists of the machine's sources, into `folder`.
    pub fn new(folder: &Path) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial", "sources"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("status"), "")?;
        let at = |name: &str| format!("{}/{name}", folder.display());
        let configuration = format!(
            "Dir::State \"{}\";\nDir::State::status \"{}\";\nDir::Cache \"{}\";\n\
             APT::Sandbox::User \"\";\nAPT::Install-Recommends \"false\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
             #clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
             #clear DPkg::Post-Invoke;\n",
            at("state"),
            at("status"),
            at("cache"),
        );
        fs::write(folder.join("apt.conf"), configuration)?;
        let apt = Self { folder: folder.to_path_buf() };
        // One of several sources may be out of reach; what is needed may come from another.
        drop(command::run(apt.get().arg("update")));
        Ok(apt)
    }

    fn with_configuration(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-q").arg("-c").arg(self.folder.join("apt.conf")).current_dir(&self.folder);
        command
    }

    fn get(&self) -> Command {
        self.with_configuration("apt-get")
    }

    /// The packages and all that they depend on, as files.
    pub fn packages(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        command::run(self.get().args(["install", "--download-only", "--yes"]).args(names))?;
        let files = files(&self.folder.join("cache/archives"))?;
        Ok(files.into_iter().filter(|file| file.extension().is_some_and(|e| e == "deb")).collect())
    }

    /// What a package directly depends on.
    pub fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.with_configuration("apt-cache");
        let text = command::read(command.args(["depends", "--important", package]))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_string).collect())
    }

    /// The source of a package as its developers made it, an archive.
    pub fn source(&self, package: &str) -> Result<PathBuf> {
        let list = self.folder.join("sources.list");
        fs::write(&list, self.sources()?)?;
        let from_sources = |command: &mut Command| {
            let list = format!("Dir::Etc::sourcelist={}", list.display());
            command.args(["-o", &list, "-o", "Dir::Etc::sourceparts=-"]);
        };
        let mut update = self.get();
        from_sources(&mut update);
        command::run(update.arg("update"))?;
        let mut download = self.get();
        from_sources(&mut download);
        download.args(["source", "--download-only", package]);
        command::run(download.current_dir(self.folder.join("sources")))?;
        let is_original = |file: &PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&format!("{package}_")) && name.contains(".orig.tar.")
        };
        let found = files(&self.folder.join("sources"))?.into_iter().find(|file| is_original(file));
        found.with_context(|| format!("the source of {package} is not what it is elsewhere"))
    }

    /// The machine's sources of the distribution's packages, as sources of sources.
    fn sources(&self) -> Result<String> {
        let format = "$(ORIGIN) $(SITE) $(RELEASE) $(COMPONENT)";
        let mut targets = self.get();
        targets.args(["indextargets", "--format", format, "Created-By: Packages"]);
        let lists = source_lines(&command::read(&mut targets)?);
        if lists.is_empty() {
            bail!("apt has no lists of the distribution's packages");
        }
        Ok(lists)
    }
}

/// `deb-src` lines from lines of origin, site, release and component.
fn source_lines(targets: &str) -> String {
    let mut lines = Vec::new();
    for target in targets.lines() {
        let words: Vec<&str> = target.split_whitespace().collect();
        if let ["Debian" | "Ubuntu", site, release, component] = words[..] {
            lines.push(format!("deb-src {site} {release} {component}\n"));
        }
    }
    lines.dedup();
    lines.concat()
}

/// The files in a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::source_lines;

    #[test]
    fn only_the_distribution_is_asked_for_sources() {
        let targets = "Debian http://deb.debian.org/debian bookworm main\n\
                       Debian http://deb.debian.org/debian bookworm main\n\
                       Somebody https://example.org/apt stable main\n\
                       $(ORIGIN) https://example.org/never-reached stable main\n";
        assert_eq!(source_lines(targets), "deb-src http://deb.debian.org/debian bookworm main\n");
    }
}
