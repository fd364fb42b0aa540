//! Moves between registers and memory, in plain code.
//!
//! Registers stand in [`Insn`] by the operand's position: a load's is `reg`, a store's is `rm`.

use arch_x86::emulate::{Access, Cpu, Exec, Insn, Int, Stop, operand};
use arch_x86::regs::gpr;
use iced_x86::{Code, Instruction, OpKind};

use super::{Extension, check, image, memory};
use crate::vcpu::SoftVcpu;

/// Picks the function.
pub fn lower<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    let load = i.op_count() > 1 && i.op_kind(1) == OpKind::Memory;
    let store = i.op_count() > 0 && i.op_kind(0) == OpKind::Memory;
    whole(i.code(), load, store)
        .or_else(|| part(i.code(), load, store))
        .or_else(|| mmx(i.code(), load, store))
        .or_else(|| masked(i.code(), insn))
}

/// Whether it is a move of XMM registers, or of MMX registers, that the host executes as the function here does.
pub fn is_alike(code: Code) -> bool {
    let has = match code {
        Code::Movntdqa_xmm_m128 => Extension::Sse41.host_has(),
        Code::Lddqu_xmm_m128 => Extension::Sse3.host_has(),
        _ => true,
    };
    let in_whole = whole::<SoftVcpu>(code, true, false).or(whole(code, false, true));
    let in_part = part(code, true, false).or(part(code, false, true));
    let between = matches!(code, Code::Movq2dq_xmm_mm | Code::Movdq2q_mm_xmm);
    let in_mmx = mmx(code, true, false).or(mmx(code, false, true)).filter(|_| !between);
    has && in_whole.or(in_part).or(in_mmx).is_some()
}

/// Whether its memory operand must be aligned.
pub fn is_aligned(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        Movaps_xmm_xmmm128
            | Movapd_xmm_xmmm128
            | Movdqa_xmm_xmmm128
            | Movntdqa_xmm_m128
            | Movaps_xmmm128_xmm
            | Movapd_xmmm128_xmm
            | Movdqa_xmmm128_xmm
            | Movntps_m128_xmm
            | Movntpd_m128_xmm
            | Movntdq_m128_xmm
    )
}

/// Moves of 16 bytes.
fn whole<C: Cpu>(code: Code, load: bool, store: bool) -> Option<Exec<C>> {
    use Code::*;
    Some(match code {
        Movups_xmm_xmmm128 | Movupd_xmm_xmmm128 | Movdqu_xmm_xmmm128 | Lddqu_xmm_m128 if load => {
            load_xmm::<C, false>
        }
        Movaps_xmm_xmmm128 | Movapd_xmm_xmmm128 | Movdqa_xmm_xmmm128 | Movntdqa_xmm_m128
            if load =>
        {
            load_xmm::<C, true>
        }
        Movups_xmmm128_xmm | Movupd_xmmm128_xmm | Movdqu_xmmm128_xmm if store => {
            store_xmm::<C, false>
        }
        Movaps_xmmm128_xmm | Movapd_xmmm128_xmm | Movdqa_xmmm128_xmm | Movntps_m128_xmm
        | Movntpd_m128_xmm | Movntdq_m128_xmm
            if store =>
        {
            store_xmm::<C, true>
        }
        Movups_xmm_xmmm128 | Movupd_xmm_xmmm128 | Movdqu_xmm_xmmm128 | Movaps_xmm_xmmm128
        | Movapd_xmm_xmmm128 | Movdqa_xmm_xmmm128 | Movups_xmmm128_xmm | Movupd_xmmm128_xmm
        | Movdqu_xmmm128_xmm | Movaps_xmmm128_xmm | Movapd_xmmm128_xmm | Movdqa_xmmm128_xmm => {
            copy_xmm
        }
        _ => return None,
    })
}

/// Moves of part of an XMM register.
fn part<C: Cpu>(code: Code, load: bool, store: bool) -> Option<Exec<C>> {
    use Code::*;
    Some(match code {
        Movss_xmm_xmmm32 | Movd_xmm_rm32 if load => load_extended::<C, u32>,
        Movsd_xmm_xmmm64 | Movq_xmm_xmmm64 | Movq_xmm_rm64 if load => load_extended::<C, u64>,
        Movss_xmmm32_xmm | Movd_rm32_xmm if store => store_low::<C, u32>,
        Movsd_xmmm64_xmm | Movq_xmmm64_xmm | Movq_rm64_xmm | Movlps_m64_xmm | Movlpd_m64_xmm
            if store =>
        {
            store_low::<C, u64>
        }
        Movss_xmm_xmmm32 | Movss_xmmm32_xmm => copy_low::<C, u32>,
        Movsd_xmm_xmmm64 | Movsd_xmmm64_xmm => copy_low::<C, u64>,
        Movq_xmm_xmmm64 | Movq_xmmm64_xmm => copy_extended,
        Movd_xmm_rm32 => from_gpr::<C, u32>,
        Movq_xmm_rm64 => from_gpr::<C, u64>,
        Movd_rm32_xmm => to_gpr::<C, u32>,
        Movq_rm64_xmm => to_gpr::<C, u64>,
        Movlps_xmm_m64 | Movlpd_xmm_m64 => load_low,
        Movhps_xmm_m64 | Movhpd_xmm_m64 => load_high,
        Movhps_m64_xmm | Movhpd_m64_xmm => store_high,
        Movhlps_xmm_xmm => movhlps,
        Movlhps_xmm_xmm => movlhps,
        _ => return None,
    })
}

/// Moves to and from MMX registers.
fn mmx<C: Cpu>(code: Code, load: bool, store: bool) -> Option<Exec<C>> {
    use Code::*;
    Some(match code {
        Movd_mm_rm32 if load => mm_load::<C, u32>,
        Movq_mm_rm64 | Movq_mm_mmm64 if load => mm_load::<C, u64>,
        Movd_rm32_mm if store => mm_store::<C, u32>,
        Movq_rm64_mm | Movq_mmm64_mm | Movntq_m64_mm if store => mm_store::<C, u64>,
        Movd_mm_rm32 => mm_from_gpr::<C, u32>,
        Movq_mm_rm64 => mm_from_gpr::<C, u64>,
        Movd_rm32_mm => mm_to_gpr::<C, u32>,
        Movq_rm64_mm => mm_to_gpr::<C, u64>,
        Movq_mm_mmm64 | Movq_mmm64_mm => mm_copy,
        Movq2dq_xmm_mm => movq2dq,
        Movdq2q_mm_xmm => movdq2q,
        _ => return None,
    })
}

/// MASKMOVQ and MASKMOVDQU, whose memory operand is at rDI.
fn masked<C: Cpu>(code: Code, insn: &mut Insn) -> Option<Exec<C>> {
    let exec = match code {
        Code::Maskmovq_rDI_mm_mm => maskmovq,
        Code::Maskmovdqu_rDI_xmm_xmm => maskmovdqu,
        _ => return None,
    };
    insn.base = gpr::RDI;
    Some(exec)
}

fn load_xmm<C: Cpu, const ALIGNED: bool>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let value = memory::load_16(cpu, insn, ALIGNED)?;
    cpu.fxsave_mut().set_xmm(insn.reg, value);
    Ok(())
}

fn store_xmm<C: Cpu, const ALIGNED: bool>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let value = cpu.fxsave().xmm(insn.rm);
    memory::store_16(cpu, insn, ALIGNED, value)
}

fn copy_xmm<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let value = cpu.fxsave().xmm(insn.rm);
    cpu.fxsave_mut().set_xmm(insn.reg, value);
    Ok(())
}

fn load_extended<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let value = memory::load(cpu, insn, T::SIZE, false)?;
    cpu.fxsave_mut().set_xmm(insn.reg, value);
    Ok(())
}

fn store_low<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let value = cpu.fxsave().xmm(insn.rm);
    memory::store(cpu, insn, T::SIZE, value)
}

fn store_high<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let value = cpu.fxsave().xmm(insn.rm) >> 64;
    memory::store(cpu, insn, 8, value)
}

/// `low` in the low `bits` of `value`.
fn with_low(value: u128, low: u128, bits: u32) -> u128 {
    let mask = (1u128 << bits) - 1;
    value & !mask | low & mask
}

fn load_low<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let low = memory::load(cpu, insn, 8, false)?;
    let fx = cpu.fxsave_mut();
    fx.set_xmm(insn.reg, with_low(fx.xmm(insn.reg), low, 64));
    Ok(())
}

fn load_high<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let high = memory::load(cpu, insn, 8, false)?;
    let fx = cpu.fxsave_mut();
    fx.set_xmm(insn.reg, with_low(high << 64, fx.xmm(insn.reg), 64));
    Ok(())
}

fn copy_low<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let fx = cpu.fxsave_mut();
    fx.set_xmm(insn.reg, with_low(fx.xmm(insn.reg), fx.xmm(insn.rm), T::BITS));
    Ok(())
}

fn copy_extended<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let fx = cpu.fxsave_mut();
    fx.set_xmm(insn.reg, with_low(0, fx.xmm(insn.rm), 64));
    Ok(())
}

fn from_gpr<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let value: T = operand::read_register(cpu, insn.rm);
    cpu.fxsave_mut().set_xmm(insn.reg, value.zero_extend().into());
    Ok(())
}

fn to_gpr<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let value = T::truncate(cpu.fxsave().xmm(insn.rm) as u64);
    operand::write_register(cpu, insn.reg, value);
    Ok(())
}

fn movhlps<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let fx = cpu.fxsave_mut();
    fx.set_xmm(insn.reg, with_low(fx.xmm(insn.reg), fx.xmm(insn.rm) >> 64, 64));
    Ok(())
}

fn movlhps<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    let fx = cpu.fxsave_mut();
    fx.set_xmm(insn.reg, with_low(fx.xmm(insn.rm) << 64, fx.xmm(insn.reg), 64));
    Ok(())
}

fn mm_load<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::mmx(cpu)?;
    let value = memory::load(cpu, insn, T::SIZE, false)? as u64;
    let fx = cpu.fxsave_mut();
    image::enter_mmx(fx);
    image::set_mm(fx, insn.reg, value);
    Ok(())
}

/// MMX register `n`, from before [`image::enter_mmx`].
fn mm_before<C: Cpu>(cpu: &C, n: u8) -> u64 {
    let fx = cpu.fxsave();
    image::st(fx, n.wrapping_sub(image::top(fx))).0
}

fn mm_store<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::mmx(cpu)?;
    let value = mm_before(cpu, insn.rm);
    memory::store(cpu, insn, T::SIZE, value.into())?;
    image::enter_mmx(cpu.fxsave_mut());
    Ok(())
}

fn mm_from_gpr<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::mmx(cpu)?;
    let value: T = operand::read_register(cpu, insn.rm);
    let fx = cpu.fxsave_mut();
    image::enter_mmx(fx);
    image::set_mm(fx, insn.reg, value.zero_extend());
    Ok(())
}

fn mm_to_gpr<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::mmx(cpu)?;
    image::enter_mmx(cpu.fxsave_mut());
    let value = T::truncate(image::mm(cpu.fxsave(), insn.rm));
    operand::write_register(cpu, insn.reg, value);
    Ok(())
}

fn mm_copy<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::mmx(cpu)?;
    let fx = cpu.fxsave_mut();
    image::enter_mmx(fx);
    image::set_mm(fx, insn.reg, image::mm(fx, insn.rm));
    Ok(())
}

fn movq2dq<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    check::mmx(cpu)?;
    let fx = cpu.fxsave_mut();
    image::enter_mmx(fx);
    fx.set_xmm(insn.reg, image::mm(fx, insn.rm).into());
    Ok(())
}

fn movdq2q<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    check::mmx(cpu)?;
    let fx = cpu.fxsave_mut();
    image::enter_mmx(fx);
    image::set_mm(fx, insn.reg, fx.xmm(insn.rm) as u64);
    Ok(())
}

fn maskmovq<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::mmx(cpu)?;
    let value = mm_before(cpu, insn.rm).to_le_bytes();
    let mask = mm_before(cpu, insn.extra).to_le_bytes();
    store_masked(cpu, insn, &value, &mask)?;
    image::enter_mmx(cpu.fxsave_mut());
    Ok(())
}

fn maskmovdqu<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    store_selected_bytes(cpu, insn)
}

/// MASKMOVDQU, once it may execute.
pub fn store_selected_bytes<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let value = cpu.fxsave().xmm(insn.rm).to_le_bytes();
    let mask = cpu.fxsave().xmm(insn.extra).to_le_bytes();
    store_masked(cpu, insn, &value, &mask)
}

/// Stores the bytes of `value` for which `mask` has bit 7 set; only those may fault.
fn store_masked<C: Cpu>(cpu: &mut C, insn: &Insn, value: &[u8], mask: &[u8]) -> Result<(), Stop> {
    let linear = operand::linear_address(cpu, insn, value.len() as u8, true)?;
    let selected = |(n, _): &(usize, &u8)| mask[*n] & 0x80 != 0;
    for (n, _) in value.iter().enumerate().filter(selected) {
        cpu.probe_write(linear.wrapping_add(n as u64), 1, Access::Operand)?;
    }
    for (n, byte) in value.iter().enumerate().filter(selected) {
        cpu.store(linear.wrapping_add(n as u64), *byte, Access::Operand)?;
    }
    Ok(())
}
