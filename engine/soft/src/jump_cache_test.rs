//! The jump cache's two ways; and what comes of it where more jumps than that have the same place in it.

use arch_x86::regs::{Regs, gpr};
use iced_x86::code_asm::*;

use crate::blocks::{Found, Run};
use crate::itlb::key;
use crate::jump_cache::{Jump, JumpCache, distance};
use crate::test_machine::{Machine, assemble, at, run_to_halt};
use crate::test_ways::{interpreter, jit, traced, uncounted};
use crate::{Options, SoftVcpu};

const KEY: u32 = 1 << key::GENERATION_SHIFT | key::TRANSLATED;
const CODE: u64 = 0x1234_0000;

fn found(block: u32, code: u64) -> Found {
    Found { code, run: Run::NONE, block }
}

/// Enters the block of a number, translated, at `rip`.
fn enter(jumps: &mut JumpCache, cpl: u8, space: usize, rip: u64, block: u32) {
    jumps.enter(cpl, space, Jump::new(rip, KEY, found(block, CODE + u64::from(block))));
}

/// The number of the block that is known, and what else is, at `rip`.
fn block(jumps: &JumpCache, cpl: u8, space: usize, rip: u64) -> Option<u32> {
    let jump = jumps.get(cpl, space, rip)?;
    assert_eq!(jump.rip, rip);
    assert_eq!(jump.found().block, jump.block);
    Some(jump.block)
}

/// Addresses from `start` on, `step` apart, that have the same place at a privilege level.
fn same_place(cpl: u8, start: u64, step: usize, count: usize) -> Vec<u64> {
    let is_same = |rip: &u64| distance(cpl, *rip) == distance(cpl, start);
    (start..at::LARGE + (16 << 20)).step_by(step).filter(is_same).take(count).collect()
}

#[test]
fn what_was_entered_last_displaces_what_was_entered_before_the_one_before() {
    for cpl in [0, 3] {
        let mut jumps = JumpCache::new();
        let [a, b, c, d] = same_place(cpl, at::LARGE, 1, 4)[..] else { panic!("too few") };
        assert!([a, b, c, d].into_iter().all(|rip| block(&jumps, cpl, 0, rip).is_none()));
        enter(&mut jumps, cpl, 0, a, 1);
        enter(&mut jumps, cpl, 0, b, 2);
        assert_eq!([a, b, c].map(|rip| block(&jumps, cpl, 0, rip)), [Some(1), Some(2), None]);
        enter(&mut jumps, cpl, 0, c, 3);
        assert_eq!([a, b, c].map(|rip| block(&jumps, cpl, 0, rip)), [None, Some(2), Some(3)]);
        // One that is there displaces nothing, in whichever way it is.
        enter(&mut jumps, cpl, 0, b, 4);
        enter(&mut jumps, cpl, 0, c, 5);
        assert_eq!([a, b, c].map(|rip| block(&jumps, cpl, 0, rip)), [None, Some(4), Some(5)]);
        enter(&mut jumps, cpl, 0, d, 6);
        assert_eq!([b, c, d].map(|rip| block(&jumps, cpl, 0, rip)), [None, Some(5), Some(6)]);
    }
}

#[test]
fn a_block_is_forgotten_in_either_way_and_in_all_address_spaces() {
    let mut jumps = JumpCache::new();
    let [a, b] = same_place(3, at::LARGE, 1, 2)[..] else { panic!("too few") };
    for space in 0..3 {
        enter(&mut jumps, 3, space, a, 1);
        enter(&mut jumps, 3, space, b, 2);
    }
    // Another block at the same RIP stays: in another address space, or at another level.
    enter(&mut jumps, 3, 2, a, 7);
    enter(&mut jumps, 0, 0, a, 1);
    jumps.forget(3, a, 1);
    let seen = |jumps: &JumpCache, rip| [0, 1, 2].map(|space| block(jumps, 3, space, rip));
    assert_eq!(seen(&jumps, a), [None, None, Some(7)]);
    assert_eq!(seen(&jumps, b), [Some(2); 3]);
    assert_eq!(block(&jumps, 0, 0, a), Some(1));
    jumps.forget(3, b, 2);
    assert_eq!(seen(&jumps, b), [None; 3]);
    jumps.clear();
    assert_eq!((block(&jumps, 3, 2, a), block(&jumps, 0, 0, a)), (None, None));
}

#[test]
fn a_translation_is_known_in_either_way() {
    let mut jumps = JumpCache::new();
    let [a, b] = same_place(0, at::LARGE, 1, 2)[..] else { panic!("too few") };
    for (rip, number) in [(a, 1), (b, 2)] {
        jumps.enter(0, 0, Jump::new(rip, KEY, found(number, 0)));
        let jump = jumps.get(0, 0, rip).expect("it was entered");
        // Translated code does not find what has no translation.
        assert_eq!((jump.key, jump.found().code), (KEY & !key::TRANSLATED, 0));
    }
    for (rip, number) in [(a, 1), (b, 2)] {
        jumps.translated(0, rip, found(number, CODE));
        let jump = jumps.get(0, 0, rip).expect("it was entered");
        assert_eq!((jump.key, jump.block, jump.found().code), (KEY, number, CODE));
    }
    // Not that of another block.
    jumps.translated(0, a, found(9, CODE + 9));
    assert_eq!(jumps.get(0, 0, a).expect("it was entered").found().code, CODE);
}

/// Goes round with a function that returns to each of `places`; gives the vCPU.
fn returns_to(options: Options, places: &[u64]) -> SoftVcpu {
    const FUNCTION: u64 = at::USER_CODE;
    const ROUNDS: u32 = 500;
    let machine = Machine::with(options, &[]);
    machine.write(
        FUNCTION,
        &assemble(FUNCTION, |a| {
            a.add(rax, rcx)?;
            a.ret()
        }),
    );
    // The call ends where the place is.
    let calls: Vec<_> = places.iter().map(|place| place - 10).collect();
    for (n, call) in calls.iter().enumerate() {
        let code = assemble(*call, |a| {
            a.mov(ecx, 1 << n)?;
            a.call(FUNCTION)?;
            match calls.get(n + 1) {
                Some(next) => a.jmp(*next)?,
                None => {
                    a.sub(ebp, 1)?;
                    a.jnz(calls[0])?;
                }
            }
            a.hlt()
        });
        machine.write(*call, &code);
    }
    let mut vcpu = machine.vcpu();
    vcpu.set_rip(calls[0]);
    vcpu.set_gpr(gpr::RAX, 0);
    vcpu.set_gpr(gpr::RBP, ROUNDS.into());
    run_to_halt(&mut vcpu);
    let sum = (0..places.len()).map(|n| 1 << n).sum::<u64>();
    assert_eq!(vcpu.gpr(gpr::RAX), u64::from(ROUNDS) * sum);
    vcpu
}

#[test]
fn returns_to_places_that_share_an_entry_go_right() {
    // They are in pages of their own, so that no call is followed.
    let places = same_place(0, at::LARGE + 0x100, 0x10, 3);
    let pages = places.iter().map(|place| place >> 12).collect::<std::collections::HashSet<_>>();
    assert_eq!(pages.len(), 3);
    for options in [interpreter(), jit(), uncounted(), traced()] {
        let vcpu = returns_to(options, &places[..2]);
        let lookups = vcpu.statistics().block_lookups;
        assert!(lookups < 40, "there is room for two: {lookups}");
        returns_to(options, &places);
    }
}
