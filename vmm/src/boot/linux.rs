//! Places a kernel and all that it needs in guest memory: the 64-bit boot
//! protocol, or PVH.
//!
//! [`place`] does the whole work; `pvh` writes that protocol's structures. What is no Linux kernel
//! but a Multiboot one is handed on to [`multiboot`].
//! See: Linux, Documentation/arch/x86/boot.rst, "64-bit Boot Protocol", and
//! Documentation/arch/x86/zero-page.rst.

use std::ops::Range;

use hv::host_error::explain;
use linux_loader::loader::bootparam::{
    KASLR_FLAG, LOADED_HIGH, SETUP_RNG_SEED, boot_e820_entry, boot_params, setup_header,
};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::command_line::{self, CommandLine};
use super::initrd::{self, Initrd};
use super::input::Input;
use super::kernel::{self, Kernel};
use super::memory_map::{Entry, memory_map};
use super::start::{self, Start};
use super::{layout, multiboot, pvh};

/// Boot sector signature. See: zero-page.rst, offset 0x1fe.
const BOOT_FLAG: u16 = 0xaa55;
/// "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// What a header has to say that no image brought: protocol 2.12.
const HEADER_VERSION: u16 = 0x20c;
/// A boot loader without a number of its own. See: boot.rst, `type_of_loader`.
const LOADER_UNDEFINED: u8 = 0xff;

/// Why a guest cannot be made ready to start.
#[derive(Debug, Error)]
pub enum Error {
    /// Less memory than the first megabyte and a page.
    #[error("the guest's memory has {0} bytes: a kernel needs several MiB")]
    NoMemory(u64),
    /// The kernel cannot be placed.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// A Multiboot kernel's information or modules cannot be placed.
    #[error(transparent)]
    Multiboot(#[from] multiboot::Error),
    /// PVH was asked for, and the kernel has no such entry.
    #[error("the kernel has no PVH entry (it was built without CONFIG_PVH)")]
    NoPvhEntry,
    /// The initial file system cannot be placed.
    #[error(transparent)]
    Initrd(#[from] initrd::Error),
    /// A thread could not be started.
    #[error("cannot start a thread: {}", explain(.0))]
    Thread(std::io::Error),
    /// The command line is longer than the kernel takes.
    #[error(transparent)]
    CommandLine(#[from] command_line::Error),
    /// The guest's memory did not take the boot structures.
    #[error("cannot write the boot structures to guest memory")]
    Write(#[from] GuestMemoryError),
}

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// In 64-bit mode at `startup_64`, with `boot_params`.
    #[default]
    Linux64,
    /// In 32-bit mode at the note's entry, with `hvm_start_info`.
    Pvh,
}

/// What a guest is started with, besides its kernel and its initial file system.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// Size of the guest's memory; its regions are [`layout::ram_regions`].
    pub ram: u64,
    /// How the kernel is entered, if it is Linux.
    pub protocol: Protocol,
    /// Its command line.
    pub command_line: &'a CommandLine,
    /// The RSDP's address, if there are ACPI tables.
    pub rsdp: Option<u64>,
    /// Random bytes for the kernel's generator, which then need not wait for
    /// entropy. Kernels before 6.0 ignore it, and PVH has no place for it.
    pub rng_seed: Option<[u8; 32]>,
}

/// What was placed where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The state of the first processor.
    pub start: Start,
    /// Where the kernel is.
    pub kernel: Range<u64>,
    /// Where the initial file system is, or a Multiboot kernel's first module.
    pub initrd: Option<Range<u64>>,
}

/// Writes the kernel, its initial file system (archives, in order; may be
/// none), its command line and the boot structures to `memory`, which is zero
/// where nothing was written yet.
///
/// Kernel and archives are used up: they are big, and nothing of them stays
/// outside of the guest's memory. What cannot go is found before the kernel
/// is unpacked, except for damage to the packed kernel itself.
pub fn place<M: GuestMemoryBackend + Sync>(
    memory: &M,
    kernel: Kernel,
    initrd: Vec<Input>,
    boot: &Boot<'_>,
) -> Result<Placed, Error> {
    if boot.ram <= layout::HIGH_RAM {
        return Err(Error::NoMemory(boot.ram));
    }
    if kernel.is_multiboot() {
        return multiboot::place(memory, kernel, initrd, boot);
    }
    let end = layout::low_ram_end(boot.ram);
    let range = kernel.range(end)?;
    let room = range.end..end.min(kernel.initrd_address_max() + 1);
    let initrd = Initrd::new(initrd, room)?;
    let initrd_range = initrd.as_ref().map(Initrd::range);
    write_command_line(memory, boot.command_line, kernel.command_line_limit())?;

    let entry = kernel.elf().entry;
    let header = kernel.setup_header().copied();
    let pvh_entry = load(memory, kernel, initrd)?;
    let map = memory_map(boot.ram);
    let start = match boot.protocol {
        Protocol::Linux64 => {
            start::write_page_tables(memory)?;
            let header = header.unwrap_or_else(header_of_vmlinux);
            write_boot_params(memory, boot, header, initrd_range.as_ref(), &map)?;
            Start::long(entry)
        }
        Protocol::Pvh => {
            let entry = pvh_entry.ok_or(Error::NoPvhEntry)?;
            pvh::write_start_info(memory, boot, initrd_range.as_ref(), &map)?;
            Start::protected(entry)
        }
    };
    start.write_gdt(memory)?;
    Ok(Placed { start, kernel: range, initrd: initrd_range })
}

/// Writes the kernel, and at the same time the initial file system. Gives the kernel's PVH entry.
fn load<M: GuestMemoryBackend + Sync>(
    memory: &M,
    kernel: Kernel,
    initrd: Option<Initrd>,
) -> Result<Option<u64>, Error> {
    let Some(initrd) = initrd else { return Ok(kernel.load(memory)?) };
    std::thread::scope(|scope| {
        let loading = std::thread::Builder::new()
            .name("initrd".into())
            .spawn_scoped(scope, || initrd.load(memory))
            .map_err(Error::Thread)?;
        let entry = kernel.load(memory);
        loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(entry?)
    })
}

fn write_command_line<M: GuestMemoryBackend>(
    memory: &M,
    line: &CommandLine,
    limit: usize,
) -> Result<(), Error> {
    let text = line.as_str();
    if text.len() > limit {
        return Err(command_line::Error::TooLong { length: text.len(), limit }.into());
    }
    let mut bytes = Vec::from(text);
    bytes.push(0);
    memory.write_slice(&bytes, GuestAddress(layout::COMMAND_LINE))?;
    Ok(())
}

fn write_boot_params<M: GuestMemoryBackend>(
    memory: &M,
    boot: &Boot<'_>,
    mut hdr: setup_header,
    initrd: Option<&Range<u64>>,
    map: &[Entry],
) -> Result<(), Error> {
    hdr.type_of_loader = LOADER_UNDEFINED;
    // The decompressor's note to the kernel that it has relocated it.
    hdr.loadflags = (hdr.loadflags | LOADED_HIGH) & !KASLR_FLAG;
    hdr.cmd_line_ptr = layout::COMMAND_LINE as u32;
    hdr.setup_data = write_setup_data(memory, boot)?;
    if let Some(initrd) = initrd {
        // Below 4 GiB by its room.
        hdr.ramdisk_image = initrd.start as u32;
        hdr.ramdisk_size = (initrd.end - initrd.start) as u32;
    }
    let mut params = boot_params { hdr, ..Default::default() };
    params.acpi_rsdp_addr = boot.rsdp.unwrap_or(0);
    for (slot, entry) in params.e820_table.iter_mut().zip(map) {
        *slot =
            boot_e820_entry { addr: entry.address, size: entry.size, r#type: entry.kind as u32 };
    }
    params.e820_entries = map.len() as u8; // Five at most.
    memory.write_obj(params, GuestAddress(layout::BOOT_PARAMS))?;
    Ok(())
}

/// The header that a kernel gets which came without one.
fn header_of_vmlinux() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: HEADER_VERSION,
        cmdline_size: command_line::DEFAULT_LIMIT as u32,
        ..Default::default()
    }
}

/// Writes the chain of `setup_data` and returns its address, 0 for none: a
/// header (next, type, length) and the seed.
fn write_setup_data<M: GuestMemoryBackend>(memory: &M, boot: &Boot<'_>) -> Result<u64, Error> {
    let Some(seed) = boot.rng_seed else {
        return Ok(0);
    };
    let mut node = Vec::new();
    node.extend_from_slice(&0u64.to_le_bytes());
    node.extend_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    node.extend_from_slice(&(seed.len() as u32).to_le_bytes());
    node.extend_from_slice(&seed);
    memory.write_slice(&node, GuestAddress(layout::SETUP_DATA))?;
    Ok(layout::SETUP_DATA)
}

#[cfg(test)]
#[path = "linux_test.rs"]
mod linux_test;
