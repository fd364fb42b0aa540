//! A program in C that makes KVM's ioctls with bad arguments (`tests/userland/programs/bad_arguments`), for the host: [`build`].
//!
//! As [`vmm`](crate::vmm) it knows nothing of what is behind `/dev/kvm`: with Linux's KVM it finds the same, or says what it does not.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{Shelf, command};

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../programs/bad_arguments/", $name)))),*]
    };
}

const SOURCES: [(&str, &str); 8] = sources![
    "checks.h",
    "main.c",
    "calls.c",
    "pointers.c",
    "values.c",
    "states.c",
    "order.c",
    "lives.c",
];

const OPTIONS: [&str; 5] = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"];

/// Builds it. With `--list` it prints whose the calls are that it makes, and their names; else it makes them.
pub fn build(shelf: &Shelf) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (SOURCES, OPTIONS).hash(&mut hasher);
    let kept = shelf.get(&format!("bad-arguments-{:016x}", hasher.finish()), |folder| {
        let mut gcc = Command::new("gcc");
        gcc.args(OPTIONS).arg("-o").arg(folder.join("bad_arguments"));
        for (name, text) in SOURCES {
            let file = folder.join(name);
            fs::write(&file, text)?;
            if name.ends_with(".c") {
                gcc.arg(file);
            }
        }
        command::run(&mut gcc).map(drop)
    })?;
    Ok(kept.join("bad_arguments"))
}
