//! The memory of who makes an ioctl, at addresses that nobody vouches for.
//!
//! The caller is this process, and may pass any address: nothing may be mapped there, or not for writing, or not all of it. So
//! it is reached by accesses that may fail: [`crate::fixup`]. [`crate::memory`] is for guest memory.

use virt::host::BadAddress;

use crate::fixup;

/// One past the last address that a process has: half of what 48 bits reach, without its last page. See: Linux,
/// arch/x86/include/asm/page_64_types.h, `TASK_SIZE_MAX`.
///
/// Deviation: where there are 57 bits a process may ask for memory above that, of which none can be a guest's.
const END: u64 = (1 << 47) - 4096;

/// Whether a process can have memory there, as `access_ok` of Linux has it.
#[must_use]
pub fn can_be(address: u64, size: u64) -> bool {
    END.checked_sub(size).is_some_and(|last| address <= last)
}

/// Reads memory.
///
/// # Errors
/// When any byte of it cannot be read; `buffer` may be partly written.
pub fn read(address: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
    // SAFETY: what is at `address` is not this program's to speak for: it is read there as the ioctl's caller has asked for, as with
    // any system call that it hands an address to. The buffer is the caller's of this function.
    unsafe { fixup::copy(buffer.as_mut_ptr(), address as *const u8, buffer.len()) }
}

/// Writes memory.
///
/// # Errors
/// When any byte of it cannot be written; some may be.
pub fn write(address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
    // SAFETY: as in `read`.
    unsafe { fixup::copy(address as *mut u8, bytes.as_ptr(), bytes.len()) }
}

#[cfg(test)]
mod tests {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
    use virt::Errno;
    use virt::ioctl::Argument;

    use super::*;
    use crate::Process;

    const PAGE: usize = 4096;

    /// Three pages: one that can be written, one that can only be read, and one that is not there for anybody.
    fn pages() -> u64 {
        fixup::install();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a mapping of its own, which nothing else has; the later changes are to pages of it that nobody uses otherwise.
        unsafe {
            let start =
                mmap_anonymous(std::ptr::null_mut(), 3 * PAGE, access, MapFlags::PRIVATE).unwrap();
            let page = |n: usize| start.byte_add(n * PAGE);
            mprotect(page(1), PAGE, MprotectFlags::READ).unwrap();
            mprotect(page(2), PAGE, MprotectFlags::empty()).unwrap();
            start as u64
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let start = pages();
        for (offset, len) in [(0, 1), (1, 8), (PAGE - 64, 64), (0, PAGE), (5, 0)] {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + offset + 1) as u8).collect();
            let mut back = vec![0; len];
            assert_eq!(write(start + offset as u64, &bytes), Ok(()));
            assert_eq!(read(start + offset as u64, &mut back), Ok(()));
            assert_eq!(back, bytes, "{len} bytes at {offset}");
        }
    }

    #[test]
    fn what_cannot_be_reached_is_refused() {
        let start = pages();
        let [read_only, none] = [1, 2].map(|n| start + n * PAGE as u64);
        let bad = [0, 8, none, none - 1, u64::MAX, u64::MAX - 3, 1 << 47, 1 << 63, 1 << 60];
        for address in bad {
            assert_eq!(read(address, &mut [0; 4]), Err(BadAddress), "{address:#x}");
            assert_eq!(write(address, &[0; 4]), Err(BadAddress), "{address:#x}");
        }
        for address in [read_only, read_only - 1] {
            assert_eq!(read(address, &mut [1; 4]), Ok(()), "{address:#x}");
            assert_eq!(write(address, &[0; 4]), Err(BadAddress), "{address:#x}");
        }
    }

    #[test]
    fn addresses_of_the_kernels_are_nobodys() {
        let end = 0x7fff_ffff_f000;
        for (address, size) in [(0, 0), (0, end), (end - 4096, 4096), (end, 0)] {
            assert!(can_be(address, size), "{address:#x}, {size:#x}");
        }
        let beyond = [(end, 1), (end - 4096, 4097), (1, end), (0, end + 1), (0, u64::MAX)];
        for (address, size) in
            beyond.into_iter().chain([(1 << 63, 1), (u64::MAX, 1), (!0 << 47, 1)])
        {
            assert!(!can_be(address, size), "{address:#x}, {size:#x}");
        }
    }

    #[test]
    fn an_argument_at_a_bad_address_is_efault() {
        let start = pages();
        let host = Process::new();
        let at = |address| Argument::new(host.clone(), address);
        let [read_only, none] = [1, 2].map(|n| start + n * PAGE as u64);
        assert_eq!(at(start).write(&5_u64), Ok(()));
        assert_eq!(at(start).read(), Ok(5_u64));
        for address in [0, 1, none, none - 4, none + PAGE as u64 - 8, u64::MAX] {
            assert_eq!(at(address).read::<u64>(), Err(Errno::EFAULT), "{address:#x}");
            assert_eq!(at(address).write(&5_u64), Err(Errno::EFAULT), "{address:#x}");
        }
        for address in [read_only, read_only - 4] {
            assert_eq!(at(address).read::<u64>(), Ok(0));
            assert_eq!(at(address).write(&5_u64), Err(Errno::EFAULT), "{address:#x}");
        }
    }
}
