//! The kernel's modules: which of them a guest is given, and in which order they are loaded.
//!
//! | module | subject |
//! |---|---|
//! | [`wanted`] | which modules a device, or a person who mounts something, needs |
//! | [`name`] | how modules and their files are called |
//! | [`table`], [`text`] | what depends on what, and the files in which depmod says it |
//! | [`modinfo`], [`scan`] | the same out of the modules themselves, where depmod was not run |
//! | [`folder`] | where modules are, given a kernel's release and what a person says |
//! | [`tree`] | those of a kernel that was just built, where it lies |
//! | [`choice`] | whose they are: a person's own, or the distribution's |
//! | [`for_guest`] | what goes into a guest's file system |
//!
//! What is read here may be anybody's: sizes are bounded, names are looked at, and what does not fit is an error in words.

pub(crate) mod choice;
mod folder;
pub(crate) mod for_guest;
mod modinfo;
mod name;
mod scan;
mod table;
mod text;
mod tree;
pub(crate) mod wanted;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::for_guest::ForGuest;
use self::table::{Closure, Table};
use self::tree::Beside;
use self::wanted::Wanted;

/// Why modules can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or a folder can't be read.
    #[error("cannot read '{}': {}", .path.display(), crate::error::reason(.source))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file in place of a module is none.
    #[error("'{}' is no kernel module: {why}", .path.display())]
    Module {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A table has a line that makes no sense.
    #[error("line {line} of '{}' is not what depmod writes", .path.display())]
    Line {
        /// The table's file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
    },
    /// There is more of something than any kernel has.
    #[error("'{}' {what}", .path.display())]
    TooMuch {
        /// Of what.
        path: PathBuf,
        /// What it has too much of.
        what: &'static str,
    },
    /// Modules that each need the other to be loaded before.
    #[error("the modules depend on each other in a circle: {0}")]
    Circle(String),
    /// There are no modules of this kernel.
    #[error("{0}")]
    Folder(String),
}

impl Error {
    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_path_buf(), source }
    }
}

/// The modules of one kernel.
#[derive(Debug)]
pub(crate) struct Modules {
    /// The kernel's release, as `uname -r` prints it.
    release: String,
    /// Where they are: the folder that has `kernel` and `modules.dep`.
    folder: PathBuf,
    table: Table,
    /// What `modules.builtin` says, as it is.
    builtin: String,
}

impl Modules {
    /// Looks at the modules in `folder`, which are those of the kernel `release`.
    pub(crate) fn open(folder: PathBuf, release: &str) -> Result<Modules, Error> {
        if !name::is_release(release) {
            let why = format!("{release:?} can't be the name of a kernel's release");
            return Err(Error::Folder(why));
        }
        let builtin = text::read(&folder, text::BUILTIN)?.unwrap_or_default();
        let mut table = match text::read(&folder, text::DEPENDENCIES)? {
            Some(_) => text::read_table(&folder)?,
            None => scan::scan(&folder)?,
        };
        table.set_builtin(text::builtin(&builtin));
        Ok(Modules { release: release.to_string(), folder, table, builtin })
    }

    /// Looks at those that are wanted of the modules in the tree that the kernel `release` was built in.
    fn open_tree(tree: PathBuf, release: String, wanted: &Wanted) -> Result<Modules, Error> {
        let builtin = text::read(&tree, text::BUILTIN)?.unwrap_or_default();
        let mut table = tree::read(&tree, &wanted.all())?;
        table.set_builtin(text::builtin(&builtin));
        Ok(Modules { release, folder: tree, table, builtin })
    }

    /// The modules of these names and all that they depend on, each after what it depends on.
    pub(crate) fn closure(&self, names: &[&str]) -> Result<Closure<'_>, Error> {
        self.table.closure(names)
    }
}

/// What a guest needs of the modules in the folder that a person names, for the kernel `release`.
fn in_folder(told: &Path, release: Option<&str>, wanted: &Wanted) -> Result<ForGuest, Error> {
    let (folder, release) = folder::find(told, release)?;
    of_release(folder, &release, wanted)
}

/// What a guest needs of the modules in `folder`, which are those of the kernel `release`.
fn of_release(folder: PathBuf, release: &str, wanted: &Wanted) -> Result<ForGuest, Error> {
    Modules::open(folder, release)?.for_guest(wanted)
}

/// What a guest needs of the modules that belong to a person's own kernel, if there are such.
fn beside_kernel(
    kernel: &Path,
    release: Option<&str>,
    wanted: &Wanted,
) -> Result<Option<ForGuest>, Error> {
    match tree::beside(kernel, release) {
        Some(Beside::Tree(tree, release)) => {
            Modules::open_tree(tree, release, wanted)?.for_guest(wanted).map(Some)
        }
        Some(Beside::Installed(folder, release)) => of_release(folder, &release, wanted).map(Some),
        None => Ok(None),
    }
}

/// What depmod would say of the modules in `folder`: names of files, and what is in them. The last one says that all are there.
pub(crate) fn describe(folder: &Path) -> Result<Vec<(&'static str, String)>, Error> {
    text::write(&scan::scan(folder)?)
}

/// Whether it is known what the modules in `folder` depend on.
pub(crate) fn is_described(folder: &Path) -> bool {
    fs::symlink_metadata(folder.join(text::DEPENDENCIES)).is_ok_and(|data| data.is_file())
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod modules_test;
