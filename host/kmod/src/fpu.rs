//! A guest's x87 and vector registers: the kernel's own swap of a thread's registers, as its KVM has it.
//!
//! While they are loaded they are the thread's for the kernel: it saves them when another thread runs, and the processor may have them
//! or memory may. Whoever is about to enter the guest has the processor have them ([`GuestFpu::restore`]); whoever looks at them has memory have them
//! ([`GuestFpu::registers`]), and the next entry loads them again.
//!
//! In memory they are as XSAVE, XSAVEC or XSAVES has left them: a component in its initial state may be a clear bit of XSTATE_BV
//! and no more, and its bytes then are what was there before. They are written, and the bit is set, before anybody sees them.
//! See: AMD APM vol. 2, 11.5.

use alloc::boxed::Box;
use core::ptr::NonNull;

use arch_x86::hardware::GuestFpu;
use arch_x86::regs::{FxArea, YmmHigh};
use virt::Errno;

use crate::allocator::boxed;
use crate::deferred::{self, Node};

/// The kernel's `struct fpu_guest`.
#[repr(C)]
struct Opaque([u8; 0]);

// SAFETY: these are the glue's functions (glue/fpu.c), with these types.
unsafe extern "C" {
    /// Registers as at reset; null without memory. Process context.
    safe fn unibody_fpu_new() -> *mut Opaque;
    /// Frees them. Process context, and while no thread has them.
    fn unibody_fpu_free(guest: *mut Opaque);
    /// Whether what is in memory has a header of XSAVE's.
    safe fn unibody_fpu_has_xsave() -> bool;
    /// Where they are in memory, and a mask of the components that there is room for.
    fn unibody_fpu_area(guest: *mut Opaque, components: *mut u64) -> *mut u8;
    /// Whether this thread's registers are its own, and can be a guest's.
    safe fn unibody_fpu_can_swap() -> bool;
    /// Whether they are this guest's.
    fn unibody_fpu_is_swapped(guest: *const Opaque) -> bool;
    /// Has this thread's registers be the guest's, or its own again.
    fn unibody_fpu_swap(guest: *mut Opaque, to_guest: bool);
    /// Has the processor have this thread's registers, with interrupts off.
    safe fn unibody_fpu_restore();
    /// Has memory have them, and the processor load them from there when they are wanted next.
    safe fn unibody_fpu_save();
}

/// Components, by their bits in XSTATE_BV. See: AMD APM vol. 2, 11.5.2.
const X87: u64 = 1;
const SSE: u64 = 1 << 1;
const YMM: u64 = 1 << 2;

/// Where XSTATE_BV is in the area, and after it XCOMP_BV.
const XSTATE_BV: usize = 512;
const XCOMP_BV: usize = 520;
/// In XCOMP_BV: the components that are there follow each other.
const COMPACTED: u64 = 1 << 63;
/// Where the upper halves of the YMM registers are. In either format: they come first after the header in the compacted one, and
/// no processor has them elsewhere in the other.
const YMM_OFFSET: usize = 576;

/// Registers in their initial state.
static RESET: FxArea = FxArea::at_reset();

/// A guest's registers.
pub struct KernelFpu {
    guest: NonNull<Guest>,
    /// The area in memory; it stays where it is.
    area: NonNull<u8>,
    /// Of X87, SSE and YMM, those that are in the area.
    components: u64,
    has_header: bool,
    /// What stands for the upper halves of registers that the processor does not have.
    no_ymm: Box<YmmHigh>,
    loaded: bool,
}

/// What the kernel has of them, in a box.
#[repr(C)]
struct Guest {
    node: Node,
    kernels: *mut Opaque,
}

// SAFETY: the memory is this one's alone, or, while it is loaded, the thread's that has loaded it: which is the one that uses it.
unsafe impl Send for KernelFpu {}

impl KernelFpu {
    /// Registers as at reset. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        let no_ymm = boxed(YmmHigh::default())?;
        let mut guest = boxed(Guest { node: Node::new(finish), kernels: core::ptr::null_mut() })?;
        guest.kernels = unibody_fpu_new();
        if guest.kernels.is_null() {
            return Err(Errno::ENOMEM);
        }
        let mut components = 0;
        // SAFETY: it was just made.
        let area = unsafe { unibody_fpu_area(guest.kernels, &raw mut components) };
        let guest = NonNull::from(Box::leak(guest));
        deferred::begin();
        // SAFETY: an area of the kernel's has an address.
        let area = unsafe { NonNull::new_unchecked(area) };
        let has_header = unibody_fpu_has_xsave();
        let components = if has_header { components & (X87 | SSE | YMM) } else { X87 | SSE };
        Ok(Self { guest, area, components, has_header, no_ymm, loaded: false })
    }

    fn kernels(&self) -> *mut Opaque {
        // SAFETY: it is in a box as long as this is.
        unsafe { self.guest.as_ref() }.kernels
    }

    /// Whether the registers are this thread's.
    fn is_swapped(&self) -> bool {
        // SAFETY: it is there as long as this is.
        self.loaded && unsafe { unibody_fpu_is_swapped(self.kernels()) }
    }

    /// Has all registers be in memory, whatever they are, and stay there.
    fn settle(&self) {
        if self.is_swapped() {
            unibody_fpu_save();
        }
        if self.has_header {
            // SAFETY: nobody writes to the area: the registers were saved, and are not saved again before they are loaded; and who loads
            // them has to borrow this one.
            unsafe { self.write_initial() };
        }
    }

    /// Writes the initial values of the components that are in their initial state, and marks them as there.
    ///
    /// # Safety
    /// Nobody else reads or writes the area meanwhile, which has a header.
    unsafe fn write_initial(&self) {
        let area = self.area.as_ptr();
        let copy = |range: core::ops::Range<usize>| {
            let from = &RESET.0[range.clone()];
            // SAFETY: the range is one of the first 512 bytes, which every area has.
            unsafe { area.add(range.start).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        };
        // SAFETY: the header is there, aligned as the area is, to 64 bytes.
        let (present, compacted) = unsafe {
            let word = |offset| area.add(offset).cast::<u64>().read();
            (word(XSTATE_BV), word(XCOMP_BV) & COMPACTED != 0)
        };
        let missing = self.components & !present;
        if missing & X87 != 0 {
            copy(0..24);
            copy(32..160);
        }
        if missing & SSE != 0 {
            copy(160..416);
            // In the other format it is there in any case.
            if compacted {
                copy(24..32);
            }
        }
        // SAFETY: the component is in the area, and the header is there.
        unsafe {
            if missing & YMM != 0 {
                area.add(YMM_OFFSET).write_bytes(0, size_of::<YmmHigh>());
            }
            area.add(XSTATE_BV).cast::<u64>().write(present | missing);
        }
    }

    fn has_ymm(&self) -> bool {
        self.components & YMM != 0
    }
}

impl GuestFpu for KernelFpu {
    fn load(&mut self) {
        if !self.loaded && unibody_fpu_can_swap() {
            // SAFETY: it is there as long as this is; the thread's registers are its own.
            unsafe { unibody_fpu_swap(self.kernels(), true) };
            self.loaded = true;
        }
    }

    fn put(&mut self) {
        if self.is_swapped() {
            // SAFETY: the thread's registers are this guest's.
            unsafe { unibody_fpu_swap(self.kernels(), false) };
            self.loaded = false;
        }
    }

    fn restore(&mut self) {
        if self.is_swapped() {
            unibody_fpu_restore();
        }
    }

    fn registers(&self) -> (&FxArea, &YmmHigh) {
        self.settle();
        // SAFETY: both are in the area, aligned to 16 bytes, and any bytes are valid ones. Nobody writes to them before
        // they are loaded, for which this has to be borrowed.
        unsafe {
            let ymm = self.area.add(YMM_OFFSET).cast();
            (self.area.cast().as_ref(), if self.has_ymm() { ymm.as_ref() } else { &self.no_ymm })
        }
    }

    fn registers_mut(&mut self) -> (&mut FxArea, &mut YmmHigh) {
        self.settle();
        let has_ymm = self.has_ymm();
        // SAFETY: as in `registers`; and this is borrowed for as long.
        unsafe {
            let mut ymm = self.area.add(YMM_OFFSET).cast();
            let mut fx = self.area.cast();
            (fx.as_mut(), if has_ymm { ymm.as_mut() } else { &mut *self.no_ymm })
        }
    }
}

impl Drop for KernelFpu {
    fn drop(&mut self) {
        self.put();
        // SAFETY: nobody has it any more.
        unsafe {
            if deferred::may_sleep() {
                finish(self.guest.cast());
            } else {
                deferred::defer(self.guest.cast());
            }
        }
    }
}

/// Frees registers.
///
/// # Safety
/// The node is a [`Guest`]'s that was given up. Process context.
unsafe fn finish(node: NonNull<Node>) {
    // SAFETY: it came from a box, and nobody else has it.
    unsafe {
        let guest = Box::from_raw(node.cast::<Guest>().as_ptr());
        unibody_fpu_free(guest.kernels);
    }
    deferred::end();
}
