//! Compatibility mode: segments as in protected mode, events as in long mode, and system calls by
//! vendor. See: AMD APM vol. 2, 1.3.2, 6.1; vol. 3, SYSCALL, SYSENTER; Intel SDM vol. 2, the same.

use guests::programs::{end, report};
use guests::x86::{State, SysReg, gpr};
use guests::{Guest, Hypervisor, IcedError, Log, at, code_asm::*, selector, states};

use crate::vendor::is_amd;

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

fn state<H: Hypervisor>(guest: &Guest<H>) -> State {
    states::compatibility(guest.tables.root())
}

/// Level 3, in 32-bit code.
fn user<H: Hypervisor>(guest: &Guest<H>) -> State {
    let mut state = states::user(guest.long_mode());
    let flat = states::user(states::protected_mode());
    let code = guests::x86::Seg::Cs as usize;
    state.segments[code] = flat.segments[code];
    state
}

/// Types of system segments that long mode does not have.
const OF_16_BITS: [u16; 4] = [1, 3, 4, 5];

/// Whether LAR and LSL say yes to a system segment.
fn asked<H: Hypervisor>(guest: &mut Guest<H>, state: &mut State, kind: u16) -> Vec<u32> {
    let descriptor = states::system_descriptor(0, 0x67, 0x80 | kind);
    let [selector, _] = states::local_table(&guest.memory, state, [descriptor, 0]);
    let log = run(guest, state, |a| {
        a.mov(ecx, u32::from(selector))?;
        for question in [0x02, 0x03] {
            a.db(&[0x0f, question, 0xd1])?;
            a.mov(eax, 0)?;
            a.setz(al)?;
            report(a)?;
        }
        Ok(())
    });
    log.values
}

/// Level 3 in 32-bit code, with what system calls need: to 64-bit code at [`at::CODE`], which reports.
fn with_system_calls<H: Hypervisor>(guest: &Guest<H>) -> State {
    let mut state = user(guest);
    let star = u64::from(selector::CODE) << 32 | u64::from(selector::USER_CODE32) << 48;
    state.sysregs[SysReg::Star as usize] = star;
    state.sysregs[SysReg::Cstar as usize] = at::CODE;
    state.sysregs[SysReg::SysenterCs as usize] = selector::CODE.into();
    state.sysregs[SysReg::SysenterEsp as usize] = at::STACK;
    state.sysregs[SysReg::SysenterEip as usize] = at::CODE;
    guest.code(at::CODE, |a| {
        // Only 64-bit mode has it.
        a.mov(rax, 0x1_0000_0005_u64)?;
        a.shr(rax, 32)?;
        report(a)?;
        a.mov(eax, cs)?;
        report(a)?;
        end(a)
    });
    state
}

guests::on_every_processor! {
    fn registers_and_addresses_have_32_bits(engine) {
        let mut guest = Guest::new(engine);
        let mut state = state(&guest);
        state.gprs[usize::from(gpr::RBX)] = 0xffff_ffff_0000_0000 | at::DATA;
        guest.memory.write_u64(at::DATA, 0x77);
        let log = run(&mut guest, &state, |a| {
            a.mov(eax, dword_ptr(ebx))?;
            report(a)?;
            // DEC EAX, which 64-bit mode takes for a prefix.
            a.db(&[0x48])?;
            report(a)?;
            a.mov(ecx, 0xffff_f000_u32)?;
            a.mov(eax, dword_ptr(ecx + (at::DATA as i32 + 0x1000)))?;
            report(a)?;
            a.push(eax)?;
            a.mov(eax, esp)?;
            report(a)
        });
        assert_eq!(log.values, [0x77, 0x76, 0x77, at::STACK as u32 - 4]);
    }

    fn segments_have_limits_and_types(engine) {
        let mut guest = Guest::new(engine);
        let mut state = state(&guest);
        let segment = |limit, attr| states::system_descriptor(at::DATA, limit, attr);
        let [small, read_only, down] = states::local_table(&guest.memory, &mut state, [
            segment(0xfff, 0x493),
            segment(0xfff, 0x491),
            segment(0xfff, 0x497),
        ]);
        for (selector, offset, write, faults) in [
            (small, 0xffc, true, false),
            (small, 0xffd, false, true),
            (read_only, 0, false, false),
            (read_only, 0, true, true),
            (down, 0x1000, true, false),
            (down, 0xfff, false, true),
            (0, 0, false, true),
        ] {
            let log = run(&mut guest, &state, |a| {
                a.mov(eax, u32::from(selector))?;
                a.mov(es, ax)?;
                let operand = dword_ptr(offset).es();
                if write { a.mov(operand, eax) } else { a.mov(eax, operand) }
            });
            let expected = if faults { vec![(13, 0)] } else { vec![] };
            assert_eq!(log.faults(), expected, "{selector:#x} {offset:#x}");
        }
        state.segments[guests::x86::Seg::Cs as usize].limit = at::CODE as u32 + 3;
        guest.memory.write(at::CODE, &[0x90; 8]);
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].rip), (vec![(13, 0)], at::CODE + 4));
    }

    fn events_push_64_bit_frames(engine) {
        let mut guest = Guest::new(engine);
        let mut state = state(&guest);
        state.gprs[usize::from(gpr::RSP)] = at::STACK - 4;
        guest.handler(0x80, |a| {
            a.mov(rax, rsp)?;
            report(a)?;
            for offset in [0, 8, 24, 32] {
                a.mov(rax, qword_ptr(rsp + offset))?;
                report(a)?;
            }
            a.iretq()
        });
        // INT 0x80's handler would run into the next handler's place.
        let log = run(&mut guest, &state, |a| {
            a.int(0x80)?;
            a.mov(eax, cs)?;
            report(a)
        });
        let code = u32::from(selector::CODE32);
        let frame = ((at::STACK as u32 - 4) & !15) - 40;
        let pointer = at::STACK as u32 - 4;
        let data = u32::from(selector::DATA);
        assert_eq!(log.values, [frame, at::CODE as u32 + 2, code, pointer, data, code]);
    }

    fn what_selectors_are_good_for(engine) {
        let mut guest = Guest::new(engine);
        let mut state = state(&guest);
        for kind in (0..16).filter(|kind| !OF_16_BITS.contains(kind)) {
            let rights = u32::from(matches!(kind, 2 | 9 | 11 | 12));
            let limit = u32::from(matches!(kind, 2 | 9 | 11));
            assert_eq!(asked(&mut guest, &mut state, kind), [rights, limit], "{kind}");
        }
    }

    fn types_of_16_bits_are_good_for_nothing(engine) {
        let mut guest = Guest::new(engine);
        let mut state = state(&guest);
        for kind in OF_16_BITS {
            assert_eq!(asked(&mut guest, &mut state, kind), [0, 0], "{kind}");
        }
    }

    /// SYSCALL is AMD's here, SYSENTER everybody else's.
    fn system_calls_by_vendor(engine) {
        let mut guest = Guest::new(engine);
        let amd = is_amd(engine);
        let state = with_system_calls(&guest);
        for (bytes, exists) in [([0x0f, 0x05], amd), ([0x0f, 0x34], !amd)] {
            guest.memory.write(at::USER_CODE, &bytes);
            let log = guest.run_from(&state);
            let expected: &[u32] = if exists { &[1, selector::CODE as u32] } else { &[] };
            assert_eq!(log.values, expected, "{bytes:x?}");
            assert_eq!(log.faults(), if exists { vec![] } else { vec![(6, 0)] }, "{bytes:x?}");
        }
    }

    fn sysenter_of_64_bit_mode_by_vendor(engine) {
        let mut guest = Guest::new(engine);
        let amd = is_amd(engine);
        let state = with_system_calls(&guest);
        let mut long = states::user(guest.long_mode());
        long.sysregs = state.sysregs;
        guest.memory.write(at::USER_CODE, &[0x0f, 0x34]);
        assert_eq!(guest.run_from(&long).faults(), if amd { vec![(6, 0)] } else { vec![] });
    }

    /// Where it faults: at level 0, or behind it.
    fn sysret_to_nowhere_by_vendor(engine) {
        let mut guest = Guest::new(engine);
        let amd = is_amd(engine);
        let mut kernel = guest.long_mode();
        kernel.sysregs = with_system_calls(&guest).sysregs;
        kernel.gprs[usize::from(gpr::RCX)] = 1 << 47;
        kernel.gprs[usize::from(gpr::R11)] = 2;
        guest.memory.write(at::CODE, &[0x48, 0x0f, 0x07]);
        let trap = guest.run_from(&kernel).traps[0];
        let expected = if amd {
            (13, selector::USER_CODE, 1 << 47)
        } else {
            (13, selector::CODE, at::CODE)
        };
        assert_eq!((trap.vector, trap.cs as u16, trap.rip), expected);
    }
}
