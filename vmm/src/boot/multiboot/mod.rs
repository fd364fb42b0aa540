//! Multiboot 1: how GRUB and QEMU start small kernels, test kernels above all.
//!
//! - [`header`]: what such a kernel says about itself in its file;
//! - [`information`]: what it is told, through EBX;
//! - `place`, which `linux::place` hands such a kernel to: puts both together in guest memory.
//!
//! Such a kernel knows nothing of Linux's boot protocol: there is no initial file system and no
//! default command line. It starts in 32-bit mode, whatever the class of its ELF file.
//!
//! Not implemented, and absent in the information's flags: boot device, symbols, drives, APM, VBE and
//! framebuffer. The `string` of a module is empty.
//!
//! See: Multiboot Specification 0.6.96.

pub mod header;
pub mod information;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::input::Input;
use super::kernel::Kernel;
use super::layout::{self, PAGE};
use super::linux::{self, Boot, Placed};
use super::start::Start;
use information::Information;

pub use header::Header;

/// What EAX holds for a kernel that was started by a Multiboot boot loader.
const LOADER_MAGIC: u32 = 0x2bad_b002;

/// Too little memory behind the kernel.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "a Multiboot module or its information has {size} bytes, but the guest's memory has only {left} left behind the kernel: give it more memory"
)]
pub struct Error {
    /// Bytes that are to be placed.
    pub size: u64,
    /// Bytes that there are.
    pub left: u64,
}

/// Writes a Multiboot kernel, the information for it, and at most one module per entry of `modules` to
/// `memory`, which is zero where nothing was written yet.
pub(super) fn place<M: GuestMemoryBackend>(
    memory: &M,
    kernel: Kernel,
    modules: Vec<Input>,
    boot: &Boot<'_>,
) -> Result<Placed, linux::Error> {
    let end = layout::low_ram_end(boot.ram);
    let range = kernel.range(end)?;
    let mut room = Room { next: range.end, end };

    let command_line = boot.command_line.as_str();
    let size = Information::size(command_line, modules.len(), boot.ram);
    let usual = layout::MULTIBOOT..layout::MULTIBOOT + size;
    let place = if range.end <= usual.start {
        room.next = usual.end;
        usual.start
    } else if range.start >= usual.end {
        usual.start
    } else {
        room.take(size)?
    };

    let mut placed = Vec::new();
    for module in modules {
        let size = module.length();
        let start = room.take(size)?;
        module.load(0, size, memory, GuestAddress(start))?;
        placed.push(start..start + size);
    }
    let information = Information { command_line, modules: &placed, ram: boot.ram };
    memory.write_slice(&information.bytes(place), GuestAddress(place))?;

    let start =
        Start { rax: LOADER_MAGIC.into(), rbx: place, ..Start::protected(kernel.elf().entry) };
    kernel.load(memory)?;
    start.write_gdt(memory)?;
    Ok(Placed { start, kernel: range, initrd: placed.into_iter().next() })
}

/// The memory behind the kernel, handed out in whole pages from below: a kernel that maps only
/// its own surroundings finds its modules there, where GRUB and QEMU place them, too.
struct Room {
    next: u64,
    end: u64,
}

impl Room {
    fn take(&mut self, size: u64) -> Result<u64, Error> {
        let mut start = self.next.next_multiple_of(PAGE);
        if start < layout::HIGH_RAM && start + size > layout::LOW_RAM_END {
            start = layout::HIGH_RAM;
        }
        let left = self.end.saturating_sub(start);
        if size > left {
            return Err(Error { size, left });
        }
        self.next = start + size;
        Ok(start)
    }
}

#[cfg(test)]
#[path = "multiboot_test.rs"]
mod multiboot_test;
