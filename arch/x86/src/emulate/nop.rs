//! Instructions without a result: NOPs, hints, fences, cache-line flushes, and those that are
//! #UD because no CPU model offers them.

use core::sync::atomic::{Ordering, fence};

use iced_x86::{Code, Instruction, Mnemonic};

use super::decode::undefined;
use super::operand::{Mem, Source};
use super::{Cpu, Exec, Feature, Insn, Stop};
use crate::exception::Exception;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Reservednop if is_prefetch(i.code()) => Some(prefetch_register),
        Mnemonic::Nop
        | Mnemonic::Reservednop
        | Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchit0
        | Mnemonic::Prefetchit1
        | Mnemonic::Cldemote => Some(nop),
        // Shadow stacks, which are never on, make NOPs of these.
        Mnemonic::Rdsspd | Mnemonic::Rdsspq => Some(nop),
        Mnemonic::Pause => Some(pause),
        Mnemonic::Mfence => Some(full_fence),
        Mnemonic::Lfence | Mnemonic::Sfence => Some(light_fence),
        Mnemonic::Clflush => Some(flush_line),
        Mnemonic::Clflushopt => Some(flush_line_if::<C, { Feature::Clflushopt as u8 }>),
        Mnemonic::Clwb => Some(flush_line_if::<C, { Feature::Clwb as u8 }>),
        Mnemonic::Ud0
        | Mnemonic::Ud1
        | Mnemonic::Ud2
        | Mnemonic::Xbegin
        | Mnemonic::Xabort
        | Mnemonic::Xend
        | Mnemonic::Xtest => Some(undefined),
        _ => None,
    }
}

fn nop<C: Cpu>(_: &mut C, _: &Insn) -> Result<(), Stop> {
    Ok(())
}

/// PREFETCH and PREFETCHW with a register.
const fn is_prefetch(code: Code) -> bool {
    matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    )
}

/// 0F 0D with a register. See: AMD APM vol. 3, PREFETCH; Intel SDM vol. 2, A.2.5.
fn prefetch_register<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    if cpu.offers(Feature::AmdEncodings) { Err(cpu.fault(Exception::ud())) } else { Ok(()) }
}

fn pause<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    cpu.pause();
    Ok(())
}

fn full_fence<C: Cpu>(_: &mut C, _: &Insn) -> Result<(), Stop> {
    fence(Ordering::SeqCst);
    Ok(())
}

/// Loads are ordered among themselves, and so are stores: only the compiler is kept from
/// reordering.
fn light_fence<C: Cpu>(_: &mut C, _: &Insn) -> Result<(), Stop> {
    fence(Ordering::AcqRel);
    Ok(())
}

/// CLFLUSH: memory is coherent, so that nothing is left to do but to fault as a read does.
fn flush_line<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let _: u8 = Mem::read(cpu, insn)?;
    Ok(())
}

/// CLFLUSHOPT and CLWB, which CPUID may not offer.
fn flush_line_if<C: Cpu, const FEATURE: u8>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let feature = if FEATURE == Feature::Clwb as u8 { Feature::Clwb } else { Feature::Clflushopt };
    if !cpu.offers(feature) {
        return Err(cpu.fault(Exception::ud()));
    }
    flush_line(cpu, insn)
}
