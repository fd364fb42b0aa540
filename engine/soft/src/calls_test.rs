//! Loops made of calls, returns and jumps ahead, which translated code goes round without end: they are left when they are
//! asked to be.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arch_x86::engine::{Engine, EngineVcpu, Entry, Intercept};
use arch_x86::regs::{Regs, gpr};
use iced_x86::code_asm::*;

use crate::Options;
use crate::test_machine::{Machine, assemble, at};
use crate::test_ways::{in_every_way, traced};
use crate::traces_random_test::Assembled;

in_every_way! {
    a_call_of_what_is_below_is_left,
    a_call_of_what_is_above_is_left,
    a_return_that_leads_back_is_left,
    two_functions_that_call_each_other_are_left,
    two_functions_in_other_pages_that_call_each_other_are_left,
    a_chain_of_returns_is_left,
    jumps_over_pages_are_left,
}

/// What the loop counts, and the stack that it takes up again.
const COUNT: u64 = at::DATA;
const STACK: u64 = at::STACK - 0x200;
/// A kernel's address of the code.
const CODE: u64 = at::UPPER + at::CODE;

/// Rounds that are too many: a loop that nobody has left by then is over.
const MOST: u64 = 1 << 28;

/// Counts a round.
fn round(a: &mut CodeAssembler) -> Assembled {
    let mut next = a.create_label();
    a.add(qword_ptr(COUNT), 1)?;
    a.sub(ebp, 1)?;
    a.jnz(next)?;
    a.hlt()?;
    a.set_label(&mut next)?;
    a.nop()
}

/// A part of a loop: its distance from the loop's start; and it, given where that is.
type Part = (u64, fn(&mut CodeAssembler, u64) -> Assembled);

/// Runs a loop from the first of its `parts` on, in the lower and in the upper half of the address space.
fn is_left(options: Options, parts: &[Part]) {
    let patient = Options { patience: 3, ..options };
    let all = if options == traced() { vec![options, patient] } else { vec![options] };
    for options in all {
        for base in [at::CODE, CODE] {
            is_left_at(options, parts, base);
        }
    }
}

fn is_left_at(options: Options, parts: &[Part], base: u64) {
    let machine = Machine::with(options, &[]);
    for (distance, program) in parts {
        let code = assemble(base + distance, |a| program(a, base));
        machine.write(at::CODE + distance, &code);
    }
    let mut vcpu = machine.vcpu();
    vcpu.set_rip(base + parts[0].0);
    vcpu.set_gpr(gpr::RSP, STACK);
    vcpu.set_gpr(gpr::RBP, MOST);
    let request = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while machine.read_u64(COUNT) < 2000 {
                assert!(start.elapsed() < Duration::from_secs(60), "it does not run");
                std::thread::yield_now();
            }
            request.store(1, Ordering::SeqCst);
            machine.engine.kick(0);
        });
        let entry = Entry { fresh: true, ..Entry::default() };
        assert_eq!(vcpu.enter(&entry, &request), Intercept::Interrupted);
    });
    assert_ne!(vcpu.gpr(gpr::RBP), 0, "it was over before it was left");
    assert_eq!(vcpu.gpr(gpr::RBP), MOST - machine.read_u64(COUNT));
}

/// The caller is behind the function; it comes back by a jump of that.
fn a_call_of_what_is_below_is_left(options: Options) {
    is_left(
        options,
        &[
            (0x100, |a, base| {
                a.call(base)?;
                a.ud2()
            }),
            (0, |a, base| {
                round(a)?;
                a.pop(rdx)?;
                a.jmp(base + 0x100)
            }),
        ],
    );
}

/// The function is behind its caller, and returns before the call.
fn a_call_of_what_is_above_is_left(options: Options) {
    is_left(
        options,
        &[
            (0, |a, base| {
                a.call(base + 0x100)?;
                a.ud2()
            }),
            (0x100, |a, base| {
                round(a)?;
                a.mov(rdx, base)?;
                a.mov(qword_ptr(rsp), rdx)?;
                a.ret()
            }),
        ],
    );
}

/// A function returns behind the call, as it should; what follows returns to the start.
fn a_return_that_leads_back_is_left(options: Options) {
    is_left(
        options,
        &[
            (0, |a, base| {
                a.mov(rdx, base)?;
                a.push(rdx)?;
                a.call(base + 0x100)?;
                a.call(base + 0x80)?;
                a.add(rax, rcx)?;
                a.ret()
            }),
            (0x80, |a, _| a.ret()),
            (0x100, |a, _| {
                round(a)?;
                a.ret()
            }),
        ],
    );
}

/// The first one starts with an empty stack.
fn two_functions_that_call_each_other_are_left(options: Options) {
    is_left(
        options,
        &[
            (0x200, |a, base| {
                a.mov(esp, STACK as u32)?;
                a.call(base + 0x80)?;
                a.ud2()
            }),
            (0x80, |a, base| {
                round(a)?;
                a.call(base + 0x200)?;
                a.ud2()
            }),
        ],
    );
}

fn two_functions_in_other_pages_that_call_each_other_are_left(options: Options) {
    is_left(
        options,
        &[
            (0x1200, |a, base| {
                a.mov(esp, STACK as u32)?;
                a.call(base + 0x3080)?;
                a.call(base + 0x80)?;
                a.ud2()
            }),
            (0x3080, |a, _| {
                a.add(rax, 1)?;
                a.ret()
            }),
            (0x80, |a, base| {
                round(a)?;
                a.call(base + 0x1200)?;
                a.ud2()
            }),
        ],
    );
}

/// Nothing but returns: to what counts, to one more, and to what starts it all again.
fn a_chain_of_returns_is_left(options: Options) {
    is_left(
        options,
        &[
            (0x40, |a, base| {
                a.mov(esp, STACK as u32)?;
                for target in [0x40, 0x800, 0x80, 0xc0] {
                    a.mov(rdx, base + target)?;
                    a.push(rdx)?;
                }
                a.ret()
            }),
            (0xc0, |a, _| {
                round(a)?;
                a.ret()
            }),
            (0x80, |a, _| a.ret()),
            (0x800, |a, _| a.ret()),
        ],
    );
}

/// Jumps ahead to another page, and back to the first one.
fn jumps_over_pages_are_left(options: Options) {
    is_left(
        options,
        &[
            (0x800, |a, base| {
                round(a)?;
                a.jmp(base + 0x1080)
            }),
            (0x1080, |a, base| a.jmp(base + 0x2000)),
            (0x2000, |a, base| a.jmp(base + 0x800)),
        ],
    );
}
