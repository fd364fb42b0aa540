//! KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, KVM_SET_GUEST_DEBUG, KVM_TRANSLATE: the guest's debug registers, and its debugger.
//!
//! Deviations: a breakpoint of the debugger's on a port is refused, and so is what is unknown; breakpoints of which none is enabled leave
//! the guest its own. KVM_TRANSLATE tells the page's rights, which Linux does not.
//!
//! See: api.rst 4.15 (`KVM_TRANSLATE`), 4.33, 4.34 (debug registers), 4.87 (`KVM_SET_GUEST_DEBUG`).

use abi::debug::{
    DebugRegs, GUESTDBG_BLOCKIRQ, GUESTDBG_ENABLE, GUESTDBG_INJECT_BP, GUESTDBG_INJECT_DB,
    GUESTDBG_SINGLESTEP, GUESTDBG_USE_HW_BP, GUESTDBG_USE_SW_BP, GuestDebug as Abi,
};
use abi::regs::Translation;
use virt::Errno;
use virt::host::Host;
use virt::ioctl::Argument;

use crate::emulate::debug::{self, dr6, dr7};
use crate::engine::Engine;
use crate::exception::{self, Exception};
use crate::guest_debug::{Breakpoint, GuestDebug, Length, Watch};
use crate::regs::Regs;
use crate::vcpu::Vcpu;

/// The physical address of what is not mapped.
const INVALID: u64 = !0;
/// What a debugger may ask for.
pub(super) const CONTROL: u32 = GUESTDBG_ENABLE
    | GUESTDBG_SINGLESTEP
    | GUESTDBG_USE_SW_BP
    | GUESTDBG_USE_HW_BP
    | GUESTDBG_INJECT_DB
    | GUESTDBG_INJECT_BP
    | GUESTDBG_BLOCKIRQ;

#[inline(never)]
pub(super) fn get_registers<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let regs = vcpu.engine();
    let db = debug::addresses(regs);
    argument.write(&DebugRegs {
        db,
        dr6: regs.dr(6),
        dr7: regs.dr(7),
        flags: 0,
        reserved: [0; 9],
    })?;
    Ok(0)
}

#[inline(never)]
pub(super) fn set_registers<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let from: DebugRegs = argument.read()?;
    if from.flags != 0 || from.dr6 >> 32 != 0 || from.dr7 >> 32 != 0 {
        return Err(Errno::EINVAL);
    }
    let regs = vcpu.engine_mut();
    for (n, address) in (0..).zip(from.db) {
        regs.set_dr(n, address);
    }
    regs.set_dr(6, from.dr6 & dr6::WRITABLE | dr6::FIXED);
    regs.set_dr(7, from.dr7 & dr7::WRITABLE | dr7::FIXED);
    Ok(0)
}

#[inline(never)]
pub(super) fn set_guest_debug<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let from: Abi = argument.read()?;
    let wanted = wanted(&from)?;
    let has = |flag| from.control & flag != 0;
    if has(GUESTDBG_INJECT_DB) {
        vcpu.inject(Exception::plain(exception::DB))?;
    } else if has(GUESTDBG_INJECT_BP) {
        vcpu.inject(Exception::plain(exception::BP))?;
    }
    vcpu.set_debug(&wanted);
    Ok(0)
}

/// What a debugger wants.
fn wanted(from: &Abi) -> Result<GuestDebug, Errno> {
    let has = |flag| from.control & flag != 0;
    if from.control & !CONTROL != 0 {
        return Err(Errno::EINVAL);
    }
    let mut wanted = GuestDebug::default();
    if !has(GUESTDBG_ENABLE) {
        return Ok(wanted);
    }
    wanted.single_step = has(GUESTDBG_SINGLESTEP);
    wanted.software_breakpoints = has(GUESTDBG_USE_SW_BP);
    wanted.blocks_interrupts = has(GUESTDBG_BLOCKIRQ);
    if has(GUESTDBG_USE_HW_BP) {
        let [addresses @ .., _, _, _, control] = from.debugreg;
        wanted.register_accesses = control & dr7::GD != 0;
        for (n, (breakpoint, address)) in wanted.hardware.iter_mut().zip(addresses).enumerate() {
            *breakpoint = watch(control, n)?.map(|watch| Breakpoint { address, watch });
        }
    }
    Ok(wanted)
}

/// What DR7 says of breakpoint `n`, if it is enabled. See: AMD APM vol. 2, 13.1.1.4.
fn watch(control: u64, n: usize) -> Result<Option<Watch>, Errno> {
    if control >> (2 * n) & 3 == 0 {
        return Ok(None);
    }
    let length = match control >> (18 + 4 * n) & 3 {
        0 => Length::One,
        1 => Length::Two,
        2 => Length::Eight,
        _ => Length::Four,
    };
    Ok(Some(match control >> (16 + 4 * n) & 3 {
        0 => Watch::Execute,
        1 => Watch::Write(length),
        3 => Watch::ReadWrite(length),
        _ => return Err(Errno::EINVAL),
    }))
}

#[inline(never)]
pub(super) fn translate<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let mut answer: Translation = argument.read()?;
    let found = vcpu.translate(answer.linear_address);
    answer.physical_address = found.map_or(INVALID, |page| page.gpa);
    answer.valid = found.is_some().into();
    answer.writeable = found.is_some_and(|page| page.writable).into();
    answer.usermode = found.is_some_and(|page| page.user).into();
    argument.write(&answer)?;
    Ok(0)
}
