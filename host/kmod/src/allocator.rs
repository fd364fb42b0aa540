//! The heap: Rust's allocator over `kmalloc` and `vmalloc`.
//!
//! Memory is charged to the control group of the process that asks for it, as
//! KVM's is; a small block is had even where the group refuses it, for who asks may not be
//! able to do without. In atomic context only what `GFP_ATOMIC` gives is had; the core
//! promises not to allocate there, and the glue warns if it does. Memory may be given up in any context: what `vmalloc` gave, which
//! takes one that may sleep, waits for that elsewhere ([`crate::deferred`]).
//! Reallocation is `GlobalAlloc`'s own: allocate, copy, free.
//!
//! [`boxed`] is a box that may fail. What is never given up is in [`crate::arena`].

use alloc::boxed::Box;
use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_void;
use core::ptr::NonNull;

use virt::Errno;

use crate::arena;
use crate::deferred::{self, Node};

// SAFETY: these are the glue's functions (glue/heap.c), with these types; to be given memory takes nothing of the caller.
unsafe extern "C" {
    /// `size` bytes aligned to `align`, zeroed on request; null if there are none.
    safe fn unibody_alloc(size: usize, align: usize, zero: bool) -> *mut c_void;
    /// Gives back what [`unibody_alloc`] gave. Any context, or one that may sleep.
    fn unibody_free(block: *mut c_void);
    /// Whether that takes one that may sleep. Then it is a page at least.
    safe fn unibody_free_may_sleep(block: *const c_void) -> bool;
}

/// The kernel's allocator.
struct Kernel;

// SAFETY: blocks come from kmalloc or vmalloc, which neither unwind nor hand
// out a block twice; the glue rounds the request up so that the block is as
// large and as aligned as the layout says, or gives null.
unsafe impl GlobalAlloc for Kernel {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(block) = arena::take(layout) {
            return block;
        }
        unibody_alloc(layout.size(), layout.align(), false).cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Some(block) = arena::take(layout) {
            return block;
        }
        unibody_alloc(layout.size(), layout.align(), true).cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        if arena::has(block) {
            return;
        }
        if unibody_free_may_sleep(block.cast()) && !deferred::may_sleep() {
            let node = block.cast::<Node>();
            // SAFETY: the block is given up, and has room for a node: it is of whole pages. A pointer that is freed is not null.
            unsafe {
                node.write(Node::new(finish));
                deferred::defer(NonNull::new_unchecked(node));
            }
            return;
        }
        // SAFETY: the caller got `block` from `alloc` or `alloc_zeroed` and
        // gives it up, so it is a live block of `unibody_alloc`'s.
        unsafe { unibody_free(block.cast()) }
    }
}

/// Frees a block in process context.
///
/// # Safety
/// The node is at the beginning of a live block that was given up.
unsafe fn finish(node: NonNull<Node>) {
    // SAFETY: the caller's promise.
    unsafe { unibody_free(node.as_ptr().cast()) }
}

/// Zeroed memory of whole pages; null if there is none. Process context.
pub fn block(size: usize) -> *mut u8 {
    unibody_alloc(size, 4096, true).cast()
}

/// Frees what [`block`] gave, or null. Process context.
///
/// # Safety
/// It is nobody's any more.
pub unsafe fn free_block(block: *mut u8) {
    // SAFETY: the caller's promise. The kernel frees null, which is nothing.
    unsafe { unibody_free(block.cast()) }
}

/// A box. Process context.
///
/// # Errors
/// `ENOMEM`.
pub fn boxed<T>(value: T) -> Result<Box<T>, Errno> {
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        // Takes no memory.
        return Ok(Box::new(value));
    }
    // SAFETY: the size is not zero.
    let place = unsafe { alloc::alloc::alloc(layout) }.cast::<T>();
    if place.is_null() {
        return Err(Errno::ENOMEM);
    }
    // SAFETY: the place is a block of the allocator's for such a value, and nobody else's; it gets the value before it is a box.
    unsafe {
        place.write(value);
        Ok(Box::from_raw(place))
    }
}

#[global_allocator]
static KERNEL: Kernel = Kernel;
