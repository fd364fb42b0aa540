//! 16-bit protected mode: widths, prefixes, gates of 16 bits.
//! See: AMD APM vol. 2, 4.7.2, 8.7; vol. 3, 1.2.2.

use guests::programs::{end, report, report_number};
use guests::x86::{State, gpr};
use guests::{Guest, Hypervisor, IcedError, Log, at, code_asm::*, selector, states};

fn run<H: Hypervisor>(
    guest: &mut Guest<H>,
    state: &State,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Log {
    guest.code_of_bits(16, at::CODE16, at::CODE16, |a| {
        program(a)?;
        end(a)
    });
    guest.run_from(state)
}

guests::on_every_processor! {
    fn operands_and_addresses_of_both_widths(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_16();
        for n in [gpr::RAX, gpr::RBX] {
            state.gprs[usize::from(n)] = 0xffff_ffff;
        }
        guest.memory.write_u64(0xb200, 0x4433_2211);
        let log = run(&mut guest, &state, |a| {
            a.inc(ax)?;
            report(a)?;
            a.mov(eax, ebx)?;
            a.inc(eax)?;
            report(a)?;
            // By 16 bits the address wraps around, by 32 it does not.
            a.mov(ebx, 0x1_b100)?;
            a.mov(eax, dword_ptr(bx + 0x100))?;
            report(a)?;
            a.sub(ebx, 0x1_0000)?;
            a.mov(ax, word_ptr(ebx + 0x100))?;
            report(a)?;
            // Pushes of both sizes.
            a.push(eax)?;
            a.push(ax)?;
            a.movzx(eax, sp)?;
            report(a)
        });
        assert_eq!(log.values, [0xffff_0000, 0, 0x4433_2211, 0x4433_2211, 0x5000 - 6]);
    }

    fn addresses_of_32_bits_leave_the_segment(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_16();
        state.gprs[usize::from(gpr::RBX)] = 0xffff_ffff;
        let log = run(&mut guest, &state, |a| a.mov(al, byte_ptr(ebx)));
        assert_eq!(log.faults(), [(13, 0)], "beyond 64 KiB");
    }

    fn only_sp_moves_on_a_stack_of_16_bits(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_16();
        state.gprs[usize::from(gpr::RSP)] = 0x1234_0000;
        state.gprs[usize::from(gpr::RBP)] = 0x1234_5000;
        let log = run(&mut guest, &state, |a| {
            a.push(ax)?;
            a.mov(eax, esp)?;
            report(a)?;
            a.leave()?;
            a.mov(eax, esp)?;
            report(a)?;
            a.enter(4, 0)?;
            a.mov(eax, esp)?;
            report(a)
        });
        assert_eq!(log.values, [0x1234_fffe, 0x1234_5002, 0x1234_4ffc]);
    }

    fn far_calls_of_both_widths(engine) {
        let mut guest = Guest::new(engine);
        let state = states::protected_16();
        // To 32-bit code by a prefix, which returns with one.
        let target = at::CODE;
        guest.code_of_bits(32, target, target, |a| {
            report_number(a, 32)?;
            a.movzx(eax, sp)?;
            report(a)?;
            a.retf()
        });
        let log = run(&mut guest, &state, |a| {
            let offset = (target as u32).to_le_bytes();
            a.db(&[0x66, 0x9a, offset[0], offset[1], offset[2], offset[3], selector::CODE32 as u8, 0])?;
            a.movzx(eax, sp)?;
            report(a)?;
            // PUSH CS; CALL near; the near code returns far.
            let (mut code, mut over) = (a.create_label(), a.create_label());
            a.jmp(over)?;
            a.set_label(&mut code)?;
            report_number(a, 16)?;
            a.retf()?;
            a.set_label(&mut over)?;
            a.push(cs)?;
            a.call(code)?;
            report_number(a, 1)
        });
        assert_eq!((log.values, log.traps), (vec![32, 0x5000 - 8, 0x5000, 16, 1], vec![]));
    }

    fn gates_of_16_bits_push_words(engine) {
        let mut guest = Guest::new(engine);
        let state = states::protected_16();
        let handler = 0xd000;
        guest.code_of_bits(16, handler, handler, |a| {
            a.mov(bp, sp)?;
            for offset in [0, 2, 4] {
                a.movzx(eax, word_ptr(bp + offset))?;
                report(a)?;
            }
            a.iret()
        });
        // A trap gate.
        let gate = handler | u64::from(selector::CODE16) << 16 | 0x87 << 40;
        guest.memory.write_u64(at::IDT32 + 0x40 * 8, gate);
        let log = run(&mut guest, &state, |a| {
            a.int(0x40)?;
            report_number(a, 1)
        });
        let code = selector::CODE16.into();
        assert_eq!(log.values, [at::CODE16 as u32 + 2, code, state.rflags as u32, 1]);
        // An error code is a word as well.
        guest.memory.write_u64(at::IDT32 + 13 * 8, gate);
        guest.code_of_bits(16, handler, handler, |a| {
            a.pop(ax)?;
            a.movzx(eax, ax)?;
            report(a)?;
            end(a)
        });
        let log = run(&mut guest, &state, |a| {
            a.mov(ax, i32::from(selector::BEYOND))?;
            a.mov(es, ax)
        });
        assert_eq!(log.values, [u32::from(selector::BEYOND)]);
    }

    fn instructions_stay_within_64_kib(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_16();
        state.rip = 0xffff;
        guest.memory.write(0xffff, &[0x90, 0xe6, 0xe0]);
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].rip), (vec![(13, 0)], 0x1_0000));
    }

    fn jumps_wrap_around_at_64_kib(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::protected_16();
        state.rip = 0xfffe;
        guest.memory.write(0xfffe, &[0xeb, 0x10]);
        guest.memory.write(0x0010, &[0xe6, 0xe0]);
        assert_eq!(guest.run_from(&state).faults(), []);
    }

    fn tables_are_loaded_with_24_bits(engine) {
        let mut guest = Guest::new(engine);
        let state = states::protected_16();
        guest.memory.write(0xb200, &[0xff, 0x01, 0x00, 0x60, 0x00, 0xaa]);
        let log = run(&mut guest, &state, |a| {
            a.db(&[0x0f, 0x01, 0x16, 0x00, 0xb2])?; // LGDT [0xb200]
            a.db(&[0x0f, 0x01, 0x06, 0x10, 0xb2]) // SGDT [0xb210]
        });
        assert_eq!((log.faults(), guest.state().gdtr.base), (vec![], 0x6000));
        assert_eq!(guest.memory.read(0xb210), [0xff, 0x01, 0x00, 0x60, 0x00, 0x00]);
    }
}
