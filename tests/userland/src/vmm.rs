//! A small VMM of the project's own, in C (`tests/userland/programs/vmm`), for the host: [`build`].
//!
//! It uses `/dev/kvm` as Linux's headers have it, and knows nothing of what is behind it.

use std::path::PathBuf;

use anyhow::Result;

use crate::Shelf;
use crate::c_program::{self, Sources, sources};

const SOURCES: Sources = sources!(
    "vmm": "vmm.h", "machine.c", "main.c", "guests.c", "signals.c", "handlers.c", "descriptors.c", "closing.c", "shared.c", "dirty.c",
    "many.c", "priority.c", "cost.c",
);

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
    let ways = [("vmm", "-no-pie"), ("static", "-static")];
    let folder = c_program::build(shelf, "vmm", SOURCES, &ways)?;
    Ok(Vmm { program: folder.join("vmm"), fixed: folder.join("static") })
}
