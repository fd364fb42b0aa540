//! KVM_GET_FPU, KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_GET_XCRS and their sets: x87 and vector registers.
//!
//! The XSAVE area is in its standard form, and shorter than its 4 KiB; so XSAVE and XSAVE2 are the same. Components that
//! XSTATE_BV does not name are as after a reset, when they are set.
//!
//! KVM_SET_FPU leaves MXCSR as it is, as in Linux.
//!
//! See: api.rst 4.22, 4.23, 4.42–4.45, 4.134; AMD APM vol. 2, 11.5; Linux, arch/x86/kernel/fpu/core.c,
//! `fpu_copy_uabi_to_guest_fpstate`.

use abi::encoding::Encoded;
use abi::fpu::{Fpu, MAX_XCRS, Xcr, Xcrs, Xsave};
use virt::Errno;
use virt::host::Host;
use virt::ioctl::{Argument, zeroed};

use crate::emulate::Feature;
use crate::emulate::control::is_xcr0;
use crate::engine::Engine;
use crate::regs::{FxArea, Regs, SysReg, YmmHigh, xcr0};
use crate::vcpu::Vcpu;
use crate::xstate;

/// The bits that MXCSR may have. See: AMD APM vol. 2, 11.3.
const MXCSR_BITS: u32 = 0xffff;
/// Where XSTATE_BV is, with XCOMP_BV and what is reserved behind it. See: AMD APM vol. 2, 11.5.4.
const XSTATE_BV: usize = xstate::LEGACY_SIZE;
/// What the core has.
const COMPONENTS: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
/// Where a part is in FXSAVE's layout. See: AMD APM vol. 2, 11.4.4.
mod fx {
    use core::ops::Range;
    pub const CONTROL: Range<usize> = 0..24;
    pub const MXCSR: Range<usize> = 24..28;
    pub const X87: Range<usize> = 32..160;
    pub const XMM: Range<usize> = 160..416;
}

#[inline(never)]
pub(super) fn get_fpu<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let FxArea(from) = vcpu.engine().fxsave();
    let behind = |at: usize| from.get(at..).unwrap_or_default();
    argument.write(&Fpu {
        fpr: Encoded::decode(behind(fx::X87.start)),
        fcw: Encoded::decode(behind(0)),
        fsw: Encoded::decode(behind(2)),
        ftwx: Encoded::decode(behind(4)),
        pad1: 0,
        last_opcode: Encoded::decode(behind(6)),
        last_ip: Encoded::decode(behind(8)),
        last_dp: Encoded::decode(behind(16)),
        xmm: Encoded::decode(behind(fx::XMM.start)),
        mxcsr: Encoded::decode(behind(fx::MXCSR.start)),
        pad2: 0,
    })?;
    Ok(0)
}

#[inline(never)]
pub(super) fn set_fpu<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let from: Fpu = argument.read()?;
    let FxArea(to) = vcpu.engine_mut().fxsave_mut();
    // Each part has its own place: none is longer than what there is from its beginning.
    from.fcw.encode(&mut to[0..2]);
    from.fsw.encode(&mut to[2..4]);
    [from.ftwx, 0].encode(&mut to[4..6]);
    from.last_opcode.encode(&mut to[6..8]);
    from.last_ip.encode(&mut to[8..16]);
    from.last_dp.encode(&mut to[16..24]);
    from.fpr.encode(&mut to[fx::X87]);
    from.xmm.encode(&mut to[fx::XMM]);
    Ok(0)
}

#[inline(never)]
pub(super) fn get_xsave<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let avx = vcpu.cpuid().features().has(Feature::Avx);
    let mut area = zeroed(size_of::<Xsave>())?;
    save(vcpu.engine(), avx, &mut area);
    argument.put(0, &area)?;
    Ok(0)
}

#[inline(never)]
pub(super) fn set_xsave<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let area = argument.bytes(0, size_of::<Xsave>())?;
    load(vcpu.engine_mut(), &area)?;
    Ok(0)
}

/// Fills the area, which is zero before. `avx`: the upper halves count even if they are zero.
fn save(regs: &impl Regs, avx: bool, area: &mut [u8]) {
    let mut components = xcr0::X87 | xcr0::SSE | xstate::in_use(regs) & xcr0::AVX;
    if avx {
        components |= xcr0::AVX;
    }
    for (to, from) in area.iter_mut().zip(regs.fxsave().0.get(..fx::XMM.end).unwrap_or_default()) {
        *to = *from;
    }
    let Some((_, extended)) = area.split_at_mut_checked(XSTATE_BV) else { return };
    components.encode(extended);
    let Some((_, halves)) = extended.split_at_mut_checked(xstate::HEADER_SIZE) else { return };
    for (to, from) in halves.as_chunks_mut().0.iter_mut().zip(regs.ymm_high().0) {
        *to = from.to_le_bytes();
    }
}

/// Takes the area's components; none of it if it cannot be.
fn load(regs: &mut impl Regs, area: &[u8]) -> Result<(), Errno> {
    let part = |range: core::ops::Range<usize>| area.get(range).unwrap_or_default();
    let header = part(XSTATE_BV..xstate::AVX_OFFSET);
    let components = u64::decode(header);
    let reserved = header.iter().skip(size_of::<u64>()).any(|byte| *byte != 0);
    // Of no component there is none.
    let mxcsr = if components != 0 { u32::decode(part(fx::MXCSR)) } else { 0 };
    if components & !COMPONENTS != 0 || reserved || mxcsr & !MXCSR_BITS != 0 {
        return Err(Errno::EINVAL);
    }
    let fx = regs.fxsave_mut();
    *fx = FxArea::at_reset();
    let mut copy = |range: core::ops::Range<usize>| {
        for (to, from) in fx.0.iter_mut().skip(range.start).zip(part(range)) {
            *to = *from;
        }
    };
    if components & xcr0::X87 != 0 {
        copy(fx::CONTROL);
        copy(fx::X87);
    }
    if components & xcr0::SSE != 0 {
        copy(fx::XMM);
    }
    if components != 0 {
        copy(fx::MXCSR);
    }
    let high = regs.ymm_high_mut();
    *high = YmmHigh::default();
    if components & xcr0::AVX != 0 {
        let halves = part(xstate::AVX_OFFSET..xstate::MAX_SIZE).as_chunks().0;
        for (to, from) in high.0.iter_mut().zip(halves) {
            *to = u128::from_le_bytes(*from);
        }
    }
    Ok(())
}

#[inline(never)]
pub(super) fn get_xcrs<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let mut to = Xcrs { nr_xcrs: 1, ..Xcrs::default() };
    to.xcrs[0] = Xcr { xcr: 0, reserved: 0, value: vcpu.engine().sysreg(SysReg::Xcr0) };
    argument.write(&to)?;
    Ok(0)
}

/// XCR0 is the only one; what is beside it is not looked at. It has the components that CPUID tells, and x87's in any case.
#[inline(never)]
pub(super) fn set_xcrs<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let from: Xcrs = argument.read()?;
    let count = from.nr_xcrs as usize;
    if count > MAX_XCRS || from.flags != 0 {
        return Err(Errno::EINVAL);
    }
    if let Some(first) = from.xcrs.iter().take(count).find(|xcr| xcr.xcr == 0) {
        let [told, _, _, told_above] = vcpu.cpuid().get(0xd, 0).unwrap_or_default();
        let told = u64::from(told_above) << 32 | u64::from(told) | xcr0::X87;
        let avx = vcpu.cpuid().features().has(Feature::Avx);
        if first.value & !told != 0 || !is_xcr0(first.value, avx) {
            return Err(Errno::EINVAL);
        }
        vcpu.engine_mut().set_sysreg(SysReg::Xcr0, first.value);
    }
    Ok(0)
}
