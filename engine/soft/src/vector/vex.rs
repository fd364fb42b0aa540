//! AVX instructions: those with a VEX prefix, through the stubs.
//!
//! [`execute`] does all shapes: up to four operands, of which one may be memory; [`move_whole`] and
//! its kin are the frequent moves. What accesses memory in parts is [`super::vex_parts`]'.

use arch_x86::emulate::{Cpu, Exec, Insn, Status, Stop};
use arch_x86::exception::Exception;
use arch_x86::regs::gpr;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::simd::{masked, raise, selector};
use super::vex_stub::{self, Slots};
use super::vex_table::{Class, Form, Operand, Place};
use super::{check, memory};

/// Picks the function, and puts the stub's place in the table and the immediate in
/// [`Insn::imm`]. A register in the immediate takes the immediate's place.
pub fn lower<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    let (index, form) = Form::find(i.code())?;
    if !form.host_has() {
        return None;
    }
    let memory = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory);
    if let Some(exec) = move_of::<C>(i.mnemonic(), form, memory) {
        return Some(exec);
    }
    let mut low = insn.imm as u8;
    if i.mnemonic() == Mnemonic::Vinsertps && memory.is_some() {
        // The stub has a register operand, of which the memory operand is element 0.
        low &= 0x3f;
    }
    if form.is4() {
        low = (i.op3_register().number() & 15) as u8;
        // The decoder has put it over the third operand if that is a register too.
        if i.op2_kind() == OpKind::Register {
            insn.extra = (i.op2_register().number() & 15) as u8;
        }
    }
    insn.imm = selector(index, low);
    Some(match memory {
        None => execute::<C, 4>,
        Some(0) => execute::<C, 0>,
        Some(1) => execute::<C, 1>,
        _ => execute::<C, 2>,
    })
}

/// Vector register `n`.
#[inline(always)]
pub fn ymm<C: Cpu>(cpu: &C, n: u8) -> [u128; 2] {
    [cpu.fxsave().xmm(n), cpu.ymm_high().0[usize::from(n & 15)]]
}

/// Sets vector register `n`.
#[inline(always)]
pub fn set_ymm<C: Cpu>(cpu: &mut C, n: u8, value: [u128; 2]) {
    cpu.fxsave_mut().set_xmm(n, value[0]);
    cpu.ymm_high_mut().0[usize::from(n & 15)] = value[1];
}

/// Any form; `MEMORY` is the operand that is memory, 4 if none is.
fn execute<C: Cpu, const MEMORY: usize>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::avx(cpu)?;
    let Some(form) = Form::at((insn.imm >> 8) as u16) else {
        return Err(cpu.fault(Exception::ud()));
    };
    let low = insn.imm as u8;
    let mut slots = Slots::default();
    for (n, register) in [insn.reg, insn.rm, insn.extra, low].into_iter().enumerate() {
        if n == MEMORY {
            // A first operand in memory is only ever written.
            if n != 0 {
                slots.operands[n] = match form.code() {
                    Code::VEX_Vcvtph2ps_xmm_xmmm64 => {
                        [memory::load_unchecked(cpu, insn)?.into(), 0]
                    }
                    _ => memory::load_wide(cpu, insn, form.memory(), form.aligned())?,
                };
            }
            continue;
        }
        // The first operand, where the stub has it in memory, is only written: the rest is 0.
        let source = n != 0 || form.place() == Place::Vector;
        match form.operand(n) {
            Operand::Vector if source => slots.operands[n] = ymm(cpu, register),
            Operand::Gpr if source => slots.operands[n] = [cpu.gpr(register & 15).into(), 0],
            _ => {}
        }
    }
    match form.class() {
        Class::Float => slots.mxcsr = masked(cpu.fxsave().mxcsr()),
        Class::String => (slots.rax, slots.rdx) = (cpu.gpr(gpr::RAX), cpu.gpr(gpr::RDX)),
        _ => {}
    }
    vex_stub::run(form, if form.is4() { 0 } else { low }, &mut slots);
    if form.class() == Class::Float {
        if is_narrowing(form.code()) {
            slots.mxcsr |= tiny_halves(cpu.fxsave().mxcsr(), form, &slots);
        }
        // Before a store, which may fault: the flags are set then.
        raise(cpu, slots.mxcsr)?;
    }
    if MEMORY == 0 && form.code() == Code::VEX_Vcvtps2ph_xmmm64_xmm_imm8 {
        return memory::store_unchecked(cpu, insn, slots.operands[0][0] as u64);
    }
    if MEMORY == 0 {
        return memory::store_wide(cpu, insn, form.memory(), form.aligned(), slots.operands[0]);
    }
    if form.class() != Class::Packed {
        finish(cpu, form, &slots);
    }
    if form.written() {
        write_first(cpu, form, insn.reg, &slots);
    }
    Ok(())
}

fn is_narrowing(code: Code) -> bool {
    matches!(code, Code::VEX_Vcvtps2ph_xmmm64_xmm_imm8 | Code::VEX_Vcvtps2ph_xmmm128_ymm_imm8)
}

/// MXCSR.UE if it is not masked and VCVTPS2PH has made a denormal number, if only an exact one: this
/// conversion knows no flushing to zero, with which other instructions show it.
fn tiny_halves(mxcsr: u32, form: &Form, slots: &Slots) -> u32 {
    const UNDERFLOW: u32 = 1 << 4;
    let result = if form.place() == Place::Memory { slots.operands[0] } else { slots.result };
    let tiny = result[0].to_le_bytes().chunks_exact(2).any(|half| {
        let half = u16::from_le_bytes([half[0], half[1]]);
        half & 0x7c00 == 0 && half & 0x3ff != 0
    });
    if tiny && mxcsr & UNDERFLOW << 7 == 0 { UNDERFLOW } else { 0 }
}

fn write_first<C: Cpu>(cpu: &mut C, form: &Form, register: u8, slots: &Slots) {
    match (form.operand(0), form.place()) {
        (Operand::Gpr, Place::Gpr) => cpu.set_gpr(register & 15, slots.rax),
        (Operand::Gpr, _) => cpu.set_gpr(register & 15, slots.operands[0][0] as u64),
        (_, Place::Memory) => set_ymm(cpu, register, slots.operands[0]),
        _ => set_ymm(cpu, register, slots.result),
    }
}

/// The flags, and the results of VPCMPxSTRx.
fn finish<C: Cpu>(cpu: &mut C, form: &Form, slots: &Slots) {
    if form.flags() {
        cpu.set_status(Status::from_bits(slots.flags));
    }
    if form.class() == Class::String {
        match form.code() {
            Code::VEX_Vpcmpestri_xmm_xmmm128_imm8
            | Code::VEX_Vpcmpestri64_xmm_xmmm128_imm8
            | Code::VEX_Vpcmpistri_xmm_xmmm128_imm8 => cpu.set_gpr(gpr::RCX, slots.rcx),
            _ => set_ymm(cpu, 0, slots.result),
        }
    }
}

/// The frequent moves between a vector register and memory or another vector register.
fn move_of<C: Cpu>(mnemonic: Mnemonic, form: &Form, memory: Option<u32>) -> Option<Exec<C>> {
    use Mnemonic::{
        Vlddqu, Vmovapd, Vmovaps, Vmovdqa, Vmovdqu, Vmovntdq, Vmovntdqa, Vmovntpd, Vmovntps,
        Vmovupd, Vmovups,
    };
    if !matches!(
        mnemonic,
        Vlddqu
            | Vmovapd
            | Vmovaps
            | Vmovdqa
            | Vmovdqu
            | Vmovntdq
            | Vmovntdqa
            | Vmovntpd
            | Vmovntps
            | Vmovupd
            | Vmovups
    ) {
        return None;
    }
    Some(match (memory, form.memory(), form.aligned()) {
        (None, 32, _) => move_whole::<C, true>,
        (None, ..) => move_whole::<C, false>,
        (Some(0), 32, false) => store::<C, 32, false>,
        (Some(0), 32, true) => store::<C, 32, true>,
        (Some(0), _, false) => store::<C, 16, false>,
        (Some(0), _, true) => store::<C, 16, true>,
        (_, 32, false) => load::<C, 32, false>,
        (_, 32, true) => load::<C, 32, true>,
        (_, _, false) => load::<C, 16, false>,
        (_, _, true) => load::<C, 16, true>,
    })
}

fn move_whole<C: Cpu, const WIDE: bool>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::avx(cpu)?;
    let [low, high] = ymm(cpu, insn.rm);
    set_ymm(cpu, insn.reg, [low, if WIDE { high } else { 0 }]);
    Ok(())
}

fn load<C: Cpu, const SIZE: usize, const ALIGNED: bool>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    check::avx(cpu)?;
    let value = memory::load_wide(cpu, insn, SIZE, ALIGNED)?;
    set_ymm(cpu, insn.reg, value);
    Ok(())
}

fn store<C: Cpu, const SIZE: usize, const ALIGNED: bool>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    check::avx(cpu)?;
    let value = ymm(cpu, insn.rm);
    memory::store_wide(cpu, insn, SIZE, ALIGNED, value)
}
