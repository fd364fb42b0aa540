//! Loading of the kernel's modules: those that the host has put into the initial file system, in the order that it gives; some before the
//! command runs, some beside it.
//!
//! File systems and the like, which are loaded when they are asked for, the kernel has `modprobe` load, in the usual place; where the host's
//! files are the root, by this program, since that place is in the initial file system.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{chroot, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use guest_protocol::{LATER_MODULES, LOADED_MODULES, MODULES_FOLDER};

use crate::{root, sys};

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
    let initial = root::initial();
    let list = initial.join(LATER_MODULES.trim_start_matches('/'));
    if !fs::metadata(list).is_ok_and(|list| list.len() > 0) {
        return;
    }
    let mut load = Command::new("/proc/self/exe");
    // Who ends is collected with the command's orphans.
    if let Err(error) = load.arg(LOAD_LATER).current_dir(initial).spawn() {
        eprintln!("init: cannot load more modules: {error}");
    }
}

/// What that process does, in the folder that has the modules.
pub(crate) fn load_later() {
    if let Err(error) = chroot(".") {
        eprintln!("init: cannot go to the modules: {error}");
    }
    let list = fs::read_to_string(LATER_MODULES).unwrap_or_default();
    for warning in load(&list, load_file) {
        eprintln!("init: {warning}");
    }
}

/// Whether the kernel has started this program to have a module loaded. See: Linux, kernel/module/kmod.c, `call_modprobe`.
pub(crate) fn is_asked_by_kernel() -> bool {
    std::env::args_os().nth(1).is_some_and(|word| word == "-q")
}

/// Has the initial file system's `modprobe` load it.
pub(crate) fn load_for_kernel() {
    let gone = chroot(root::initial()).and_then(|()| std::env::set_current_dir("/"));
    let error = gone
        .err()
        .unwrap_or_else(|| Command::new("/sbin/modprobe").args(std::env::args_os().skip(1)).exec());
    eprintln!("init: cannot load a module that the kernel asks for: {error}");
    std::process::exit(1);
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
