//! The memory of who makes an ioctl, at addresses that nobody vouches for.
//!
//! The caller is this process, and may pass any address: nothing may be mapped there, or not for writing, or not all of it. To
//! touch it would be a fault of this process's. So the kernel does: it copies from one place of the process to another, and
//! says when it cannot. [`crate::memory`] is for guest memory, whose slots are held mapped, and needs no system call.
//!
//! Deviation: where a filter denies the process these system calls (`process_vm_readv` and `process_vm_writev`; that of Docker did so
//! on kernels before 4.8) every address is a bad one.
//!
//! See: `process_vm_readv(2)`.

use std::ffi::{c_long, c_void};

use libc::iovec;
use virt::host::BadAddress;

use crate::own_process;

/// Reads memory.
///
/// # Errors
/// When any byte of it cannot be read; `buffer` may be partly written.
pub fn read(address: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
    let (base, len) = (buffer.as_mut_ptr(), buffer.len());
    copy(libc::SYS_process_vm_readv, base, len, address)
}

/// Writes memory.
///
/// # Errors
/// When any byte of it cannot be written; some may be.
pub fn write(address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
    // The call reads from there only.
    copy(libc::SYS_process_vm_writev, bytes.as_ptr().cast_mut(), bytes.len(), address)
}

/// Has the kernel copy between a buffer of `len` bytes at `base` and `address`, in the direction that `call` has.
fn copy(call: c_long, base: *mut u8, len: usize, address: u64) -> Result<(), BadAddress> {
    if len == 0 {
        return Ok(());
    }
    let buffer = iovec { iov_base: base.cast(), iov_len: len };
    let there = iovec { iov_base: address as *mut c_void, iov_len: len };
    let (one, no_flags): (u64, u64) = (1, 0);
    // SAFETY: both calls take these arguments, and look at them only while they last. `readv` writes to `base`, which is the
    // caller's of this function alone, and `writev` reads from there. What is at `address` is not this program's to speak for: it
    // is read and written there as the ioctl's caller has asked for, as with any system call that it hands an address to.
    let copied = unsafe {
        libc::syscall(
            call,
            own_process::number(),
            &raw const buffer,
            one,
            &raw const there,
            one,
            no_flags,
        )
    };
    if usize::try_from(copied) == Ok(len) { Ok(()) } else { Err(BadAddress) }
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
    fn an_argument_at_a_bad_address_is_efault() {
        let start = pages();
        let host = Process::new();
        let at = |address| Argument::new(host.clone(), address);
        let [read_only, none] = [1, 2].map(|n| start + n * PAGE as u64);
        assert_eq!(at(start).write(&5_u64), Ok(()));
        assert_eq!(at(start).read(), Ok(5_u64));
        for address in [0, 1, none, none - 4, none + PAGE as u64, u64::MAX] {
            assert_eq!(at(address).read::<u64>(), Err(Errno::EFAULT), "{address:#x}");
            assert_eq!(at(address).write(&5_u64), Err(Errno::EFAULT), "{address:#x}");
        }
        for address in [read_only, read_only - 4] {
            assert_eq!(at(address).read::<u64>(), Ok(0));
            assert_eq!(at(address).write(&5_u64), Err(Errno::EFAULT), "{address:#x}");
        }
    }
}
