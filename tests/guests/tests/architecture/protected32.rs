//! 32-bit protected mode: segment limits and types, levels, what selectors are asked, SYSENTER.
//! See: AMD APM vol. 2, 4.7–4.12; Intel SDM vol. 3, 5.3–5.8.

use guests::programs::{end, report};
use guests::x86::{Seg, State, SysReg, cr0, gpr, rflags};
use guests::{Guest, Hypervisor, IcedError, at, code_asm::*, port, selector, states};

/// Types of segments, for a descriptor with G and D clear.
const DATA: u16 = 0x93;
const READ_ONLY: u16 = 0x91;
const EXPAND_DOWN: u16 = 0x97;
const CODE: u16 = 0x9b;
const EXECUTE_ONLY: u16 = 0x99;
const CONFORMING: u16 = 0x9f;
const USER: u16 = 0x60;
/// D or B: 32 bits; G: pages.
const WIDE: u16 = 0x400;
const PAGES: u16 = 0x800;

/// Where the segments of the tests begin.
const BASE: u64 = at::DATA;

fn segment(limit: u32, attr: u16) -> u64 {
    states::system_descriptor(BASE, limit, attr)
}

/// Runs a program (at [`at::CODE`], or where `state` says); gives the exceptions.
fn run<H: Hypervisor>(
    guest: &mut Guest<H>,
    state: &State,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<(u32, u32)> {
    guest.code_of_bits(32, state.rip, state.rip, |a| {
        program(a)?;
        end(a)
    });
    guest.run_from(state).faults()
}

/// Reads or writes a doubleword at `offset` of `selector` in DS; gives the exceptions.
fn access<H: Hypervisor>(
    guest: &mut Guest<H>,
    state: &State,
    selector: u16,
    offset: u32,
    write: bool,
) -> Vec<(u32, u32)> {
    let mut state = state.clone();
    state.gprs[usize::from(gpr::RBX)] = offset.into();
    run(guest, &state, |a| {
        a.mov(eax, u32::from(selector))?;
        a.mov(ds, ax)?;
        if write { a.mov(dword_ptr(ebx), ecx) } else { a.mov(ecx, dword_ptr(ebx)) }
    })
}

/// Whether LAR, LSL, VERR and VERW say yes to `selector`.
fn asked<H: Hypervisor>(guest: &mut Guest<H>, state: &State, selector: u16) -> [bool; 4] {
    guest.code_of_bits(32, state.rip, state.rip, |a| {
        a.mov(ecx, u32::from(selector))?;
        // LAR, LSL, VERR, VERW; SETZ AL each.
        let questions: [&[u8]; 4] =
            [&[0x0f, 0x02, 0xd1], &[0x0f, 0x03, 0xd1], &[0x0f, 0x00, 0xe1], &[0x0f, 0x00, 0xe9]];
        for question in questions {
            a.db(question)?;
            a.mov(eax, 0)?;
            a.setz(al)?;
            report(a)?;
        }
        end(a)
    });
    let log = guest.run_from(state);
    assert_eq!((log.values.len(), log.faults()), (4, vec![]));
    std::array::from_fn(|n| log.values[n] == 1)
}

const OUTSIDE: [(u32, u32); 1] = [(13, 0)];

guests::on_every_processor! {
    fn segments_have_limits(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_mode();
        let [bytes, pages, down16, down32] = states::local_table(&guest.memory, &mut state, [
            segment(0x1234, DATA | WIDE),
            segment(1, DATA | WIDE | PAGES),
            segment(0xfff, EXPAND_DOWN),
            segment(0xfff, EXPAND_DOWN | WIDE),
        ]);
        // Selector, offsets that can be reached, and others.
        for (selector, within, beyond) in [
            (bytes, &[0, 0x1231][..], &[0x1232, 0x1235, 0xffff_fffd][..]),
            (pages, &[0, 0x1ffc], &[0x1ffd, 0x2000, 0xffff_ffff]),
            (down16, &[0x1000, 0xfffc], &[0, 0xfff, 0xfffd, 0x1_0000, 0xffff_fffc]),
            (down32, &[0x1000, 0x1_0000], &[0, 0xffd, 0xfff]),
        ] {
            for write in [false, true] {
                for offset in within {
                    let seen = access(&mut guest, &state, selector, *offset, write);
                    assert_eq!(seen, [], "{selector:#x} {offset:#x}");
                }
                for offset in beyond {
                    let seen = access(&mut guest, &state, selector, *offset, write);
                    assert_eq!(seen, OUTSIDE, "{selector:#x} {offset:#x}");
                }
            }
        }
    }

    fn segments_have_types(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_mode();
        let [read_only, readable] = states::local_table(&guest.memory, &mut state, [
            segment(0xffff, READ_ONLY | WIDE),
            segment(0xffff, CODE | WIDE),
        ]);
        for selector in [read_only, readable] {
            assert_eq!(access(&mut guest, &state, selector, 0, false), []);
            assert_eq!(access(&mut guest, &state, selector, 0, true), OUTSIDE);
        }
        // Code is not written to, and read only if it says so.
        let own = |a: &mut CodeAssembler| a.mov(eax, dword_ptr(at::CODE).cs());
        assert_eq!(run(&mut guest, &state, own), []);
        let write = |a: &mut CodeAssembler| a.mov(dword_ptr(at::CODE + 0x800).cs(), eax);
        assert_eq!(run(&mut guest, &state, write), OUTSIDE);
        state.segments[Seg::Cs as usize].attr.0 &= !2;
        assert_eq!(run(&mut guest, &state, own), OUTSIDE);
    }

    fn what_cannot_be_read_is_not_loaded(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_mode();
        let [execute_only, tss] = states::local_table(&guest.memory, &mut state, [
            segment(0xffff, EXECUTE_ONLY | WIDE),
            segment(0x67, 0x89),
        ]);
        for selector in [execute_only, tss] {
            let seen = access(&mut guest, &state, selector, 0, false);
            assert_eq!(seen, [(13, selector.into())]);
        }
    }

    fn a_null_segment_cannot_be_used(engine) {
        let mut guest = Guest::new(engine);
        let state = states::protected_mode();
        assert_eq!(access(&mut guest, &state, 0, 0, false), OUTSIDE);
    }

    fn the_stack_has_a_width(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_mode();
        let [narrow, down] = states::local_table(&guest.memory, &mut state, [
            segment(0xffff, DATA),
            segment(0xf000, EXPAND_DOWN),
        ]);
        let flat = selector::DATA;
        // Back to the flat stack, for the handler.
        let on_stack = |guest: &mut Guest<H>, selector: u16, pointer: u32| {
            guest.code_of_bits(32, at::CODE, at::CODE, |a| {
                a.mov(eax, u32::from(selector))?;
                a.mov(ss, ax)?;
                a.mov(esp, pointer)?;
                a.push(0x77)?;
                a.mov(ebx, esp)?;
                a.mov(eax, u32::from(flat))?;
                a.mov(ss, ax)?;
                a.mov(esp, at::STACK as u32)?;
                a.mov(eax, ebx)?;
                report(a)?;
                end(a)
            });
            guest.run_from(&state).values
        };
        assert_eq!(on_stack(&mut guest, narrow, 0xabcd_0000), [0xabcd_fffc], "SP only");
        assert_eq!(guest.memory.read_u32(BASE + 0xfffc), 0x77);
        assert_eq!(on_stack(&mut guest, down, 0xffff_fff0), [0xffff_ffec]);
    }

    /// A bad stack is #SS, also by BP; a task could take it, this handler can't: a double fault
    /// needs a stack as well, so the fault comes from another segment register's use.
    fn the_stack_has_a_limit(engine) {
        let mut guest = Guest::new(engine);
        let mut small = states::protected_mode();
        small.segments[Seg::Ss as usize].limit = at::STACK as u32 - 1;
        let by_bp = run(&mut guest, &small, |a| {
            a.mov(ebp, at::STACK as u32 - 3)?;
            a.mov(eax, dword_ptr(ebp))
        });
        assert_eq!(by_bp, [(12, 0)]);
        let pop = run(&mut guest, &small, |a| a.pop(eax));
        assert_eq!(pop, [(12, 0)]);
        let by_override = run(&mut guest, &small, |a| a.mov(eax, dword_ptr(at::STACK).ss()));
        assert_eq!(by_override, [(12, 0)]);
    }

    fn code_has_a_limit(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_mode();
        state.segments[Seg::Cs as usize].limit = at::CODE as u32 + 0x10;
        // JMP beyond it faults at the jump, running into it behind the last instruction.
        assert_eq!(run(&mut guest, &state, |a| a.jmp(at::CODE + 0x11)), OUTSIDE);
        guest.memory.write(at::CODE, &[0x90; 0x20]);
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].rip), (OUTSIDE.to_vec(), at::CODE + 0x11));
        // The last instruction has to be whole.
        guest.memory.write(at::CODE + 0x10, &[0xb0]);
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].rip), (OUTSIDE.to_vec(), at::CODE + 0x10));
    }

    fn levels_of_data(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::user(states::protected_mode());
        let [user, kernel, conforming, own_code] =
            states::local_table(&guest.memory, &mut state, [
                segment(0xffff, DATA | USER | WIDE),
                segment(0xffff, DATA | WIDE),
                segment(0xffff, CONFORMING | WIDE),
                segment(0xffff, CODE | WIDE),
            ]);
        let mut load = |selector: u16| access(&mut guest, &state, selector, 0, false);
        assert_eq!(load(user | 3), []);
        assert_eq!(load(conforming | 3), [], "whatever its level");
        for selector in [kernel, kernel | 3, own_code] {
            assert_eq!(load(selector), [(13, u32::from(selector) & !3)]);
        }
        // A selector's level weakens the kernel's.
        let mut kernel_state = states::protected_mode();
        kernel_state.segments[Seg::Ldtr as usize] = state.segments[Seg::Ldtr as usize];
        assert_eq!(access(&mut guest, &kernel_state, kernel, 0, false), []);
        let seen = access(&mut guest, &kernel_state, kernel | 3, 0, false);
        assert_eq!(seen, [(13, kernel.into())]);
    }

    fn what_selectors_are_good_for(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_mode();
        let system: [u64; 16] = std::array::from_fn(|kind| segment(0x67, 0x80 | kind as u16));
        let selectors = states::local_table(&guest.memory, &mut state, system);
        for (kind, selector) in selectors.into_iter().enumerate() {
            let rights = matches!(kind, 1..=5 | 9 | 11 | 12);
            let limit = matches!(kind, 1..=3 | 9 | 11);
            assert_eq!(asked(&mut guest, &state, selector), [rights, limit, false, false], "{kind}");
        }
        let others: [u64; 16] = std::array::from_fn(|kind| segment(0x67, 0x90 | kind as u16));
        let selectors = states::local_table(&guest.memory, &mut state, others);
        for (kind, selector) in selectors.into_iter().enumerate() {
            let code = kind & 8 != 0;
            let expected = [true, true, !code || kind & 2 != 0, !code && kind & 2 != 0];
            assert_eq!(asked(&mut guest, &state, selector), expected, "{kind}");
            // From another level only conforming code is seen.
            let seen = asked(&mut guest, &state, selector | 3);
            let conforming = kind & 0xc == 0xc;
            assert_eq!(seen, expected.map(|yes| yes && conforming), "{kind}");
        }
        assert_eq!(asked(&mut guest, &state, 0), [false; 4]);
        assert_eq!(asked(&mut guest, &state, selector::BEYOND), [false; 4]);
        // Present or not is not asked.
        assert_eq!(asked(&mut guest, &state, selector::ABSENT_DATA), [true; 4]);
    }

    fn port_strings_check_their_segments(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_mode();
        let [small, read_only] = states::local_table(&guest.memory, &mut state, [
            segment(7, DATA | WIDE),
            segment(0xffff, READ_ONLY | WIDE),
        ]);
        guest.memory.write_u64(BASE, 2 << 32 | 1);
        state.gprs[usize::from(gpr::RDX)] = port::VALUE.into();
        state.gprs[usize::from(gpr::RCX)] = 4;
        let strings = |guest: &mut Guest<H>, selector: u16, bytes: &[u8]| {
            guest.code_of_bits(32, at::CODE, at::CODE, |a| {
                a.mov(eax, u32::from(selector))?;
                a.mov(ds, ax)?;
                a.mov(es, ax)?;
                a.db(bytes)?;
                end(a)
            });
            let log = guest.run_from(&state);
            (log.values.clone(), log.faults())
        };
        // REP OUTSD: what is within the limit goes out.
        let seen = strings(&mut guest, small, &[0xf3, 0x6f]);
        assert_eq!(seen, (vec![1, 2], vec![(13, 0)]));
        let state_after = guest.state();
        assert_eq!(state_after.gprs[usize::from(gpr::RCX)], 2);
        assert_eq!(state_after.gprs[usize::from(gpr::RSI)], 8);
        assert_eq!(strings(&mut guest, 0, &[0x6f]), (vec![], vec![(13, 0)]), "OUTSD of null");
        assert_eq!(strings(&mut guest, read_only, &[0x6d]), (vec![], vec![(13, 0)]), "INSD");
    }

    fn ports_need_iopl_or_the_map(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::user(states::protected_mode());
        assert_eq!(run(&mut guest, &state, |a| a.cli()), []);
        state.rflags &= !rflags::IOPL;
        assert_eq!(run(&mut guest, &state, |a| a.cli()), OUTSIDE);
        assert_eq!(run(&mut guest, &state, |a| a.in_(al, 0x80)), OUTSIDE);
        // Level 3 needs the map, which opens all below 0x100.
        state.segments[Seg::Tr as usize].limit = 0x68 + 0x20;
        assert_eq!(run(&mut guest, &state, |_| Ok(())), []);
        state.segments[Seg::Tr as usize].limit = 0x68 + port::END / 8;
        assert_eq!(run(&mut guest, &state, |_| Ok(())), OUTSIDE, "END's byte is the last");
        // A TSS of 16 bits has no map.
        state.segments[Seg::Tr as usize].limit = 0x68 + 0x20;
        state.segments[Seg::Tr as usize].attr.0 = 0x83;
        guest.memory.write(at::TSS32 + 2, &[0, 0x50, selector::DATA as u8, 0]);
        assert_eq!(run(&mut guest, &state, |_| Ok(())), OUTSIDE);
    }

    fn alignment_is_checked_at_level_3(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::user(states::protected_mode());
        state.rflags |= rflags::AC;
        state.gprs[usize::from(gpr::RBX)] = at::USER_DATA + 1;
        let load = |a: &mut CodeAssembler| a.mov(eax, dword_ptr(ebx));
        assert_eq!(run(&mut guest, &state, load), [(17, 0)]);
        state.cr0 &= !cr0::AM;
        assert_eq!(run(&mut guest, &state, load), []);
    }

    fn sysenter_and_sysexit(engine) {
        let mut guest = Guest::new(engine);
        // SYSEXIT wants the user's code and stack 16 and 24 bytes behind: they are copied there.
        let flat = |attr| states::descriptor(0xf_ffff, attr);
        guest.memory.write_u64(at::GDT + 0x78, flat(0xc9b));
        guest.memory.write_u64(at::GDT + 0x80, flat(0xc93));
        guest.memory.write_u64(at::GDT + 0x88, flat(0xcfb));
        guest.memory.write_u64(at::GDT + 0x90, flat(0xcf3));
        let mut state = states::user(states::protected_mode());
        assert_eq!(run(&mut guest, &state, |a| a.sysenter()), OUTSIDE, "no selector");
        state.sysregs[SysReg::SysenterCs as usize] = 0x7b;
        state.sysregs[SysReg::SysenterEsp as usize] = at::STACK;
        state.sysregs[SysReg::SysenterEip as usize] = at::CODE;
        let segments = |a: &mut CodeAssembler| {
            a.mov(eax, cs)?;
            report(a)?;
            a.mov(eax, ss)?;
            report(a)?;
            a.mov(eax, esp)?;
            report(a)
        };
        guest.code_of_bits(32, at::CODE, at::CODE, |a| {
            segments(a)?;
            a.mov(edx, at::USER_CODE as u32 + 0x100)?;
            a.mov(ecx, at::USER_STACK as u32)?;
            a.sysexit()
        });
        guest.code_of_bits(32, at::USER_CODE + 0x100, 0, |a| {
            segments(a)?;
            end(a)
        });
        guest.code_of_bits(32, at::USER_CODE, 0, |a| a.sysenter());
        let values = guest.run_from(&state).values;
        let (inner, outer) = (at::STACK as u32, at::USER_STACK as u32);
        assert_eq!(values, [0x78, 0x80, inner, 0x8b, 0x93, outer]);
        assert_eq!(run(&mut guest, &state, |a| a.sysexit()), OUTSIDE, "level 3");
    }
}
