//! The heap: Rust's allocator over `kmalloc` and `vmalloc`.
//!
//! Memory is charged to the control group of the process that asks for it, as
//! KVM's is. In atomic context only what `GFP_ATOMIC` gives is had; the core
//! promises not to allocate there, and the glue warns if it does.
//! Reallocation is `GlobalAlloc`'s own: allocate, copy, free.

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_void;

// SAFETY: these are the glue's functions (glue/glue.c), with these types; to be given memory takes nothing of the caller.
unsafe extern "C" {
    /// `size` bytes aligned to `align`, zeroed on request; null if there are none.
    safe fn unibody_alloc(size: usize, align: usize, zero: bool) -> *mut c_void;
    /// Gives back what [`unibody_alloc`] gave.
    fn unibody_free(block: *mut c_void);
}

/// The kernel's allocator.
struct Kernel;

// SAFETY: blocks come from kmalloc or vmalloc, which neither unwind nor hand
// out a block twice; the glue rounds the request up so that the block is as
// large and as aligned as the layout says, or gives null.
unsafe impl GlobalAlloc for Kernel {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unibody_alloc(layout.size(), layout.align(), false).cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unibody_alloc(layout.size(), layout.align(), true).cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller got `block` from `alloc` or `alloc_zeroed` and
        // gives it up, so it is a live block of `unibody_alloc`'s.
        unsafe { unibody_free(block.cast()) }
    }
}

#[global_allocator]
static KERNEL: Kernel = Kernel;
