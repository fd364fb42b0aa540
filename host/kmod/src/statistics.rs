//! A descriptor that reads as statistics: [`Statistics`]. It lives longer than what it tells of, if it has to.
//!
//! See: api.rst 4.133 (`KVM_GET_STATS_FD`).

use virt::Errno;
use virt::ioctl::StatisticsFile;

use crate::descriptor::Object;

/// Statistics of a VM or a vCPU.
pub struct Statistics(StatisticsFile);

impl Statistics {
    /// Those of a file.
    pub const fn new(file: StatisticsFile) -> Self {
        Self(file)
    }
}

impl Object for Statistics {
    fn is_read(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        Ok(self.0.read(offset, buffer))
    }
}
