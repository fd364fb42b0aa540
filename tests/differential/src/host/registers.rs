//! The x87, MMX, SSE and AVX registers: the area that they are loaded from when a case is entered, and
//! the signal's frame, which has those that it leaves.
//!
//! See: Intel SDM vol. 1, 13.4; Linux, arch/x86/include/uapi/asm/sigcontext.h.

use std::arch::x86_64::__cpuid_count;

use arch_x86::regs::FxArea;
use libc::ucontext_t;

use crate::vector::Vector;

/// What XRSTOR or FXRSTOR loads.
#[repr(C, align(64))]
pub(super) struct Area {
    fx: [u8; 512],
    /// The header's first field: which of the components that are loaded are not initial.
    components: u64,
    reserved: [u64; 7],
    upper: [u128; 16],
}

/// Components of XSAVE's area: x87, SSE, AVX.
pub(super) const COMPONENTS: u64 = 0b111;
/// Offset of the header.
const HEADER: usize = 512;
/// Offset of what the kernel says of the frame, in the area's bytes that the processor leaves alone.
const SOFTWARE: usize = 464;
/// FP_XSTATE_MAGIC1: behind FXSAVE's area the frame has XSAVE's.
const MAGIC: u32 = 0x4650_5853;
/// How much of its area FXSAVE writes.
const SAVED: usize = 416;

impl Area {
    pub(super) const INITIAL: Self =
        Self { fx: [0; 512], components: COMPONENTS, reserved: [0; 7], upper: [0; 16] };

    /// Has the registers loaded.
    pub(super) fn set(&mut self, vector: &Vector) {
        self.fx = vector.fx.0;
        self.upper = vector.upper;
    }
}

/// Whether the host has XSAVE, and it is on. Panics if AVX's component is not where it always is.
pub(super) fn has_xsave() -> bool {
    let on = is_x86_feature_detected!("xsave");
    if on && is_x86_feature_detected!("avx") {
        assert_eq!(__cpuid_count(0xd, 2).ebx as usize, std::mem::offset_of!(Area, upper));
    }
    on
}

/// Gives the registers in the signal's frame to `vector`, and has the kernel continue with initial ones.
///
/// # Safety
/// `context` is the one that the kernel has made for the signal handler that runs.
pub(super) unsafe fn take(context: *mut ucontext_t, vector: &mut Vector) {
    // SAFETY: the kernel has put FXSAVE's area into the frame, and behind it XSAVE's if it says so; all
    // of its processors' areas have the components' fixed offsets.
    unsafe {
        let area = (*context).uc_mcontext.fpregs.cast::<u8>();
        let saved = vector.fx.0.as_mut_ptr();
        saved.copy_from_nonoverlapping(area, SAVED);
        let initial = FxArea::at_reset();
        area.copy_from_nonoverlapping(initial.0.as_ptr(), SAVED);
        vector.upper = [0; 16];
        if area.add(SOFTWARE).cast::<u32>().read_unaligned() != MAGIC {
            return;
        }
        let components = area.add(HEADER).cast::<u64>();
        let present = components.read_unaligned();
        if present & 0b100 != 0 {
            let upper = area.add(std::mem::offset_of!(Area, upper)).cast::<[u128; 16]>();
            vector.upper = upper.read_unaligned();
        }
        components.write_unaligned(present & !COMPONENTS);
    }
}
