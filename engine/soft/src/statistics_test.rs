//! What the software CPU tells of what it did.

use iced_x86::code_asm::*;
use std::time::Duration;

use crate::test_machine::{machine, run_to_halt};
use crate::test_ways::{interpreter, jit, uncounted};
use crate::{Options, Statistics};

/// Three blocks, of 2, 2 and 1 instructions.
fn after_a_loop(options: Options) -> Statistics {
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 100)?;
        a.jmp(top)?;
        a.set_label(&mut top)?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    vcpu.statistics()
}

#[test]
fn translations_are_counted_and_timed() {
    let statistics = after_a_loop(jit());
    assert_eq!((statistics.translated, statistics.translated_instructions), (3, 5));
    assert!(statistics.translation_time > Duration::ZERO);
    assert!(statistics.code_size > 50, "{statistics:?}");
}

#[test]
fn time_is_taken_only_where_instructions_are_counted() {
    let statistics = after_a_loop(uncounted());
    assert_eq!((statistics.translated, statistics.translated_instructions), (3, 5));
    assert_eq!(statistics.translation_time, Duration::ZERO);
}

#[test]
fn nothing_is_told_of_translations_that_there_are_none_of() {
    let statistics = after_a_loop(interpreter());
    assert_eq!((statistics.translated_instructions, statistics.code_size), (0, 0));
}
