//! AVX instructions that access memory element by element, those that clear registers, and
//! VLDMXCSR and VSTMXCSR.
//!
//! Only the elements that a mask selects are accessed, and may fault. No access is checked for its
//! alignment. See: Intel SDM vol. 2, 2.4, "Exceptions Type 6" and "Type 12".

use arch_x86::emulate::{Access, Cpu, Exec, Insn, Stop, operand};
use arch_x86::regs::gpr;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::vex::{set_ymm, ymm};
use super::{Extension, check, memory, moves, state};

/// Sizes of an access in parts, as [`Insn::imm`] holds them.
#[derive(Clone, Copy)]
struct Parts {
    /// Bytes of an element: 4 or 8.
    element: u8,
    /// How many elements.
    count: u8,
    /// Bytes of a gather's index: 4 or 8.
    index: u8,
    /// The register of a gather's indices.
    indices: u8,
}

impl Parts {
    fn pack(self) -> i32 {
        i32::from_le_bytes([self.element, self.count, self.index, self.indices])
    }

    fn of(insn: &Insn) -> Parts {
        let [element, count, index, indices] = insn.imm.to_le_bytes();
        Parts { element, count, index, indices }
    }
}

/// Picks the function.
pub fn lower<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    use Mnemonic::{Vmaskmovpd, Vmaskmovps, Vpmaskmovd, Vpmaskmovq};
    let has = |extension: Extension| extension.host_has();
    match i.code() {
        Code::VEX_Vzeroupper if has(Extension::Avx) => return Some(clear::<C, false>),
        Code::VEX_Vzeroall if has(Extension::Avx) => return Some(clear::<C, true>),
        Code::VEX_Vldmxcsr_m32 if has(Extension::Avx) => return Some(ldmxcsr),
        Code::VEX_Vstmxcsr_m32 if has(Extension::Avx) => return Some(stmxcsr),
        Code::VEX_Vmaskmovdqu_rDI_xmm_xmm if has(Extension::Avx) => {
            insn.base = gpr::RDI;
            return Some(maskmovdqu);
        }
        _ => {}
    }
    let element = match i.mnemonic() {
        Vmaskmovps if has(Extension::Avx) => 4,
        Vmaskmovpd if has(Extension::Avx) => 8,
        Vpmaskmovd if has(Extension::Avx2) => 4,
        Vpmaskmovq if has(Extension::Avx2) => 8,
        _ => return gather(i, insn),
    };
    let count = i.memory_size().size() as u8 / element;
    insn.imm = Parts { element, count, index: 0, indices: 0 }.pack();
    Some(if i.op0_kind() == OpKind::Memory { masked_store } else { masked_load })
}

fn gather<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    use Mnemonic::*;
    let (element, index) = match i.mnemonic() {
        Vpgatherdd | Vgatherdps => (4, 4),
        Vpgatherdq | Vgatherdpd => (8, 4),
        Vpgatherqd | Vgatherqps => (4, 8),
        Vpgatherqq | Vgatherqpd => (8, 8),
        _ => return None,
    };
    if !Extension::Avx2.host_has() {
        return None;
    }
    // As many as the wider of the two has in its register.
    let wider = if index > element { i.memory_index() } else { i.op0_register() };
    let count = wider.size() as u8 / index.max(element);
    let indices = i.memory_index().number() as u8 & 15;
    // That the three registers are not distinct is the decoder's to refuse.
    insn.imm = Parts { element, count, index, indices }.pack();
    Some(execute_gather)
}

/// Element `n` of `size` bytes.
fn element(value: [u128; 2], size: u8, n: u8) -> u64 {
    let bit = u32::from(size) * 8 * u32::from(n);
    let half = value[(bit >> 7) as usize & 1] >> (bit & 127);
    if size == 8 { half as u64 } else { u64::from(half as u32) }
}

/// `value` with element `n` of `size` bytes replaced.
fn with_element(mut value: [u128; 2], size: u8, n: u8, new: u64) -> [u128; 2] {
    let bit = u32::from(size) * 8 * u32::from(n);
    let half = &mut value[(bit >> 7) as usize & 1];
    let mask = if size == 8 { u128::from(u64::MAX) } else { u128::from(u32::MAX) };
    *half = *half & !(mask << (bit & 127)) | (u128::from(new) & mask) << (bit & 127);
    value
}

/// Whether the mask selects element `n`.
fn selected(mask: [u128; 2], size: u8, n: u8) -> bool {
    element(mask, size, n) >> (u32::from(size) * 8 - 1) & 1 != 0
}

/// An offset of the instruction's address size.
fn truncated(insn: &Insn, offset: u64) -> u64 {
    match insn.address_size {
        8 => offset,
        4 => offset & 0xffff_ffff,
        _ => offset & 0xffff,
    }
}

/// Loads an element at `offset` in the operand's segment.
fn load_element<C: Cpu>(cpu: &mut C, insn: &Insn, offset: u64, size: u8) -> Result<u64, Stop> {
    let linear = operand::linear(cpu, insn.segment(), offset, size.into(), false)?;
    memory::check_end(cpu, insn, linear, size)?;
    let mut bytes = [0; 8];
    let loaded = if linear % u64::from(size) == 0 {
        cpu.load_bytes(linear, &mut bytes[..usize::from(size & 15).min(8)], Access::Operand)
    } else {
        // A byte is never misaligned.
        (0..size).try_for_each(|n| {
            bytes[usize::from(n & 7)] = cpu.load(linear.wrapping_add(n.into()), Access::Operand)?;
            Ok(())
        })
    };
    match loaded {
        Ok(()) => Ok(u64::from_le_bytes(bytes)),
        Err(stop) => Err(operand::access_fault(cpu, insn.segment(), linear, size, stop)),
    }
}

fn masked_load<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::avx(cpu)?;
    let Parts { element: size, count, .. } = Parts::of(insn);
    let mask = ymm(cpu, insn.rm);
    // The operand is one piece: behind its start nothing is truncated.
    let start = operand::effective_address(cpu, insn);
    let mut value = [0; 2];
    for n in (0..count).filter(|n| selected(mask, size, *n)) {
        let offset = start.wrapping_add(u64::from(n) * u64::from(size));
        value = with_element(value, size, n, load_element(cpu, insn, offset, size)?);
    }
    set_ymm(cpu, insn.reg, value);
    Ok(())
}

fn masked_store<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::avx(cpu)?;
    let Parts { element: size, count, .. } = Parts::of(insn);
    let (mask, value) = (ymm(cpu, insn.rm), ymm(cpu, insn.extra));
    let start = operand::effective_address(cpu, insn);
    // All faults come before the first byte is written.
    for write in [false, true] {
        for n in (0..count).filter(|n| selected(mask, size, *n)) {
            let offset = start.wrapping_add(u64::from(n) * u64::from(size));
            let linear = operand::linear(cpu, insn.segment(), offset, size.into(), true)?;
            let bytes = element(value, size, n).to_le_bytes();
            for (at, byte) in bytes.iter().take(size.into()).enumerate() {
                let linear = linear.wrapping_add(at as u64);
                let done = if write {
                    cpu.store(linear, *byte, Access::Operand)
                } else {
                    cpu.probe_write(linear, 1, Access::Operand)
                };
                done.map_err(|stop| operand::access_fault(cpu, insn.segment(), linear, 1, stop))?;
            }
        }
    }
    Ok(())
}

/// What is gathered before a fault stays, and its part of the mask is cleared: the instruction
/// goes on from there.
fn execute_gather<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::avx(cpu)?;
    let Parts { element: size, count, index, indices } = Parts::of(insn);
    let (mut value, mut mask) = (ymm(cpu, insn.reg), ymm(cpu, insn.extra));
    let indices = ymm(cpu, indices);
    let start = operand::effective_address(cpu, insn);
    let bytes = usize::from(size) * usize::from(count);
    // In as much of the register as the wider of the vectors has, however many elements there are; behind
    // that is nothing, neither in the result once there is an element.
    let length = usize::from(index.max(size)) * usize::from(count);
    for n in 0..length.min(32) as u8 / size.max(4) {
        let all = if selected(mask, size, n) { u64::MAX } else { 0 };
        mask = with_element(mask, size, n, all);
    }
    mask = first_bytes(mask, length);
    for n in 0..count {
        if !selected(mask, size, n) {
            continue;
        }
        let number = element(indices, index, n);
        let number = if index == 4 { number as u32 as i32 as i64 as u64 } else { number };
        let offset = truncated(insn, start.wrapping_add(number << (insn.scale & 3)));
        match load_element(cpu, insn, offset, size) {
            Ok(loaded) => value = first_bytes(with_element(value, size, n, loaded), length),
            Err(stop) => {
                set_ymm(cpu, insn.reg, value);
                set_ymm(cpu, insn.extra, mask);
                return Err(stop);
            }
        }
        mask = with_element(mask, size, n, 0);
    }
    set_ymm(cpu, insn.reg, first_bytes(value, bytes));
    set_ymm(cpu, insn.extra, [0; 2]);
    Ok(())
}

/// `value` with nothing behind its first `bytes`: 8, 16 or 32.
fn first_bytes([low, high]: [u128; 2], bytes: usize) -> [u128; 2] {
    match bytes {
        8 => [u128::from(low as u64), 0],
        16 => [low, 0],
        _ => [low, high],
    }
}

/// VZEROALL clears the vector registers, VZEROUPPER their upper halves: outside 64-bit mode the
/// first eight.
fn clear<C: Cpu, const ALL: bool>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check::avx(cpu)?;
    for n in 0..if cpu.mode64() { 16 } else { 8 } {
        let low = if ALL { 0 } else { cpu.fxsave().xmm(n) };
        set_ymm(cpu, n, [low, 0]);
    }
    Ok(())
}

fn maskmovdqu<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::avx(cpu)?;
    moves::store_selected_bytes(cpu, insn)
}

fn ldmxcsr<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::avx(cpu)?;
    state::load_mxcsr(cpu, insn)
}

fn stmxcsr<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::avx(cpu)?;
    state::store_mxcsr(cpu, insn)
}
