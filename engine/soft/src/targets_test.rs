//! Indirect branches that have led to many places, and to what is no longer there.

use arch_x86::regs::{Regs, gpr};
use iced_x86::code_asm::*;

use crate::test_machine::{Machine, assemble, at, pte, run_to_halt};
use crate::test_ways::in_every_way;
use crate::traces_random_test::Assembled;
use crate::{Options, SoftVcpu};

in_every_way! {
    calls_lead_where_they_say,
    jumps_lead_where_they_say,
    returns_lead_where_they_say,
    a_target_that_is_rewritten_is_no_longer_known,
    a_target_whose_page_becomes_another_is_no_longer_known,
}

/// Functions, of which each adds its bit to RAX; a page apart.
const FUNCTION: u64 = at::USER_CODE;
const FUNCTIONS: u64 = 5;
/// Their addresses in turns.
const TABLE: u64 = at::DATA + 0x100;
const TURNS: u64 = 16;
const ROUNDS: u64 = 40 * TURNS;

/// Which function is the one of a turn: the first two mostly.
const fn turn(n: u64) -> u64 {
    match n % TURNS {
        n if n < 6 => 0,
        n if n < 11 => 1,
        n => n - 11,
    }
}

/// What a function adds.
const fn bit(n: u64) -> u64 {
    1 << (10 * n)
}

/// Runs `program`, at whose end all turns were taken often, with functions that end with `end`.
fn run(
    options: Options,
    program: impl Fn(&mut CodeAssembler) -> Assembled,
    end: impl Fn(&mut CodeAssembler) -> Assembled,
) -> SoftVcpu {
    let machine = Machine::with(options, &assemble(at::CODE, program));
    for n in 0..FUNCTIONS {
        let place = FUNCTION + n * 0x1000;
        let code = assemble(place, |a| {
            a.mov(rcx, bit(n))?;
            a.add(rax, rcx)?;
            end(a)
        });
        machine.write(place, &code);
    }
    for n in 0..TURNS {
        machine.write_u64(TABLE + 8 * n, FUNCTION + turn(n) * 0x1000);
    }
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RAX, 0);
    run_to_halt(&mut vcpu);
    vcpu
}

/// Calls `body` with the turn's address in RDX, in each turn.
fn in_turns(
    a: &mut CodeAssembler,
    body: impl FnOnce(&mut CodeAssembler) -> Assembled,
) -> Assembled {
    let mut again = a.create_label();
    a.xor(ebx, ebx)?;
    a.set_label(&mut again)?;
    a.mov(esi, ebx)?;
    a.and(esi, TURNS as i32 - 1)?;
    a.mov(rdx, qword_ptr(rsi * 8 + TABLE))?;
    body(a)?;
    a.add(ebx, 1)?;
    a.cmp(ebx, ROUNDS as i32)?;
    a.jne(again)?;
    a.hlt()
}

/// The sum of all that functions have added.
fn expected() -> u64 {
    (0..ROUNDS).map(|n| bit(turn(n))).sum()
}

fn calls_lead_where_they_say(options: Options) {
    let vcpu = run(options, |a| in_turns(a, |a| a.call(rdx)), |a| a.ret());
    assert_eq!(vcpu.gpr(gpr::RAX), expected());
}

fn jumps_lead_where_they_say(options: Options) {
    let program = |a: &mut CodeAssembler| {
        in_turns(a, |a| {
            let mut back = a.create_label();
            a.lea(rdi, ptr(back))?;
            a.jmp(rdx)?;
            a.set_label(&mut back)?;
            a.zero_bytes()
        })
    };
    let vcpu = run(options, program, |a| a.jmp(rdi));
    assert_eq!(vcpu.gpr(gpr::RAX), expected());
}

/// A RET that no call belongs to.
fn returns_lead_where_they_say(options: Options) {
    let program = |a: &mut CodeAssembler| {
        in_turns(a, |a| {
            let mut back = a.create_label();
            a.lea(rdi, ptr(back))?;
            a.push(rdi)?;
            a.push(rdx)?;
            a.ret()?;
            a.set_label(&mut back)?;
            a.zero_bytes()
        })
    };
    let vcpu = run(options, program, |a| a.ret());
    assert_eq!(vcpu.gpr(gpr::RAX), expected());
}

const CALLS: i32 = 20;

/// Calls what RDX points to so often that it is known, has `change` be made, and calls it as often again, from the same place.
fn changes(options: Options, change: impl Fn(&mut CodeAssembler) -> Assembled, other: u64) {
    let program = |a: &mut CodeAssembler| {
        let (mut again, mut over) = (a.create_label(), a.create_label());
        a.xor(ebx, ebx)?;
        a.set_label(&mut again)?;
        a.call(rdx)?;
        a.add(ebx, 1)?;
        a.cmp(ebx, 2 * CALLS)?;
        a.je(over)?;
        a.cmp(ebx, CALLS)?;
        a.jne(again)?;
        change(a)?;
        a.jmp(again)?;
        a.set_label(&mut over)?;
        a.hlt()
    };
    let machine = Machine::with(options, &assemble(at::CODE, program));
    for (place, value) in [(FUNCTION, 1), (other, 1000)] {
        let code = assemble(place, |a| {
            a.add(rax, value)?;
            a.ret()
        });
        machine.write(place, &code);
    }
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RAX, 0);
    vcpu.set_gpr(gpr::RDX, FUNCTION);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RAX), CALLS as u64 * 1001);
}

const OTHER: u64 = FUNCTION + 0x1000;

/// The bytes of another function take its place.
fn a_target_that_is_rewritten_is_no_longer_known(options: Options) {
    let copy = |a: &mut CodeAssembler| {
        a.mov(rcx, qword_ptr(OTHER))?;
        a.mov(qword_ptr(FUNCTION), rcx)
    };
    changes(options, copy, OTHER);
}

/// The page of another function is mapped there.
fn a_target_whose_page_becomes_another_is_no_longer_known(options: Options) {
    let map = |a: &mut CodeAssembler| {
        a.mov(rcx, OTHER | pte::RIGHTS)?;
        a.mov(qword_ptr(at::PT + FUNCTION / 0x1000 * 8), rcx)?;
        a.invlpg(byte_ptr(FUNCTION))
    };
    changes(options, map, OTHER);
}
