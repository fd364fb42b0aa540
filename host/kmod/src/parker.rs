//! Where a halted vCPU's thread waits: the kernel's `rcuwait`, as its KVM has.
//!
//! Deviation: who waits sleeps at once. KVM polls first for a while (`halt_poll_ns`).

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering};

use virt::host::Parker;

// SAFETY: these are the glue's functions (glue/wait.c), with these types.
unsafe extern "C" {
    /// This thread is the one that wakes up.
    fn unibody_wait_begin(place: *mut *mut c_void);
    /// A wake-up from now on is not lost. Gives false if a signal is there.
    safe fn unibody_wait_prepare() -> bool;
    /// Sleeps, unless there was a wake-up since it was prepared. Process context.
    safe fn unibody_wait();
    /// This thread does not wait any more.
    fn unibody_wait_end(place: *mut *mut c_void);
    /// Wakes the thread that waits, if there is one. Any context.
    fn unibody_wake(place: *mut *mut c_void);
}

/// A wait that anything can end; a wake-up before the wait counts. Of one thread at a time: of several, one is woken.
pub struct ThreadParker {
    /// The kernel's `struct rcuwait`: the thread that waits.
    place: UnsafeCell<*mut c_void>,
    /// There was a wake-up since the last wait.
    woken: AtomicBool,
}

// SAFETY: the place is read and written by the kernel's functions alone, which expect to be called on several processors at a time. A
// thread that waits takes itself out of it: so what it has is a thread that is there.
unsafe impl Send for ThreadParker {}
// SAFETY: as above.
unsafe impl Sync for ThreadParker {}

impl ThreadParker {
    /// One where nobody waits.
    pub const fn new() -> Self {
        Self { place: UnsafeCell::new(null_mut()), woken: AtomicBool::new(false) }
    }

    /// Whether the wait is over. `unpark` comes after the reason is there: so either that is seen here, or the wake-up.
    fn is_over(&self, ready: &mut dyn FnMut() -> bool) -> bool {
        ready() || self.woken.swap(false, Ordering::SeqCst)
    }
}

impl Parker for ThreadParker {
    fn park(&self, ready: &mut dyn FnMut() -> bool) {
        if self.is_over(ready) {
            return;
        }
        // SAFETY: the place began as null, nobody, and stays where it is while it is borrowed.
        unsafe { unibody_wait_begin(self.place.get()) };
        // A signal ends it, too: whoever parks asks for those.
        while unibody_wait_prepare() && !self.is_over(ready) {
            unibody_wait();
        }
        // SAFETY: as above. It also has the thread be one that runs.
        unsafe { unibody_wait_end(self.place.get()) };
    }

    fn unpark(&self) {
        self.woken.store(true, Ordering::SeqCst);
        // SAFETY: as in `park`. Whoever waits, or has looked for the wake-up and is about to sleep, is woken.
        unsafe { unibody_wake(self.place.get()) };
    }
}
