//! The devices that a VMM passes through to its guest: [`Groups`], KVM's VFIO device.
//!
//! A VMM has such a device's registers in its own address space, and maps the guest's memory for the device's DMA itself, both through
//! VFIO. What a hypervisor has to do is to know of the groups: a group in the list stays open, so its devices are nobody else's, as long as
//! the machine is there.
//!
//! Not implemented: what Linux's KVM does beyond that. It hands itself to drivers which look into a guest's memory on their own (Intel's
//! mediated graphics), and lets a guest control the host's caches while a device may go around them, which no IOMMU of AMD's lets it.
//!
//! See: Linux, Documentation/virt/kvm/devices/vfio.rst; virt/kvm/vfio.c.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use lock_api::Mutex;

use crate::host::{Errno, File, Host};
use crate::locked_list;

/// The groups of a machine's.
pub struct Groups<H: Host> {
    /// There is a device to add them through.
    is_made: AtomicBool,
    files: Mutex<H::RawMutex, Vec<H::File>>,
}

impl<H: Host> Default for Groups<H> {
    fn default() -> Self {
        Self { is_made: AtomicBool::new(false), files: Mutex::new(Vec::new()) }
    }
}

impl<H: Host> Groups<H> {
    /// Makes the device, of which a machine has one.
    ///
    /// # Errors
    /// `EBUSY` if it is there; what `describe` says, which gives it its descriptor: then it is not there.
    pub fn make(&self, describe: impl FnOnce() -> Result<u32, Errno>) -> Result<u32, Errno> {
        if self.is_made.swap(true, Ordering::AcqRel) {
            return Err(Errno::EBUSY);
        }
        describe().inspect_err(|_| self.is_made.store(false, Ordering::Release))
    }

    /// Adds a group. Process context.
    ///
    /// # Errors
    /// `EINVAL` if it is a file of something else, `EEXIST` if it is there, `ENOMEM`.
    pub fn add(&self, file: H::File) -> Result<(), Errno> {
        if !file.is_vfio_group() {
            return Err(Errno::EINVAL);
        }
        let is_new = |files: &[H::File]| {
            let is_there = files.contains(&file);
            if is_there { Err(Errno::EEXIST) } else { Ok(()) }
        };
        locked_list::push(&self.files, file.clone(), is_new).map_err(|(errno, _)| errno)
    }

    /// Removes a group. Process context.
    ///
    /// # Errors
    /// `ENOENT` if it is not there.
    pub fn remove(&self, file: &H::File) -> Result<(), Errno> {
        let mut files = self.files.lock();
        let at = files.iter().position(|other| other == file).ok_or(Errno::ENOENT)?;
        let removed = files.swap_remove(at);
        drop(files);
        // It may be the last that has it open.
        drop(removed);
        Ok(())
    }
}
