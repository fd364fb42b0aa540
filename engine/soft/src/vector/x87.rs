//! x87 instructions that compute, load or store, through the stubs: the guest's registers
//! are loaded into the host's x87, the instruction is executed, and they are saved again.
//!
//! An exception that the guest's control word does not mask is so recorded as pending by
//! the host's x87 itself; [`super::check`] raises it at the next instruction that waits.

use arch_x86::emulate::{Cpu, Exec, Insn, Status, Stop};
use arch_x86::exception::Exception;
use arch_x86::regs::FxArea;
use iced_x86::{Instruction, OpKind};

use super::stub::{self, Context};
use super::table::{Class, Form};
use super::{check, image, memory, simd};

/// Picks the function, and puts the stub's place in the table in [`Insn::imm`].
pub fn lower<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    let (index, form) = Form::find(i.code())?;
    if form.class() != Class::X87 || !form.extension().host_has() {
        return None;
    }
    // Of two operands one is ST(0).
    let sti: u32 = (0..i.op_count())
        .filter(|n| i.op_kind(*n) == OpKind::Register)
        .map(|n| i.op_register(n).number() as u32)
        .sum();
    insn.imm = simd::selector(index, sti as u8 & 7);
    Some(execute)
}

/// The fields of the register file that instructions change: control, status and tag words, and
/// the registers.
fn copy_fields(to: &mut FxArea, from: &FxArea) {
    to.0[..5].copy_from_slice(&from.0[..5]);
    to.0[image::ST0..image::ST0 + 128].copy_from_slice(&from.0[image::ST0..image::ST0 + 128]);
}

fn execute<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let (form, selector) = simd::form(cpu, insn)?;
    if form.class() != Class::X87 {
        return Err(cpu.fault(Exception::ud()));
    }
    check::x87_waiting(cpu)?;
    let mut operand = 0;
    if form.memory() != 0 && !form.memory_written() {
        operand = memory::load(cpu, insn, form.memory(), false)?;
    }
    let mut context = Context::default();
    if form.flags() {
        context.flags = cpu.status().bits();
    }
    let mut registers = FxArea([0; 512]);
    copy_fields(&mut registers, cpu.fxsave());
    stub::run_x87(form, selector, &mut registers, &mut operand, &mut context);
    if form.memory_written() && stored(&registers) {
        memory::store(cpu, insn, form.memory(), operand)?;
    }
    copy_fields(cpu.fxsave_mut(), &registers);
    if form.flags() {
        cpu.set_status(Status::from_bits(context.flags));
    }
    Ok(())
}

/// Whether a store was made: an unmasked exception prevents it, but for precision.
/// See: AMD APM vol. 1, 6.8.2.
fn stored(registers: &FxArea) -> bool {
    let unmasked = image::fsw(registers) & !image::fcw(registers) & image::fsw::EXCEPTIONS;
    unmasked & !image::fsw::PE == 0
}
