//! `--root`, `--rw` and `--user`: what the guest's root is, which folders of the host's it has, and who it is that runs the command.
//!
//! [`Files`] is what was chosen; `devices::share` serves it, and `guest/init` puts it together: a root is a folder of the host's with what the
//! guest writes laid over it. [`caller`] is what of the person's own is found in it.

pub(crate) mod caller;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use guest_protocol::{Access, Mount, OWN_FOLDERS, Root};

use crate::cli;
use crate::devices::share::Share;
use crate::error::{Error, quoted, reason, say};

/// The word for no root but the initial file system.
const NONE: &str = "none";

/// By what the guest knows the root, and the working directory where it is shared by itself.
const ROOT_TAG: &str = "root";
const WORK_TAG: &str = "work";

/// Those of [`OWN_FOLDERS`] in which a person may work.
const WORKED_IN: [&str; 3] = ["/dev", "/run", "/tmp"];

/// What a guest's root may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The initial file system.
    None,
    /// A folder of the host's.
    Folder(PathBuf),
}

/// Reads what `--root` is given.
pub(crate) fn parse(text: &OsStr) -> Choice {
    if text == NONE { Choice::None } else { Choice::Folder(text.into()) }
}

/// The host's files that a guest has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// The folder that is its root, as a full path, and whether it is not to run without.
    root: Option<(PathBuf, bool)>,
    /// The folder that this program is in, as a full path.
    cwd: PathBuf,
    /// What has a place in it, in the order in which it gets there.
    shares: Vec<Share>,
}

impl Files {
    /// What was asked for, or is usual.
    pub(crate) fn choose(options: &cli::Run, can_have_root: bool) -> Result<Files, Error> {
        let root = match &options.root {
            Some(Choice::None) => None,
            Some(Choice::Folder(folder)) => Some((full(folder, "use")?, true)),
            // Whoever has an initial file system of their own wants to be in that.
            None if !can_have_root || options.initrd.is_some() => None,
            None => usual(),
        };
        let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let mut files = Files { root, cwd, shares: Vec::new() };
        files.add_writable(&options.rw)?;
        files.add_work();
        let shares = options.share.iter().enumerate();
        let tagged =
            |(number, share): (usize, &Share)| share.clone().tagged(format!("share{number}"));
        files.shares.extend(shares.map(tagged));
        Ok(files)
    }

    /// Adds what the guest may write to; what is in another after that.
    fn add_writable(&mut self, folders: &[PathBuf]) -> Result<(), Error> {
        let mut paths = Vec::new();
        for folder in folders {
            let path = full(folder, "share")?;
            if path == Path::new("/") {
                return Err(Error::new("cannot share '/'", "it is all that there is")
                    .advise("Give --rw a folder in it"));
            }
            paths.push(path);
        }
        paths.sort();
        paths.dedup();
        let share = |(number, path): (usize, PathBuf)| {
            Share::new(path.clone(), path, Access::ReadWrite).tagged(format!("rw{number}"))
        };
        self.shares.extend(paths.into_iter().enumerate().map(share));
        Ok(())
    }

    /// Adds the working directory, if the host's root does not have it for the guest.
    fn add_work(&mut self) {
        let is_in = |folder: &&str| self.cwd.starts_with(folder) && self.cwd != Path::new(folder);
        if self.is_hosts() && !self.is_shared() && WORKED_IN.iter().any(is_in) {
            let share = Share::new(self.cwd.clone(), self.cwd.clone(), Access::CopyOnWrite);
            self.shares.push(share.tagged(WORK_TAG.into()));
        }
    }

    /// Whether the guest's root is the host's own.
    pub(crate) fn is_hosts(&self) -> bool {
        self.root.as_ref().is_some_and(|(folder, _)| folder == Path::new("/"))
    }

    /// Whether the working directory is in a folder that has the same path in the guest.
    fn is_shared(&self) -> bool {
        self.shares.iter().any(|share| share.is_at_own_path() && self.cwd.starts_with(&share.host))
    }

    /// Whether there is a root of the host's.
    pub(crate) fn has_root(&self) -> bool {
        self.root.is_some()
    }

    /// Whether there is something over which the guest lays its own.
    pub(crate) fn has_layers(&self) -> bool {
        self.served().iter().any(|share| share.mount().access == Access::CopyOnWrite)
    }

    /// Whether there is nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none() && self.shares.is_empty()
    }

    /// Where the command starts, if not at home: where this program is, as far as the guest has that.
    pub(crate) fn working_directory(&self) -> Option<PathBuf> {
        if self.is_shared() {
            return Some(self.cwd.clone());
        }
        let (root, _) = self.root.as_ref()?;
        let is_in_own = OWN_FOLDERS.iter().any(|folder| self.cwd.starts_with(folder));
        let is_own = OWN_FOLDERS.iter().any(|folder| self.cwd == Path::new(folder));
        let is_there = !self.is_hosts() || !is_in_own || is_own;
        let path = self.cwd.strip_prefix(root).ok().filter(|_| is_there);
        Some(Path::new("/").join(path.unwrap_or(Path::new(""))))
    }

    /// All that is to be served.
    pub(crate) fn served(&self) -> Vec<Share> {
        let root = self.root.as_ref().map(|(folder, _)| {
            Share::new(folder.clone(), "/".into(), Access::CopyOnWrite).tagged(ROOT_TAG.into())
        });
        root.into_iter().chain(self.shares.iter().cloned()).collect()
    }

    /// The root, as the guest's init is told.
    pub(crate) fn root(&self) -> Option<Root> {
        let is_needed = self.root.as_ref().map(|(_, is_needed)| *is_needed)?;
        Some(Root { tag: ROOT_TAG.into(), is_needed })
    }

    /// The rest.
    pub(crate) fn mounts(&self) -> Vec<Mount> {
        self.shares.iter().map(Share::mount).collect()
    }
}

/// This host's own root, where it can be shared.
fn usual() -> Option<(PathBuf, bool)> {
    if share_server::is_possible() {
        return Some(("/".into(), false));
    }
    say(
        "unibody: this host's kernel has no Landlock, by which a guest is kept from the host's files: the guest's root is BusyBox's. \
         --root none says that this is right",
    );
    None
}

/// A folder's full path, if it is one.
fn full(folder: &Path, action: &str) -> Result<PathBuf, Error> {
    let failed = |why: &str| Error::new(format!("cannot {action} {}", quoted(folder)), why);
    let is_folder = |path: PathBuf| {
        let facts = path.metadata()?;
        Ok::<_, io::Error>((path, facts.is_dir()))
    };
    match folder.canonicalize().and_then(is_folder) {
        Ok((path, true)) => Ok(path),
        Ok((_, false)) => Err(failed("it is no folder").advise("Give the folder that it is in")),
        Err(error) => {
            Err(failed(&reason(&error)).advise("Give the path of a folder that you may read"))
        }
    }
}

#[cfg(test)]
#[path = "root_test.rs"]
mod root_test;
