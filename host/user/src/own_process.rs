//! Which process this is: [`number`], for a few nanoseconds where the system call costs hundreds.
//!
//! A child that was made by `fork` has its parent's memory, and so would have its parent's number. But it is kept on a page
//! that the kernel empties in a child which has memory of its own, however it was made; one that shares its parent's
//! memory until it executes another program (`vfork`) is taken for its parent, which here is what it should be: its memory is.

use std::ptr::{self, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes of the page.
const PAGE: usize = 4096;

/// Where the number is kept, from the first time on that it was asked for; never unmapped.
static KEPT: AtomicPtr<AtomicU32> = AtomicPtr::new(null_mut());

/// This process's number. Any context, but for the first time, which maps a page.
#[must_use]
pub fn number() -> u32 {
    let place = KEPT.load(Ordering::Acquire);
    // SAFETY: it is null, or the start of a page that `keep` has mapped, and that is never unmapped.
    let known = unsafe { place.as_ref() }.map_or(0, |kept| kept.load(Ordering::Relaxed));
    if known != 0 { known } else { ask() }
}

/// Asks the kernel, and keeps the answer if it can be kept.
#[cold]
fn ask() -> u32 {
    let own = std::process::id();
    if KEPT.load(Ordering::Acquire).is_null()
        && let Some(page) = new_page()
        && KEPT.compare_exchange(null_mut(), page, Ordering::AcqRel, Ordering::Acquire).is_err()
    {
        // SAFETY: it was mapped just now, and nobody has seen it.
        let _ = unsafe { munmap(page.cast(), PAGE) };
    }
    // SAFETY: as in `number`.
    if let Some(kept) = unsafe { KEPT.load(Ordering::Acquire).as_ref() } {
        kept.store(own, Ordering::Relaxed);
    }
    own
}

/// A page that is empty in a child. Linux before 4.14 has none such.
fn new_page() -> Option<*mut AtomicU32> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a mapping of its own, at a place that the kernel chooses.
    let page = unsafe { mmap_anonymous(ptr::null_mut(), PAGE, access, MapFlags::PRIVATE) }.ok()?;
    // SAFETY: it concerns this page alone.
    if unsafe { madvise(page, PAGE, Advice::LinuxWipeOnFork) }.is_err() {
        // SAFETY: it was mapped just now, and nobody has seen it.
        let _ = unsafe { munmap(page, PAGE) };
        return None;
    }
    Some(page.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_kernel_says() {
        for _ in 0..3 {
            assert_eq!(number(), std::process::id());
        }
    }

    #[test]
    fn a_child_has_its_own() {
        let before = number();
        // SAFETY: the child calls what may be called in one of a process with threads, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let right = number() != before && number() == std::process::id();
            // SAFETY: it ends this process alone.
            unsafe { libc::_exit(if right { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: it waits for the child, and writes the status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 0));
        assert_eq!(number(), before);
    }
}
