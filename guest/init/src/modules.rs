//! Loading of the kernel's modules: those that the host has put into the initial file system, in the order that it gives.
//!
//! File systems and the like, which are loaded when they are asked for, the kernel has `modprobe` load, in the usual place.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use guest_protocol::{LOADED_MODULES, MODULES_FOLDER};

use crate::sys;

/// Where Linux's tools look for modules.
const USUAL: &str = "/lib/modules";

/// Loads them all; often there are none. Gives what the person should know: one that can't be loaded stops nobody.
pub(crate) fn load_all() -> Vec<String> {
    let Ok(list) = fs::read_to_string(LOADED_MODULES) else { return Vec::new() };
    let mut warnings = Vec::new();
    if let Err(error) = offer(Path::new(MODULES_FOLDER), Path::new(USUAL)) {
        warnings.push(format!("cannot make links in {USUAL}: {error}"));
    }
    warnings.extend(load(&list, |path| sys::load_module(File::open(path)?.as_fd())));
    for warning in &warnings {
        // The host keeps the console, and quotes it if nothing more comes.
        eprintln!("init: {warning}");
    }
    warnings
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
