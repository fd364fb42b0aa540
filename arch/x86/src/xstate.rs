//! The area that XSAVE and its kin save the processor's state to: where each component is, and how
//! much there is for an XCR0.
//!
//! The components are those of [`xcr0`]. `emulate` uses it for XGETBV, `cpuid` for leaf 0xd, the
//! software CPU for the instructions themselves. See: AMD APM vol. 2, 11.5; Intel SDM vol. 1, 13.

use crate::regs::{FxArea, Regs, xcr0};

/// Size of what is as FXSAVE lays it out.
pub const LEGACY_SIZE: usize = 512;
/// Size of the header behind it.
pub const HEADER_SIZE: usize = 64;
/// Where the upper halves of the YMM registers are. In the compacted form the same: they are the
/// first component there can be behind the header.
pub const AVX_OFFSET: usize = LEGACY_SIZE + HEADER_SIZE;
/// Size of the upper halves of the YMM registers.
pub const AVX_SIZE: usize = 256;
/// Size of an area with all components.
pub const MAX_SIZE: usize = AVX_OFFSET + AVX_SIZE;

/// Size of the area for the components of `components`.
#[must_use]
pub const fn size(components: u64) -> usize {
    if components & xcr0::AVX != 0 { MAX_SIZE } else { AVX_OFFSET }
}

/// The components that are not as after a reset (XINUSE). MXCSR does not count.
#[must_use]
pub fn in_use(regs: &impl Regs) -> u64 {
    let (fx, reset) = (regs.fxsave(), FxArea::at_reset());
    let mut components = 0;
    let same = |range: core::ops::Range<usize>| fx.0.get(range.clone()) == reset.0.get(range);
    if !same(0..24) || !same(32..160) {
        components |= xcr0::X87;
    }
    if !same(160..416) {
        components |= xcr0::SSE;
    }
    if regs.ymm_high().0.iter().any(|high| *high != 0) {
        components |= xcr0::AVX;
    }
    components
}
