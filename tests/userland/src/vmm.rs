//! A small VMM of the project's own, in C (`tests/userland/programs/vmm.c`), for the host: [`build`].
//!
//! It uses `/dev/kvm` as Linux's headers have it, and knows nothing of what is behind it.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{Shelf, command};

const SOURCE: &str = include_str!("../programs/vmm.c");

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
    (SOURCE, OPTIONS).hash(&mut hasher);
    let kept = shelf.get(&format!("vmm-{:016x}", hasher.finish()), |folder| {
        let file = folder.join("vmm.c");
        fs::write(&file, SOURCE)?;
        for (name, option) in [("vmm", "-no-pie"), ("static", "-static")] {
            let mut gcc = Command::new("gcc");
            gcc.args(OPTIONS).arg(option).arg("-o").arg(folder.join(name)).arg(&file);
            command::run(&mut gcc)?;
        }
        Ok(())
    })?;
    Ok(Vmm { program: kept.join("vmm"), fixed: kept.join("static") })
}
