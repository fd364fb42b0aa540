//! Pages: the kernel's own, with physical addresses, and those that are behind a process's memory.

use core::ffi::c_void;
use core::ptr::NonNull;

use arch_x86::hardware::{HostPage, Pages};
use virt::Errno;
use virt::host::BadAddress;

// SAFETY: these are the glue's functions (glue/pages.c), with these types.
unsafe extern "C" {
    /// Zeroed pages, one after the other; null if there are none. Process context.
    safe fn unibody_pages_new(size: usize) -> *mut c_void;
    /// Gives them back. Any context.
    fn unibody_pages_free(pages: *mut c_void, size: usize);
    fn unibody_physical(address: *mut c_void) -> u64;
    /// The page at an address of this process; with `at_once` if it is there already. One that may be written counts as written.
    fn unibody_user_page(address: u64, write: bool, at_once: bool, physical: *mut u64) -> bool;
    /// How much a large entry of this process's page tables maps there, and from which physical address on; 0 if there is none.
    fn unibody_large_mapping(address: u64, physical: *mut u64) -> usize;
}

/// Bytes of a page.
const PAGE: usize = 4096;

/// Pages of the kernel's own.
pub struct KernelPages {
    address: NonNull<c_void>,
    size: usize,
}

// SAFETY: they are memory that this has alone.
unsafe impl Send for KernelPages {}
// SAFETY: nothing here accesses it.
unsafe impl Sync for KernelPages {}

impl KernelPages {
    /// So many. Process context.
    ///
    /// # Errors
    /// `ENOMEM`, also for none.
    pub fn new(count: usize) -> Result<Self, Errno> {
        let size = count.checked_mul(PAGE).filter(|size| *size != 0).ok_or(Errno::ENOMEM)?;
        let address = NonNull::new(unibody_pages_new(size)).ok_or(Errno::ENOMEM)?;
        Ok(Self { address, size })
    }
}

impl Pages for KernelPages {
    fn address(&self) -> *mut u8 {
        self.address.as_ptr().cast()
    }

    fn physical(&self) -> u64 {
        // SAFETY: they are the kernel's pages, which all have one.
        unsafe { unibody_physical(self.address.as_ptr()) }
    }
}

impl Drop for KernelPages {
    fn drop(&mut self) {
        // SAFETY: they came from `unibody_pages_new`, as many, and are nobody's any more.
        unsafe { unibody_pages_free(self.address.as_ptr(), self.size) };
    }
}

/// The page behind an address of this process. Process context.
///
/// What is read for the first time is mapped for writing if that takes no more than to look, as it is written soon. What has no page of the
/// kernel's own, as a device's memory, is refused.
///
/// # Errors
/// When there is none, or not for this access.
pub fn host_page(address: u64, write: bool) -> Result<HostPage, BadAddress> {
    let first = user_page(address, write, false).ok_or(BadAddress)?;
    let (physical, writable) = match write {
        true => (first, true),
        false => user_page(address, true, true).map_or((first, false), |page| (page, true)),
    };
    Ok(HostPage { physical, writable, size: mapped_size(address, physical) })
}

fn user_page(address: u64, write: bool, at_once: bool) -> Option<u64> {
    let mut physical = 0;
    // SAFETY: any address may be asked for; the number is written.
    let found = unsafe { unibody_user_page(address, write, at_once, &raw mut physical) };
    found.then_some(physical)
}

/// How much the host maps by the entry that maps this page. It may have changed since, which whoever maps it is told of: so an entry
/// for other memory counts as one of 4 KiB.
fn mapped_size(address: u64, physical: u64) -> u64 {
    let mut start = 0;
    // SAFETY: any address may be asked for; the number is written.
    let size = unsafe { unibody_large_mapping(address, &raw mut start) } as u64;
    let page = PAGE as u64;
    let offset = address & size.wrapping_sub(1) & !(page - 1);
    if size > page && physical == start.wrapping_add(offset) { size } else { page }
}
