//! KVM_GET_REGS, KVM_SET_REGS: general registers.
//!
//! Deviation: Linux drops an exception that was raised and not yet injected when registers are set; here it stays, and
//! KVM_SET_VCPU_EVENTS takes it away.
//!
//! See: api.rst 4.11, 4.12.

use abi::regs::Regs as Abi;
use virt::Errno;
use virt::host::Host;
use virt::ioctl::Argument;

use crate::engine::Engine;
use crate::regs::{Regs, gpr, rflags};
use crate::vcpu::Vcpu;

/// The bits of RFLAGS that a processor has. See: AMD APM vol. 2, 3.1.6.
const DEFINED: u64 = rflags::STATUS
    | rflags::TF
    | rflags::IF
    | rflags::DF
    | rflags::IOPL
    | rflags::NT
    | rflags::RF
    | rflags::VM
    | rflags::AC
    | rflags::VIF
    | rflags::VIP
    | rflags::ID;

#[inline(never)]
pub(super) fn get<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    argument.write(&read(vcpu))?;
    Ok(0)
}

pub(super) fn read<E: Engine, H: Host>(vcpu: &Vcpu<E, H>) -> Abi {
    let regs = vcpu.engine();
    Abi {
        rax: regs.gpr(gpr::RAX),
        rbx: regs.gpr(gpr::RBX),
        rcx: regs.gpr(gpr::RCX),
        rdx: regs.gpr(gpr::RDX),
        rsi: regs.gpr(gpr::RSI),
        rdi: regs.gpr(gpr::RDI),
        rsp: regs.gpr(gpr::RSP),
        rbp: regs.gpr(gpr::RBP),
        r8: regs.gpr(gpr::R8),
        r9: regs.gpr(gpr::R9),
        r10: regs.gpr(gpr::R10),
        r11: regs.gpr(gpr::R11),
        r12: regs.gpr(gpr::R12),
        r13: regs.gpr(gpr::R13),
        r14: regs.gpr(gpr::R14),
        r15: regs.gpr(gpr::R15),
        rip: regs.rip(),
        rflags: regs.rflags(),
    }
}

#[inline(never)]
pub(super) fn set<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    apply(vcpu, &argument.read()?);
    Ok(0)
}

#[inline(never)]
pub(super) fn apply<E: Engine, H: Host>(vcpu: &mut Vcpu<E, H>, from: &Abi) {
    let regs = vcpu.engine_mut();
    for (n, value) in [
        (gpr::RAX, from.rax),
        (gpr::RBX, from.rbx),
        (gpr::RCX, from.rcx),
        (gpr::RDX, from.rdx),
        (gpr::RSI, from.rsi),
        (gpr::RDI, from.rdi),
        (gpr::RSP, from.rsp),
        (gpr::RBP, from.rbp),
        (gpr::R8, from.r8),
        (gpr::R9, from.r9),
        (gpr::R10, from.r10),
        (gpr::R11, from.r11),
        (gpr::R12, from.r12),
        (gpr::R13, from.r13),
        (gpr::R14, from.r14),
        (gpr::R15, from.r15),
    ] {
        regs.set_gpr(n, value);
    }
    regs.set_rip(from.rip);
    regs.set_rflags(from.rflags & DEFINED | rflags::FIXED);
}
