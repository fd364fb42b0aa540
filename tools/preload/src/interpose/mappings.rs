//! Unmapping and moving memory: it may be a slot's.
//!
//! Other memory in its place is seen by `contents` (`MAP_FIXED`). What else takes it away is not: `mprotect`, `shmdt`, `free`, a file that is
//! cut off.

use std::ptr::with_exposed_provenance_mut;

use libc::{c_int, c_void, size_t};

use crate::mappings::MAPPINGS;
use crate::next::Next;

type Unmap = unsafe extern "C" fn(*mut c_void, size_t) -> c_int;
type Remap = unsafe extern "C" fn(*mut c_void, size_t, size_t, c_int, ...) -> *mut c_void;

// SAFETY: as the C library declares it.
static MUNMAP: Next<Unmap> = unsafe { Next::new(c"munmap") };
// SAFETY: likewise.
static MREMAP: Next<Remap> = unsafe { Next::new(c"mremap") };

/// Looks up both.
pub(super) fn look_up() {
    MUNMAP.look_up();
    MREMAP.look_up();
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn munmap(address: *mut c_void, size: size_t) -> c_int {
    // SAFETY: the caller's promise.
    let done = unsafe {
        match MUNMAP.get() {
            Some(next) => next(address, size),
            None => libc::syscall(libc::SYS_munmap, address, size) as c_int,
        }
    };
    if done == 0 {
        MAPPINGS.gone(address.addr() as u64, size as u64);
    }
    done
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn mremap(
    old: *mut c_void,
    old_size: size_t,
    size: size_t,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    let moved = unsafe {
        match MREMAP.get() {
            Some(next) => next(old, old_size, size, flags, new),
            None => with_exposed_provenance_mut(libc::syscall(
                libc::SYS_mremap,
                old,
                old_size,
                size,
                flags,
                new,
            ) as usize),
        }
    };
    if moved != libc::MAP_FAILED {
        MAPPINGS.gone(old.addr() as u64, old_size as u64);
        MAPPINGS.gone(moved.addr() as u64, size as u64);
    }
    moved
}
