//! Watches: an entry in an eventfd's queue of those who wait, as Linux's irqfds have.
//!
//! Whoever signals the eventfd calls the watch, with the lock of the eventfd's queue held: the count is taken there and then, before a reader
//! sees it. What was signalled before is taken when the watch begins.
//!
//! A watch that is dropped leaves the queue, for which that lock is taken: so it is not called then. In atomic context, where that
//! lock may be held, it is handed over ([`crate::deferred`]), and tells nobody meanwhile.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, Ordering};

use virt::Errno;
use virt::host::Notify;

use crate::allocator::boxed;
use crate::deferred::{self, Node};
use crate::event::{Context, EventFd};
use crate::file::File;

/// The glue's `struct unibody_watch`.
#[repr(C)]
struct Opaque([u8; 0]);

// SAFETY: these are the glue's functions (glue/event.c), with these types.
unsafe extern "C" {
    /// Has `unibody_signalled` be called with `watcher` when an eventfd is signalled; null without memory. Process context.
    fn unibody_watch_new(file: *mut File, event: *mut Context, watcher: *mut c_void)
    -> *mut Opaque;
    /// Takes the eventfd's count.
    fn unibody_watch_take(watch: *mut Opaque) -> u64;
    /// The same in `unibody_signalled`.
    fn unibody_watch_take_locked(watch: *mut Opaque) -> u64;
    /// When it returns `unibody_signalled` is not called any more, nor under way.
    fn unibody_watch_free(watch: *mut Opaque);
}

/// Who is called. It is shared with whoever signals the event.
#[repr(C)]
struct Watcher {
    node: Node,
    watch: *mut Opaque,
    target: Arc<dyn Notify>,
    /// Nobody is told any more.
    dropped: AtomicBool,
    /// Keeps the event, and so its queue.
    _event: EventFd,
}

/// That an event is watched.
pub struct Watch {
    /// A box, which the glue's watch has the address of.
    watcher: NonNull<Watcher>,
}

// SAFETY: a watcher is shared with whoever signals, on any processor, in any case: what it has is `Send` and `Sync`, and the glue's watch
// is used through the glue's functions alone, which lock it.
unsafe impl Send for Watch {}
// SAFETY: as above.
unsafe impl Sync for Watch {}

impl Watch {
    /// Has `target` called whenever an event is signalled, and if it has been. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(event: &EventFd, target: Arc<dyn Notify>) -> Result<Self, Errno> {
        let (node, dropped) = (Node::new(finish), AtomicBool::new(false));
        let (watch, kept) = (null_mut(), event.clone());
        let watcher = boxed(Watcher { node, watch, target, dropped, _event: kept })?;
        let watcher = NonNull::from(Box::leak(watcher));
        // SAFETY: the event is there, and the watcher outlives the watch: see `finish`.
        let watch =
            unsafe { unibody_watch_new(event.file(), event.context(), watcher.as_ptr().cast()) };
        if watch.is_null() {
            // SAFETY: it came from a box, and nobody knows of it.
            drop(unsafe { Box::from_raw(watcher.as_ptr()) });
            return Err(Errno::ENOMEM);
        }
        deferred::begin();
        // SAFETY: it is there. Who is called looks at other fields only.
        unsafe { (&raw mut (*watcher.as_ptr()).watch).write(watch) };
        let this = Self { watcher };
        // SAFETY: the watch is there. If somebody signals meanwhile, either of the two takes the count.
        if unsafe { unibody_watch_take(watch) } > 0 {
            // SAFETY: as in `drop`.
            unsafe { &(*watcher.as_ptr()).target }.signalled();
        }
        Ok(this)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the watcher is there as long as this is; nobody has it to change it but by its atomics.
        unsafe { &(*self.watcher.as_ptr()).dropped }.store(true, Ordering::Release);
        // SAFETY: nobody has it but this and who is being called; that is over when `finish` frees it.
        unsafe {
            if deferred::may_sleep() {
                finish(self.watcher.cast());
            } else {
                deferred::defer(self.watcher.cast());
            }
        }
    }
}

/// Takes a watcher from its event's queue, and frees it.
///
/// # Safety
/// The node is a watcher's that was given up. Process context.
unsafe fn finish(node: NonNull<Node>) {
    // SAFETY: it came from a box, and is freed after it has left the queue.
    unsafe {
        unibody_watch_free((*node.cast::<Watcher>().as_ptr()).watch);
        drop(Box::from_raw(node.cast::<Watcher>().as_ptr()));
    }
    deferred::end();
}

/// An event was signalled. Gives whether that was taken note of. Called by `glue/event.c`, with the lock of the event's queue held.
///
/// # Safety
/// `watcher` is what the watch was made with.
#[unsafe(no_mangle)]
unsafe extern "C" fn unibody_signalled(watcher: *mut c_void, watch: *mut c_void) -> bool {
    let watcher = watcher.cast::<Watcher>();
    // SAFETY: the caller's promise; a watcher is not freed before it has left the queue. The fields are not changed meanwhile.
    let (target, dropped) = unsafe { (&(*watcher).target, &(*watcher).dropped) };
    if dropped.load(Ordering::Acquire) {
        return false;
    }
    // SAFETY: the caller has the lock.
    let count = unsafe { unibody_watch_take_locked(watch.cast()) };
    if count > 0 {
        target.signalled();
    }
    count > 0
}
