//! A small VMM of the project's own, in C (`tests/userland/programs/vmm`), for the host: [`build`].
//!
//! It uses `/dev/kvm` as Linux's headers have it, and knows nothing of what is behind it.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{Shelf, command};

macro_rules! source {
    ($name:literal) => {
        ($name, include_str!(concat!("../programs/vmm/", $name)))
    };
}

/// Its files, by name.
const SOURCES: [(&str, &str); 13] = [
    source!("vmm.h"),
    source!("machine.c"),
    source!("main.c"),
    source!("guests.c"),
    source!("signals.c"),
    source!("handlers.c"),
    source!("descriptors.c"),
    source!("closing.c"),
    source!("shared.c"),
    source!("dirty.c"),
    source!("many.c"),
    source!("priority.c"),
    source!("cost.c"),
];

const OPTIONS: [&str; 5] = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"];

/// The VMM, linked in both ways.
#[derive(Clone, Debug)]
pub struct Vmm {
    /// With the C library of this machine.
    pub program: PathBuf,
    /// With none but its own.
    pub fixed: PathBuf,
}

/// Builds it.
pub fn build(shelf: &Shelf) -> Result<Vmm> {
    let mut hasher = DefaultHasher::new();
    (SOURCES, OPTIONS).hash(&mut hasher);
    let kept = shelf.get(&format!("vmm-{:016x}", hasher.finish()), |folder| {
        for (name, text) in SOURCES {
            fs::write(folder.join(name), text)?;
        }
        let units = SOURCES.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".c"));
        for (name, option) in [("vmm", "-no-pie"), ("static", "-static")] {
            let mut gcc = Command::new("gcc");
            gcc.args(OPTIONS).arg(option).arg("-o").arg(folder.join(name));
            gcc.args(units.clone().map(|unit| folder.join(unit)));
            command::run(&mut gcc)?;
        }
        Ok(())
    })?;
    Ok(Vmm { program: kept.join("vmm"), fixed: kept.join("static") })
}
