//! The lock: the kernel's queued spin lock, with interrupts off.
//!
//! It is the one beneath the kernel's `raw_spinlock_t`, which has one size and one initial value in every configuration. What the kernel's
//! lock checkers know of locks they do not know of these.
//!
//! Whether interrupts were on is kept in the lock by who has it. So locks that are held together are released in the opposite
//! order, as everywhere in the kernel: released before another one that was taken later, a lock would switch interrupts on under it.

use core::cell::UnsafeCell;
use core::ffi::c_ulong;

use lock_api::{GuardNoSend, RawMutex};

// SAFETY: these are the glue's functions (glue/lock.c), with these types.
unsafe extern "C" {
    /// Takes the lock, with interrupts off; gives whether they were on.
    fn unibody_lock(lock: *mut u32) -> c_ulong;
    /// The same, if it is free.
    fn unibody_try_lock(lock: *mut u32, flags: *mut c_ulong) -> bool;
    /// Releases it.
    fn unibody_unlock(lock: *mut u32, flags: c_ulong);
    /// Whether somebody has it.
    fn unibody_is_locked(lock: *mut u32) -> bool;
}

/// A lock that turns interrupts off. Any context but a non-maskable interrupt's.
pub struct SpinLock {
    /// The kernel's `arch_spinlock_t`.
    word: UnsafeCell<u32>,
    /// Whether interrupts were on. It is the holder's.
    flags: UnsafeCell<c_ulong>,
}

// SAFETY: it is a word that is accessed by the kernel's atomic operations alone, and flags that only the holder accesses.
unsafe impl Send for SpinLock {}
// SAFETY: as above.
unsafe impl Sync for SpinLock {}

// SAFETY: the kernel's lock excludes.
unsafe impl RawMutex for SpinLock {
    const INIT: Self = Self { word: UnsafeCell::new(0), flags: UnsafeCell::new(0) };

    // It is released on the processor whose interrupts are off.
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        // SAFETY: the word is one that began as 0, unlocked, and stays where it is while it is borrowed.
        let flags = unsafe { unibody_lock(self.word.get()) };
        // SAFETY: the lock is held.
        unsafe { *self.flags.get() = flags };
    }

    fn try_lock(&self) -> bool {
        let mut flags = 0;
        // SAFETY: as in `lock`.
        let held = unsafe { unibody_try_lock(self.word.get(), &raw mut flags) };
        if held {
            // SAFETY: the lock is held.
            unsafe { *self.flags.get() = flags };
        }
        held
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller has the lock: the flags are its own, and are read before it has it no more.
        unsafe {
            let flags = *self.flags.get();
            unibody_unlock(self.word.get(), flags);
        }
    }

    fn is_locked(&self) -> bool {
        // SAFETY: as in `lock`.
        unsafe { unibody_is_locked(self.word.get()) }
    }
}
