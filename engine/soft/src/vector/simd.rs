//! MMX and SSE instructions that compute, through the stubs.
//!
//! The frequent shapes have functions of their own; [`general`] does everything: MMX
//! registers, general-purpose ones, flags, implicit operands.

use arch_x86::emulate::{Cpu, Exec, Insn, Status, Stop};
use arch_x86::exception::{self, Exception};
use arch_x86::regs::{cr4, gpr};
use iced_x86::{Code, Instruction, OpKind};

use super::stub::{self, Context, Second};
use super::table::{Class, Form, Operand};
use super::{check, image, memory};

/// Marks in [`Insn::extra`]: which operand is memory.
mod mark {
    pub const FIRST_IN_MEMORY: u8 = 1 << 0;
    pub const SECOND_IN_MEMORY: u8 = 1 << 1;
}

/// MXCSR bits. See: AMD APM vol. 1, 4.2.2.
mod mxcsr {
    /// Invalid, denormal, zero divide: found before the operation.
    pub const BEFORE: u32 = 0b111;
    pub const FLAGS: u32 = 0x3f;
    /// From a flag to its mask.
    pub const MASK_SHIFT: u32 = 7;
    pub const UNDERFLOW_MASK: u32 = 1 << 11;
    pub const FLUSH_TO_ZERO: u32 = 1 << 15;
}

/// Picks the function, and puts the stub's place in the table and the immediate in
/// [`Insn::imm`].
pub fn lower<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    let (index, form) = Form::find(i.code())?;
    if form.class() == Class::X87 || !form.extension().host_has() {
        return None;
    }
    let in_memory = |n: u32| i.op_count() > n && i.op_kind(n) == OpKind::Memory;
    let mut immediate = insn.imm as u8;
    if i.code() == Code::Insertps_xmm_xmmm32_imm8 && in_memory(1) {
        // The stub has a register operand, of which the memory operand is element 0.
        immediate &= 0x3f;
    }
    insn.imm = selector(index, immediate);
    let xmm = form.first() == Operand::Xmm
        && (form.second() == Operand::Xmm
            || i.op_count() < 2
            || i.op_kind(1) == OpKind::Immediate8);
    if xmm && (form.has_no_context() || form.class() == Class::Float && !form.flags()) {
        return Some(match (form.class(), in_memory(1)) {
            (Class::Packed, false) => {
                insn.rm += image::XMM0;
                insn.reg += image::XMM0;
                packed_register
            }
            (Class::Packed, true) => {
                insn.reg += image::XMM0;
                match form.memory() {
                    16 => packed_memory_16,
                    _ => packed_memory,
                }
            }
            (_, false) => float_register,
            (_, true) => float_memory,
        });
    }
    let to_gpr = form.first() == Operand::Gpr && form.second() == Operand::Xmm && !in_memory(0);
    if to_gpr && form.has_no_context() {
        return Some(packed_to_gpr);
    }
    insn.extra = 0;
    if in_memory(0) {
        insn.extra |= mark::FIRST_IN_MEMORY;
    }
    if in_memory(1) {
        insn.extra |= mark::SECOND_IN_MEMORY;
    }
    Some(general)
}

/// What [`Insn::imm`] holds: a form's place in the table, and what chooses among its stubs.
pub fn selector(index: u16, selector: u8) -> i32 {
    i32::from(index) << 8 | i32::from(selector)
}

/// The form that [`selector`] stands for.
#[inline(always)]
pub fn form<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(&'static Form, u8), Stop> {
    match Form::at((insn.imm >> 8) as u16) {
        Some(form) => Ok((form, insn.imm as u8)),
        None => Err(cpu.fault(Exception::ud())),
    }
}

fn packed_register<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let (form, selector) = form(cpu, insn)?;
    stub::run_in_place(form, selector, cpu.fxsave_mut(), insn.reg, Second::Slot(insn.rm));
    Ok(())
}

fn packed_memory_16<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let value = memory::load_16(cpu, insn, true)?;
    let (form, selector) = form(cpu, insn)?;
    stub::run_in_place(form, selector, cpu.fxsave_mut(), insn.reg, Second::Value(&value));
    Ok(())
}

fn packed_memory<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let (form, selector) = form(cpu, insn)?;
    let value = memory::load(cpu, insn, form.memory(), form.aligned())?;
    stub::run_in_place(form, selector, cpu.fxsave_mut(), insn.reg, Second::Value(&value));
    Ok(())
}

/// PMOVMSKB and the like, from a register.
fn packed_to_gpr<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let (form, selector) = form(cpu, insn)?;
    let second = cpu.fxsave().xmm(insn.rm);
    let mut first = 0;
    stub::run(form, selector, &mut first, &second, &mut Context::default());
    cpu.set_gpr(insn.reg & 15, first as u64);
    Ok(())
}

fn float_register<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let (form, selector) = form(cpu, insn)?;
    let second = cpu.fxsave().xmm(insn.rm);
    float(cpu, form, selector, insn.reg, &second)
}

fn float_memory<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let (form, selector) = form(cpu, insn)?;
    let second = memory::load(cpu, insn, form.memory(), form.aligned())?;
    float(cpu, form, selector, insn.reg, &second)
}

#[inline(always)]
fn float<C: Cpu>(
    cpu: &mut C,
    form: &'static Form,
    selector: u8,
    register: u8,
    second: &u128,
) -> Result<(), Stop> {
    let mut context = Context::with_mxcsr(masked(cpu.fxsave().mxcsr()));
    let mut first = cpu.fxsave().xmm(register);
    stub::run(form, selector, &mut first, second, &mut context);
    raise(cpu, context.mxcsr)?;
    cpu.fxsave_mut().set_xmm(register, first);
    Ok(())
}

/// The MXCSR that a stub runs with for the guest's: without flags, so that what it raises shows.
/// With underflow unmasked, a tiny result is one even if it is exact: under a mask, only
/// flushing to zero tells.
#[inline(always)]
pub(super) fn masked(guest: u32) -> u32 {
    let control = guest & !mxcsr::FLAGS;
    if guest & mxcsr::UNDERFLOW_MASK == 0 { control | mxcsr::FLUSH_TO_ZERO } else { control }
}

/// Merges the flags that a stub left in `after` into the guest's MXCSR; raises #XM if the guest
/// does not mask them all. See: AMD APM vol. 1, 4.10.
#[inline(always)]
pub(super) fn raise<C: Cpu>(cpu: &mut C, after: u32) -> Result<(), Stop> {
    let flags = after & mxcsr::FLAGS;
    let guest = cpu.fxsave().mxcsr();
    if flags & !(guest >> mxcsr::MASK_SHIFT) != 0 {
        return Err(raise_unmasked(cpu, flags));
    }
    cpu.fxsave_mut().set_mxcsr(guest | flags);
    Ok(())
}

#[cold]
#[inline(never)]
fn raise_unmasked<C: Cpu>(cpu: &mut C, mut flags: u32) -> Stop {
    let guest = cpu.fxsave().mxcsr();
    if flags & !(guest >> mxcsr::MASK_SHIFT) & mxcsr::BEFORE != 0 {
        // The operation, which finds the others, is not made at all.
        flags &= mxcsr::BEFORE;
    }
    cpu.fxsave_mut().set_mxcsr(guest | flags);
    let handled = cpu.cr4() & cr4::OSXMMEXCPT != 0;
    cpu.fault(if handled { Exception::plain(exception::XM) } else { Exception::ud() })
}

/// Any MMX or SSE form, with operands anywhere.
fn general<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let (form, selector) = form(cpu, insn)?;
    let second_in_memory = insn.extra & mark::SECOND_IN_MEMORY != 0;
    let mmx = form.first() == Operand::Mm || form.second() == Operand::Mm && !second_in_memory;
    if form.first() == Operand::Xmm || form.second() == Operand::Xmm {
        check::sse(cpu)?;
    }
    if mmx {
        check::mmx(cpu)?;
    }
    let mut second = 0;
    if second_in_memory {
        second = memory::load(cpu, insn, form.memory(), form.aligned())?;
    }
    // Conversions may fault when MMX mode has been entered already.
    let before = (mmx && form.class() == Class::Float).then(|| *cpu.fxsave());
    if mmx {
        image::enter_mmx(cpu.fxsave_mut());
    }
    if !second_in_memory {
        second = read(cpu, form.second(), insn.rm);
    }
    let mut first = match form.first() {
        // Only ever written, perhaps in part: the rest is 0.
        Operand::Gpr => 0,
        operand => read(cpu, operand, insn.reg),
    };
    let mut context = context(cpu, form);
    stub::run(form, selector, &mut first, &second, &mut context);
    if form.class() == Class::Float
        && let Err(stop) = raise(cpu, context.mxcsr)
    {
        if let Some(before) = before {
            let mxcsr = cpu.fxsave().mxcsr();
            *cpu.fxsave_mut() = before;
            cpu.fxsave_mut().set_mxcsr(mxcsr);
        }
        return Err(stop);
    }
    if insn.extra & mark::FIRST_IN_MEMORY != 0 {
        return memory::store(cpu, insn, form.memory(), first);
    }
    write(cpu, form.first(), insn.reg, first);
    if form.flags() {
        cpu.set_status(Status::from_bits(context.flags));
    }
    if form.class() == Class::String {
        write_string_result(cpu, form, &context);
    }
    Ok(())
}

/// Reads a register operand.
fn read<C: Cpu>(cpu: &C, operand: Operand, n: u8) -> u128 {
    match operand {
        Operand::Xmm => cpu.fxsave().xmm(n),
        Operand::Mm => image::mm(cpu.fxsave(), n & 7).into(),
        Operand::Gpr => cpu.gpr(n & 15).into(),
        Operand::None => 0,
    }
}

fn write<C: Cpu>(cpu: &mut C, operand: Operand, n: u8, value: u128) {
    match operand {
        Operand::Xmm => cpu.fxsave_mut().set_xmm(n, value),
        Operand::Mm => image::set_mm(cpu.fxsave_mut(), n & 7, value as u64),
        Operand::Gpr => cpu.set_gpr(n & 15, value as u64),
        Operand::None => {}
    }
}

fn context<C: Cpu>(cpu: &C, form: &Form) -> Context {
    let mut context = Context::default();
    match form.class() {
        Class::Float => context.mxcsr = masked(cpu.fxsave().mxcsr()),
        Class::String => {
            context.rax = cpu.gpr(gpr::RAX);
            context.rdx = cpu.gpr(gpr::RDX);
        }
        _ if form.xmm0() => context.xmm0 = cpu.fxsave().xmm(0),
        _ => {}
    }
    context
}

/// PCMPxSTRI leaves an index in ECX, PCMPxSTRM a mask in XMM0.
fn write_string_result<C: Cpu>(cpu: &mut C, form: &Form, context: &Context) {
    match form.code() {
        Code::Pcmpestri_xmm_xmmm128_imm8
        | Code::Pcmpestri64_xmm_xmmm128_imm8
        | Code::Pcmpistri_xmm_xmmm128_imm8 => cpu.set_gpr(gpr::RCX, context.rcx),
        _ => cpu.fxsave_mut().set_xmm(0, context.xmm0),
    }
}
