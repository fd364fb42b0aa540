//! Guest memory: one memfd, mapped where the guest's RAM lies, and anonymous memory where its kernel does.
//!
//! A file without a name rather than anonymous memory: other processes of the project, debuggers and
//! snapshots can map it. A page of it costs about half as much again at first touch.
//!
//! For the kernel that cost is most of a start: 34 MB of Debian's take 12 ms in pages of a memfd, which are small ones on nearly all
//! hosts, and 4 ms in anonymous huge pages. So what is below the kernel's end is such memory ([`allocate`]). A device in another process
//! would not see that: a machine that has one does without.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use hv::host_error::explain;
use hv::huge_pages;
use rustix::fs::MemfdFlags;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::boot::layout::ram_regions;

/// Who is told what a device has written to the guest's memory: guest-physical address, and bytes. See: [`hv::Vm::wrote`].
pub type Wrote = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// The smallest memory that a guest can be given: what lies below 1 MiB and a little more.
pub const MIN: u64 = 8 << 20;

/// Size of a page: memory is given in whole ones.
const PAGE: u64 = 4096;

/// Why there is no memory for the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too little to be a machine at all.
    #[error("{asked} bytes of memory are too little: a guest needs at least {MIN}")]
    TooLittle {
        /// What was asked for.
        asked: u64,
    },
    /// More than the host has.
    #[error("{asked} bytes of memory are more than the host's {total}")]
    TooMuch {
        /// What was asked for.
        asked: u64,
        /// What the host has, swap included.
        total: u64,
    },
    /// The host refuses.
    #[error("cannot get {size} bytes of memory from the host: {}", explain(error))]
    Host {
        /// How much was asked for.
        size: u64,
        /// Why.
        error: io::Error,
    },
    /// The regions do not fit together.
    #[error("cannot lay out the guest's memory: {0}")]
    Layout(String),
}

/// Gets memory for a guest: `asked` bytes, rounded down to whole pages. What is below the end of `kernel` is in huge pages, if the host has
/// any and the kernel fills some; with an empty `kernel` all is in the file.
///
/// # Errors
/// When it is too little or too much, or the host refuses.
pub fn allocate(asked: u64, kernel: Range<u64>) -> Result<Vec<Arc<GuestRegionMmap>>, Error> {
    let is_large = kernel.end.saturating_sub(kernel.start) > huge_pages::SIZE;
    let kernel_end = if is_large { kernel.end } else { 0 };
    let size = asked - asked % PAGE;
    if size < MIN {
        return Err(Error::TooLittle { asked });
    }
    let host = rustix::system::sysinfo();
    let total = (host.totalram + host.totalswap).saturating_mul(host.mem_unit.into());
    if size > total {
        return Err(Error::TooMuch { asked, total });
    }
    let refused = |error: io::Error| Error::Host { size, error };
    let file = rustix::fs::memfd_create("guest-memory", MemfdFlags::CLOEXEC)
        .map_err(|errno| refused(errno.into()))?;
    let file = File::from(file);
    file.set_len(size).map_err(refused)?;
    let file = Arc::new(file);
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, length) in split(ram_regions(size), kernel_end) {
        let has_kernel = start.0 < kernel_end;
        let mapping = match has_kernel {
            true => MmapRegion::new(length),
            false => MmapRegion::from_file(FileOffset::from_arc(Arc::clone(&file), offset), length),
        };
        let mapping = mapping.map_err(|error| refused(host_error(error)))?;
        let region = GuestRegionMmap::new(mapping, start)
            .ok_or_else(|| Error::Layout(format!("{length:#x} bytes at {:#x}", start.0)))?;
        if has_kernel {
            huge_pages::prefer(&region);
        }
        regions.push(Arc::new(region));
        offset += length as u64;
    }
    Ok(regions)
}

/// The regions, of which the first ends where the huge page does in which `kernel_end` is, and another goes on there.
fn split(
    regions: Vec<(GuestAddress, usize)>,
    kernel_end: u64,
) -> impl Iterator<Item = (GuestAddress, usize)> {
    let end = kernel_end.checked_next_multiple_of(huge_pages::SIZE).unwrap_or(u64::MAX);
    let parts = move |(start, length): (GuestAddress, usize)| {
        let before = end.saturating_sub(start.0).min(length as u64);
        let behind = GuestAddress(start.0 + before);
        [(start, before as usize), (behind, length - before as usize)]
    };
    regions.into_iter().flat_map(parts).filter(|(_, length)| *length > 0)
}

/// What the host said to a mapping.
fn host_error(error: MmapRegionError) -> io::Error {
    match error {
        MmapRegionError::Mmap(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// The regions as one memory.
///
/// # Errors
/// When they overlap.
pub fn join(regions: Vec<Arc<GuestRegionMmap>>) -> Result<GuestMemoryMmap, Error> {
    GuestMemoryMmap::from_arc_regions(regions).map_err(|error| Error::Layout(error.to_string()))
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    use super::*;

    #[test]
    fn memory_is_zero_and_lies_around_the_hole_for_devices() {
        let memory = join(allocate(4 << 30, 0..0).unwrap()).unwrap();
        assert_eq!(memory.num_regions(), 2);
        assert_eq!(memory.last_addr(), GuestAddress((5 << 30) - 1));
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1234)).unwrap(), 0);
        memory.write_obj(7_u8, GuestAddress((4 << 30) + 5)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(5)).unwrap(), 0);
    }

    #[test]
    fn a_kernels_memory_is_apart() {
        let end = 0x123_4567;
        let regions = allocate(4 << 30, 0x100_0000..end).unwrap();
        let has_file = |region: &Arc<GuestRegionMmap>| region.file_offset().is_some();
        let places: Vec<_> =
            regions.iter().map(|region| (region.start_addr().0, has_file(region))).collect();
        assert_eq!(places, [(0, false), (0x140_0000, true), (4 << 30, true)]);

        let memory = join(regions).unwrap();
        // From the one to the other.
        memory.write_slice(b"abc", GuestAddress(0x13f_fffe)).unwrap();
        assert_eq!(memory.read_obj::<[u8; 3]>(GuestAddress(0x13f_fffe)).unwrap(), *b"abc");
    }

    #[test]
    fn all_of_a_small_memory_may_be_the_kernels() {
        for (size, end) in [(MIN, MIN), (MIN, u64::MAX), (MIN + 4096, MIN + 5000)] {
            let regions = allocate(size, 0x10_0000..end).unwrap();
            assert_eq!((regions.len(), regions[0].len()), (1, size));
            assert!(regions[0].file_offset().is_none());
        }
    }

    #[test]
    fn what_no_host_has_and_no_guest_can_use_is_refused() {
        assert!(matches!(allocate(MIN - 1, 0..0), Err(Error::TooLittle { .. })));
        assert!(matches!(allocate(1 << 60, 0..0), Err(Error::TooMuch { .. })));
        assert!(matches!(allocate(u64::MAX, 0..0), Err(Error::TooMuch { .. })));
    }
}
