//! Turns files into a guest that is ready to start.
//!
//! [`Kernel`] reads what a person gives as a kernel (a `bzImage`, an ELF
//! `vmlinux`, either of them compressed) and [`linux::place`] lays it out in
//! guest memory with its command line, initial file system and memory map.
//! [`multiboot`] does the same for kernels that are not Linux.
//! What comes back is a [`Start`]: the registers that the first processor
//! begins with. [`cpio`] makes the archives of which an initial file system
//! consists.
//!
//! The guest's own decompressor never runs: unpacking on the host is faster
//! than in any guest, and it is the guest's first 90 million instructions.
//! The price is that the kernel is not relocated, see [`Kernel::kaslr`].
//! Who boots a kernel again and again unpacks it once: [`repack`].
//!
//! Neighbours: `crate::acpi` makes the tables whose address goes into
//! [`linux::Boot::rsdp`]; the machine makes the guest memory (its shape is
//! [`layout::ram_regions`]) and the processor's state from [`Start`].
//!
//! See: Linux, Documentation/arch/x86/boot.rst.

pub mod bzimage;
pub mod command_line;
pub mod cpio;
pub mod elf;
mod foreign;
pub mod initrd;
pub mod input;
pub mod kernel;
pub mod layout;
pub mod linux;
mod load;
mod lz4;
pub mod memory_map;
pub mod multiboot;
pub mod pvh;
pub mod repack;
pub mod start;
pub mod unpack;

pub use command_line::CommandLine;
pub use kernel::Kernel;
pub use linux::{Boot, Placed, Protocol, place};
pub use start::Start;

#[cfg(test)]
mod fixture;
