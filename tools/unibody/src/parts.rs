//! [`Parts`]: what a guest is booted from. A person gives some of it, the rest was pulled, or is pulled now.
//!
//! Neighbours: `run` makes a machine of it, [`initramfs`] and `modules` make the initial file system.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use vmm::boot::input::Input;
use vmm::boot::kernel::{self, DEFAULT_LIMIT};
use vmm::boot::unpack::Compression;
use vmm::boot::{CommandLine, Kernel};
use vmm::machine::COMMAND_LINE;

use crate::cli;
use crate::devices::net;
use crate::error::{Error, quoted, reason};
use crate::initramfs;
use crate::modules::choice;
use crate::modules::for_guest::ForGuest;
use crate::modules::wanted::{Driver, Wanted};
use crate::pull::command::user_store;
use crate::pull::ensure;
use crate::pull::progress::Progress;
use crate::pull::store::Guest;
use crate::root::Files;

/// What a guest is booted from.
pub(crate) struct Parts {
    /// The kernel.
    pub(crate) kernel: Kernel,
    /// Where that is.
    pub(crate) kernel_path: PathBuf,
    /// Initial file systems, one behind the other; or the module of a Multiboot kernel.
    pub(crate) archives: Vec<Input>,
    /// What the kernel is told.
    pub(crate) command_line: CommandLine,
}

impl Parts {
    /// Those that a person gives, and the rest of what was pulled.
    pub(crate) fn find(
        options: &cli::Run,
        own_kernel: Option<Kernel>,
        files: &Files,
        own_init: bool,
    ) -> Result<Parts, Error> {
        let own_archive =
            options.initrd.as_deref().map(|path| read_initrd(path, options.memory)).transpose()?;
        let pulled = match (&own_kernel, &own_archive) {
            (Some(_), Some(_)) => None,
            _ => Some(pulled(options)?),
        };
        let kernel_path = match (&options.kernel, &pulled) {
            (Some(path), _) => path.clone(),
            (None, Some(guest)) => guest.kernel(),
            (None, None) => unreachable!("pulled if there is no kernel"),
        };
        let kernel = own_kernel.map_or_else(|| open_kernel(&kernel_path), Ok)?;
        let modules = if own_init {
            None
        } else {
            let of_kernel = pulled.as_ref().filter(|_| options.kernel.is_none());
            let (told, own_path) = (options.modules.as_deref(), options.kernel.as_deref());
            choice::choose(&wanted(options, files), told, own_path, kernel.release(), of_kernel)?
        };
        let archives = match (own_archive, &pulled) {
            (Some(archive), _) if own_init => vec![archive],
            (Some(archive), _) => {
                std::iter::once(archive).chain(pack(initramfs::overlay(modules))?).collect()
            }
            (None, Some(guest)) => userland(guest, modules)?,
            (None, None) => unreachable!("pulled if there is no initrd"),
        };
        let command_line = command_line(&kernel, COMMAND_LINE, options)?;
        Ok(Parts { kernel, kernel_path, archives, command_line })
    }

    /// A Multiboot kernel wants none of what Linux does: its command line is its name and what the
    /// person adds, and a file is a module, whatever is in it.
    pub(crate) fn of_multiboot(options: &cli::Run, kernel: Kernel) -> Result<Parts, Error> {
        let kernel_path = options.kernel.clone().unwrap_or_default();
        let module =
            options.initrd.as_deref().map(|path| read_module(path, options.memory)).transpose()?;
        let command_line = command_line(&kernel, &kernel_path.to_string_lossy(), options)?;
        Ok(Parts { kernel, kernel_path, archives: module.into_iter().collect(), command_line })
    }
}

/// What was pulled before, or is pulled now.
fn pulled(options: &cli::Run) -> Result<Guest, Error> {
    let store = user_store()?;
    ensure(&store, || Progress::new(options.quiet)).map_err(|error| error.explain(Some(&store)))
}

/// A person's own kernel, or one that was pulled.
pub(crate) fn open_kernel(path: &Path) -> Result<Kernel, Error> {
    Kernel::open(path, DEFAULT_LIMIT).map_err(|error| kernel_error(path, &error))
}

/// Why a kernel is not what a guest is booted from.
pub(crate) fn kernel_error(path: &Path, error: &kernel::Error) -> Error {
    const ADVICE: &str = "Build one, or leave --kernel out to use the distribution's";
    let (action, reason) = match error {
        kernel::Error::Open(error) => ("open", reason(error)),
        kernel::Error::Read(error) => ("read", reason(error)),
        error => ("use", error.to_string()),
    };
    Error::new(format!("cannot {action} kernel {}", quoted(path)), reason).advise(ADVICE)
}

/// Reads a person's own initial file system, if it can fit into `memory` and looks like one.
fn read_initrd(path: &Path, memory: u64) -> Result<Input, Error> {
    const ADVICE: &str = "Give a cpio archive, or leave --initrd out to use BusyBox";
    let bytes = read_whole(path, memory, ADVICE)?;
    let failed = |why: &str| Err(initrd_error("use", path, why).advise(ADVICE));
    let is_cpio = bytes.starts_with(b"070701") || bytes.starts_with(b"070702");
    match bytes.as_slice() {
        [] => failed("it is an empty file"),
        _ if is_cpio || Compression::detect(&bytes).is_some() => Ok(Input::bytes(bytes)),
        _ => failed("it is no cpio archive, compressed or not"),
    }
}

/// Reads the module of a Multiboot kernel, if it can fit into `memory`.
fn read_module(path: &Path, memory: u64) -> Result<Input, Error> {
    const ADVICE: &str = "Give another file, or leave --initrd out to give the kernel no module";
    read_whole(path, memory, ADVICE).map(Input::bytes)
}

fn initrd_error(action: &str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(format!("cannot {action} initrd {}", quoted(path)), why)
}

/// Reads a file that is to go into the guest's memory as it is, if it can fit into that.
fn read_whole(path: &Path, memory: u64, advice: &str) -> Result<Vec<u8>, Error> {
    let failed = |action: &str, why| initrd_error(action, path, why).advise(advice);
    let file = File::open(path).map_err(|error| failed("open", reason(&error)))?;
    let mut bytes = Vec::new();
    let result = file.take(memory).read_to_end(&mut bytes);
    result.map_err(|error| failed("read", reason(&error)))?;
    if bytes.len() as u64 >= memory {
        let why = format!("it is larger than the guest's memory ({memory} bytes)");
        return Err(initrd_error("use", path, why).advise("Give the guest more with --memory"));
    }
    Ok(bytes)
}

/// What the guest's devices need, and what a person who names modules may ask for.
fn wanted(options: &cli::Run, files: &Files) -> Wanted {
    if options.modules.is_some() {
        return Wanted::everything();
    }
    let has_disk = !options.disk.is_empty();
    let drivers = [
        (true, Driver::Pci),
        (has_disk, Driver::Block),
        (options.console == cli::Console::Virtio, Driver::Console),
        (options.vsock.is_some(), Driver::Vsock),
        (net::choice(options).is_some(), Driver::Network),
        // What asks for an address.
        (matches!(net::choice(options), Some(net::Choice::Tap(_))), Driver::Packet),
        (!files.is_empty(), Driver::FileSystem),
        (files.has_layers(), Driver::Overlay),
    ];
    let needed = drivers.into_iter().filter_map(|(is_there, driver)| is_there.then_some(driver));
    Wanted {
        drivers: needed.collect(),
        // Entropy, too: the kernel of today has some of its own.
        later: vec![Driver::Rng, Driver::Balloon, Driver::Panic, Driver::FwCfg],
        file_systems: has_disk,
    }
}

/// The initial file system of BusyBox.
fn userland(guest: &Guest, modules: Option<ForGuest>) -> Result<Vec<Input>, Error> {
    let path = guest.busybox();
    let open = || {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        Ok(Input::file(file, length))
    };
    let busybox = open().map_err(|error: std::io::Error| {
        Error::new(format!("cannot read {}", quoted(&path)), reason(&error))
            .advise("Get it again with unibody pull")
    })?;
    pack(initramfs::userland(busybox, &guest.manifest.applets, modules))
}

fn pack(archive: Result<Vec<Input>, vmm::boot::cpio::Error>) -> Result<Vec<Input>, Error> {
    archive.map_err(|error| Error::new("cannot pack the guest's file system", error))
}

/// `first`, and what the person adds.
fn command_line(kernel: &Kernel, first: &str, options: &cli::Run) -> Result<CommandLine, Error> {
    let mut line = CommandLine::new(kernel.command_line_limit());
    std::iter::once(first)
        .chain(options.cmdline.iter().map(String::as_str))
        .try_for_each(|words| line.append(words))
        .map_err(|error| {
            Error::new("cannot use --cmdline", error).advise("Give the kernel fewer words")
        })?;
    Ok(line)
}

#[cfg(test)]
#[path = "parts_test.rs"]
mod parts_test;
