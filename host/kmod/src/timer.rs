//! Timers: the kernel's high-resolution ones, which call from their interrupt.
//!
//! The call never asks to be repeated; so a timer that is armed while it fires, by the call itself or on another processor, stays armed:
//! the kernel puts it into its queue at once, though not on another processor than the one where it fires. Arming and disarming are one after the other under that queue's
//! lock, which is not held during the call.
//!
//! A timer that is dropped must not be firing when its memory is freed. If it is, its end is waited for; but not where that would
//! be waiting in atomic context, or for oneself: there it is handed over ([`crate::deferred`]), and calls nobody meanwhile.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use virt::Errno;
use virt::host::{Expire, Timer};

use crate::allocator::boxed;
use crate::deferred::{self, Node};

/// The glue's `struct unibody_timer`.
#[repr(C)]
struct Opaque([u8; 0]);

// SAFETY: these are the glue's functions (glue/time.c), with these types.
unsafe extern "C" {
    /// A timer that calls `unibody_expired` with `alarm`; null without memory. Process context.
    fn unibody_timer_new(alarm: *mut c_void) -> *mut Opaque;
    fn unibody_timer_arm(timer: *mut Opaque, deadline: i64);
    /// Disarms it. Gives false if it is firing right now: then it may be armed still.
    fn unibody_timer_try_cancel(timer: *mut Opaque) -> bool;
    /// Disarms it, and returns when it is not firing. Process context.
    fn unibody_timer_cancel(timer: *mut Opaque);
    fn unibody_timer_free(timer: *mut Opaque);
}

/// A timer, and what it calls. It is the interrupt's to look at while the timer is armed or firing.
#[repr(C)]
struct Alarm {
    node: Node,
    timer: *mut Opaque,
    target: Arc<dyn Expire>,
    /// Nobody is called any more.
    dropped: AtomicBool,
}

/// A timer of the kernel's.
pub struct KernelTimer {
    /// A box, which the glue's timer has the address of.
    alarm: NonNull<Alarm>,
}

// SAFETY: an alarm is shared with an interrupt, on any processor, in any case: what it has is `Send` and `Sync`, and the glue's timer is
// used through the kernel's functions alone, which lock it.
unsafe impl Send for KernelTimer {}
// SAFETY: as above.
unsafe impl Sync for KernelTimer {}

impl KernelTimer {
    /// Makes one that calls `target`. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(target: Arc<dyn Expire>) -> Result<Self, Errno> {
        let (node, dropped) = (Node::new(finish), AtomicBool::new(false));
        let mut alarm = boxed(Alarm { node, timer: core::ptr::null_mut(), target, dropped })?;
        // SAFETY: the alarm is in a box, and outlives the timer: see `free`. It does not fire before it is armed.
        alarm.timer = unsafe { unibody_timer_new((&raw mut *alarm).cast()) };
        if alarm.timer.is_null() {
            return Err(Errno::ENOMEM);
        }
        deferred::begin();
        Ok(Self { alarm: NonNull::from(Box::leak(alarm)) })
    }

    fn timer(&self) -> *mut Opaque {
        // SAFETY: the alarm is there as long as this is; nobody has it to change it but by its atomics.
        unsafe { self.alarm.as_ref() }.timer
    }
}

impl Timer for KernelTimer {
    fn arm(&self, deadline: u64) {
        // What is beyond the clock's end, in 292 years, is as good as never.
        let deadline = i64::try_from(deadline).unwrap_or(i64::MAX);
        // SAFETY: the timer is there as long as this is. Any context.
        unsafe { unibody_timer_arm(self.timer(), deadline) };
    }

    fn disarm(&self) {
        // SAFETY: as in `arm`. If it is firing right now, so it is.
        unsafe { unibody_timer_try_cancel(self.timer()) };
    }
}

impl Drop for KernelTimer {
    fn drop(&mut self) {
        // SAFETY: as in `timer`.
        unsafe { self.alarm.as_ref() }.dropped.store(true, Ordering::Release);
        // SAFETY: as in `arm`. Nobody arms it any more but who is called right now, if that is so.
        let idle = unsafe { unibody_timer_try_cancel(self.timer()) };
        // SAFETY: nobody has the alarm but this, and the call that is under way, if that is so: then it is waited for, here or where
        // it is handed over to.
        unsafe {
            if idle {
                free(self.alarm);
            } else if deferred::may_sleep() {
                finish(self.alarm.cast());
            } else {
                deferred::defer(self.alarm.cast());
            }
        }
    }
}

/// Waits until an alarm's timer is neither armed nor firing, and frees it.
///
/// # Safety
/// The node is an alarm's that was given up. Process context, and not in its call.
unsafe fn finish(node: NonNull<Node>) {
    let alarm = node.cast::<Alarm>();
    // SAFETY: the alarm is there, as its timer is.
    unsafe { unibody_timer_cancel(alarm.as_ref().timer) };
    // SAFETY: the timer has nothing to do with it any more.
    unsafe { free(alarm) };
}

/// Frees an alarm.
///
/// # Safety
/// Nobody else has it, and its timer is neither armed nor firing.
unsafe fn free(alarm: NonNull<Alarm>) {
    // SAFETY: it came from a box, and is nobody else's.
    let alarm = unsafe { Box::from_raw(alarm.as_ptr()) };
    // SAFETY: the kernel has no hold on it: it is neither in a queue nor firing.
    unsafe { unibody_timer_free(alarm.timer) };
    drop(alarm);
    deferred::end();
}

/// A timer has fired. Called by `glue/time.c`, in a hard interrupt.
///
/// # Safety
/// `alarm` is what the timer was made with.
#[unsafe(no_mangle)]
unsafe extern "C" fn unibody_expired(alarm: *mut c_void) {
    // SAFETY: the caller's promise; an alarm is not freed while its timer is firing.
    let alarm = unsafe { &*alarm.cast::<Alarm>() };
    if !alarm.dropped.load(Ordering::Acquire) {
        alarm.target.expired();
    }
}
