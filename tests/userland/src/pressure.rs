//! A VMM in C whose guest's memory the host takes away, moves, merges and copies (`tests/userland/programs/pressure`), for the host: [`build`].
//!
//! As [`vmm`](crate::vmm) it knows nothing of what is behind the device, whose path it is told.

use std::path::PathBuf;

use anyhow::Result;

use crate::Shelf;
use crate::c_program::{self, Sources, sources};

const SOURCES: Sources = sources!(
    "pressure": "pressure.h", "main.c", "guest.c", "drops.c", "addresses.c", "sharing.c", "moving.c", "at_once.c",
);

/// Builds it. Its arguments: the device, how many seconds a case lasts, a seed, and the names of cases, which are all if there is none.
pub fn build(shelf: &Shelf) -> Result<PathBuf> {
    let folder = c_program::build(shelf, "pressure", SOURCES, &[("pressure", "-pie")])?;
    Ok(folder.join("pressure"))
}
