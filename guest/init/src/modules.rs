//! Loading of the kernel's modules: those that the host has put into the initial file system, in the order that it gives; some before the
//! command runs, some beside it.
//!
//! File systems and the like, which are loaded when they are asked for, the kernel has `modprobe` load, in the usual place.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use guest_protocol::{LATER_MODULES, LOADED_MODULES, MODULES_FOLDER};

use crate::sys;

/// The argument of init's by which it only loads modules.
pub(crate) const LOAD_LATER: &str = "load-later";

/// Where Linux's tools look for modules.
const USUAL: &str = "/lib/modules";

/// Loads those that the command may need; often there are none. Gives what the person should know: one that can't be loaded stops nobody.
pub(crate) fn load_first() -> Vec<String> {
    let Ok(list) = fs::read_to_string(LOADED_MODULES) else { return Vec::new() };
    let mut warnings = Vec::new();
    if let Err(error) = offer(Path::new(MODULES_FOLDER), Path::new(USUAL)) {
        warnings.push(format!("cannot make links in {USUAL}: {error}"));
    }
    warnings.extend(load(&list, load_file));
    for warning in &warnings {
        // The host keeps the console, and quotes it if nothing more comes.
        eprintln!("init: {warning}");
    }
    warnings
}

/// Has a process of its own load the rest, which nobody waits for: a module's start may take as long as the command.
pub(crate) fn start_loading_later() {
    if !fs::metadata(LATER_MODULES).is_ok_and(|list| list.len() > 0) {
        return;
    }
    // Who ends is collected with the command's orphans.
    if let Err(error) = Command::new("/proc/self/exe").arg(LOAD_LATER).spawn() {
        eprintln!("init: cannot load more modules: {error}");
    }
}

/// What that process does.
pub(crate) fn load_later() {
    let list = fs::read_to_string(LATER_MODULES).unwrap_or_default();
    for warning in load(&list, load_file) {
        eprintln!("init: {warning}");
    }
}

fn load_file(path: &str) -> io::Result<()> {
    sys::load_module(File::open(path)?.as_fd())
}

/// Loads each module of a list with `load`.
pub(crate) fn load(list: &str, mut load: impl FnMut(&str) -> io::Result<()>) -> Vec<String> {
    let mut warnings = Vec::new();
    for path in list.lines() {
        match load(path) {
            Ok(()) => {}
            // It is there already, or part of the kernel.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                let file = path.rsplit('/').next().unwrap_or(path);
                let name = file.strip_suffix(".ko").unwrap_or(file);
                warnings.push(format!("the guest cannot load the module {name}: {error}"));
            }
        }
    }
    warnings
}

/// Has the folders of modules found in the usual place, unless there are others.
pub(crate) fn offer(folder: &Path, usual: &Path) -> io::Result<()> {
    fs::create_dir_all(usual)?;
    for release in fs::read_dir(folder)? {
        let release = release?;
        match symlink(release.path(), usual.join(release.file_name())) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
