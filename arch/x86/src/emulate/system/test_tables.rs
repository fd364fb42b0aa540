//! Processors with descriptor tables, for the tests of this folder.

use alloc::boxed::Box;

use crate::emulate::Cpu;
use crate::emulate::Stop;
use crate::emulate::test_cpu::TestCpu;
use crate::exception::Exception;
use crate::regs::{Attr, Regs, Seg, Segment, State, Table, gpr};

pub(super) const GDT: u64 = 0x2000;
pub(super) const TSS: u64 = 0x3000;
pub(super) const IDT: u64 = 0x4000;
/// Handlers: vector n's is at `HANDLERS + 16 * n`.
pub(super) const HANDLERS: u64 = 0x9000;
pub(super) const STACK0: u64 = 0x7000;
pub(super) const IST1: u64 = 0x7800;

pub(super) const CODE64: u16 = 0x08;
pub(super) const DATA: u16 = 0x10;
pub(super) const USER_CODE32: u16 = 0x18 | 3;
pub(super) const USER_DATA: u16 = 0x20 | 3;
pub(super) const USER_CODE64: u16 = 0x28 | 3;
pub(super) const TASK: u16 = 0x30;
pub(super) const CODE32: u16 = 0x40;
pub(super) const CONFORMING64: u16 = 0x48;
pub(super) const ABSENT_DATA: u16 = 0x50;
pub(super) const READ_ONLY: u16 = 0x58;
pub(super) const LOCAL_TABLE: u16 = 0x60;
pub(super) const LONG_GATE: u16 = 0x70;
pub(super) const USER_DATA16: u16 = 0x80 | 3;
pub(super) const GATE32: u16 = 0x88;
pub(super) const ABSENT_CODE: u16 = 0x90;
/// Behind the last entry.
pub(super) const OUTSIDE: u16 = 0xa0;

/// The table; TSS, LDT and long gate fill two entries.
const DESCRIPTORS: [u64; 20] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0x0000_8900_3000_0fff,
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9f00_0000_ffff,
    0x00cf_1300_0000_ffff,
    0x00cf_9100_0000_ffff,
    0x0000_8200_2800_00ff,
    0,
    0x0000_ec00_0008_1800,
    0,
    0x0000_f300_0000_ffff,
    0x0000_ec02_0040_1800,
    0x00af_1b00_0000_ffff,
    0,
];

pub(super) fn write(cpu: &mut TestCpu, at: u64, value: u64) {
    let at = at as usize;
    cpu.memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn read(cpu: &TestCpu, at: u64) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&cpu.memory[at as usize..at as usize + 8]);
    u64::from_le_bytes(bytes)
}

pub(super) fn read32(cpu: &TestCpu, at: u64) -> u32 {
    read(cpu, at) as u32
}

/// Writes values of 8 bytes one after the other.
pub(super) fn write_all(cpu: &mut TestCpu, at: u64, values: &[u64]) {
    for (n, value) in (0..).zip(values) {
        write(cpu, at + n * 8, *value);
    }
}

/// Writes values of 4 bytes one after the other.
pub(super) fn write_all_32(cpu: &mut TestCpu, at: u64, values: &[u32]) {
    for (n, value) in values.iter().enumerate() {
        let at = at as usize + n * 4;
        cpu.memory[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// Sets a gate of long mode: `attr` is P, DPL and type.
pub(super) fn long_gate(cpu: &mut TestCpu, vector: u8, selector: u16, attr: u64, ist: u64) {
    let offset = HANDLERS + 16 * u64::from(vector);
    let low = offset & 0xffff | u64::from(selector) << 16 | ist << 32 | attr << 40;
    write_all(cpu, IDT + 16 * u64::from(vector), &[low | (offset & 0xffff_0000) << 32, 0]);
}

/// Sets a gate of protected mode.
pub(super) fn gate(cpu: &mut TestCpu, vector: u8, selector: u16, attr: u64) {
    let offset = HANDLERS + 16 * u64::from(vector);
    write(cpu, IDT + 8 * u64::from(vector), offset | u64::from(selector) << 16 | attr << 40);
}

fn install(cpu: &mut TestCpu) {
    write_all(cpu, GDT, &DESCRIPTORS);
    cpu.state.gdtr = Table { base: GDT, limit: OUTSIDE - 1 };
    let task = Segment { base: TSS, limit: 0xfff, selector: TASK, attr: Attr(0x8b) };
    cpu.state.segments[Seg::Tr as usize] = task;
    cpu.state.segments[Seg::Ldtr as usize] = Segment::default();
}

/// 64-bit mode with all tables. Gates 0 to 31 and 0x80 are interrupt gates, 3, 4 and 0x80 for
/// level 3.
pub(super) fn long() -> Box<TestCpu> {
    let mut cpu = TestCpu::long();
    install(&mut cpu);
    cpu.state.idtr = Table { base: IDT, limit: 0xfff };
    for vector in (0..32).chain([0x80]) {
        let attr = if matches!(vector, 3 | 4 | 0x80) { 0xee } else { 0x8e };
        long_gate(&mut cpu, vector, CODE64, attr, 0);
    }
    write(&mut cpu, TSS + 4, STACK0);
    write(&mut cpu, TSS + 0x24, IST1);
    cpu
}

/// 32-bit protected mode with all tables.
pub(super) fn protected() -> Box<TestCpu> {
    let mut cpu = TestCpu::protected();
    install(&mut cpu);
    cpu.state.segments[Seg::Cs as usize].selector = CODE32;
    cpu.state.idtr = Table { base: IDT, limit: 0x7ff };
    for vector in (0..32).chain([0x80]) {
        let attr = if matches!(vector, 3 | 4 | 0x80) { 0xee } else { 0x8e };
        gate(&mut cpu, vector, CODE32, attr);
    }
    write_all_32(&mut cpu, TSS + 4, &[STACK0 as u32, DATA.into()]);
    cpu
}

/// Puts the processor to level 3, in code of `selector`.
pub(super) fn to_user(cpu: &mut TestCpu, selector: u16) {
    let attr = if selector == USER_CODE64 { 0xafb } else { 0xcfb };
    let flat = Segment { base: 0, limit: u32::MAX, selector, attr: Attr(attr) };
    cpu.state.segments[Seg::Cs as usize] = flat;
    for seg in [Seg::Ss, Seg::Ds, Seg::Es] {
        let data = Segment { selector: USER_DATA, attr: Attr(0xcf3), ..flat };
        cpu.state.segments[seg as usize] = data;
    }
    cpu.state.cpl = 3;
}

/// Runs `code`, which has to raise an exception and leave the registers alone.
pub(super) fn raises(cpu: &mut TestCpu, code: &[u8]) -> Option<Exception> {
    cpu.exception = None;
    let before = State::read(cpu);
    let result = cpu.run(code);
    let mut after = State::read(cpu);
    after.rip = before.rip;
    (result == Err(Stop::Fault) && after == before).then(|| cpu.last_fault())
}

pub(super) fn rsp(cpu: &TestCpu) -> u64 {
    cpu.gpr(gpr::RSP)
}

pub(super) fn selector(cpu: &TestCpu, seg: Seg) -> u16 {
    cpu.segment(seg).selector
}
