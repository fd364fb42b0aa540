//! A program in C that makes KVM's ioctls with bad arguments (`tests/userland/programs/bad_arguments`), for the host: [`build`].
//!
//! As [`vmm`](crate::vmm) it knows nothing of what is behind `/dev/kvm`: with Linux's KVM it finds the same, or says what it does not.

use std::path::PathBuf;

use anyhow::Result;

use crate::Shelf;
use crate::c_program::{self, Sources, sources};

const SOURCES: Sources = sources!(
    "bad_arguments": "checks.h", "main.c", "calls.c", "pointers.c", "values.c", "states.c", "order.c", "lives.c",
);

/// Builds it. With `--list` it prints whose the calls are that it makes, and their names; else it makes them.
pub fn build(shelf: &Shelf) -> Result<PathBuf> {
    let folder = c_program::build(shelf, "bad-arguments", SOURCES, &[("bad_arguments", "-pie")])?;
    Ok(folder.join("bad_arguments"))
}
