//! Real mode: segments of 64 KiB, wrap-around, the vector table, and what does not exist there.
//! See: AMD APM vol. 2, 1.3.4, 4.2, 8.6; Intel SDM vol. 3, 21.1.

use guests::programs::{end, report, report_number};
use guests::x86::{Answer, Exit, Seg, State, gpr, rflags};
use guests::{Guest, Hypervisor, IcedError, Log, at, code_asm::*, port, states};

/// Runs one instruction at the start of CS; gives the vector that it raises at itself.
fn raised<H: Hypervisor>(guest: &mut Guest<H>, state: &State, bytes: &[u8]) -> u32 {
    // The guest ends where there is no exception.
    guest.memory.write(at::CODE, &[bytes, &[0xe6, port::END as u8]].concat());
    let log = guest.run_from(state);
    let [trap] = log.traps[..] else { panic!("one exception, not {log:x?}") };
    assert_eq!((trap.rip, trap.cs), (0, (at::CODE >> 4) as u32), "{bytes:x?}: {trap:x?}");
    trap.vector
}

/// Runs a program; gives what it reports.
fn values<H: Hypervisor>(
    guest: &mut Guest<H>,
    state: &State,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u32> {
    guest.code_of_bits(16, at::CODE, 0, |a| {
        program(a)?;
        end(a)
    });
    let log = guest.run_from(state);
    assert_eq!(log.faults(), []);
    log.values
}

guests::on_every_processor! {
    fn addresses_of_16_bits_wrap_around(engine) {
        let mut guest = Guest::new(engine);
        let state = states::real_mode();
        guest.memory.write(0x4ffe, b"end");
        guest.memory.write(at::DATA + 1, &[7]);
        guest.memory.write(at::DATA + 0xfff0, &[5; 16]);
        guest.memory.write(at::DATA, &[6; 8]);
        let seen = values(&mut guest, &state, |a| {
            a.mov(ax, (at::DATA >> 4) as u32 as i32)?;
            a.mov(ds, ax)?;
            a.xor(eax, eax)?;
            a.mov(bx, 0xfffe)?;
            a.mov(al, byte_ptr(bx + 3))?;
            report(a)?;
            // A string goes on at the start of its segment.
            a.cld()?;
            a.mov(si, 0xfff8)?;
            a.mov(di, 0x5100)?;
            a.mov(cx, 16)?;
            a.rep().movsb()?;
            a.movzx(eax, si)?;
            report(a)
        });
        assert_eq!(seen, [6, 8]);
        assert_eq!(guest.memory.read::<16>(0x5100), [[5; 8], [6; 8]].concat()[..]);
    }

    fn what_leaves_a_segment_is_general_protection_or_a_stack_fault(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::real_mode();
        state.gprs[usize::from(gpr::RBP)] = 0xffff;
        state.gprs[usize::from(gpr::RAX)] = 0x1_0000;
        assert_eq!(raised(&mut guest, &state, &[0xa1, 0xff, 0xff]), 13, "MOV AX, [0xffff]");
        assert_eq!(raised(&mut guest, &state, &[0x89, 0x46, 0x00]), 12, "MOV [BP], AX");
        assert_eq!(raised(&mut guest, &state, &[0x67, 0x8a, 0x00]), 13, "MOV AL, [EAX]");
        assert_eq!(raised(&mut guest, &state, &[0x66, 0xa1, 0xfd, 0xff]), 13, "MOV EAX, [0xfffd]");
    }

    /// A stack that is empty begins at the top.
    fn the_stack_wraps_around(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::real_mode();
        state.gprs[usize::from(gpr::RSP)] = 0;
        guest.memory.write(at::CODE, &[0x50, 0xe6, 0xe0]);
        guest.run_from(&state);
        assert_eq!(guest.state().gprs[usize::from(gpr::RSP)], 0xfffe);
    }

    /// It can't take an event either.
    fn a_stack_where_a_word_lies_across_the_end_shuts_down(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::real_mode();
        guest.memory.write(at::CODE, &[0x50, 0xe6, 0xe0]);
        state.gprs[usize::from(gpr::RSP)] = 1;
        guest.set_state(&state);
        assert_eq!(guest.run_to_exit(Answer::None, &mut Log::default()), Exit::Shutdown);
    }

    fn instructions_end_within_the_code_segment(engine) {
        let mut guest = Guest::new(engine);
        for (at_offset, bytes, rip) in [
            // NOP, and then nothing; MOV AX, imm16 that is cut off.
            (0xffff, &[0x90][..], 0x0000),
            (0xfffe, &[0xb8, 0x01], 0xfffe),
        ] {
            let mut state = states::real_mode();
            state.rip = at_offset;
            guest.memory.write(at::CODE + at_offset, bytes);
            // Where a processor ends that runs on or wraps around.
            for place in [at::CODE, at::CODE + 0x1_0000] {
                guest.memory.write(place, &[0xe6, port::END as u8]);
            }
            let log = guest.run_from(&state);
            let faults: Vec<_> = log.traps.iter().map(|trap| (trap.vector, trap.rip)).collect();
            assert_eq!(faults, [(13, rip)]);
        }
    }

    fn jumps_wrap_around_at_64_kib(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::real_mode();
        state.rip = 0xfffe;
        guest.memory.write(at::CODE + 0xfffe, &[0xeb, 0x02]);
        guest.memory.write(at::CODE + 2, &[0xe6, 0xe0]);
        assert_eq!(guest.run_from(&state).faults(), [], "EB 02 at 0xfffe goes to 2");
    }

    fn the_vector_table_has_a_limit(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::real_mode();
        state.idtr.limit = 0x3f;
        assert_eq!(raised(&mut guest, &state, &[0xcd, 0x10]), 13);
        // Without the vector of general protection either it is a double fault.
        state.idtr.limit = 0x33;
        assert_eq!(raised(&mut guest, &state, &[0xcd, 0x10]), 8);
        // It lies where IDTR says.
        let mut state = states::real_mode();
        state.idtr.base = at::DATA;
        guest.memory.write(at::DATA + 0x10 * 4, &[0x00, 0x01, 0x00, 0x10]);
        guest.memory.write(at::CODE + 0x100, &[0xe6, 0xe0]);
        assert_eq!(guest.run_from(&state).faults(), []);
        assert_eq!(guest.state().gprs[usize::from(gpr::RSP)], 0x5000 - 6);
        state.idtr.limit = 0x1f;
        guest.set_state(&state);
        assert_eq!(guest.run_to_exit(Answer::None, &mut Log::default()), Exit::Shutdown);
    }

    fn interrupts_and_faults_push_three_words(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::real_mode();
        state.rflags |= rflags::IF | rflags::CF;
        guest.memory.write(at::CODE, &[0xcd, 0x80]);
        let log = guest.run_from(&state);
        assert_eq!((log.traps[0].vector, log.traps[0].rip), (0x80, 2));
        assert_eq!(u64::from(log.traps[0].flags), state.rflags);
        assert_eq!(guest.state().rflags & rflags::IF, 0);
        assert_eq!(raised(&mut guest, &state, &[0xf6, 0xf1]), 0, "DIV CL");
        assert_eq!(raised(&mut guest, &state, &[0x0f, 0x0b]), 6, "UD2");
        assert_eq!(raised(&mut guest, &state, &[0xf0, 0x90]), 6, "LOCK NOP");
        assert_eq!(raised(&mut guest, &state, &[0xf0, 0x01, 0xc0]), 6, "LOCK ADD AX, AX");
        assert_eq!(raised(&mut guest, &state, &[&[0x2e; 15][..], &[0x90]].concat()), 13, "16 bytes");
        state.gprs[usize::from(gpr::RAX)] = 0x7fff;
        guest.memory.write_u64(0x5100, 0x0002_0001);
        assert_eq!(raised(&mut guest, &state, &[0x62, 0x06, 0x00, 0x51]), 5, "BOUND AX, [0x5100]");
        state.rflags |= rflags::OF;
        guest.memory.write(at::CODE, &[0xce]);
        assert_eq!(guest.run_from(&state).traps[0].vector, 4, "INTO");
    }

    fn what_protected_mode_has_does_not_exist(engine) {
        let mut guest = Guest::new(engine);
        let state = states::real_mode();
        let missing: [&[u8]; 8] = [
            &[0x0f, 0x02, 0xc0], // LAR
            &[0x0f, 0x03, 0xc0], // LSL
            &[0x0f, 0x00, 0xe0], // VERR
            &[0x0f, 0x00, 0xe8], // VERW
            &[0x0f, 0x00, 0xc0], // SLDT
            &[0x0f, 0x00, 0xc8], // STR
            &[0x0f, 0x00, 0xd8], // LTR
            &[0x63, 0xc0], // ARPL
        ];
        for bytes in missing {
            assert_eq!(raised(&mut guest, &state, bytes), 6, "{bytes:x?}");
        }
        assert_eq!(raised(&mut guest, &state, &[0x0f, 0x05]), 6, "SYSCALL");
        assert_eq!(raised(&mut guest, &state, &[0x0f, 0x34]), 13, "SYSENTER");
    }

    fn far_pointers_segments_and_flags(engine) {
        let mut guest = Guest::new(engine);
        let state = states::real_mode();
        guest.memory.write(0x5100, &[0x34, 0x12, 0x00, 0x50, 0x78, 0x56, 0x00, 0x60]);
        guest.memory.write(at::DATA, &[0xaa]);
        let seen = values(&mut guest, &state, |a| {
            a.xor(eax, eax)?;
            a.les(bx, dword_ptr(0x5100))?;
            a.lfs(si, dword_ptr(0x5104))?;
            a.mov(ax, bx)?;
            report(a)?;
            a.mov(ax, es)?;
            report(a)?;
            a.mov(ax, fs)?;
            report(a)?;
            a.mov(al, byte_ptr(0).es())?;
            report(a)?;
            // All of the flags' low half is a program's, IOPL and NT too.
            a.push(0x7202)?;
            a.popf()?;
            a.pushf()?;
            a.pop(ax)?;
            report(a)?;
            a.cli()?;
            // Above 1 MiB.
            a.mov(ax, 0xffff)?;
            a.mov(ds, ax)?;
            a.mov(byte_ptr(0x10), 0x77)?;
            report_number(a, 9)
        });
        assert_eq!(seen, [0x1234, 0x5000, 0x6000, 0x60aa, 0x7202, 9]);
        assert_eq!(guest.memory.read(0x10_0000), [0x77]);
    }

    fn limits_of_protected_mode_stay(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::real_mode();
        state.segments[Seg::Ds as usize].limit = !0;
        guest.memory.write(at::FREE, &[0x5a]);
        let seen = values(&mut guest, &state, |a| {
            a.xor(eax, eax)?;
            a.mov(ds, ax)?;
            a.mov(ebx, at::FREE as u32)?;
            a.mov(al, byte_ptr(ebx))?;
            report(a)
        });
        assert_eq!(seen, [0x5a]);
    }

    /// What was loaded in real mode can be used when protected mode begins.
    fn segments_are_writable_data_for_protected_mode(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::real_mode();
        state.segments[Seg::Ds as usize].attr.0 = 0;
        state.gdtr = states::protected_mode().gdtr;
        let seen = values(&mut guest, &state, |a| {
            a.mov(ax, (at::DATA >> 4) as u32 as i32)?;
            a.mov(ds, ax)?;
            a.mov(eax, cr0)?;
            a.or(al, 1)?;
            a.mov(cr0, eax)?;
            a.mov(byte_ptr(0), 0x33)?;
            a.and(al, 0xfe)?;
            a.mov(cr0, eax)?;
            report_number(a, 1)
        });
        assert_eq!((seen, guest.memory.read(at::DATA)), (vec![1], [0x33]));
    }

    fn single_step(engine) {
        let mut guest = Guest::new(engine);
        guest.resume(guests::layout::resume::SAME);
        let mut state = states::real_mode();
        state.rflags |= rflags::TF;
        // NOP; INTO, which does nothing; MOV SS, AX, which holds the trap; NOP; NOP; OUT.
        guest.memory.write(at::CODE, &[0x90, 0xce, 0x8e, 0xd0, 0x90, 0x90, 0xe6, 0xe0]);
        let log = guest.run_from(&state);
        let stops: Vec<_> = log.traps.iter().map(|trap| (trap.vector, trap.rip)).collect();
        assert_eq!(stops, [(1, 1), (1, 2), (1, 5), (1, 6)]);
    }
}
