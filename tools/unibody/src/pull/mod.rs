//! Gets a stock kernel and a userland from the distribution: [`pull`], and [`ensure`] for those who
//! only need what is there.
//!
//! | module | subject |
//! |---|---|
//! | [`command`] | `unibody pull` itself |
//! | [`apt`], [`apt_text`] | finding, downloading and verifying packages |
//! | [`ar`], [`deb`] | unpacking them |
//! | [`store`] | the folder that keeps what was pulled |
//! | [`progress`] | what the person sees meanwhile |

pub(crate) mod apt;
mod apt_text;
mod ar;
pub(crate) mod command;
pub(crate) mod deb;
pub(crate) mod progress;
pub(crate) mod store;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::apt::Apt;
use self::apt_text::Offer;
use self::progress::Progress;
use self::store::{Guest, Lock, Manifest, Package, Staging, Store};

/// Why there is no kernel and no userland.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// apt.
    #[error(transparent)]
    Apt(#[from] apt::Error),
    /// The folder.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A package is not what it should be.
    #[error("cannot unpack {name}: {source}")]
    Package {
        /// The package's file.
        name: String,
        /// What is wrong.
        source: deb::Error,
    },
    /// apt has verified another file than is there now.
    #[error("{0} is not the file that apt has verified")]
    Checksum(String),
    /// The packages have other contents than they always had.
    #[error("the packages {packages} don't have {what}")]
    Missing {
        /// Their names.
        packages: String,
        /// What is not in them.
        what: &'static str,
    },
}

impl Error {
    /// The failed write, if it was one.
    fn write_failure(&self) -> Option<io::ErrorKind> {
        match self {
            Error::Apt(apt::Error::DiskFull) => Some(io::ErrorKind::StorageFull),
            Error::Apt(apt::Error::Write { source, .. })
            | Error::Store(store::Error::File { source, .. })
            | Error::Package { source: deb::Error::Write { source, .. }, .. } => {
                Some(source.kind())
            }
            _ => None,
        }
    }

    /// What a person can do.
    fn advice(&self, store: Option<&Store>) -> String {
        const OWN: &str = "give your own with --kernel FILE and --initrd FILE";
        let folder = || store.map(|store| crate::error::quoted(store.root())).unwrap_or_default();
        match (self, self.write_failure()) {
            (_, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => format!(
                "Make some room (300 MB) for {}, or set XDG_CACHE_HOME to a folder on another disk",
                folder()
            ),
            (_, Some(_)) | (Error::Apt(apt::Error::Path(_)), _) => {
                "Set XDG_CACHE_HOME to a folder that you can write to".into()
            }
            (Error::Store(store::Error::NoHome), _) => "Set one of them".into(),
            (Error::Apt(apt::Error::NoApt(_)), _) => {
                "Give your own with --kernel FILE and --initrd FILE".into()
            }
            (Error::Apt(apt::Error::Unreachable { .. }), _) => {
                format!("Connect this machine to the network and try again, or {OWN}")
            }
            (Error::Apt(apt::Error::Signature { .. }), _) => {
                format!("Repair apt's sources or keyrings, or {OWN}")
            }
            (Error::Apt(apt::Error::NoPackage(_)), _) => format!(
                "Add a source that has it to /etc/apt/sources.list (Debian's or Ubuntu's, amd64), or {OWN}"
            ),
            _ => format!("Try again, or {OWN}"),
        }
    }

    /// As it is told to a person.
    pub(crate) fn explain(self, store: Option<&Store>) -> crate::error::Error {
        let advice = self.advice(store);
        crate::error::Error::new("cannot get a kernel and BusyBox for the guest", self)
            .advise(advice)
    }
}

/// What a pull has brought.
pub(crate) enum Pulled {
    /// New packages.
    New(Guest),
    /// What was there is what the distribution has, as far as is known.
    Unchanged {
        /// What was there.
        guest: Guest,
        /// A source that could not be asked.
        unreached: Option<String>,
    },
}

/// Gets what the distribution has now.
pub(crate) fn pull(store: &Store, progress: &Progress) -> Result<Pulled, Error> {
    let lock = lock(store, progress)?;
    fetch(store, &lock, progress)
}

/// Gets what is there, or if nothing is, what the distribution has now.
pub(crate) fn ensure(store: &Store, progress: impl FnOnce() -> Progress) -> Result<Guest, Error> {
    if let Some(guest) = store.current() {
        return Ok(guest);
    }
    let progress = progress();
    let lock = lock(store, &progress)?;
    // Whoever had the lock may have brought it.
    if let Some(guest) = store.current() {
        return Ok(guest);
    }
    match fetch(store, &lock, &progress)? {
        Pulled::New(guest) | Pulled::Unchanged { guest, .. } => Ok(guest),
    }
}

fn lock(store: &Store, progress: &Progress) -> Result<Lock, Error> {
    let waiting = || progress.step("Waiting for another unibody that is pulling", None);
    Ok(store.lock(waiting)?)
}

fn fetch(store: &Store, lock: &Lock, progress: &Progress) -> Result<Pulled, Error> {
    let mut staging = store.stage(lock)?;
    let downloads = staging.downloads();
    let mut apt = Apt::new(&store.apt(), &downloads)?;
    progress.step("Updating package lists", None);
    apt.update(|| ())?;
    let offers = apt.resolve()?;
    if let Some(guest) = store.current().filter(|guest| has_all(guest, &offers) && guest.is_whole())
    {
        return Ok(Pulled::Unchanged { guest, unreached: apt.unreached(&offers) });
    }
    let names: Vec<&str> = offers.iter().map(|offer| offer.name.as_str()).collect();
    let names = names.join(", ");
    let size = offers.iter().map(|offer| offer.size).sum();
    progress.step(&format!("Downloading {names}"), Some(size));
    apt.download(&offers, &downloads, || progress.set(downloaded(&downloads)))?;
    progress.step(&format!("Unpacking {names}"), None);
    let mut packages = Vec::new();
    for offer in &offers {
        packages.push(unpack(offer, &mut staging)?);
    }
    let missing = |what| Error::Missing { packages: names.clone(), what };
    let mut manifest = Manifest::new(packages, staging.files()).map_err(missing)?;
    progress.step("Unpacking the kernel", None);
    staging.unpack_kernel(&mut manifest)?;
    staging.describe_modules(&manifest)?;
    manifest.applets = applets(&staging.guest().join(&manifest.busybox));
    Ok(Pulled::New(staging.commit(manifest)?))
}

/// Whether the guest was made of exactly these packages.
fn has_all(guest: &Guest, offers: &[Offer]) -> bool {
    let packages = &guest.manifest.packages;
    let same = |offer: &Offer| {
        packages.iter().any(|package| {
            package.name == offer.name
                && package.version == offer.version
                && offer.sha256.as_ref().is_none_or(|sum| *sum == package.sha256)
        })
    };
    packages.len() == offers.len() && offers.iter().all(same)
}

/// How many bytes of packages are there, also of those that are on their way.
fn downloaded(folder: &Path) -> u64 {
    let folders = [folder.to_path_buf(), folder.join("partial")];
    let sizes = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().as_encoded_bytes().ends_with(b".deb"))
            .filter_map(|entry| Some(entry.metadata().ok()?.len()))
            .sum::<u64>()
    };
    folders.into_iter().map(sizes).sum()
}

/// Unpacks a downloaded package.
fn unpack(offer: &Offer, staging: &mut Staging<'_>) -> Result<Package, Error> {
    let path = staging.downloads().join(&offer.file);
    let sha256 = store::sha256(&path)?;
    if offer.sha256.as_ref().is_some_and(|sum| *sum != sha256) {
        return Err(Error::Checksum(offer.file.clone()));
    }
    let failure = |source| Error::Package { name: offer.file.clone(), source };
    let file =
        File::open(&path).map_err(|error| failure(deb::Error::Archive(ar::Error::Read(error))))?;
    deb::unpack(io::BufReader::new(file), staging).map_err(failure)?;
    // It is not needed any more, and the disk may be small. If it stays, it goes with the folder.
    let _ = fs::remove_file(&path);
    Ok(Package { name: offer.name.clone(), version: offer.version.clone(), sha256 })
}

/// Asks BusyBox where it wants links to itself. Where it can't be run (the cache may be on a file
/// system without that right), the guest asks it at each start.
fn applets(busybox: &Path) -> Vec<String> {
    let mut command = Command::new(busybox);
    command.arg("--list-full").stdin(Stdio::null()).stderr(Stdio::null());
    let output = match command.output() {
        Ok(output) if output.status.success() => output.stdout,
        _ => return Vec::new(),
    };
    let text = String::from_utf8_lossy(&output);
    let usable = |line: &&str| {
        let path = deb::relative(line.as_bytes());
        path.is_ok_and(|path| path == *line) && line.contains('/') && !line.ends_with("/busybox")
    };
    text.lines().filter(usable).map(str::to_string).collect()
}
