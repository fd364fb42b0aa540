//! Open files of the program whose process this is: [`OpenFile`].
//!
//! All that is asked of one is whether it is a VFIO group's. That is a character device of a class that has no others, which sysfs tells,
//! so that a device of another kind is not called with what it may take for something else.
//!
//! See: Linux, drivers/vfio/group.c, `vfio_group_init` (the class), `vfio_group_fops_open` (a group is opened once at a time).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use rustix::fs::{Dev, FileType, fstat, major, minor};
use virt::host::File;

use crate::own_descriptor::OwnDescriptor;

/// A handle of an open file.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// Keeps it open.
    _descriptor: Arc<OwnDescriptor>,
    /// Its device, if that is a VFIO group.
    group: Option<Dev>,
}

impl OpenFile {
    /// The one that a descriptor of this process is of, which stays the caller's.
    ///
    /// # Errors
    /// When it is no descriptor (`EBADF`), and when there are too many files open.
    pub fn of(descriptor: RawFd) -> io::Result<Self> {
        let descriptor = OwnDescriptor::duplicate_of(descriptor)?;
        let stat = fstat(&descriptor)?;
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        let group = (is_device && is_of_class(stat.st_rdev, "vfio")).then_some(stat.st_rdev);
        Ok(Self { _descriptor: Arc::new(descriptor), group })
    }
}

/// Whether a character device is one of that class.
fn is_of_class(device: Dev, class: &str) -> bool {
    let link = format!("/sys/dev/char/{}:{}/subsystem", major(device), minor(device));
    fs::read_link(link).is_ok_and(|to| to.file_name() == Some(OsStr::new(class)))
}

impl File for OpenFile {
    fn is_vfio_group(&self) -> bool {
        self.group.is_some()
    }
}

impl PartialEq for OpenFile {
    /// Whether they are of one group: nobody opens it a second time while it is open.
    fn eq(&self, other: &Self) -> bool {
        self.group.is_some() && self.group == other.group
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_device_is_of_its_class() {
        let device = |path| fstat(fs::File::open(path).unwrap()).unwrap().st_rdev;
        assert!(is_of_class(device("/dev/null"), "mem"));
        assert!(!is_of_class(device("/dev/null"), "vfio"));
        assert!(!is_of_class(u64::MAX, "mem"));
    }

    #[test]
    fn what_is_no_device_is_no_group_and_stays_the_callers() {
        let file = fs::File::open("/proc/self/status").unwrap();
        let of = || OpenFile::of(file.as_raw_fd()).unwrap();
        let handle = of();
        assert!(!handle.is_vfio_group() && handle != of());
        let null = fs::File::open("/dev/null").unwrap();
        assert!(!OpenFile::of(null.as_raw_fd()).unwrap().is_vfio_group());
        drop(handle);
        assert!(file.metadata().is_ok());
        let refused = OpenFile::of(-1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
    }
}
