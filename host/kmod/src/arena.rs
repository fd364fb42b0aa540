//! Memory for what is made once and never given up: the instruction decoder's tables, thousands of small blocks that a library keeps.
//!
//! While [`fill`] runs, what the heap ([`crate::allocator`]) is asked for comes from one block, one after the other. [`release`] frees that
//! block when the module goes, and all that is in it. Both are called while nothing else of the module runs.

use core::alloc::Layout;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use crate::allocator;

/// What the tables take, and a quarter more. What finds no room is the heap's own, and lost when the module goes.
const SIZE: usize = 512 << 10;

/// The block.
static BLOCK: AtomicPtr<u8> = AtomicPtr::new(null_mut());
/// How much of it is given.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Something had no room.
static OVERFLOWED: AtomicBool = AtomicBool::new(false);
/// The heap asks here.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Has what `build` allocates come from here. Once, in process context. Without memory it is the heap's.
pub fn fill(build: impl FnOnce()) {
    BLOCK.store(allocator::block(SIZE), Ordering::Relaxed);
    IS_OPEN.store(true, Ordering::Relaxed);
    build();
    IS_OPEN.store(false, Ordering::Relaxed);
}

/// Frees all of it. Process context; nobody uses any of it any more.
pub fn release() {
    let block = BLOCK.swap(null_mut(), Ordering::Relaxed);
    // SAFETY: it is a block of the heap's, and nobody's any more.
    unsafe { allocator::free_block(block) };
}

/// Memory for this, if it is to come from here and there is room.
#[inline]
pub fn take(layout: Layout) -> Option<*mut u8> {
    if !IS_OPEN.load(Ordering::Relaxed) {
        return None;
    }
    let block = BLOCK.load(Ordering::Relaxed);
    let start = USED.load(Ordering::Relaxed).next_multiple_of(layout.align());
    let end = start.checked_add(layout.size()).filter(|end| *end <= SIZE && !block.is_null());
    let Some(end) = end else {
        OVERFLOWED.store(true, Ordering::Relaxed);
        return None;
    };
    USED.store(end, Ordering::Relaxed);
    // The block is of whole pages, zeroed, and larger alignments than theirs are not asked for.
    Some(block.wrapping_add(start))
}

/// Whether a block of memory is from here: then it is not given back by itself.
#[inline]
pub fn has(block: *const u8) -> bool {
    let start = BLOCK.load(Ordering::Relaxed);
    block.addr().wrapping_sub(start.addr()) < SIZE && !start.is_null()
}

/// How many bytes are left, and whether that was enough.
#[cfg(feature = "selftest")]
pub fn left() -> (usize, bool) {
    (SIZE - USED.load(Ordering::Relaxed), !OVERFLOWED.load(Ordering::Relaxed))
}
