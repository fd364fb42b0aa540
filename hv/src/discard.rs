//! Memory that a guest does not need: [`discard`] gives it back to the host.

use std::ffi::c_void;
use std::io;
use std::ops::Range;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{Advice, madvise};
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

/// The host's pages: less than one is not given back.
const PAGE: u64 = 4096;

/// Gives the pages that are wholly in a part of a region back to the host. The part is in bytes from the region's start, and what of it is not
/// in the region is left alone. Its bytes are zeroes from then on, and the mapping stays: who has its address may go on to use it.
///
/// # Errors
/// When the host refuses, as it does with locked pages. They are as they were.
pub fn discard(region: &GuestRegionMmap, part: Range<u64>) -> io::Result<()> {
    let start = part.start.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    let end = part.end.min(region.len());
    let size = (end - end % PAGE).saturating_sub(start);
    if size == 0 {
        return Ok(());
    }
    // Of a file that is shared, the pages are its own: to unmap them frees nothing.
    if let Some(file) = region.file_offset() {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        return Ok(fallocate(file.file(), hole, file.start() + start, size)?);
    }
    let address = region.as_ptr().wrapping_add(start as usize).cast::<c_void>();
    // SAFETY: it is within the region's own mapping, by the lines above. The bytes become zeroes, as if the guest had written them: nobody has
    // a reference to any, nor takes them for unchanging.
    Ok(unsafe { madvise(address, size as usize, Advice::LinuxDontNeed) }?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{MemfdFlags, memfd_create};
    use vm_memory::{Bytes, FileOffset, GuestAddress, MemoryRegionAddress, MmapRegion};

    use super::*;

    const SIZE: u64 = 16 * PAGE;

    /// A region of anonymous memory, and one of a file, from its third page on.
    fn regions() -> [GuestRegionMmap; 2] {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(SIZE + 2 * PAGE).unwrap();
        let shared = MmapRegion::from_file(FileOffset::new(file, 2 * PAGE), SIZE as usize).unwrap();
        [MmapRegion::new(SIZE as usize).unwrap(), shared].map(|mapping| {
            let region = GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap();
            region.write_slice(&[7; SIZE as usize], MemoryRegionAddress(0)).unwrap();
            region
        })
    }

    /// Which pages are zero; each is that, or as it was.
    fn zeroes(region: &GuestRegionMmap) -> Vec<u64> {
        let page = |page: &u64| {
            let mut bytes = [0; PAGE as usize];
            region.read_slice(&mut bytes, MemoryRegionAddress(page * PAGE)).unwrap();
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            bytes[0] == 0
        };
        (0..SIZE / PAGE).filter(page).collect()
    }

    #[test]
    fn whole_pages_become_zero_and_others_stay() {
        for region in regions() {
            discard(&region, PAGE..3 * PAGE).unwrap();
            assert_eq!(zeroes(&region), [1, 2]);
            discard(&region, 5 * PAGE - 1..7 * PAGE + 1).unwrap();
            assert_eq!(zeroes(&region), [1, 2, 5, 6]);
            region.write_slice(&[7; 2 * PAGE as usize], MemoryRegionAddress(PAGE)).unwrap();
            assert_eq!(zeroes(&region), [5, 6], "it can be used again");
        }
    }

    #[test]
    fn what_is_no_page_of_the_region_is_left_alone() {
        for region in regions() {
            let parts = [
                (0, 0),
                (1, PAGE),
                (PAGE + 1, 2 * PAGE + 1),
                (3 * PAGE, 2 * PAGE),
                (SIZE, u64::MAX),
                (u64::MAX, u64::MAX),
                (u64::MAX, 0),
            ];
            for (start, end) in parts {
                discard(&region, start..end).unwrap();
                assert_eq!(zeroes(&region), [0_u64; 0], "{start:#x} {end:#x}");
            }
            discard(&region, SIZE - PAGE..u64::MAX).unwrap();
            assert_eq!(zeroes(&region), [15]);
        }
    }

    #[test]
    fn the_host_has_the_memory_again() {
        for region in regions() {
            // See: Linux, Documentation/filesystems/proc.rst, smaps.
            let resident = || {
                let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
                let start = format!("{:x}-", region.as_ptr() as usize);
                let mapping = maps.lines().skip_while(|line| !line.starts_with(&start));
                let size = mapping.skip(1).find_map(|line| line.strip_prefix("Rss:"));
                size.unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap()
            };
            let before = resident();
            discard(&region, 0..SIZE).unwrap();
            assert_eq!(before - resident(), SIZE / 1024);
        }
    }
}
