//! The assembler, and the handlers that report exceptions.

use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, IcedError};

use crate::guest::Memory;
use crate::layout::{at, port, resume, selector};
use crate::states;

/// Bytes between the entries of the exception handlers.
const STUB: u64 = 16;
/// Where their common part is, behind the entries.
const COMMON: u64 = 0x1000;

/// The bytes of a program for `address`, and where its labels lie.
///
/// # Panics
/// When the program can't be assembled.
pub fn assemble<const N: usize>(
    bits: u32,
    address: u64,
    program: impl FnOnce(&mut CodeAssembler) -> Result<[CodeLabel; N], IcedError>,
) -> (Vec<u8>, [u64; N]) {
    let mut assembler = CodeAssembler::new(bits).expect("16, 32 or 64 bits");
    let labels = program(&mut assembler).expect("instructions that exist");
    let result = assembler
        .assemble_options(address, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)
        .expect("instructions that can be encoded");
    let places = labels.map(|label| result.label_ip(&label).expect("a label that is set"));
    (result.inner.code_buffer, places)
}

/// The program is done.
///
/// # Errors
/// The assembler's.
pub fn end(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(port::END, al)
}

/// Reports EAX.
///
/// # Errors
/// The assembler's.
pub fn report(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(port::VALUE, eax)
}

/// Reports a number. Changes EAX.
///
/// # Errors
/// The assembler's.
pub fn report_number(a: &mut CodeAssembler, number: u32) -> Result<(), IcedError> {
    a.mov(eax, number)?;
    report(a)
}

/// From here on exceptions go on at `label`. Changes R15.
///
/// # Errors
/// The assembler's.
pub fn resume_at(a: &mut CodeAssembler, label: CodeLabel) -> Result<(), IcedError> {
    a.lea(r15, qword_ptr(label))?;
    a.mov(qword_ptr(at::RESUME), r15)
}

/// Whether the processor pushes an error code for `vector`.
fn has_error(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// Writes handlers for all vectors, in long mode, protected mode and real mode, that report
/// a [`crate::Trap`] and go on as the quadword at [`at::RESUME`] says.
pub fn write_handlers(memory: &Memory) {
    for vector in 0..256 {
        let stub = at::STUBS + vector * STUB;
        let entry = |a: &mut CodeAssembler, common: u64| {
            if !has_error(vector) {
                a.push(0)?;
            }
            a.push(vector as i32)?;
            a.jmp(common)?;
            Ok([])
        };
        memory.write(stub, &assemble(64, stub, |a| entry(a, at::STUBS + COMMON)).0);
        for (n, word) in (0..).zip(states::gate(stub, 0, 0)) {
            memory.write_u64(at::IDT + vector * 16 + n * 8, word);
        }
        let stub = at::STUBS32 + vector * STUB;
        memory.write(stub, &assemble(32, stub, |a| entry(a, at::STUBS32 + COMMON)).0);
        memory.write_u64(at::IDT32 + vector * 8, states::gate32(stub));
        let offset = vector * STUB;
        let entry = |a: &mut CodeAssembler| {
            a.push(vector as i32)?;
            a.jmp(COMMON)?;
            Ok([])
        };
        memory.write(at::STUBS16 + offset, &assemble(16, offset, entry).0);
        let pointer = (at::STUBS16 >> 4 << 16 | offset) as u32;
        memory.write(at::REAL_VECTORS + vector * 4, &pointer.to_le_bytes());
    }
    memory.write(at::STUBS16 + COMMON, &assemble(16, COMMON, common16).0);
    memory.write(at::STUBS + COMMON, &assemble(64, at::STUBS + COMMON, common).0);
    memory.write(at::STUBS32 + COMMON, &assemble(32, at::STUBS32 + COMMON, common32).0);
}

fn common(a: &mut CodeAssembler) -> Result<[CodeLabel; 0], IcedError> {
    let (mut stop, mut same) = (a.create_label(), a.create_label());
    a.push(rax)?;
    // RAX, the vector, the error code, RIP, CS, RFLAGS.
    for offset in [8, 16, 24, 28, 32, 40] {
        a.mov(eax, dword_ptr(rsp + offset))?;
        a.out(port::TRAP, eax)?;
    }
    a.mov(rax, cr2)?;
    a.out(port::TRAP, eax)?;
    a.shr(rax, 32)?;
    a.out(port::TRAP, eax)?;
    // The processor only adds to DR6.
    a.mov(rax, dr6)?;
    a.out(port::TRAP, eax)?;
    a.mov(eax, 0xffff_0ff0_u32)?;
    a.mov(dr6, rax)?;
    a.mov(rax, qword_ptr(at::RESUME))?;
    a.cmp(rax, resume::SAME as i32)?;
    a.jb(stop)?;
    a.je(same)?;
    a.mov(qword_ptr(rsp + 24), rax)?;
    a.set_label(&mut same)?;
    a.pop(rax)?;
    a.add(rsp, 16)?;
    a.iretq()?;
    a.set_label(&mut stop)?;
    end(a)?;
    Ok([])
}

fn common32(a: &mut CodeAssembler) -> Result<[CodeLabel; 0], IcedError> {
    let (mut stop, mut same) = (a.create_label(), a.create_label());
    a.push(eax)?;
    // From virtual-8086 mode the data segments come in null.
    a.push(ds)?;
    a.mov(eax, u32::from(selector::DATA))?;
    a.mov(ds, ax)?;
    // DS, EAX, the vector, the error code, EIP, CS, EFLAGS.
    for offset in [8, 12, 16, 0, 20, 24] {
        if offset == 0 {
            a.xor(eax, eax)?;
        } else {
            a.mov(eax, dword_ptr(esp + offset))?;
        }
        a.out(port::TRAP, eax)?;
    }
    a.mov(eax, cr2)?;
    a.out(port::TRAP, eax)?;
    a.xor(eax, eax)?;
    a.out(port::TRAP, eax)?;
    a.mov(eax, dr6)?;
    a.out(port::TRAP, eax)?;
    a.mov(eax, 0xffff_0ff0_u32)?;
    a.mov(dr6, eax)?;
    a.mov(eax, dword_ptr(at::RESUME))?;
    a.cmp(eax, resume::SAME as i32)?;
    a.jb(stop)?;
    a.je(same)?;
    a.mov(dword_ptr(esp + 16), eax)?;
    a.set_label(&mut same)?;
    a.pop(ds)?;
    a.pop(eax)?;
    a.add(esp, 8)?;
    a.iretd()?;
    a.set_label(&mut stop)?;
    end(a)?;
    Ok([])
}

fn common16(a: &mut CodeAssembler) -> Result<[CodeLabel; 0], IcedError> {
    let (mut stop, mut same) = (a.create_label(), a.create_label());
    a.push(eax)?;
    a.push(bp)?;
    a.push(ds)?;
    a.mov(bp, sp)?;
    // DS, BP, EAX, the vector, IP, CS, FLAGS.
    for offset in [Some(8), None, Some(10), None, Some(12), Some(14), None, None] {
        match offset {
            Some(offset) => a.movzx(eax, word_ptr(bp + offset))?,
            None => a.xor(eax, eax)?,
        }
        a.out(port::TRAP, eax)?;
    }
    a.mov(eax, dr6)?;
    a.out(port::TRAP, eax)?;
    a.mov(eax, 0xffff_0ff0_u32)?;
    a.mov(dr6, eax)?;
    a.xor(ax, ax)?;
    a.mov(ds, ax)?;
    a.mov(eax, dword_ptr(at::RESUME))?;
    a.cmp(eax, resume::SAME as i32)?;
    a.jb(stop)?;
    a.je(same)?;
    a.mov(dword_ptr(bp + 10), eax)?;
    a.set_label(&mut same)?;
    a.pop(ds)?;
    a.pop(bp)?;
    a.pop(eax)?;
    a.add(sp, 2)?;
    a.iret()?;
    a.set_label(&mut stop)?;
    end(a)?;
    Ok([])
}
