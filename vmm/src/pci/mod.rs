//! PCI: one root bus with up to 31 functions.
//!
//! - [`config`]: a function's configuration space; [`msix`]: its message-signalled interrupts. Both are registers alone, and say what a
//!   write asks for;
//! - [`root`]: the host bridge: it finds the function that an access is for, by configuration space and by memory;
//! - [`wire`]: the interrupt lines, which functions share.
//!
//! A function is what implements [`Function`]: virtio's are `crate::virtio::pci`.
//!
//! See: PCI Local Bus Specification 3.0; PCI Express Base Specification 5.0, 7.2 (ECAM).

pub mod config;
pub mod msix;
pub mod root;
pub mod wire;

use std::ops::Range;

/// A function on the root bus. Called on vCPUs' threads, of which several may come at once.
pub trait Function: Send + Sync {
    /// Reads `data.len()` (1, 2 or 4) bytes of its configuration space, whose first 256 bytes `offset` is in.
    fn read_config(&self, offset: u8, data: &mut [u8]);

    /// Writes them.
    fn write_config(&self, offset: u8, data: &[u8]);

    /// The memory that it answers at now, if any.
    fn window(&self) -> Option<Range<u64>>;

    /// Reads `data.len()` (1 to 8) bytes at `offset` of its memory.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes them.
    fn write(&self, offset: u64, data: &[u8]);
}
