//! What has to wait for process context: memory and timers that are given up where nothing may sleep.
//!
//! The core's objects are shared, and whoever has the last hold on one drops it. That may be a timer's call or an event's, in atomic
//! context: such a call has a machine by a weak reference, and keeps it for the time of the call; and whoever else had it may let go just then. So
//! the drop of anything that the core holds is sound in any context here. What can be done at once is; the rest is handed over, as
//! a [`Node`] in the thing itself (nothing is allocated), to a work item of the kernel's:
//!
//! - a block of the heap that came from `vmalloc` ([`crate::allocator`]);
//! - a timer that is firing, maybe on this very processor ([`crate::timer`]), whose end is waited for;
//! - a watch that is given up where its event's lock may be held ([`crate::watch`]);
//! - a guest's x87 and vector registers ([`crate::fpu`]).
//!
//! What calls into this module's code is counted while it is there ([`begin`], [`end`]): the module is not unloaded before
//! all of it is gone ([`wait_for_all`]).

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

// SAFETY: these are the glue's functions (glue/deferred.c), which take nothing.
unsafe extern "C" {
    /// Whether the context is one that may sleep. False where that is not known.
    safe fn unibody_may_sleep() -> bool;
    /// Has `unibody_run_deferred` be called in process context, once or more often. Any context.
    safe fn unibody_defer();
    /// Returns when it is not running, and not going to. Process context.
    safe fn unibody_flush_deferred();
    /// Lets other threads run, for some microseconds.
    safe fn unibody_yield();
}

/// One thing that waits. It is at the beginning of that thing.
#[repr(C)]
pub struct Node {
    next: *mut Node,
    /// What is done with it.
    finish: unsafe fn(NonNull<Node>),
}

impl Node {
    /// One that does not wait yet. Whoever writes `finish` knows of what it is.
    pub const fn new(finish: unsafe fn(NonNull<Node>)) -> Self {
        Self { next: ptr::null_mut(), finish }
    }
}

/// Those that wait, the last one first.
static WAITING: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());

/// How many things there are that call into this module.
static CALLERS: AtomicUsize = AtomicUsize::new(0);

/// Whether the context may sleep. When in doubt it may not.
pub fn may_sleep() -> bool {
    unibody_may_sleep()
}

/// Lets other threads run, for some microseconds, whatever their priority. Process context.
pub fn yield_now() {
    unibody_yield();
}

/// Has a node's `finish` be called in process context. Any context but a non-maskable interrupt's.
///
/// # Safety
/// The node is valid, and nobody else's from now on: it is `finish`'s, which may be called with it then, once.
pub unsafe fn defer(node: NonNull<Node>) {
    let mut first = WAITING.load(Ordering::Relaxed);
    loop {
        // SAFETY: the caller has given it up, and nobody sees it before it is in the list.
        unsafe { (*node.as_ptr()).next = first };
        match WAITING.compare_exchange_weak(
            first,
            node.as_ptr(),
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            Ok(_) => break,
            Err(now) => first = now,
        }
    }
    unibody_defer();
}

/// Finishes all that waits. Called by `glue/deferred.c`, in process context.
#[unsafe(no_mangle)]
extern "C" fn unibody_run_deferred() {
    let mut next = WAITING.swap(ptr::null_mut(), Ordering::Acquire);
    while let Some(node) = NonNull::new(next) {
        // SAFETY: what is in the list is valid, and whoever takes the list has it alone.
        let finish = unsafe {
            next = (*node.as_ptr()).next;
            (*node.as_ptr()).finish
        };
        // SAFETY: `defer`'s contract: it is called with it, once.
        unsafe { finish(node) };
    }
}

/// There is one more thing that calls into this module.
pub fn begin() {
    CALLERS.fetch_add(1, Ordering::Relaxed);
}

/// It does not call any more, and is not just doing so.
pub fn end() {
    CALLERS.fetch_sub(1, Ordering::Release);
}

/// Returns when nothing waits and nothing is there that calls. Process context; nothing new may begin.
pub fn wait_for_all() {
    loop {
        unibody_flush_deferred();
        if CALLERS.load(Ordering::Acquire) == 0 {
            break;
        }
        yield_now();
    }
    // What the last call has left.
    unibody_flush_deferred();
}
