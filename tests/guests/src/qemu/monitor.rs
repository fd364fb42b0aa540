//! What runs inside QEMU beneath a guest: a monitor that takes the guest's registers from
//! [`super::area`], runs it by VMRUN until it comes out, and waits for the next run.
//!
//! Nothing else gets all of a processor's registers right, the hidden parts of segment registers
//! included, without bending the program: VMRUN loads them at once, #VMEXIT stores them. No instruction
//! is intercepted but those that end a run ([`super::vmcb`]) and the guest has its own page tables, so that
//! its programs are executed by the same code of QEMU's as outside of a guest.
//! See: AMD APM vol. 2, chapter 15.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::area::place;
use crate::layout::at;
use crate::programs::assemble;
use crate::states;

/// Size of the ROM at the end of the first 4 GiB, which QEMU shows at the end of the first MiB too.
pub const ROM: usize = 0x1_0000;
/// Offset in the ROM where a processor starts.
const RESET: usize = 0xfff0;
/// Offset in the ROM of the way to 64-bit mode.
const START: usize = 0xe000;
/// Offset in the ROM of its 32-bit part.
const START32: usize = 0xe100;
/// Offset in the ROM of what LGDT loads.
const POINTER: usize = 0xe200;

/// The monitor's GDT.
pub const GDT: [u64; 4] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff];
const CODE32: u16 = 0x08;
const DATA: u16 = 0x10;
const CODE64: u16 = 0x18;

/// The vector of the serial port's interrupt.
pub const VECTOR: u8 = 0x24;

/// The port that tells that the guest came out. A guest can't write to it: it is intercepted.
pub const DOORBELL: u32 = 0xec;

/// Ports of the first 8259 and the first serial port.
mod chip {
    pub const PIC_COMMAND: u32 = 0x20;
    pub const PIC_DATA: u32 = 0x21;
    pub const SLAVE_DATA: u32 = 0xa1;
    pub const SERIAL_DATA: u32 = 0x3f8;
    pub const SERIAL_INTERRUPTS: u32 = 0x3f9;
    pub const SERIAL_MODEM: u32 = 0x3fc;
    pub const SERIAL_STATUS: u32 = 0x3fd;
    /// A register of the local APIC, and its value.
    pub const LINT0: u64 = 0x350;
    pub const EXTINT: u32 = 0x700;
}

/// Numbers of MSRs.
mod msr {
    pub const EFER: u32 = 0xc000_0080;
    pub const HOST_SAVE: u32 = 0xc001_0117;
}

/// The ROM: from reset to 64-bit mode, and there to [`place::CODE`].
///
/// # Panics
/// When it can't be assembled.
pub fn rom() -> Vec<u8> {
    let mut rom = vec![0xf4; ROM];
    let mut put = |at: usize, bytes: &[u8]| rom[at..at + bytes.len()].copy_from_slice(bytes);
    let pointer = [&0x1f_u16.to_le_bytes()[..], &(place::GDT as u32).to_le_bytes()].concat();
    put(POINTER, &pointer);
    put(RESET, &assemble(16, RESET as u64, |a| a.jmp(START as u64).map(|()| [])).0);
    put(START, &assemble(16, START as u64, start).0);
    let linear = |offset: usize| (1_u64 << 32) - (ROM - offset) as u64;
    put(START32, &assemble(32, linear(START32), start32).0);
    rom
}

fn start(a: &mut CodeAssembler) -> Result<[CodeLabel; 0], IcedError> {
    a.cli()?;
    // LGDT CS:[POINTER], with all 32 bits of the base.
    let [low, high] = (POINTER as u16).to_le_bytes();
    a.db(&[0x2e, 0x66, 0x0f, 0x01, 0x16, low, high])?;
    a.mov(eax, 0x11)?;
    a.mov(cr0, eax)?;
    let target = (1_u64 << 32) - (ROM - START32) as u64;
    far_jump(a, &[0x66, 0xea], target, CODE32)?;
    Ok([])
}

fn start32(a: &mut CodeAssembler) -> Result<[CodeLabel; 0], IcedError> {
    a.mov(eax, u32::from(DATA))?;
    for segment in [ds, es, ss] {
        a.mov(segment, eax)?;
    }
    // PAE, OSFXSR, OSXMMEXCPT; the page tables; LME, NXE, SVME; PG, NE, ET, MP, PE.
    a.mov(eax, 0x620)?;
    a.mov(cr4, eax)?;
    a.mov(eax, place::TABLES as u32)?;
    a.mov(cr3, eax)?;
    a.mov(ecx, msr::EFER)?;
    a.mov(eax, 0x1900)?;
    a.xor(edx, edx)?;
    a.wrmsr()?;
    a.mov(eax, 0x8000_0033_u32)?;
    a.mov(cr0, eax)?;
    far_jump(a, &[0xea], place::CODE, CODE64)?;
    Ok([])
}

fn far_jump(
    a: &mut CodeAssembler,
    opcode: &[u8],
    target: u64,
    selector: u16,
) -> Result<(), IcedError> {
    a.db(&[opcode, &(target as u32).to_le_bytes(), &selector.to_le_bytes()].concat())
}

/// The monitor's own program.
pub struct Program {
    /// Its bytes, for [`place::CODE`].
    pub bytes: Vec<u8>,
    /// The gate of [`VECTOR`].
    pub gate: [u64; 2],
}

/// The program.
///
/// # Panics
/// When it can't be assembled.
pub fn program() -> Program {
    let (bytes, [interrupt]) = assemble(64, place::CODE, monitor);
    let mut gate = states::gate(interrupt, 0, 0);
    gate[0] = gate[0] & !(0xffff << 16) | u64::from(CODE64) << 16;
    Program { bytes, gate }
}

/// The general-purpose registers that VMRUN leaves alone, and their numbers.
const GPRS: [(u64, AsmRegister64); 14] = [
    (1, rcx),
    (2, rdx),
    (3, rbx),
    (5, rbp),
    (6, rsi),
    (7, rdi),
    (8, r8),
    (9, r9),
    (10, r10),
    (11, r11),
    (12, r12),
    (13, r13),
    (14, r14),
    (15, r15),
];

const DEBUG: [(u64, AsmRegisterDr); 4] = [(0, dr0), (1, dr1), (2, dr2), (3, dr3)];

fn monitor(a: &mut CodeAssembler) -> Result<[CodeLabel; 1], IcedError> {
    let (mut idle, mut wait, mut run) = (a.create_label(), a.create_label(), a.create_label());
    let (mut interrupt, mut pointer) = (a.create_label(), a.create_label());
    a.mov(rsp, place::STACK)?;
    a.lidt(tbyte_ptr(pointer))?;
    a.mov(ecx, msr::HOST_SAVE)?;
    a.mov(eax, place::HOST_SAVE as u32)?;
    a.xor(edx, edx)?;
    a.wrmsr()?;
    start_chips(a)?;
    a.jmp(wait)?;

    a.set_label(&mut idle)?;
    out(a, DOORBELL, 0)?;
    a.set_label(&mut wait)?;
    // The serial port's interrupt only ends HLT; what counts is the byte. While the guest runs, the
    // interrupt is masked: it would be the guest's.
    out(a, chip::PIC_DATA, !(1 << 4))?;
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.cli()?;
    a.mov(edx, chip::SERIAL_STATUS)?;
    a.in_(al, dx)?;
    a.test(al, 1)?;
    a.jnz(run)?;
    a.sti()?;
    a.hlt()?;
    a.jmp(again)?;
    a.set_label(&mut run)?;
    a.mov(edx, chip::SERIAL_DATA)?;
    a.in_(al, dx)?;
    out(a, chip::PIC_DATA, 0xff)?;
    write_again(a)?;
    run_guest(a)?;
    a.jmp(idle)?;

    a.set_label(&mut interrupt)?;
    a.push(rax)?;
    a.mov(al, 0x20)?;
    a.out(chip::PIC_COMMAND, al)?;
    a.pop(rax)?;
    a.iretq()?;

    a.set_label(&mut pointer)?;
    a.db(&[&0xfff_u16.to_le_bytes()[..], &place::IDT.to_le_bytes()].concat())?;
    Ok([interrupt])
}

fn out(a: &mut CodeAssembler, number: u32, value: u8) -> Result<(), IcedError> {
    a.mov(edx, number)?;
    a.mov(eax, u32::from(value))?;
    a.out(dx, al)
}

/// The 8259s with vectors from 0x20 on, all masked; the serial port with the interrupt of its receiver.
fn start_chips(a: &mut CodeAssembler) -> Result<(), IcedError> {
    for (number, value) in [
        (chip::PIC_COMMAND, 0x11),
        (chip::PIC_DATA, VECTOR - 4),
        (chip::PIC_DATA, 4),
        (chip::PIC_DATA, 1),
        (chip::PIC_DATA, 0xff),
        (chip::SLAVE_DATA, 0xff),
        (chip::SERIAL_MODEM, 8),
        (chip::SERIAL_INTERRUPTS, 1),
    ] {
        out(a, number, value)?;
    }
    // What the 8259s raise comes through the local APIC.
    a.mov(eax, chip::EXTINT)?;
    a.mov(dword_ptr(at::LAPIC + chip::LINT0), eax)
}

/// Writes what is there again, by the list of [`super::stale`].
fn write_again(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut next, mut again, mut done) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(esi, place::STALE as u32)?;
    a.set_label(&mut next)?;
    a.mov(rdi, qword_ptr(rsi))?;
    a.mov(rcx, qword_ptr(rsi + 8))?;
    a.test(rcx, rcx)?;
    a.jz(done)?;
    a.add(rsi, 16)?;
    a.set_label(&mut again)?;
    a.mov(rax, qword_ptr(rdi))?;
    a.mov(qword_ptr(rdi), rax)?;
    a.add(rdi, 8)?;
    a.dec(rcx)?;
    a.jnz(again)?;
    a.jmp(next)?;
    a.set_label(&mut done)
}

fn run_guest(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.fxrstor64(byte_ptr(place::FX))?;
    for (n, register) in DEBUG {
        a.mov(rax, qword_ptr(place::DEBUG + n * 8))?;
        a.mov(register, rax)?;
    }
    // VMRUN only stores DR7: MOV makes QEMU set the breakpoints, and #VMEXIT restores this value.
    a.mov(rax, qword_ptr(place::DEBUG + 4 * 8))?;
    a.mov(dr7, rax)?;
    for (n, register) in GPRS {
        a.mov(register, qword_ptr(place::GPRS + n * 8))?;
    }
    a.mov(eax, place::VMCB as u32)?;
    a.vmload()?;
    a.vmrun()?;
    a.vmsave()?;
    for (n, register) in GPRS {
        a.mov(qword_ptr(place::GPRS + n * 8), register)?;
    }
    a.mov(eax, 0x400)?;
    a.mov(dr7, rax)?;
    for (n, register) in DEBUG {
        a.mov(rax, register)?;
        a.mov(qword_ptr(place::DEBUG + n * 8), rax)?;
    }
    a.fxsave64(byte_ptr(place::FX))?;
    a.stgi()
}
