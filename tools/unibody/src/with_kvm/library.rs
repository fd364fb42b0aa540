//! The library as a file that the dynamic loader finds: [`place`].
//!
//! It is in the folder that `unibody pull` keeps things in, or in `$XDG_RUNTIME_DIR/unibody`: a file by the name of its content, so that
//! programs which still run with another version's keep theirs, and their children find it.
//!
//! One that no program was started with for [`KEPT`] is removed. A program that has run for so long with an older version's goes on, but its
//! children do not find the library any more: the loader says so, and they have no `/dev/kvm`.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use preload_image::LIBRARY;
use rustix::fs::{OFlags, StatVfsMountFlags, statvfs};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use crate::error::{Error, reason};
use crate::pull::command::user_store;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a library stays that no program is started with.
const KEPT: Duration = Duration::from_secs(30 * DAY.as_secs());

/// Puts the library where the loader finds it, unless it is there; says where.
pub(super) fn place() -> Result<PathBuf, Error> {
    let cache = user_store().map(|store| store.root().to_path_buf());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|path| path.is_absolute()).map(|path| path.join("unibody"));
    let mut last = None;
    for folder in cache.ok().into_iter().chain(runtime) {
        match place_in(&folder) {
            Ok(file) => return Ok(file),
            Err(why) => last = Some((folder, why)),
        }
    }
    let advice = "Set XDG_CACHE_HOME to a folder that is yours, from which programs may be run, \
                  and whose path has no colon and no space";
    Err(match last {
        Some((folder, why)) => {
            let action = format!("cannot put the library into '{}'", folder.display());
            Error::new(action, why)
        }
        None => Error::new("cannot find a place for the library", "this user has no cache"),
    }
    .advise(advice))
}

fn place_in(folder: &Path) -> Result<PathBuf, String> {
    // See: ld.so(8): a list's members are separated by either.
    if folder.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b':' | b' ')) {
        return Err("its path has a colon or a space".into());
    }
    let told = |error: io::Error| reason(&error);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(told)?;
    let data = fs::metadata(folder).map_err(told)?;
    if data.uid() != geteuid().as_raw() {
        return Err("it is another user's".into());
    }
    let mount = statvfs(folder).map_err(|error| told(error.into()))?;
    if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err("it is mounted such that no program can be run from it".into());
    }
    let hash: String = Sha256::digest(LIBRARY).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = folder.join(format!("kvm-{}.so", &hash[..16]));
    // Before it is looked at: another version's start may be about to remove it.
    say_used(&file);
    if !is_there(&file) {
        write(&file).map_err(told)?;
    }
    remove_unused(folder, &file);
    Ok(file)
}

/// Has a library's time be now, for [`remove_unused`], unless it is of today. If that fails it is removed one day, and written again.
fn say_used(file: &Path) {
    if fs::metadata(file).is_ok_and(|data| is_older(&data, DAY)) {
        let _ = File::open(file).and_then(|file| file.set_modified(SystemTime::now()));
    }
}

/// Removes what other versions have left, and who was killed while it wrote. What can't be removed stays until the next time.
fn remove_unused(folder: &Path, used: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_librarys_name);
        // Of a link it is the link's.
        let unused = entry.metadata().is_ok_and(|data| {
            data.is_file() && data.uid() == geteuid().as_raw() && is_older(&data, KEPT)
        });
        if is_ours && unused && entry.path() != used {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a name is one that [`place_in`] or [`write()`] gives.
fn is_librarys_name(name: &str) -> bool {
    let parts = name.strip_prefix("kvm-").and_then(|rest| rest.split_once('.'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    parts.is_some_and(|(hash, end)| {
        hash.bytes().all(|byte| byte.is_ascii_hexdigit()) && (end == "so" || is_number(end))
    })
}

fn is_older(data: &Metadata, age: Duration) -> bool {
    // One that is from the future is not.
    let since = data.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    since.is_some_and(|since| since > age)
}

/// Whether the file is this user's alone to write, and has all of the library.
fn is_there(path: &Path) -> bool {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let Ok(file) = File::options().read(true).custom_flags(flags).open(path) else { return false };
    let right = file.metadata().is_ok_and(|data| {
        let own = data.uid() == geteuid().as_raw() && data.mode() & 0o022 == 0;
        own && data.is_file() && data.len() == LIBRARY.len() as u64
    });
    let mut found = Vec::new();
    right && file.take(LIBRARY.len() as u64).read_to_end(&mut found).is_ok() && found == LIBRARY
}

/// Writes it. Whoever starts a program at the same time finds it whole.
fn write(file: &Path) -> io::Result<()> {
    let partial = file.with_extension(std::process::id().to_string());
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let write = || options.open(&partial)?.write_all(LIBRARY);
    let written = write().and_then(|()| fs::rename(&partial, file));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_written_once_and_mended_if_it_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let file = place_in(&folder).unwrap();
        assert!(fs::read(&file).unwrap() == LIBRARY);
        let inode = || fs::metadata(&file).unwrap().ino();
        let first = inode();
        assert_eq!(place_in(&folder), Ok(file.clone()));
        assert_eq!(inode(), first, "it was there");
        fs::write(&file, &LIBRARY[..1000]).unwrap();
        assert_eq!(place_in(&folder), Ok(file.clone()));
        assert!(fs::read(&file).unwrap() == LIBRARY);
        // Others could have changed it.
        let (second, open) = (inode(), fs::Permissions::from_mode(0o666));
        fs::set_permissions(&file, open).unwrap();
        assert_eq!(place_in(&folder), Ok(file.clone()));
        assert_ne!(inode(), second);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_is_not_used_for_a_month_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let age = |path: &Path, days: u32| {
            File::open(path).unwrap().set_modified(SystemTime::now() - days * DAY).unwrap();
        };
        let file = place_in(folder).unwrap();
        let (old, stay) =
            (["kvm-0123456789abcdef.so", "kvm-0123456789abcdef.4711"], ["current", "kvm-x.so"]);
        let (newer, folder_of_old) = ("kvm-00000000000000aa.so", "kvm-00000000000000bb.so");
        for name in old.iter().chain(&stay) {
            fs::write(folder.join(name), "").unwrap();
            age(&folder.join(name), 31);
        }
        fs::write(folder.join(newer), "").unwrap();
        age(&folder.join(newer), 29);
        fs::create_dir(folder.join(folder_of_old)).unwrap();
        age(&folder.join(folder_of_old), 31);
        // The one that is used stays, too, and is new again.
        age(&file, 31);
        assert_eq!(place_in(folder), Ok(file.clone()));
        assert!(!is_older(&fs::metadata(&file).unwrap(), DAY));
        let mut expected = vec![stay[0], stay[1], newer, folder_of_old];
        expected.push(file.file_name().unwrap().to_str().unwrap());
        let entries = fs::read_dir(folder).unwrap();
        let mut left: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        expected.sort_unstable();
        left.sort_unstable();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_path_that_the_loader_would_divide_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a b", "a:b"] {
            assert!(place_in(&folder.path().join(name)).unwrap_err().contains("colon or a space"));
        }
    }
}
