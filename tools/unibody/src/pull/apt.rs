//! Asks `apt-get` and `apt-cache` for packages, as an ordinary user: [`Apt`].
//!
//! What the machine is set up for stays: its sources, keyrings, proxies and pins. Where apt keeps its
//! state is ours, and a source that has no valid signature is never used. A source that can't be
//! reached, or whose signature is bad, fails nothing as long as no package is needed from it.
//!
//! Neighbour: [`super::apt_text`] reads what the programs print.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::apt_text::{self, Offer, Trouble};

/// The packages that depend on the current kernel for virtual machines: Debian's, Ubuntu's.
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];
/// The packages into which distributions split a kernel and its modules.
const KERNEL_PARTS: [&str; 3] = ["linux-image-", "linux-modules-", "linux-binary-"];
const BUSYBOX: &str = "busybox-static";
/// More parts than a kernel has.
const MAX_PARTS: usize = 16;

/// Why packages can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not Debian, nor of its family.
    #[error("this machine has no {0}")]
    NoApt(&'static str),
    /// A program can't be started, or its output not be read.
    #[error("cannot run {program}: {}", crate::error::reason(.source))]
    Run {
        /// Its name.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A path that has no place in apt's configuration.
    #[error("apt can't work in a folder with the name '{}'", .0.display())]
    Path(PathBuf),
    /// A file of the configuration can't be written.
    #[error("cannot write '{}': {}", .path.display(), crate::error::reason(.source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// apt ran out of space.
    #[error("the disk is full")]
    DiskFull,
    /// A signature that does not hold, of a source that is needed.
    #[error("apt can't verify the signature of {source_name}: {reason}")]
    Signature {
        /// The source.
        source_name: String,
        /// What apt says.
        reason: String,
    },
    /// The network, or the server.
    #[error("apt can't reach {source_name}: {reason}")]
    Unreachable {
        /// The source or file.
        source_name: String,
        /// What apt says.
        reason: String,
    },
    /// No source has it.
    #[error("none of apt's sources has {0}")]
    NoPackage(String),
    /// Something else, in apt's words.
    #[error("{program} failed: {reason}")]
    Failed {
        /// The program.
        program: &'static str,
        /// Its error.
        reason: String,
    },
}

/// apt with folders of its own.
#[derive(Debug)]
pub(crate) struct Apt {
    /// Where there is nothing but what apt is told.
    work: PathBuf,
    config: PathBuf,
    /// What went wrong with single sources in the last update.
    troubles: Vec<Trouble>,
}

/// What a program printed, stdout first.
struct Printed {
    success: bool,
    stdout: String,
    all: String,
}

impl Apt {
    /// Package lists are kept in `state`; `work` need not last longer than this.
    pub(crate) fn new(state: &Path, work: &Path) -> Result<Apt, Error> {
        let lists = state.join("lists/partial");
        let cache = work.join("apt/archives/partial");
        for folder in [&lists, &cache] {
            fs::create_dir_all(folder).map_err(write_error(folder))?;
        }
        // As if nothing was installed here.
        let status = work.join("status");
        fs::write(&status, "").map_err(write_error(&status))?;
        let config = work.join("apt.conf");
        let text = configuration(state, &work.join("apt"), &status)?;
        fs::write(&config, text).map_err(write_error(&config))?;
        Ok(Apt { work: work.to_path_buf(), config, troubles: Vec::new() })
    }

    /// Brings the package lists up to date, as far as sources can be reached and verified.
    pub(crate) fn update(&mut self, tick: impl FnMut()) -> Result<(), Error> {
        let printed = self.run("apt-get", &["-q", "update"], None, tick)?;
        self.troubles = apt_text::troubles(&printed.all);
        if apt_text::is_disk_full(&printed.all) {
            return Err(Error::DiskFull);
        }
        if !printed.success && self.troubles.is_empty() {
            return Err(failed("apt-get", &printed.all));
        }
        Ok(())
    }

    /// Finds out which packages make up the release's current kernel and BusyBox, and where they
    /// are.
    pub(crate) fn resolve(&self) -> Result<Vec<Offer>, Error> {
        let mut names = self.kernel_parts()?;
        names.push(BUSYBOX.to_string());
        let mut arguments = vec!["-q", "--print-uris", "download"];
        arguments.extend(names.iter().map(String::as_str));
        // Not where the person is: apt does not name what lies there already.
        let printed = self.run("apt-get", &arguments, Some(&self.work), || ())?;
        let offers = apt_text::offers(&printed.stdout);
        for name in names {
            if !offers.iter().any(|offer| offer.name == name) {
                return Err(self.no_package(&name, &printed.all));
            }
        }
        let needed = |trouble: &&Trouble| {
            trouble.is_signature && offers.iter().any(|offer| trouble.concerns(&offer.uri))
        };
        match self.troubles.iter().find(needed) {
            Some(trouble) => Err(source_error(trouble)),
            None => Ok(offers),
        }
    }

    /// A source of these packages that could not be asked in the last update.
    pub(crate) fn unreached(&self, offers: &[Offer]) -> Option<String> {
        let concerns = |trouble: &&Trouble| offers.iter().any(|offer| trouble.concerns(&offer.uri));
        self.troubles.iter().find(concerns).map(|trouble| trouble.source.clone())
    }

    /// Downloads and verifies what [`resolve`](Self::resolve) has found, into `folder`.
    pub(crate) fn download(
        &self,
        offers: &[Offer],
        folder: &Path,
        tick: impl FnMut(),
    ) -> Result<(), Error> {
        let names = offers.iter().map(|offer| format!("{}={}", offer.name, offer.version));
        let names: Vec<String> = names.collect();
        let mut arguments = vec!["-q", "download"];
        arguments.extend(names.iter().map(String::as_str));
        let printed = self.run("apt-get", &arguments, Some(folder), tick)?;
        if printed.success {
            return Ok(());
        }
        if apt_text::is_disk_full(&printed.all) {
            return Err(Error::DiskFull);
        }
        match apt_text::troubles(&printed.all).first() {
            Some(trouble) => Err(source_error(trouble)),
            None => Err(failed("apt-get", &printed.all)),
        }
    }

    /// Follows dependencies from the package that always depends on the current kernel.
    fn kernel_parts(&self) -> Result<Vec<String>, Error> {
        let mut next = Vec::new();
        for name in KERNELS {
            next = self.parts_below(&[name.to_string()])?;
            if !next.is_empty() {
                break;
            }
        }
        if next.is_empty() {
            return Err(self.no_package(&KERNELS.join(" or "), ""));
        }
        let mut parts = Vec::new();
        while !next.is_empty() && parts.len() + next.len() <= MAX_PARTS {
            let found = self.parts_below(&next)?;
            parts.append(&mut next);
            next = found.into_iter().filter(|name| !parts.contains(name)).collect();
        }
        Ok(parts)
    }

    /// The parts of kernels that these packages depend on.
    fn parts_below(&self, packages: &[String]) -> Result<Vec<String>, Error> {
        let mut arguments = vec!["--no-all-versions", "show"];
        arguments.extend(packages.iter().map(String::as_str));
        // It fails if one of the packages does not exist. Others are printed.
        let printed = self.run("apt-cache", &arguments, None, || ())?;
        let mut found = Vec::new();
        for name in apt_text::dependencies(&printed.stdout) {
            if KERNEL_PARTS.iter().any(|part| name.starts_with(part)) && !found.contains(&name) {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// A package that is not there is often a source that could not be reached.
    fn no_package(&self, name: &str, printed: &str) -> Error {
        let signature_first = |trouble: &&Trouble| !trouble.is_signature;
        match self.troubles.iter().min_by_key(signature_first) {
            Some(trouble) => source_error(trouble),
            None if printed.contains("E: ") && !printed.contains("Unable to locate") => {
                failed("apt-get", printed)
            }
            None => Error::NoPackage(name.to_string()),
        }
    }

    /// Runs one of apt's programs to its end; calls `tick` every now and then meanwhile.
    fn run(
        &self,
        program: &'static str,
        arguments: &[&str],
        folder: Option<&Path>,
        mut tick: impl FnMut(),
    ) -> Result<Printed, Error> {
        let mut command = Command::new(program);
        // What it prints is read here.
        command.env("LC_ALL", "C").env_remove("LANGUAGE");
        command.arg("-c").arg(&self.config).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        let child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoApt(program),
            _ => Error::Run { program, source },
        })?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        let output = loop {
            match receiver.recv_timeout(Duration::from_millis(100)) {
                Ok(output) => break output,
                Err(RecvTimeoutError::Timeout) => tick(),
                Err(RecvTimeoutError::Disconnected) => break Err(io::ErrorKind::Other.into()),
            }
        };
        let output = output.map_err(|source| Error::Run { program, source })?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let all = format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(Printed { success: output.status.success(), stdout, all })
    }
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Write { path: path.to_path_buf(), source }
}

fn source_error(trouble: &Trouble) -> Error {
    let (source_name, reason) = (trouble.source.clone(), trouble.reason.clone());
    if trouble.is_signature {
        Error::Signature { source_name, reason }
    } else {
        Error::Unreachable { source_name, reason }
    }
}

fn failed(program: &'static str, printed: &str) -> Error {
    Error::Failed { program, reason: apt_text::first_error(printed) }
}

/// What is read after the machine's own configuration.
fn configuration(state: &Path, cache: &Path, status: &Path) -> Result<String, Error> {
    let path = |path: &Path| -> Result<String, Error> {
        // There is no way to write these within quotes.
        let text = path.to_str().filter(|text| !text.contains(['"', '\n', '\r', '\\']));
        text.map(str::to_string).ok_or_else(|| Error::Path(path.to_path_buf()))
    };
    Ok(format!(
        r##"// Made by unibody.
Dir::State "{}";
Dir::State::status "{}";
Dir::Cache "{}";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
APT::Sandbox::User "";

// Hooks are for those who install packages, and need their rights.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;

// Whatever the machine is lenient about.
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
APT::Get::AllowUnauthenticated "false";

// Guests are of this architecture; other lists are not looked at.
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::GzipIndexes "true";
Acquire::IndexTargets::deb-src::Sources::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-hidpi::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-large::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi::DefaultEnabled "false";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb-legacy::DefaultEnabled "false";

// Somebody is waiting: a dead source is to be found dead soon.
Acquire::Retries "3";
Acquire::http::Timeout "15";
Acquire::https::Timeout "15";
Acquire::ftp::Timeout "15";
"##,
        path(state)?,
        path(status)?,
        path(cache)?,
    ))
}
