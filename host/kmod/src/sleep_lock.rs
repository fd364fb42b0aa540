//! [`SleepLock`]: the kernel's mutex, under which one may sleep: what calls of a VM or a vCPU are made one after the other by.

use core::cell::UnsafeCell;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use virt::Errno;

/// The kernel's `struct mutex`.
#[repr(C)]
struct Opaque([u8; 0]);

// SAFETY: these are the glue's functions (glue/sleep.c), with these types.
unsafe extern "C" {
    /// One that nobody has; null without memory. Process context.
    safe fn unibody_mutex_new() -> *mut Opaque;
    fn unibody_mutex_free(mutex: *mut Opaque);
    /// Waits for it. Gives false if the thread is being killed. Process context.
    fn unibody_mutex_lock(mutex: *mut Opaque) -> bool;
    /// Waits for it, whatever comes. Process context.
    fn unibody_mutex_wait(mutex: *mut Opaque);
    fn unibody_mutex_unlock(mutex: *mut Opaque);
}

/// What one thread has at a time.
pub struct SleepLock<T> {
    mutex: NonNull<Opaque>,
    value: UnsafeCell<T>,
}

// SAFETY: the mutex may be used by any thread; the value goes from thread to thread.
unsafe impl<T: Send> Send for SleepLock<T> {}
// SAFETY: as above, and one at a time.
unsafe impl<T: Send> Sync for SleepLock<T> {}

impl<T> SleepLock<T> {
    /// Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(value: T) -> Result<Self, Errno> {
        let mutex = NonNull::new(unibody_mutex_new()).ok_or(Errno::ENOMEM)?;
        Ok(Self { mutex, value: UnsafeCell::new(value) })
    }

    /// Waits for it. Process context.
    ///
    /// # Errors
    /// `EINTR` if the thread is being killed meanwhile.
    pub fn lock(&self) -> Result<Held<'_, T>, Errno> {
        // SAFETY: the mutex is there as long as this is.
        let held = unsafe { unibody_mutex_lock(self.mutex.as_ptr()) };
        if held { Ok(Held(self)) } else { Err(Errno::EINTR) }
    }

    /// The same for what has to be done also by a thread that is being killed.
    pub fn wait(&self) -> Held<'_, T> {
        // SAFETY: as above.
        unsafe { unibody_mutex_wait(self.mutex.as_ptr()) };
        Held(self)
    }
}

impl SleepLock<()> {
    /// The same lock, of a value that is there only now.
    pub fn of<T>(self, value: T) -> SleepLock<T> {
        // The mutex goes on.
        let this = ManuallyDrop::new(self);
        SleepLock { mutex: this.mutex, value: UnsafeCell::new(value) }
    }
}

impl<T> Drop for SleepLock<T> {
    fn drop(&mut self) {
        // SAFETY: nobody has it, or could.
        unsafe { unibody_mutex_free(self.mutex.as_ptr()) };
    }
}

/// That this thread has it.
pub struct Held<'a, T>(&'a SleepLock<T>);

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this thread has the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this thread has the lock.
        unsafe { unibody_mutex_unlock(self.0.mutex.as_ptr()) };
    }
}
