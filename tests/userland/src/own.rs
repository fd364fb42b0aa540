//! Small programs of the project's own, in C (`tests/userland/programs`): [`build`].
//!
//! What a kernel's own tests do not look at: whether processors see each other's changes, in memory and in time,
//! and whether what a process computes with is its own; sockets to the host and some of what file systems have, of which
//! BusyBox has none; and a driver that does wrong to each virtio device what a driver can (`tests/userland/programs/hostile`).

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::c_program::{Sources, sources};
use crate::{Shelf, command, image};

/// The programs' names and sources.
const PROGRAMS: [(&str, Sources); 6] = [
    ("clocks", &[("clocks.c", include_str!("../programs/clocks.c"))]),
    ("files", &[("files.c", include_str!("../programs/files.c"))]),
    ("floating", &[("floating.c", include_str!("../programs/floating.c"))]),
    (
        "hostile",
        sources!(
            "hostile": "hostile.h", "chains.c", "chance.c", "devices.c", "driver.c", "main.c", "memory.c", "moments.c", "pci.c",
            "registers.c", "space.c",
        ),
    ),
    ("shootdowns", &[("shootdowns.c", include_str!("../programs/shootdowns.c"))]),
    ("vsock", &[("vsock.c", include_str!("../programs/vsock.c"))]),
];

/// For GCC: no library that the guest would need, and the same results on each host.
const OPTIONS: [&str; 7] =
    ["-O2", "-Wall", "-Wextra", "-static", "-pthread", "-ffp-contract=off", "-fno-math-errno"];

/// The programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// A folder of them, on the host.
    pub folder: PathBuf,
    /// An initial file system with BusyBox, and the programs in `/bin`.
    pub archive: PathBuf,
}

/// Builds all of them.
pub fn build(shelf: &Shelf, busybox: &Path) -> Result<Programs> {
    let mut hasher = DefaultHasher::new();
    (PROGRAMS, OPTIONS).hash(&mut hasher);
    let kept = shelf.get(&format!("own-{:016x}", hasher.finish()), |folder| {
        let programs = folder.join("programs");
        let tree = folder.join("image");
        fs::create_dir_all(tree.join("bin"))?;
        fs::create_dir(&programs)?;
        for (name, sources) in PROGRAMS {
            compile(name, sources, &programs)?;
            fs::copy(programs.join(name), tree.join("bin").join(name))?;
        }
        // Init makes the links to it.
        fs::copy(busybox, tree.join("bin/busybox"))
            .with_context(|| format!("cannot copy '{}'", busybox.display()))?;
        image::archive(&tree, &folder.join("image.cpio"))?;
        Ok(fs::remove_dir_all(tree)?)
    })?;
    Ok(Programs { folder: kept.join("programs"), archive: kept.join("image.cpio") })
}

fn compile(name: &str, sources: Sources, folder: &Path) -> Result<()> {
    let sources_folder = folder.join(format!("{name}-sources"));
    fs::create_dir(&sources_folder)?;
    for (file, text) in sources {
        fs::write(sources_folder.join(file), text)?;
    }
    let units = sources.iter().map(|(file, _)| *file).filter(|file| file.ends_with(".c"));
    let mut gcc = Command::new("gcc");
    gcc.args(OPTIONS).arg("-o").arg(folder.join(name));
    gcc.args(units.map(|unit| sources_folder.join(unit))).arg("-lm");
    command::run(&mut gcc)?;
    Ok(fs::remove_dir_all(sources_folder)?)
}
