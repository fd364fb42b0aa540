//! What must hold of every host holds of this one, and what those bodies need of a process.

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::null_mut;

use rustix::event::{EventfdFlags, eventfd};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use selftest::Failure;
use virt::host_test::{PAGE, Place, given};

use crate::event::EventFd;
use crate::{Process, fixup};

/// This process.
struct ThisProcess;

impl Place for ThisProcess {
    type Host = Process;

    fn host() -> Process {
        fixup::install();
        Process::new()
    }

    fn map() -> Result<u64, Failure> {
        let page = PAGE as usize;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a mapping of its own, which nothing else has; the later changes are to pages of it that nobody uses yet.
        unsafe {
            let start = given(mmap_anonymous(null_mut(), 3 * page, access, MapFlags::PRIVATE))?;
            given(mprotect(start.byte_add(page), page, MprotectFlags::READ))?;
            given(mprotect(start.byte_add(2 * page), page, MprotectFlags::empty()))?;
            Ok(start as u64)
        }
    }

    fn unmap(start: u64) {
        // SAFETY: they are of `map`'s, and only ever accessed by who may meet nothing.
        let _ = unsafe { munmap(start as *mut _, 3 * PAGE as usize) };
    }

    fn descriptors() -> Result<[i32; 2], Failure> {
        let event = given(eventfd(0, EventfdFlags::CLOEXEC))?;
        let other = given(File::open("/proc/self/status"))?;
        Ok([event.into_raw_fd(), OwnedFd::from(other).into_raw_fd()])
    }

    fn close(descriptor: i32) {
        if descriptor >= 0 {
            // SAFETY: it is of `descriptors`', and nobody else has it.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }

    fn take(event: &EventFd) -> u64 {
        event.take()
    }
}

virt::host_contract!(ThisProcess);
