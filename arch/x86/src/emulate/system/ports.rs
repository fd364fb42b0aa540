//! Port instructions: IN and OUT come out as intercepts after the privilege
//! checks; INS and OUTS are the run loop's to emulate.
//!
//! See: AMD APM vol. 3, IN, OUT, INS, OUTS.

use super::tss::check_io;
use crate::emulate::{Cpu, Insn, Stop};
use crate::engine::Intercept;
use crate::regs::{Regs, gpr};

fn dx(cpu: &impl Regs) -> u16 {
    cpu.gpr(gpr::RDX) as u16
}

fn input<C: Cpu>(cpu: &mut C, insn: &Insn, port: u16) -> Result<(), Stop> {
    let size = insn.extra;
    check_io(cpu, port, size)?;
    Err(cpu.intercept(Intercept::In { port, size, len: insn.len }))
}

fn output<C: Cpu>(cpu: &mut C, insn: &Insn, port: u16) -> Result<(), Stop> {
    let size = insn.extra;
    check_io(cpu, port, size)?;
    Err(cpu.intercept(Intercept::Out { port, size, len: insn.len }))
}

/// IN with an immediate port; `extra` is the size.
pub(super) fn in_immediate<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    input(cpu, insn, (insn.imm as u8).into())
}

/// IN with the port in DX; `extra` is the size.
pub(super) fn in_dx<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let port = dx(cpu);
    input(cpu, insn, port)
}

/// OUT with an immediate port; `extra` is the size.
pub(super) fn out_immediate<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    output(cpu, insn, (insn.imm as u8).into())
}

/// OUT with the port in DX; `extra` is the size.
pub(super) fn out_dx<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let port = dx(cpu);
    output(cpu, insn, port)
}

/// INS and OUTS, repeated or not; `extra` is the size.
pub(super) fn string<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let port = dx(cpu);
    check_io(cpu, port, insn.extra)?;
    Err(cpu.intercept(Intercept::StringIo))
}
