//! The folder that keeps what was pulled: `$XDG_CACHE_HOME/unibody`.
//!
//! ```text
//! lock               held while something is pulled
//! current         -> guests/6.1.0-56-cloud-amd64-0123456789ab
//! guests/…/          boot/vmlinuz-…, boot/unpacked-…, lib/modules/…, bin/busybox, contents.json,
//!                    manifest.json; beside the modules what depends on what (modules.dep and others)
//! staging/           what is being unpacked; without meaning when nobody holds the lock
//! apt/               apt's own state: package lists
//! ```
//! A guest's folder gets its place by a rename, after everything in it is on the disk, its manifest
//! last; `current` is replaced by a rename as well. So whatever is in the middle when the power
//! fails or the disk is full, what [`Store::current`] finds is whole.
//!
//! Each start looks at what it boots, which the manifest lists; what the thousand other files are is a file of its own, which
//! a pull reads.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vmm::boot::kernel::DEFAULT_LIMIT;
use vmm::boot::repack::{self, repack};

use super::deb;
use crate::modules;

/// Of the manifest. One with another number is of another Unibody, and not used.
const FORMAT: u32 = 4;
const MANIFEST: &str = "manifest.json";
const CONTENTS: &str = "contents.json";
/// More than any of the two has.
const MAX_LENGTH: u64 = 16 << 20;

/// Why the store can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Neither variable says where caches are.
    #[error("neither XDG_CACHE_HOME nor HOME is set to an absolute path")]
    NoHome,
    /// A file operation failed.
    #[error("cannot {action} '{}': {}", .path.display(), crate::error::reason(.source))]
    File {
        /// What was to be done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_path_buf(), source }
    }
}

/// What a guest's folder holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// The kernel's release, as `uname -r` prints it.
    pub(crate) release: String,
    /// The kernel's path in the folder.
    pub(crate) kernel: String,
    /// The path of the same kernel, unpacked (`repack`); none if it can't be, or is as it is.
    pub(crate) unpacked: Option<String>,
    /// BusyBox's path in the folder.
    pub(crate) busybox: String,
    /// Where BusyBox wants links to itself (`bin/sh`…); empty if it could not be asked.
    pub(crate) applets: Vec<String>,
    /// What the files came from.
    pub(crate) packages: Vec<Package>,
    /// Of these files the sizes. Others are not read at a start.
    files: Vec<Entry>,
}

/// A package that was unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// The package file's SHA-256 in hexadecimal digits.
    pub(crate) sha256: String,
}

/// A file in a guest's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its path in the folder.
    pub(crate) path: String,
    /// Its size.
    pub(crate) size: u64,
}

impl Entry {
    /// Whether a file of this size is there. None is outside of the folder, whatever its path.
    fn is_in(&self, folder: &Path) -> bool {
        let relative = deb::relative(self.path.as_bytes()).is_ok_and(|path| path == self.path);
        let metadata = relative.then(|| fs::symlink_metadata(folder.join(&self.path)).ok());
        metadata.flatten().is_some_and(|data| data.is_file() && data.len() == self.size)
    }
}

/// What a file says, if it can be read and is of that kind.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MAX_LENGTH).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

impl Manifest {
    /// Finds the kernel and BusyBox among `files`.
    ///
    /// # Errors
    /// Says which of them is not there.
    pub(crate) fn new(packages: Vec<Package>, files: &[Entry]) -> Result<Manifest, &'static str> {
        let kernels = files.iter().filter(|file| kernel_release(&file.path).is_some());
        let kernel = kernels.min_by(|a, b| a.path.cmp(&b.path)).ok_or("a kernel")?;
        let busybox = files.iter().find(|file| file.path == BUSYBOX).ok_or("BusyBox")?;
        Ok(Manifest {
            format: FORMAT,
            release: kernel_release(&kernel.path).unwrap_or_default().into(),
            kernel: kernel.path.clone(),
            unpacked: None,
            busybox: busybox.path.clone(),
            applets: Vec::new(),
            packages,
            files: vec![kernel.clone(), busybox.clone()],
        })
    }

    /// The name of the guest's folder: the same for the same packages.
    fn folder(&self) -> String {
        let mut hash = Sha256::new();
        for package in &self.packages {
            hash.update(&package.sha256);
        }
        format!("{}-{}", self.release, &hexadecimal(&hash.finalize())[..12])
    }
}

/// BusyBox's path in a guest's folder.
const BUSYBOX: &str = "bin/busybox";

/// The release of the kernel that has this path in a package, if it is one's.
fn kernel_release(path: &str) -> Option<&str> {
    let in_boot = path.strip_prefix("boot/vmlinuz-");
    let beside_modules =
        || path.strip_prefix("lib/modules/").and_then(|rest| rest.strip_suffix("/vmlinuz"));
    in_boot.or_else(beside_modules).filter(|release| !release.is_empty() && !release.contains('/'))
}

/// The path of a release's modules in a guest's folder.
fn modules_of(release: &str) -> String {
    format!("lib/modules/{release}")
}

/// Where a package's file goes in a guest's folder, if it is kept.
pub(crate) fn kept(path: &str) -> Option<&str> {
    // Everything is below /usr in a newer Debian.
    let path = path.strip_prefix("usr/").unwrap_or(path);
    let wanted =
        path == BUSYBOX || path.starts_with("lib/modules/") || kernel_release(path).is_some();
    wanted.then_some(path)
}

/// What was pulled, whole.
#[derive(Debug)]
pub(crate) struct Guest {
    folder: PathBuf,
    /// What is there.
    pub(crate) manifest: Manifest,
}

impl Guest {
    /// The kernel's file: the one that starts fastest.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.folder.join(self.manifest.unpacked.as_ref().unwrap_or(&self.manifest.kernel))
    }

    /// BusyBox's file.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.folder.join(&self.manifest.busybox)
    }

    /// The folder of the kernel's modules.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join(modules_of(&self.manifest.release))
    }

    /// Where it all is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether all that was pulled is there still.
    pub(crate) fn is_whole(&self) -> bool {
        let contents: Option<Vec<Entry>> = read(&self.folder.join(CONTENTS));
        contents.is_some_and(|contents| contents.iter().all(|entry| entry.is_in(&self.folder)))
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// The right to change the store. Others wait.
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Store {
    /// The store of the user whose environment `variable` reads.
    pub(crate) fn of_user(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Store, Error> {
        // See: XDG Base Directory Specification: a relative path is to be ignored.
        let absolute = |name| variable(name).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .ok_or(Error::NoHome)?;
        Ok(Store { root: cache.join("unibody") })
    }

    /// Where it is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where apt keeps package lists.
    pub(crate) fn apt(&self) -> PathBuf {
        self.root.join("apt")
    }

    /// What was pulled last, unless what a start takes of it is missing, of another format or damaged.
    pub(crate) fn current(&self) -> Option<Guest> {
        let folder = fs::canonicalize(self.root.join("current")).ok()?;
        let manifest: Manifest = read(&folder.join(MANIFEST))?;
        let listed = |path: &String| manifest.files.iter().any(|entry| entry.path == *path);
        let usable = manifest.format == FORMAT
            && listed(&manifest.kernel)
            && manifest.unpacked.as_ref().is_none_or(listed)
            && listed(&manifest.busybox)
            && manifest.files.iter().all(|entry| entry.is_in(&folder));
        usable.then_some(Guest { folder, manifest })
    }

    /// Waits until nobody else changes the store. `waiting` is called if that takes time.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> Result<Lock, Error> {
        fs::create_dir_all(&self.root).map_err(Error::of("make the folder", &self.root))?;
        let path = self.root.join("lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(Error::of("open", &path))?;
        if file.try_lock().is_err() {
            waiting();
            file.lock().map_err(Error::of("lock", &path))?;
        }
        Ok(Lock(file))
    }

    /// Makes an empty place to unpack to. What an interrupted pull has left is removed.
    pub(crate) fn stage<'a>(&'a self, _lock: &'a Lock) -> Result<Staging<'a>, Error> {
        let folder = self.root.join("staging");
        remove(&folder)?;
        let staging = Staging { store: self, folder, files: Vec::new() };
        fs::create_dir(&staging.folder).map_err(Error::of("make the folder", &staging.folder))?;
        for part in [staging.guest(), staging.downloads()] {
            fs::create_dir(&part).map_err(Error::of("make the folder", &part))?;
        }
        Ok(staging)
    }
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::of("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// A guest's folder that is being filled. Dropped without [`commit`](Self::commit), it is removed.
pub(crate) struct Staging<'a> {
    store: &'a Store,
    folder: PathBuf,
    files: Vec<Entry>,
}

impl Staging<'_> {
    /// Where the guest's files are for now.
    pub(crate) fn guest(&self) -> PathBuf {
        self.folder.join("guest")
    }

    /// Where packages, and whatever else is not kept, are for now.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.folder.join("downloads")
    }

    /// The files that were unpacked.
    pub(crate) fn files(&self) -> &[Entry] {
        &self.files
    }

    /// Unpacks the manifest's kernel, once instead of at each start. One that can't be stays as it is: who starts it hears why.
    pub(crate) fn unpack_kernel(&mut self, manifest: &mut Manifest) -> Result<(), Error> {
        let path = format!("boot/unpacked-{}", manifest.release);
        let target = self.guest().join(&path);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(Error::of("make the folder", folder))?;
        }
        let mut file = File::create_new(&target).map_err(Error::of("make", &target))?;
        let size = match repack(&self.guest().join(&manifest.kernel), DEFAULT_LIMIT, &mut file) {
            Ok(size) => size,
            Err(repack::Error::Kernel(_) | repack::Error::Scattered) => 0,
            Err(repack::Error::Write(error)) => return Err(Error::of("write", &target)(error)),
        };
        if size == 0 {
            return fs::remove_file(&target).map_err(Error::of("remove", &target));
        }
        let mode = fs::Permissions::from_mode(0o644);
        file.set_permissions(mode).map_err(Error::of("write", &target))?;
        let entry = Entry { path: path.clone(), size };
        self.files.push(entry.clone());
        manifest.files.push(entry);
        manifest.unpacked = Some(path);
        Ok(())
    }

    /// Says beside the manifest's modules what depends on what, once instead of at each start. If that can't be said, who starts a guest that
    /// needs them hears why.
    pub(crate) fn describe_modules(&mut self, manifest: &Manifest) -> Result<(), Error> {
        let folder = modules_of(&manifest.release);
        let target = self.guest().join(&folder);
        if !target.is_dir() || modules::is_described(&target) {
            return Ok(());
        }
        let Ok(tables) = modules::describe(&target) else { return Ok(()) };
        for (name, text) in tables {
            let path = target.join(name);
            fs::write(&path, &text).map_err(Error::of("write", &path))?;
            let mode = fs::Permissions::from_mode(0o644);
            fs::set_permissions(&path, mode).map_err(Error::of("write", &path))?;
            let path = format!("{folder}/{name}");
            self.files.retain(|entry| entry.path != path);
            self.files.push(Entry { path, size: text.len() as u64 });
        }
        Ok(())
    }

    /// Makes what was unpacked the store's current guest.
    pub(crate) fn commit(self, manifest: Manifest) -> Result<Guest, Error> {
        let staged = self.guest();
        let name = manifest.folder();
        let guests = self.store.root.join("guests");
        let folder = guests.join(&name);
        write(&staged.join(CONTENTS), &self.files)?;
        sync_file_system(&staged)?;
        let path = staged.join(MANIFEST);
        write(&path, &manifest)?;
        sync(&path)?;
        sync(&staged)?;

        fs::create_dir_all(&guests).map_err(Error::of("make the folder", &guests))?;
        if folder.exists() {
            // The same packages, damaged since, or `current` would lead to them.
            let old = self.folder.join("old");
            fs::rename(&folder, &old).map_err(Error::of("move", &folder))?;
        }
        fs::rename(&staged, &folder).map_err(Error::of("move", &staged))?;
        sync(&guests)?;

        let current = self.store.root.join("current");
        let previous = fs::read_link(&current).ok();
        let link = self.folder.join("current");
        symlink(Path::new("guests").join(&name), &link).map_err(Error::of("make", &link))?;
        fs::rename(&link, &current).map_err(Error::of("replace", &current))?;
        sync(&self.store.root)?;
        self.store.remove_others(&guests, &[Some(name.as_ref()), previous.as_deref()]);
        Ok(Guest { folder, manifest })
    }
}

impl Store {
    /// Does for an older guest what [`Staging::describe_modules`] does. `waiting` is called if others use the store.
    pub(crate) fn describe_modules(
        &self,
        guest: &Guest,
        waiting: impl FnOnce(),
    ) -> Result<(), Error> {
        let folder = guest.modules();
        if modules::is_described(&folder) {
            return Ok(());
        }
        let _lock = self.lock(waiting)?;
        // Whoever had the lock may have done it.
        if modules::is_described(&folder) {
            return Ok(());
        }
        let Ok(tables) = modules::describe(&folder) else { return Ok(()) };
        for (name, text) in tables {
            // Others read without the lock: a file is there as a whole or not.
            let partial = folder.join(format!("{name}.partial"));
            let path = folder.join(name);
            fs::write(&partial, text).map_err(Error::of("write", &partial))?;
            fs::rename(&partial, &path).map_err(Error::of("move", &partial))?;
        }
        Ok(())
    }

    /// Removes older guests. The one before stays: another process may be about to open it.
    fn remove_others(&self, guests: &Path, stay: &[Option<&Path>]) {
        let Ok(entries) = fs::read_dir(guests) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let stays = stay.iter().flatten().any(|path| path.file_name() == Some(&name));
            if !stays {
                // It takes space, nothing else: not worth failing for.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // If it can't be removed now, the next pull will.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Writes what [`read`] reads.
fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from);
    text.and_then(|text| fs::write(path, text)).map_err(Error::of("write", path))
}

/// Brings a file, or a folder's entries, onto the disk.
fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::of("write", path))
}

/// Brings all that was written onto the disk: modules are thousands of files.
fn sync_file_system(path: &Path) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::of("open", path))?;
    rustix::fs::syncfs(&file).map_err(|error| Error::of("write", path)(error.into()))
}

impl deb::Destination for Staging<'_> {
    fn file(&mut self, path: &str, executable: bool, contents: &mut dyn Read) -> io::Result<()> {
        let Some(path) = kept(path) else { return Ok(()) };
        let target = self.guest().join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::create_new(&target)?;
        let size = io::copy(contents, &mut file)?;
        let mode = if executable { 0o755 } else { 0o644 };
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        self.files.push(Entry { path: path.to_string(), size });
        Ok(())
    }
}

/// The SHA-256 of a file, in hexadecimal digits.
pub(crate) fn sha256(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::of("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(Error::of("read", path))? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "store_test.rs"]
mod store_test;
