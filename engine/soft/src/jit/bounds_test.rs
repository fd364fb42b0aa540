//! How much room translations take.

use arch_x86::emulate::decode::Undecoded;
use arch_x86::emulate::{Mode, decode};
use arch_x86::engine::Features;

use super::{Jit, MAX_TRANSLATION, Part, Unit};
use crate::blocks::{MAX_BLOCK, Place};
use crate::ranges::Seen;
use crate::vector;

const RIP: u64 = 0x1_0000;

/// Translates a block of as many of one instruction as there may be; gives how much room it took.
fn room_for_block_of(jit: &mut Jit, instruction: &[u8]) -> usize {
    let bytes = instruction.repeat(MAX_BLOCK);
    let ops: Vec<_> = (0..MAX_BLOCK)
        .map(|n| {
            let at = n * instruction.len();
            let rip = RIP + at as u64;
            match decode(&bytes[at..], rip, Mode::Bits64, Features::default()) {
                Ok(decoded) => decoded.op,
                Err(Undecoded::Foreign(i)) => vector::lower(&i, Mode::Bits64).expect("of x87's"),
                Err(other) => panic!("{other:?}"),
            }
        })
        .collect();
    let used = jit.memory.used();
    let place = Place { page: 0, mode: Mode::Bits64, cpl: 0, rip: RIP };
    let features = Features::default();
    let parts = [Part {
        block: 0,
        page: 0,
        rip: RIP,
        bytes: &bytes,
        ops: &ops,
        seen: &[Seen::Nowhere; MAX_BLOCK],
    }];
    let unit = Unit { place, crosses: false, parts: &parts, features, marked: &|_| None };
    let code = jit.translate(&unit);
    assert_ne!(code, 0, "{instruction:02x?}");
    jit.memory.used() - used
}

/// Instructions whose translations are long: what is in fields is fetched for, and flags are kept across the
/// look-up.
const LONG: [&[u8]; 10] = [
    // LOCK ADC word GS:[R9 + R10 * 8 + disp32], R15W.
    &[0x65, 0xf0, 0x66, 0x47, 0x11, 0xbc, 0xd1, 0x78, 0x56, 0x34, 0x12],
    // ADC qword GS:[R9 + R10 * 8 + disp32], imm32.
    &[0x65, 0x4b, 0x81, 0x94, 0xd1, 0x78, 0x56, 0x34, 0x12, 1, 2, 3, 4],
    // LOCK CMPXCHG GS:[R9 + R10 * 8 + disp32], R11.
    &[0x65, 0xf0, 0x4f, 0x0f, 0xb1, 0x9c, 0xd1, 0x78, 0x56, 0x34, 0x12],
    // RCL word GS:[R9 + R10 * 8 + disp32], CL.
    &[0x65, 0x66, 0x43, 0xd3, 0x94, 0xd1, 0x78, 0x56, 0x34, 0x12],
    // FLDCW word GS:[R9 + R10 * 8 + disp32]; FSTP tword of the same.
    &[0x65, 0x43, 0xd9, 0xac, 0xd1, 0x78, 0x56, 0x34, 0x12],
    &[0x65, 0x43, 0xdb, 0xbc, 0xd1, 0x78, 0x56, 0x34, 0x12],
    // PUSH R15; POP R15; a DIV, which is interpreted; MOV R10, imm64.
    &[0x41, 0x57],
    &[0x41, 0x5f],
    &[0x48, 0xf7, 0xf3],
    &[0x49, 0xba, 1, 2, 3, 4, 5, 6, 7, 8],
];

#[test]
fn no_block_takes_more_room_than_is_kept_free() {
    let mut jit = Jit::new(0, true).expect("executable memory");
    for instruction in LONG {
        let room = room_for_block_of(&mut jit, instruction);
        println!("{room} bytes for {MAX_BLOCK} of {instruction:02x?}");
        assert!(room <= MAX_TRANSLATION, "{room} bytes for {instruction:02x?}");
        jit.clear();
    }
}

#[test]
fn it_is_full_before_a_block_has_no_room() {
    let mut jit = Jit::new(0, true).expect("executable memory");
    let stubs = jit.memory.used();
    for _ in 0..3 {
        let mut blocks = 0;
        while !jit.is_full() {
            assert_ne!(room_for_block_of(&mut jit, LONG[0]), 0);
            blocks += 1;
        }
        assert!(blocks > 1);
        jit.clear();
        assert_eq!(jit.memory.used(), stubs, "these stay");
    }
}
