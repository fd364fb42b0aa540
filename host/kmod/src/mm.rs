//! [`Watched`]: the process whose memory a VM's is, and the kernel's word when it takes pages away.

use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr::NonNull;

use arch_x86::hardware::HostPages;
use virt::Errno;

use crate::allocator::boxed;
use crate::event::checked;
use alloc::boxed::Box;

/// The glue's `struct unibody_notifier`.
#[repr(C)]
struct Opaque([u8; 0]);

// SAFETY: these are the glue's functions (glue/mm.c), with these types.
unsafe extern "C" {
    /// Has `unibody_pages_change` and its neighbour be called with `pages` of this process's pages; an error number as a pointer if
    /// that cannot be.
    fn unibody_notifier_new(pages: *mut c_void) -> *mut Opaque;
    /// When it returns they are not called any more, nor under way. Process context.
    fn unibody_notifier_free(notifier: *mut Opaque);
    /// Whether this thread is of that process.
    fn unibody_notifier_is_currents(notifier: *const Opaque) -> bool;
}

/// Who is told.
type Told = Arc<dyn HostPages + Send + Sync>;

/// This process's memory, and who is told of its pages, until this is dropped.
pub struct Watched {
    notifier: NonNull<Opaque>,
    /// A box, which the notifier has the address of.
    told: NonNull<Told>,
}

// SAFETY: the notifier is used by the kernel's functions alone, which lock; who is told may be told on any thread.
unsafe impl Send for Watched {}
// SAFETY: as above.
unsafe impl Sync for Watched {}

impl Watched {
    /// Has `told` be told of the pages of the process that this thread is of. Process context.
    ///
    /// # Errors
    /// `ENOMEM`, and `EINTR` if there is a signal.
    pub fn new(told: Told) -> Result<Self, Errno> {
        let told = NonNull::from(Box::leak(boxed(told)?));
        // SAFETY: who is told stays there until the notifier is gone: see `drop`.
        match checked(unsafe { unibody_notifier_new(told.as_ptr().cast()) }) {
            Ok(notifier) => {
                // SAFETY: what is checked is not null.
                let notifier = unsafe { NonNull::new_unchecked(notifier) };
                Ok(Self { notifier, told })
            }
            Err(errno) => {
                // SAFETY: it came from a box, and nobody knows of it.
                drop(unsafe { Box::from_raw(told.as_ptr()) });
                Err(errno)
            }
        }
    }

    /// Whether this thread is of that process.
    pub fn is_this_process(&self) -> bool {
        // SAFETY: the notifier is there as long as this is.
        unsafe { unibody_notifier_is_currents(self.notifier.as_ptr()) }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more; after that nobody has what it told.
        unsafe {
            unibody_notifier_free(self.notifier.as_ptr());
            drop(Box::from_raw(self.told.as_ptr()));
        }
    }
}

/// Pages are about to change.
///
/// # Safety
/// Each is called by the glue with what the notifier was made with.
#[unsafe(no_mangle)]
unsafe extern "C" fn unibody_pages_change(told: *mut c_void, start: u64, end: u64) {
    // SAFETY: the caller's promise; it is there as long as the notifier is.
    unsafe { &*told.cast::<Told>() }.change(start, end);
}

/// They have.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
unsafe extern "C" fn unibody_pages_changed(told: *mut c_void, start: u64, end: u64) {
    // SAFETY: as above.
    unsafe { &*told.cast::<Told>() }.changed(start, end);
}
