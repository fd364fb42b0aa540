//! What of the x87's state others see: exceptions that are not masked, a task that is switched, FXSAVE, FNSTENV.

use arch_x86::exception;
use arch_x86::regs::{Regs, cr0, gpr, rflags};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::run_test::handler;
use crate::test_machine::{Machine, at, machine, run_to_halt};
use crate::test_ways::in_every_way;
use crate::{Options, SoftVcpu};

in_every_way! {
    an_exception_that_is_unmasked_is_the_guests,
    an_exception_that_is_pending_is_told_first,
    a_summary_of_nothing_is_nothing,
    a_switched_task_is_told_before_any_x87_instruction,
    the_flags_of_the_block_before_are_in_the_frame,
    emulation_traps_x87_instructions,
    the_last_instruction_is_nothing_of_the_hosts,
    tasks_are_switched,
    what_is_stored_is_whole,
}

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Where the last instruction's address and its operand's seem to be, and its opcode.
const FIP: u64 = 0x1111_2222_3333_4444;
const FDP: u64 = 0x5555_6666_7777_8888;
const FOP: u16 = 0x5a5;

fn reset(vcpu: &mut SoftVcpu) {
    let fx = vcpu.fxsave_mut();
    fx.0[..24].fill(0);
    fx.0[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    fx.0[6..8].copy_from_slice(&FOP.to_le_bytes());
    fx.0[8..16].copy_from_slice(&FIP.to_le_bytes());
    fx.0[16..24].copy_from_slice(&FDP.to_le_bytes());
}

/// Runs from the start.
fn go(vcpu: &mut SoftVcpu) {
    vcpu.set_rip(at::CODE);
    vcpu.set_gpr(gpr::RSP, at::STACK);
    run_to_halt(vcpu);
}

fn an_exception_that_is_unmasked_is_the_guests(options: Options) {
    // Each with what is to come, and where: the instruction behind the division that waits.
    let waiting: [Program; 4] = [
        |a| a.fld1(),
        |a| a.wait(),
        |a| a.fstp(qword_ptr(rsi + 8)),
        |a| a.fldcw(word_ptr(rsi + 2)),
    ];
    for waiting in waiting {
        let machine = machine(options, |a| {
            a.fld1()?;
            a.fldz()?;
            a.fldcw(word_ptr(rsi))?;
            a.fdiv_2(st1, st0)?;
            a.fnstsw(word_ptr(rsi + 4))?;
            a.mov(r10, rax)?;
            waiting(a)?;
            a.inc(rdi)?;
            a.fld1()?;
            a.hlt()
        });
        // All but a division by zero are masked.
        machine.write(at::DATA, &0x37b_u16.to_le_bytes());
        machine.write(at::DATA + 2, &0x37f_u16.to_le_bytes());
        count_exceptions(&machine);
        let mut vcpu = machine.vcpu();
        // Without CR0.NE it is the same here.
        for ne in [cr0::NE, 0, cr0::NE] {
            vcpu.set_cr0(vcpu.cr0() & !cr0::NE | ne);
            reset(&mut vcpu);
            vcpu.set_gpr(gpr::RBX, 0);
            vcpu.set_gpr(gpr::RDI, 0);
            vcpu.set_gpr(gpr::RSI, at::DATA);
            go(&mut vcpu);
            assert_eq!((vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RDI)), (1, 1));
            assert_eq!(vcpu.gpr(gpr::RDX), at::CODE + 2 + 2 + 2 + 2 + 3 + 3);
            assert_eq!(machine.read_u64(at::DATA + 4) & 0xffff & !0x4700, 0x8084 | 6 << 11);
        }
    }
}

/// RBX counts them, RDX is where the last one was.
fn count_exceptions(machine: &Machine) {
    handler(machine, exception::MF, |a| {
        a.inc(ebx)?;
        a.mov(rdx, qword_ptr(rsp))?;
        a.fnclex()?;
        a.iretq()
    });
}

fn an_exception_that_is_pending_is_told_first(options: Options) {
    let machine = machine(options, |a| {
        a.inc(edi)?;
        a.fld1()?;
        a.inc(edi)?;
        a.hlt()
    });
    count_exceptions(&machine);
    let mut vcpu = machine.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu);
        // Invalid operation, which is not masked.
        vcpu.fxsave_mut().0[..4].copy_from_slice(&[0x7e, 3, 0x81, 0x80]);
        vcpu.set_gpr(gpr::RBX, 0);
        vcpu.set_gpr(gpr::RDI, 0);
        go(&mut vcpu);
        assert_eq!((vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RDI)), (1, 2));
        assert_eq!(vcpu.gpr(gpr::RDX), at::CODE + 2);
    }
}

/// The summary bits of a state that no processor has.
fn a_summary_of_nothing_is_nothing(options: Options) {
    let machine = machine(options, |a| {
        a.fnop()?;
        a.fnclex()?;
        a.fld1()?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu);
        vcpu.fxsave_mut().0[2..4].copy_from_slice(&[0x81, 0x80]);
        go(&mut vcpu);
        assert_eq!(vcpu.fxsave().0[2..5], [0, 0x38, 0x80]);
    }
}

fn a_switched_task_is_told_before_any_x87_instruction(options: Options) {
    let machine = machine(options, |a| {
        a.mov(edi, 5)?;
        a.fld1()?;
        a.inc(edi)?;
        a.fld1()?;
        a.mov(rax, cr0)?;
        a.or(eax, cr0::TS as u32)?;
        a.mov(cr0, rax)?;
        a.inc(edi)?;
        a.nop()?;
        a.fnstsw(word_ptr(rsi))?;
        a.faddp(st1, st0)?;
        a.hlt()
    });
    handler(&machine, exception::NM, |a| {
        a.inc(ebx)?;
        a.mov(qword_ptr(rsi + rbx * 8), rdi)?;
        a.clts()?;
        a.iretq()
    });
    let mut vcpu = machine.vcpu();
    for switched in [true, false, true] {
        reset(&mut vcpu);
        vcpu.set_gpr(gpr::RSI, at::DATA);
        vcpu.set_gpr(gpr::RBX, if switched { 0 } else { 1 });
        vcpu.set_cr0(vcpu.cr0() & !cr0::TS | if switched { cr0::TS } else { 0 });
        go(&mut vcpu);
        assert_eq!(vcpu.gpr(gpr::RBX), 2);
        assert_eq!([8, 16].map(|at| machine.read_u64(at::DATA + at)), [5, 7]);
        assert_eq!(machine.read_u64(at::DATA) as u16, 6 << 11);
        assert_eq!(vcpu.fxsave().0[4], 0x80);
    }
}

/// The block of FLD overwrites flags before it looks at any, once it is executed at all.
fn the_flags_of_the_block_before_are_in_the_frame(options: Options) {
    let machine = machine(options, |a| {
        let mut behind = a.create_label();
        a.add(rbx, rbx)?;
        a.jmp(behind)?;
        a.ud2()?;
        a.set_label(&mut behind)?;
        a.fld1()?;
        a.cmp(rcx, rcx)?;
        a.hlt()
    });
    handler(&machine, exception::NM, |a| {
        a.mov(rdx, qword_ptr(rsp + 16))?;
        a.clts()?;
        a.iretq()
    });
    let mut vcpu = machine.vcpu();
    let cases = [(1 << 63, rflags::CF | rflags::ZF | rflags::PF | rflags::OF), (1, 0)];
    for (time, (number, flags)) in (0..).zip(cases.into_iter().cycle()).take(10) {
        reset(&mut vcpu);
        let is_switched = time >= 4;
        vcpu.set_cr0(vcpu.cr0() | if is_switched { cr0::TS } else { 0 });
        vcpu.set_gpr(gpr::RBX, number);
        vcpu.set_gpr(gpr::RDX, !0);
        go(&mut vcpu);
        let flags = if is_switched { flags } else { rflags::STATUS };
        assert_eq!(vcpu.gpr(gpr::RDX) & rflags::STATUS, flags, "{time}");
    }
}

fn emulation_traps_x87_instructions(options: Options) {
    let machine = machine(options, |a| {
        a.nop()?;
        a.wait()?;
        a.inc(edi)?;
        a.fldz()?;
        a.hlt()
    });
    handler(&machine, exception::NM, |a| {
        a.mov(rdx, qword_ptr(rsp))?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_cr0(vcpu.cr0() | cr0::EM);
    for time in 1..=3 {
        reset(&mut vcpu);
        go(&mut vcpu);
        assert_eq!((vcpu.gpr(gpr::RDX), vcpu.gpr(gpr::RDI)), (at::CODE + 4, time));
    }
}

/// The interpreter leaves these alone: see [`crate::vector`].
fn the_last_instruction_is_nothing_of_the_hosts(options: Options) {
    let machine = machine(options, |a| {
        a.fld(qword_ptr(rsi))?;
        a.fadd(qword_ptr(rsi + 8))?;
        a.fxsave64(ptr(rdi))?;
        a.fst(dword_ptr(rsi + 16))?;
        a.fdiv_2(st0, st1)?;
        a.fnstenv(ptr(rdi + 512))?;
        a.fmulp(st1, st0)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu);
        vcpu.set_gpr(gpr::RSI, at::DATA);
        vcpu.set_gpr(gpr::RDI, at::LARGE);
        go(&mut vcpu);
        let found = [0, 8, 16].map(|at| machine.read_u64(at::LARGE + at));
        assert_eq!(found[1..], [FIP, FDP]);
        assert_eq!(found[0], u64::from(FOP) << 48 | 0x80 << 32 | 7 << (16 + 11) | 0x37f);
        let found = [8, 16, 24].map(|at| machine.read_u64(at::LARGE + 512 + at));
        let low = |value: u64| value & 0xffff_ffff;
        assert_eq!(found[0] >> 32, low(FIP));
        assert_eq!(found[1], low(FDP) << 32 | u64::from(FOP) << 16);
        let fx = &vcpu.fxsave().0;
        assert_eq!(fx[6..8], FOP.to_le_bytes());
        assert_eq!(fx[8..16], FIP.to_le_bytes());
        assert_eq!(fx[16..24], FDP.to_le_bytes());
    }
}

fn tasks_are_switched(options: Options) {
    // Two tasks that count in steps of 1 and of pi, by turns.
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.fldz()?;
        a.fxsave64(ptr(rsi))?;
        a.fldpi()?;
        a.fadd_2(st1, st0)?;
        a.fxsave64(ptr(rdi))?;
        a.mov(ecx, 100)?;
        a.set_label(&mut top)?;
        a.fxrstor64(ptr(rsi))?;
        a.fld1()?;
        a.faddp(st1, st0)?;
        a.fxsave64(ptr(rsi))?;
        a.fxrstor64(ptr(rdi))?;
        a.fadd_2(st1, st0)?;
        a.fxsave64(ptr(rdi))?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.fxrstor64(ptr(rsi))?;
        a.fstp(qword_ptr(rbp))?;
        a.fxrstor64(ptr(rdi))?;
        a.fstp(st0)?;
        a.fstp(qword_ptr(rbp + 8))?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu);
        vcpu.set_gpr(gpr::RSI, at::LARGE);
        vcpu.set_gpr(gpr::RDI, at::LARGE + 512);
        vcpu.set_gpr(gpr::RBP, at::DATA);
        go(&mut vcpu);
        let found = [0, 8].map(|at| f64::from_bits(machine.read_u64(at::DATA + at)));
        assert_eq!(found[0], 100.0);
        // There are more bits of pi in a register.
        assert!((found[1] - 101.0 * core::f64::consts::PI).abs() < 1e-12, "{}", found[1]);
    }
}

/// Eight different numbers, and both words, come out as they went in.
fn what_is_stored_is_whole(options: Options) {
    let machine = machine(options, |a| {
        a.fnop()?;
        a.fxsave64(ptr(rsi))?;
        a.fincstp()?;
        a.fxsave64(ptr(rdi))?;
        a.fdecstp()?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu);
        let fx = vcpu.fxsave_mut();
        // To zero, 24 bits; TOP is 3, C3 and C0 are set, as is what was masked; two registers are empty.
        fx.0[..5].copy_from_slice(&[0x7f, 0x0c, 0x3f, 0x59, 0xb7]);
        for i in 0..8 {
            let bytes = core::array::from_fn::<u8, 10, _>(|n| (17 * (n + 1) + 3 * i) as u8 | 0x80);
            fx.0[32 + 16 * i..][..10].copy_from_slice(&bytes);
        }
        let before = *vcpu.fxsave();
        vcpu.set_gpr(gpr::RSI, at::DATA);
        vcpu.set_gpr(gpr::RDI, at::DATA + 512);
        go(&mut vcpu);
        let mut after = *vcpu.fxsave();
        // C1 is cleared by FINCSTP, the others are undefined.
        assert_eq!(after.0[3] & 0x38, 0x18);
        after.0[3] = before.0[3];
        assert!(after == before, "{:x?}", &after.0[..160]);
        for at in (0..24).step_by(8).chain((32..160).step_by(8)) {
            let bytes = machine.read_u64(at::DATA + at).to_le_bytes();
            assert_eq!(bytes, before.0[at as usize..][..8], "{at}");
        }
        for i in 0..8_u64 {
            let found = machine.read_u64(at::DATA + 512 + 32 + 16 * i).to_le_bytes();
            let from = 32 + 16 * ((i as usize + 1) % 8);
            assert_eq!(found, before.0[from..from + 8]);
        }
    }
}
