//! Measures the engine: millions of guest instructions a second on small loops.
#![allow(missing_docs)]

#[path = "../src/test_machine.rs"]
mod test_machine;

use arch_x86::regs::{Regs, SysReg, gpr};
use engine_soft::Options;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use test_machine::{Machine, assemble, at, run_to_halt};

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Additions, shifts and a comparison.
fn integer(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(ecx, 20_000_000)?;
    a.set_label(&mut top)?;
    a.add(rax, rcx)?;
    a.imul_3(rdx, rax, 31)?;
    a.xor(rbx, rdx)?;
    a.lea(rsi, qword_ptr(rbx + rax * 4 + 7))?;
    a.shr(rsi, 3)?;
    a.sub(rdi, rsi)?;
    a.mov(r8, rdi)?;
    a.and(r8, 0xffff)?;
    a.dec(rcx)?;
    a.jnz(top)?;
    a.hlt()
}

/// Loads, stores and read-modify-writes over 32 KiB.
fn memory(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(ecx, 20_000_000)?;
    a.mov(rsi, at::LARGE)?;
    a.set_label(&mut top)?;
    a.mov(eax, ecx)?;
    a.and(eax, 0x7ff8)?;
    a.mov(rdx, qword_ptr(rsi + rax))?;
    a.add(rdx, rcx)?;
    a.mov(qword_ptr(rsi + rax), rdx)?;
    a.mov(ebx, dword_ptr(rsi + rax + 0x4000))?;
    a.add(qword_ptr(rsi + 64), rbx)?;
    a.push(rbx)?;
    a.pop(r9)?;
    a.dec(rcx)?;
    a.jnz(top)?;
    a.hlt()
}

/// Calls, returns and branches.
fn calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    let mut odd = a.create_label();
    let mut function = a.create_label();
    let mut even = a.create_label();
    a.mov(ecx, 20_000_000)?;
    a.set_label(&mut top)?;
    a.call(function)?;
    a.test(ecx, 1)?;
    a.jz(even)?;
    a.set_label(&mut odd)?;
    a.inc(rbx)?;
    a.set_label(&mut even)?;
    a.call(function)?;
    a.dec(rcx)?;
    a.jnz(top)?;
    a.hlt()?;
    a.set_label(&mut function)?;
    a.push(rbp)?;
    a.mov(rbp, rsp)?;
    a.lea(rax, qword_ptr(rcx + 1))?;
    a.pop(rbp)?;
    a.ret()
}

/// Loads of which each misses the TLB.
fn misses(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(ecx, 2_000_000)?;
    a.set_label(&mut top)?;
    a.add(rax, 0x1000)?;
    a.and(eax, 0x7f_ffff)?;
    a.mov(rdx, qword_ptr(rax + at::LARGE))?;
    a.dec(rcx)?;
    a.jnz(top)?;
    a.hlt()
}

/// Packed additions and multiplications, and their operands in memory.
fn vectors(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(ecx, 5_000_000)?;
    a.mov(rsi, at::LARGE)?;
    a.set_label(&mut top)?;
    a.mov(eax, ecx)?;
    a.and(eax, 0x7ff0)?;
    a.movdqa(xmm0, xmmword_ptr(rsi + rax))?;
    a.paddd(xmm1, xmm0)?;
    a.pxor(xmm2, xmm1)?;
    a.movups(xmmword_ptr(rsi + rax), xmm2)?;
    a.cvtsi2sd(xmm3, ecx)?;
    a.mulsd(xmm3, qword_ptr(rsi + 8))?;
    a.addsd(xmm4, xmm3)?;
    a.dec(rcx)?;
    a.jnz(top)?;
    a.hlt()
}

/// Additions and multiplications of the x87's, with an operand in memory.
fn x87(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(ecx, 10_000_000)?;
    a.mov(rsi, at::LARGE)?;
    a.fld1()?;
    a.fldz()?;
    a.set_label(&mut top)?;
    a.fadd_2(st0, st1)?;
    a.fmul_2(st0, st1)?;
    a.fadd(qword_ptr(rsi))?;
    a.fst(dword_ptr(rsi + 8))?;
    a.dec(rcx)?;
    a.jnz(top)?;
    a.hlt()
}

/// System calls: user mode and back.
fn system_calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut user = a.create_label();
    a.mov(esi, 2_000_000)?;
    a.lea(rcx, ptr(user))?;
    a.mov(r11d, 2)?;
    a.sysretq()?;
    a.set_label(&mut user)?;
    a.syscall()?;
    a.jmp(user)?;
    // LSTAR is 64 bytes from the start.
    for _ in 0..64 - 0x19 {
        a.nop()?;
    }
    a.cli()?;
    a.sti()?;
    a.dec(esi)?;
    let mut end = a.create_label();
    a.jz(end)?;
    a.sysretq()?;
    a.set_label(&mut end)?;
    a.hlt()
}

/// Processor time of this thread: other work on the machine does not count.
fn seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is there to be written.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn main() {
    let programs: [(&str, Program); 7] = [
        ("integer", integer),
        ("memory", memory),
        ("calls", calls),
        ("misses", misses),
        ("vectors", vectors),
        ("x87", x87),
        ("syscalls", system_calls),
    ];
    let wanted = std::env::args().nth(1);
    for (name, program) in programs {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let options = Options { counted: true, ..Options::default() };
        let machine = Machine::with(options, &assemble(at::CODE, program));
        let mut vcpu = machine.vcpu();
        vcpu.set_sysreg(SysReg::Star, 0x08 << 32 | 0x13 << 48);
        vcpu.set_sysreg(SysReg::Lstar, at::CODE + 64);
        let start = seconds();
        run_to_halt(&mut vcpu);
        let seconds = seconds() - start;
        let count = vcpu.instructions().expect("they are counted") as f64;
        println!(
            "{name:8} {:7.1} M instructions/s   ({:.0} M, {seconds:.2} s, rcx {})",
            count / seconds / 1e6,
            count / 1e6,
            vcpu.gpr(gpr::RCX),
        );
    }
}
