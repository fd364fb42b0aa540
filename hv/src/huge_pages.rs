//! Memory in pages that are larger than most: [`prefer`] asks the host for them.

use std::ffi::c_void;

use rustix::mm::{Advice, madvise};
use vm_memory::GuestRegionMmap;

/// How large they are: addresses of the guest and of the host have to be the same within one, for it to be one to the guest's processor
/// as well. Linux sees to that since 6.7, for memory as large; before, only the host's own tables have huge pages.
pub const SIZE: u64 = 2 << 20;

/// Asks the host for huge pages in a region, before it is touched. Whether it has any is its matter; nobody needs to know.
pub fn prefer(region: &GuestRegionMmap) {
    let start = region.as_ptr().cast::<c_void>();
    // SAFETY: this is the region's own mapping, of which it says how long it is; the advice changes no byte of it.
    let _ = unsafe { madvise(start, region.size(), Advice::LinuxHugepage) };
}

#[cfg(test)]
mod tests {
    use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};

    use super::*;

    #[test]
    fn the_host_is_told_of_this_region_and_no_other() {
        let region = |start| {
            let mapping = MmapRegion::new(4 * SIZE as usize).unwrap();
            GuestRegionMmap::<()>::new(mapping, GuestAddress(start)).unwrap()
        };
        let (preferred, other) = (region(0), region(1 << 30));
        prefer(&preferred);
        // See: Linux, Documentation/filesystems/proc.rst, VmFlags.
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let is_told = |region: &GuestRegionMmap| {
            let start = format!("{:x}-", region.as_ptr() as usize);
            let mapping = maps.lines().skip_while(|line| !line.starts_with(&start));
            let flags = mapping.skip(1).find_map(|line| line.strip_prefix("VmFlags:"));
            flags.unwrap_or_default().split(' ').any(|flag| flag == "hg")
        };
        // A host without any has no such flag.
        let has_any = std::fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap();
        assert_eq!((is_told(&preferred), is_told(&other)), (has_any, false));
    }
}
