//! Programs in C of the project's own (`tests/userland/programs`), built for the host: [`Sources`].
//!
//! They include Linux's headers, and nothing of the project's. Those for a guest are in [`own`](crate::own).

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{Shelf, command};

/// For all of them.
const OPTIONS: [&str; 5] = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"];

/// The files of a program, by name.
pub(crate) type Sources = &'static [(&'static str, &'static str)];

/// The files of these names in a folder of `tests/userland/programs`: [`Sources`].
macro_rules! sources {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../programs/", $folder, "/", $name)))),*]
    };
}
pub(crate) use sources;

/// Builds a program, once with each of the options, with which is the name that it gets then; gives the folder.
pub(crate) fn build(
    shelf: &Shelf,
    name: &str,
    sources: Sources,
    ways: &[(&str, &str)],
) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (sources, OPTIONS, ways).hash(&mut hasher);
    shelf.get(&format!("{name}-{:016x}", hasher.finish()), |folder| {
        for (name, text) in sources {
            fs::write(folder.join(name), text)?;
        }
        let units = sources.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".c"));
        for (program, option) in ways {
            let mut gcc = Command::new("gcc");
            gcc.args(OPTIONS).arg(option).arg("-o").arg(folder.join(program));
            gcc.args(units.clone().map(|unit| folder.join(unit)));
            command::run(&mut gcc)?;
        }
        Ok(())
    })
}
