//! A descriptor that reads as statistics: [`Statistics`].
//!
//! It is one of a memfd, which has the file's bytes. So all of reading is the kernel's own, with its offset and its errors; but before
//! that the numbers are made those of now: [`interpose`](crate::interpose) stands before `read` and `pread` for that.
//!
//! Deviation: what reads in another way (`readv`) has the numbers as they were when it was last read so, or made.
//!
//! See: api.rst 4.133 (`KVM_GET_STATS_FD`).

use arch_x86::ioctl::Mapping;
use virt::Errno;
use virt::ioctl::StatisticsFile;

use crate::object::{Made, Object};
use crate::pages::{SharedPages, read_only};

/// The most that a file may be long.
const MAX: usize = 64 * 1024;

/// Statistics of a VM or a vCPU. They live longer than it does, if they have to.
pub struct Statistics {
    file: StatisticsFile,
    pages: SharedPages,
    size: usize,
}

impl Statistics {
    /// Those of a file, with their descriptor.
    ///
    /// # Errors
    /// What the host lacks.
    pub(crate) fn made(file: StatisticsFile) -> Result<Made, Errno> {
        let mut bytes = vec![0; MAX];
        let size = file.read(0, &mut bytes);
        let (descriptor, pages) = read_only(c"kvm-stats", size as u32)?;
        pages.store(0, &bytes[..size]);
        let object = Object::statistics(Self { file, pages, size });
        Ok(Made { object, descriptor })
    }

    /// Has the descriptor read as the statistics are now.
    pub(crate) fn renew(&self) {
        // Also called by handlers of signals, which may have interrupted the allocator: in parts, on the stack.
        let mut part = [0; 1024];
        let mut at = 0;
        while at < self.size {
            let count = self.file.read(at as u64, &mut part);
            if count == 0 {
                break;
            }
            self.pages.store(at, &part[..count]);
            at += count;
        }
    }
}
