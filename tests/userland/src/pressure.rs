//! A VMM in C whose guest's memory the host takes away, moves, merges and copies (`tests/userland/programs/pressure`), for the host: [`build`].
//!
//! As [`vmm`](crate::vmm) it knows nothing of what is behind the device, whose path it is told.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{Shelf, command};

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../programs/pressure/", $name)))),*]
    };
}

const SOURCES: [(&str, &str); 8] = sources![
    "pressure.h",
    "main.c",
    "guest.c",
    "drops.c",
    "addresses.c",
    "sharing.c",
    "moving.c",
    "at_once.c",
];

const OPTIONS: [&str; 5] = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"];

/// Builds it. Its arguments: the device, how many seconds a case lasts, a seed, and the names of cases, which are all if there is none.
pub fn build(shelf: &Shelf) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (SOURCES, OPTIONS).hash(&mut hasher);
    let kept = shelf.get(&format!("pressure-{:016x}", hasher.finish()), |folder| {
        let mut gcc = Command::new("gcc");
        gcc.args(OPTIONS).arg("-o").arg(folder.join("pressure"));
        for (name, text) in SOURCES {
            let file = folder.join(name);
            fs::write(&file, text)?;
            if name.ends_with(".c") {
                gcc.arg(file);
            }
        }
        command::run(&mut gcc).map(drop)
    })?;
    Ok(kept.join("pressure"))
}
