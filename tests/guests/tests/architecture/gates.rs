//! Call gates, far returns, and returns to outer levels outside 64-bit mode.
//! See: AMD APM vol. 2, 4.11; vol. 3, CALL (far), JMP (far), RET (far), IRET.

use guests::programs::{end, report, report_number};
use guests::x86::{Seg, State, gpr, rflags};
use guests::{Guest, Hypervisor, IcedError, Log, at, code_asm::*, selector, states};

/// Where gates lead.
const TARGET: u64 = 0xd000;
/// Types of gates, open to level 3.
const GATE16: u16 = 0xe4;
const GATE32: u16 = 0xec;

const CODE: u32 = selector::CODE32 as u32;
const USER: u32 = selector::USER_CODE32 as u32;
const USER_STACK: u32 = at::USER_STACK as u32;

/// A call gate to `offset` of `selector`, which copies `count` parameters.
fn gate(selector: u16, offset: u64, attr: u16, count: u64) -> u64 {
    let attr = u64::from(attr) << 40;
    offset & 0xffff | u64::from(selector) << 16 | count << 32 | attr | (offset >> 16 & 0xffff) << 48
}

/// A far JMP (`0xea`) or CALL (`0x9a`).
fn far(a: &mut CodeAssembler, opcode: u8, selector: u16) -> Result<(), IcedError> {
    let [low, high] = selector.to_le_bytes();
    a.db(&[opcode, 0, 0, 0, 0, low, high])
}

/// Level 3 with a local table.
fn user<H: Hypervisor, const N: usize>(guest: &Guest<H>, entries: [u64; N]) -> (State, [u16; N]) {
    let mut state = states::user(states::protected_mode());
    let selectors = states::local_table(&guest.memory, &mut state, entries);
    (state, selectors)
}

fn run<H: Hypervisor>(
    guest: &mut Guest<H>,
    state: &State,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Log {
    guest.code_of_bits(32, state.rip, state.rip, |a| {
        program(a)?;
        end(a)
    });
    guest.run_from(state)
}

/// Puts a program that reports CS and ESP where level 3 may run it; gives its place.
fn report_place<H: Hypervisor>(guest: &Guest<H>) -> u64 {
    let target = at::USER_CODE + 0x800;
    guest.code_of_bits(32, target, target, |a| {
        a.mov(eax, cs)?;
        report(a)?;
        a.mov(eax, esp)?;
        report(a)?;
        end(a)
    });
    target
}

guests::on_every_processor! {
    fn parameters_are_copied_to_the_inner_stack(engine) {
        let mut guest = Guest::new(engine);
        let (state, [gate]) = user(&guest, [gate(selector::CODE32, TARGET, GATE32, 2)]);
        guest.code_of_bits(32, TARGET, TARGET, |a| {
            a.mov(eax, esp)?;
            report(a)?;
            for offset in [0, 4, 8, 12, 16, 20] {
                a.mov(eax, dword_ptr(esp + offset))?;
                report(a)?;
            }
            // RETF 8 drops them from both stacks.
            a.db(&[0xca, 8, 0])
        });
        let log = run(&mut guest, &state, |a| {
            a.push(0x22)?;
            a.push(0x11)?;
            far(a, 0x9a, gate)?;
            a.mov(eax, esp)?;
            report(a)?;
            a.mov(eax, ds)?;
            report(a)
        });
        let back = at::USER_CODE as u32 + 4 + 7;
        let inner = at::STACK0 as u32 - 24;
        let expected = [inner, back, USER, 0x11, 0x22, USER_STACK - 8, selector::USER_DATA.into()];
        assert_eq!(log.faults(), []);
        assert_eq!(log.values[..7], expected);
        assert_eq!(log.values[7..], [USER_STACK, selector::USER_DATA.into()]);
    }

    fn gates_of_16_bits_copy_words(engine) {
        let mut guest = Guest::new(engine);
        let (state, [gate]) = user(&guest, [gate(selector::CODE32, TARGET, GATE16, 3)]);
        guest.code_of_bits(32, TARGET, TARGET, |a| {
            a.mov(eax, esp)?;
            report(a)?;
            for offset in [4, 6, 8, 10, 12] {
                a.movzx(eax, word_ptr(esp + offset))?;
                report(a)?;
            }
            end(a)
        });
        let log = run(&mut guest, &state, |a| {
            a.push(0x0022_0011)?;
            far(a, 0x9a, gate)
        });
        let inner = at::STACK0 as u32 - 14;
        // The third parameter is what lay on the stack before: the stack's first word.
        let pointer = (USER_STACK - 4) & 0xffff;
        assert_eq!(log.values, [inner, 0x11, 0x22, 0, pointer, selector::USER_DATA.into()]);
    }

    fn the_stack_of_a_tss_of_16_bits(engine) {
        let mut guest = Guest::new(engine);
        let (mut state, [gate]) = user(&guest, [gate(selector::CODE32, TARGET, GATE32, 0)]);
        state.segments[Seg::Tr as usize].attr.0 = 0x83;
        guest.memory.write(at::TSS32 + 2, &[0x00, 0x50, selector::DATA as u8, 0]);
        guest.code_of_bits(32, TARGET, TARGET, |a| {
            a.mov(eax, esp)?;
            report(a)?;
            end(a)
        });
        assert_eq!(run(&mut guest, &state, |a| far(a, 0x9a, gate)).values, [0x5000 - 16]);
    }

    fn conforming_code_keeps_the_level(engine) {
        let mut guest = Guest::new(engine);
        let target = report_place(&guest);
        let conforming = states::descriptor(0xf_ffff, 0xc9f);
        let (state, [code, gate]) = user(&guest, [conforming, gate(4, target, GATE32, 0)]);
        for (opcode, used) in [(0xea, 0), (0x9a, 8)] {
            let log = run(&mut guest, &state, |a| far(a, opcode, gate));
            assert_eq!(log.values, [u32::from(code) | 3, USER_STACK - used], "{opcode:#x}");
        }
    }

    fn jumps_keep_the_level(engine) {
        let mut guest = Guest::new(engine);
        let conforming = states::descriptor(0xf_ffff, 0xc9f);
        let target = report_place(&guest);
        let (state, [_, to_inner, to_user]) = user(&guest, [
            conforming,
            gate(selector::CODE32, target, GATE32, 0),
            gate(selector::USER_CODE32, target, GATE32, 0),
        ]);
        for opcode in [0xea, 0x9a] {
            let used = if opcode == 0xea { 0 } else { 8 };
            let log = run(&mut guest, &state, |a| far(a, opcode, to_user));
            assert_eq!(log.values, [USER, USER_STACK - used]);
        }
        let log = run(&mut guest, &state, |a| far(a, 0xea, to_inner));
        assert_eq!(log.faults(), [(13, CODE)], "a jump goes nowhere inside");
        // Directly: neither inwards nor outwards.
        let log = run(&mut guest, &state, |a| far(a, 0x9a, selector::CODE32));
        assert_eq!(log.faults(), [(13, CODE)]);
        let kernel = states::protected_mode();
        let log = run(&mut guest, &kernel, |a| far(a, 0x9a, selector::USER_CODE32));
        assert_eq!(log.faults(), [(13, USER & !3)]);
    }

    fn gates_are_checked(engine) {
        let mut guest = Guest::new(engine);
        let code = selector::CODE32;
        let (state, selectors) = user(&guest, [
            gate(code, TARGET, GATE32 & !0x60, 0),
            gate(code, TARGET, GATE32 & !0x80, 0),
            gate(0, TARGET, GATE32, 0),
            gate(selector::DATA, TARGET, GATE32, 0),
            gate(selector::ABSENT_CODE, TARGET, GATE32, 0),
            gate(selector::BEYOND, TARGET, GATE32, 0),
            gate(code, TARGET, 0xee, 0),
        ]);
        let named = |n: usize| u32::from(selectors[n]);
        for (n, expected) in [
            (0, (13, named(0))),
            (1, (11, named(1))),
            (2, (13, 0)),
            (3, (13, selector::DATA.into())),
            (4, (11, selector::ABSENT_CODE.into())),
            (5, (13, selector::BEYOND.into())),
            (6, (13, named(6))),
        ] {
            let log = run(&mut guest, &state, |a| far(a, 0x9a, selectors[n]));
            assert_eq!(log.faults(), [expected], "{n}");
            assert_eq!(log.traps[0].rip, at::USER_CODE);
        }
    }

    fn the_target_has_to_lie_within_the_code_segment(engine) {
        let mut guest = Guest::new(engine);
        let (state, [beyond, _]) = user(&guest, [
            gate(0xc, 0x1_0000, GATE32, 0),
            states::descriptor(0xffff, 0x49b),
        ]);
        guest.code_of_bits(32, at::CODE, at::CODE, end);
        let log = run(&mut guest, &state, |a| far(a, 0x9a, beyond));
        assert_eq!(log.faults(), [(13, 0)]);
    }

    fn the_inner_stack_is_checked(engine) {
        let mut guest = Guest::new(engine);
        let (mut state, [_, good, _]) = user(&guest, [
            0,
            gate(selector::CODE32, TARGET, GATE32, 0),
            0,
        ]);
        for (stack, expected) in [
            (0, (10, 0)),
            (selector::BEYOND, (10, selector::BEYOND.into())),
            (selector::USER_DATA, (10, u32::from(selector::USER_DATA) & !3)),
            (selector::READ_ONLY, (10, selector::READ_ONLY.into())),
            (selector::ABSENT_DATA, (12, selector::ABSENT_DATA.into())),
        ] {
            // Handlers at level 3, in conforming code, need no inner stack.
            for vector in [10, 12] {
                let target = at::USER_CODE + 0x800;
                let conforming = states::gate32(target) & !(0xffff << 16) | 0x14 << 16;
                guest.memory.write_u64(at::IDT32 + vector * 8, conforming);
                guest.code_of_bits(32, target, target, |a| {
                    a.pop(eax)?;
                    report(a)?;
                    end(a)
                });
            }
            guest.memory.write_u64(at::LDT + 0x10, states::descriptor(0xf_ffff, 0xc9f));
            guest.memory.write(at::TSS32 + 8, &stack.to_le_bytes());
            let log = run(&mut guest, &state, |a| far(a, 0x9a, good));
            assert_eq!(log.values, [expected.1], "{stack:#x}");
        }
        state.segments[Seg::Tr as usize].limit = 8;
        let log = run(&mut guest, &state, |a| far(a, 0x9a, good));
        assert_eq!(log.values, [u32::from(selector::TSS32)], "the TSS is too short");
    }

    fn far_returns_outwards_drop_inner_segments(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_mode();
        let conforming = states::descriptor(0xf_ffff, 0xc9f);
        let [conforming] = states::local_table(&guest.memory, &mut state, [conforming]);
        guest.code_of_bits(32, at::CODE, at::CODE, |a| {
            a.mov(eax, u32::from(selector::USER_DATA))?;
            a.mov(es, ax)?;
            a.mov(eax, u32::from(conforming))?;
            a.mov(fs, ax)?;
            a.push(i32::from(selector::USER_DATA))?;
            a.push(at::USER_STACK as i32)?;
            a.push(USER as i32)?;
            a.push(at::USER_CODE as i32)?;
            a.retf()
        });
        guest.code_of_bits(32, at::USER_CODE, 0, |a| {
            for segment in [ds, es, fs, gs, ss] {
                a.mov(eax, segment)?;
                report(a)?;
            }
            a.int3()
        });
        let mut opened = states::gate32(at::STUBS32 + 3 * 16) | 3 << 45;
        opened = opened & !(0xffff << 16) | u64::from(selector::CODE32) << 16;
        guest.memory.write_u64(at::IDT32 + 3 * 8, opened);
        // Ports are closed to level 3 here; the flags come from a return that opens them.
        state.rflags |= rflags::IOPL;
        let log = guest.run_from(&state);
        let data = u32::from(selector::USER_DATA);
        assert_eq!(log.values, [0, data, conforming.into(), 0, data]);
    }

    fn returns_are_checked(engine) {
        let mut guest = Guest::new(engine);
        let state = states::protected_mode();
        // What RETF (and IRET) find on the stack: EIP, CS, and outwards ESP and SS.
        let mut returns = |frame: [u32; 4], bytes: &[u8], flags: bool| {
            let mut words = frame.to_vec();
            if flags {
                words.insert(2, 2);
            }
            for (n, word) in (0..).zip(words) {
                guest.memory.write(at::STACK - 0x40 + n * 4, &word.to_le_bytes());
            }
            let mut state = state.clone();
            state.gprs[usize::from(gpr::RSP)] = at::STACK - 0x40;
            guest.memory.write(at::CODE, bytes);
            let log = guest.run_from(&state);
            assert_eq!(log.traps[0].rip, at::CODE);
            log.faults()[0]
        };
        for (frame, expected) in [
            ([0, 0, 0, 0], (13, 0)),
            ([0, selector::DATA.into(), 0, 0], (13, selector::DATA.into())),
            ([0, selector::BEYOND.into(), 0, 0], (13, selector::BEYOND.into())),
            ([0, USER & !3, 0, 0], (13, USER & !3)),
            ([0, selector::ABSENT_CODE.into(), 0, 0], (11, selector::ABSENT_CODE.into())),
            ([0x1_0000, selector::CODE16.into(), 0, 0], (13, 0)),
            ([0, USER, 0, 0], (13, 0)),
            ([0, USER, 0, selector::DATA.into()], (13, selector::DATA.into())),
            ([0, USER, 0, u32::from(selector::ABSENT_DATA) | 3], (13, selector::ABSENT_DATA.into())),
        ] {
            assert_eq!(returns(frame, &[0xcb], false), expected, "RETF {frame:x?}");
            assert_eq!(returns(frame, &[0xcf], true), expected, "IRET {frame:x?}");
        }
    }

    fn gates_of_long_mode_lead_to_64_bit_code(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::user(guest.long_mode());
        let flat = states::user(states::protected_mode());
        state.segments[Seg::Cs as usize] = flat.segments[Seg::Cs as usize];
        let [gate64, _, to_32, _, cut, _] = states::local_table(&guest.memory, &mut state, [
            gate(selector::CODE, TARGET, GATE32, 3),
            0,
            gate(selector::CODE32, TARGET, GATE32, 0),
            0,
            gate(selector::CODE, TARGET, GATE32, 0),
            1 << 40,
        ]);
        guest.code(TARGET, |a| {
            a.mov(rax, 0x1_0000_0000_u64)?;
            a.shr(rax, 32)?;
            report(a)?;
            a.mov(rax, rsp)?;
            report(a)?;
            for offset in [0, 8, 16, 24] {
                a.mov(rax, qword_ptr(rsp + offset))?;
                report(a)?;
            }
            a.mov(eax, ss)?;
            report(a)?;
            a.db(&[0x48, 0xcb])
        });
        let log = run(&mut guest, &state, |a| {
            far(a, 0x9a, gate64)?;
            report_number(a, 9)
        });
        let frame = [at::USER_CODE as u32 + 7, USER, USER_STACK, selector::USER_DATA.into()];
        assert_eq!(log.values[..2], [1, at::STACK0 as u32 - 32]);
        assert_eq!(log.values[2..6], frame, "no parameters");
        assert_eq!(log.values[6..], [0, 9]);
        let log = run(&mut guest, &state, |a| far(a, 0x9a, to_32));
        assert_eq!(log.faults(), [(13, CODE)]);
        let log = run(&mut guest, &state, |a| far(a, 0x9a, cut));
        assert_eq!(log.faults(), [(13, cut.into())], "the upper half has a type");
    }
}
