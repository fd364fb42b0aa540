//! Single step and breakpoints. See: AMD APM vol. 2, 13.1; Intel SDM vol. 3, 18.2–18.3.

use guests::layout::resume;
use guests::programs::{end, report_number};
use guests::x86::{State, cr4, gpr, rflags};
use guests::{Guest, Hypervisor, Log, at, code_asm::*, port, selector, states};

/// DR6: single step, and access to a debug register.
const BS: u32 = 1 << 14;
const BD: u32 = 1 << 13;
/// DR7: general detect.
const GD: u64 = 1 << 13;

/// DR7's bits that enable breakpoint `n`: `kind` 0 executes, 1 writes, 3 reads or writes; `length` in bytes.
fn enable(n: u32, kind: u64, length: u64) -> u64 {
    let code = match length {
        8 => 2,
        length => length - 1,
    };
    2 << (n * 2) | (kind | code << 2) << (16 + n * 4)
}

/// The state with a breakpoint in register 0.
fn with_breakpoint<H: Hypervisor>(guest: &Guest<H>, address: u64, kind: u64, length: u64) -> State {
    let mut state = guest.long_mode();
    state.debug[0] = address;
    state.debug[5] = 0x400 | enable(0, kind, length);
    state
}

/// Where debug exceptions were raised, and what DR6 said.
fn debug_traps(log: &Log) -> Vec<(u64, u32)> {
    let traps = log.traps.iter();
    traps
        .map(|trap| {
            assert_eq!(trap.vector, 1, "{trap:x?}");
            (trap.rip, trap.dr6 & !0xffff_0ff0)
        })
        .collect()
}

/// Steps through a program: the RIP of each trap.
fn stepped<H: Hypervisor>(guest: &mut Guest<H>, state: &State) -> Vec<u64> {
    guest.resume(resume::SAME);
    let mut state = state.clone();
    state.rflags |= rflags::TF;
    let log = guest.run_from(&state);
    let traps = debug_traps(&log);
    assert!(traps.iter().all(|(_, status)| *status == BS), "{traps:x?}");
    traps.into_iter().map(|(rip, _)| rip).collect()
}

/// A program that loads SS from [`at::DATA`], then RSP; gives where these are done.
fn with_stack_load<H: Hypervisor>(engine: &H) -> (Guest<H>, [u64; 2]) {
    let guest = Guest::new(engine);
    guest.resume(resume::SAME);
    guest.memory.write(at::DATA, &selector::DATA.to_le_bytes());
    let labels = guest.labelled(at::CODE, |a| {
        let mut labels = [a.create_label(), a.create_label()];
        a.mov(ss, word_ptr(at::DATA))?;
        a.set_label(&mut labels[0])?;
        a.mov(rsp, at::STACK)?;
        a.set_label(&mut labels[1])?;
        end(a)?;
        Ok(labels)
    });
    (guest, labels)
}

/// A program that writes a byte of [`at::DATA`] and then to the stack; gives where these are done.
fn with_two_writes<H: Hypervisor>(engine: &H) -> (Guest<H>, [u64; 2]) {
    let guest = Guest::new(engine);
    guest.resume(resume::SAME);
    let labels = guest.labelled(at::CODE, |a| {
        let mut labels = [a.create_label(), a.create_label()];
        a.mov(byte_ptr(at::DATA + 7), 1)?;
        a.set_label(&mut labels[0])?;
        a.push(rax)?;
        a.set_label(&mut labels[1])?;
        end(a)?;
        Ok(labels)
    });
    (guest, labels)
}

/// A program that writes two doublewords to [`port::VALUE`] with REP OUTSD; gives where it is and what
/// follows.
fn with_port_string<H: Hypervisor>(engine: &H) -> (Guest<H>, State, [u64; 2]) {
    let guest = Guest::new(engine);
    guest.resume(resume::SAME);
    let labels = guest.labelled(at::CODE, |a| {
        let mut labels = [a.create_label(), a.create_label()];
        a.set_label(&mut labels[0])?;
        a.rep().outsd()?;
        a.set_label(&mut labels[1])?;
        end(a)?;
        Ok(labels)
    });
    let mut state = with_breakpoint(&guest, port::VALUE.into(), 2, 1);
    state.gprs[usize::from(gpr::RSI)] = at::DATA;
    state.gprs[usize::from(gpr::RCX)] = 2;
    state.gprs[usize::from(gpr::RDX)] = port::VALUE.into();
    guest.memory.write_u64(at::DATA, 2 << 32 | 1);
    (guest, state, labels)
}

guests::on_every_processor! {
    fn single_step_traps_after_each_instruction(engine) {
        let mut guest = Guest::new(engine);
        let [one, two, three] = guest.labelled(at::CODE, |a| {
            let mut labels = [a.create_label(), a.create_label(), a.create_label()];
            a.nop()?;
            a.set_label(&mut labels[0])?;
            a.inc(rax)?;
            a.set_label(&mut labels[1])?;
            a.jmp(labels[2])?;
            a.nop()?;
            a.set_label(&mut labels[2])?;
            end(a)?;
            Ok(labels)
        });
        let state = guest.long_mode();
        assert_eq!(stepped(&mut guest, &state), [one, two, three]);
    }

    /// What leaves the guest for the hypervisor is stepped like anything else.
    fn single_step_traps_after_instructions_that_are_emulated(engine) {
        let mut guest = Guest::new(engine);
        let labels = guest.labelled(at::CODE, |a| {
            let mut labels: [_; 9] = std::array::from_fn(|_| a.create_label());
            a.cpuid()?;
            a.set_label(&mut labels[0])?;
            a.out(port::VALUE, eax)?;
            a.set_label(&mut labels[1])?;
            a.in_(al, 0x61)?;
            a.set_label(&mut labels[2])?;
            a.mov(ecx, 0x1b)?;
            a.set_label(&mut labels[3])?;
            a.rdmsr()?;
            a.set_label(&mut labels[4])?;
            a.mov(rax, cr8)?;
            a.set_label(&mut labels[5])?;
            a.mov(eax, dword_ptr(r8))?;
            a.set_label(&mut labels[6])?;
            a.mov(edx, 0x61)?;
            a.set_label(&mut labels[7])?;
            a.outsb()?;
            a.set_label(&mut labels[8])?;
            end(a)?;
            Ok(labels)
        });
        let mut state = guest.long_mode();
        state.gprs[usize::from(gpr::R8)] = at::IOAPIC;
        state.gprs[usize::from(gpr::RSI)] = at::DATA;
        let traps = stepped(&mut guest, &state);
        assert_eq!(traps, labels);
    }

    /// A load of SS holds debug exceptions until the next instruction is done, which loads RSP.
    fn a_load_of_the_stack_segment_holds_single_step(engine) {
        let (mut guest, [_, after]) = with_stack_load(engine);
        let state = guest.long_mode();
        assert_eq!(stepped(&mut guest, &state), [after]);
    }

    fn a_load_of_the_stack_segment_holds_data_breakpoints(engine) {
        let (mut guest, [_, after]) = with_stack_load(engine);
        let state = with_breakpoint(&guest, at::DATA, 3, 2);
        assert_eq!(debug_traps(&guest.run_from(&state)), [(after, 1)]);
    }

    fn an_instruction_breakpoint_behind_a_load_of_the_stack_segment_is_lost(engine) {
        let (mut guest, [next, _]) = with_stack_load(engine);
        let state = with_breakpoint(&guest, next, 0, 1);
        assert_eq!(debug_traps(&guest.run_from(&state)), []);
    }

    /// INT1 is a debug exception itself: there is one, not a second on top of it.
    fn what_a_load_of_the_stack_segment_holds_is_part_of_int1(engine) {
        let mut guest = Guest::new(engine);
        guest.resume(resume::SAME);
        guest.memory.write(at::DATA, &selector::DATA.to_le_bytes());
        let [after] = guest.labelled(at::CODE, |a| {
            let mut labels = [a.create_label()];
            a.mov(ss, word_ptr(at::DATA))?;
            a.int1()?;
            a.set_label(&mut labels[0])?;
            a.nop()?;
            end(a)?;
            Ok(labels)
        });
        let state = with_breakpoint(&guest, at::DATA, 3, 2);
        assert_eq!(debug_traps(&guest.run_from(&state)), [(after, 1)]);
        let state = with_breakpoint(&guest, at::DATA + 8, 3, 2);
        assert_eq!(debug_traps(&guest.run_from(&state)), [(after, 0)]);
    }

    fn single_step_traps_after_each_iteration_of_a_repeated_string(engine) {
        let mut guest = Guest::new(engine);
        let [string, after] = guest.labelled(at::CODE, |a| {
            let mut labels = [a.create_label(), a.create_label()];
            a.set_label(&mut labels[0])?;
            a.rep().stosb()?;
            a.set_label(&mut labels[1])?;
            end(a)?;
            Ok(labels)
        });
        let mut state = guest.long_mode();
        state.gprs[usize::from(gpr::RDI)] = at::DATA;
        state.gprs[usize::from(gpr::RCX)] = 3;
        assert_eq!(stepped(&mut guest, &state), [string, string, after]);
    }

    fn a_port_breakpoint_traps_after_each_iteration_of_a_string(engine) {
        let (mut guest, state, [string, after]) = with_port_string(engine);
        let log = guest.run_from(&state);
        assert_eq!((debug_traps(&log), log.values), (vec![(string, 1), (after, 1)], vec![1, 2]));
    }

    fn single_step_traps_after_each_iteration_of_a_repeated_port_instruction(engine) {
        let (mut guest, mut state, [string, after]) = with_port_string(engine);
        state.debug[5] = 0x400;
        assert_eq!(stepped(&mut guest, &state), [string, after]);
    }

    fn the_trap_flag_counts_before_the_instruction(engine) {
        let mut guest = Guest::new(engine);
        guest.resume(resume::SAME);
        let [one, two] = guest.labelled(at::CODE, |a| {
            let mut labels = [a.create_label(), a.create_label()];
            a.push((rflags::FIXED | rflags::TF) as i32)?;
            a.popfq()?; // Sets it: no trap.
            a.push(rflags::FIXED as i32)?;
            a.set_label(&mut labels[0])?;
            a.popfq()?; // Clears it: a trap.
            a.set_label(&mut labels[1])?;
            a.nop()?;
            end(a)?;
            Ok(labels)
        });
        assert_eq!(debug_traps(&guest.run()), [(one, BS), (two, BS)]);
    }

    fn software_interrupts_clear_the_trap_flag_for_their_handler(engine) {
        let mut guest = Guest::new(engine);
        guest.resume(resume::SAME);
        let [one, two] = guest.labelled(at::CODE, |a| {
            let mut labels = [a.create_label(), a.create_label()];
            a.int3()?;
            a.set_label(&mut labels[0])?;
            a.nop()?;
            a.set_label(&mut labels[1])?;
            end(a)?;
            Ok(labels)
        });
        let mut state = guest.long_mode();
        state.rflags |= rflags::TF;
        let log = guest.run_from(&state);
        let seen: Vec<_> = log.traps.iter().map(|trap| (trap.vector, trap.rip)).collect();
        assert_eq!(seen, [(3, one), (1, two)]);
        assert_ne!(u64::from(log.traps[0].flags) & rflags::TF, 0);
    }

    /// SYSCALL traps, at its target, unless SFMASK takes the flag away.
    fn syscall_traps_by_the_new_trap_flag(engine) {
        for (mask, expected) in [(rflags::TF, 0), (0, 1)] {
            let mut guest = Guest::new(engine);
            guest.resume(resume::SAME);
            guest.code(at::USER_CODE, |a| a.syscall());
            guest.code(at::CODE, end);
            let mut state = states::user(guest.long_mode());
            let star = u64::from(selector::CODE) << 32;
            state.sysregs[0] = star;
            state.sysregs[1] = at::CODE;
            state.sysregs[3] = mask;
            state.rflags |= rflags::TF;
            let traps = debug_traps(&guest.run_from(&state));
            assert_eq!(traps, vec![(at::CODE, BS); expected]);
        }
    }

    fn a_fault_is_not_stepped(engine) {
        let mut guest = Guest::with_program(engine, |a| a.ud2());
        let mut state = guest.long_mode();
        state.rflags |= rflags::TF;
        let log = guest.run_from(&state);
        assert_eq!(log.faults(), [(6, 0)]);
        assert_ne!(u64::from(log.traps[0].flags) & rflags::TF, 0);
    }

    fn data_breakpoints_trap_after_the_access(engine) {
        let mut guest = Guest::new(engine);
        guest.resume(resume::SAME);
        let word = at::DATA + 4;
        let [read, write, part] = guest.labelled(at::CODE, |a| {
            let mut labels: [_; 3] = std::array::from_fn(|_| a.create_label());
            a.mov(eax, dword_ptr(word))?;
            a.set_label(&mut labels[0])?;
            a.mov(dword_ptr(word), eax)?;
            a.set_label(&mut labels[1])?;
            a.mov(dword_ptr(word - 4), eax)?;
            a.mov(dword_ptr(word + 4), eax)?;
            a.mov(qword_ptr(word - 7), rax)?;
            a.set_label(&mut labels[2])?;
            a.nop()?;
            end(a)?;
            Ok(labels)
        });
        let writes = with_breakpoint(&guest, word, 1, 4);
        assert_eq!(debug_traps(&guest.run_from(&writes)), [(write, 1), (part, 1)]);
        let both = with_breakpoint(&guest, word, 3, 4);
        let all = [(read, 1), (write, 1), (part, 1)];
        assert_eq!(debug_traps(&guest.run_from(&both)), all);
        let mut off = both.clone();
        off.debug[5] = 0x400 | (3 << 16);
        assert_eq!(debug_traps(&guest.run_from(&off)), []);
    }

    fn a_data_breakpoint_traps_after_the_last_iteration_of_a_string(engine) {
        let mut guest = Guest::new(engine);
        guest.resume(resume::SAME);
        let [string] = guest.labelled(at::CODE, |a| {
            let mut labels = [a.create_label()];
            a.mov(edi, at::DATA as u32 + 3)?;
            a.mov(ecx, 1)?;
            a.rep().stosb()?;
            a.set_label(&mut labels[0])?;
            a.nop()?;
            end(a)?;
            Ok(labels)
        });
        let state = with_breakpoint(&guest, at::DATA, 1, 4);
        assert_eq!(debug_traps(&guest.run_from(&state)), [(string, 1)]);
    }

    fn breakpoints_of_eight_bytes(engine) {
        let (mut guest, [stored, pushed]) = with_two_writes(engine);
        // The handler has a stack of its own.
        guest.reporting_gate(1, 1, 0);
        let mut state = with_breakpoint(&guest, at::DATA, 1, 8);
        state.debug[2] = at::STACK - 8;
        state.debug[5] |= enable(2, 1, 8);
        assert_eq!(debug_traps(&guest.run_from(&state)), [(stored, 1), (pushed, 4)]);
    }

    /// The handler's own frame is written over it too: only the first is looked at.
    fn an_exceptions_frame_that_hits_a_breakpoint(engine) {
        let (mut guest, [stored, pushed]) = with_two_writes(engine);
        let mut state = with_breakpoint(&guest, at::DATA, 1, 8);
        state.debug[2] = at::STACK - 8;
        state.debug[5] |= enable(2, 1, 8);
        let traps = debug_traps(&guest.run_from(&state));
        assert_eq!(traps[0].0, stored);
        assert_eq!(traps[0].1 & 1, 1);
        assert!(traps.iter().any(|(rip, status)| *rip == pushed && status & 4 != 0), "{traps:x?}");
    }

    /// An instruction's breakpoint is a fault before it; RF in the handler's frame lets it pass, once.
    fn instruction_breakpoints_fault_before_it(engine) {
        let mut guest = Guest::new(engine);
        let [target] = guest.labelled(at::CODE, |a| {
            let (mut target, mut top) = (a.create_label(), a.create_label());
            a.mov(esi, 2)?;
            a.set_label(&mut top)?;
            a.nop()?;
            a.set_label(&mut target)?;
            a.inc(edi)?;
            a.dec(esi)?;
            a.jnz(top)?;
            end(a)?;
            Ok([target])
        });
        guest.handler(1, |a| {
            a.mov(eax, dword_ptr(rsp))?;
            a.out(port::VALUE, eax)?;
            a.mov(eax, edi)?;
            a.out(port::VALUE, eax)?;
            a.bts(qword_ptr(rsp + 16), 16)?;
            a.iretq()
        });
        let state = with_breakpoint(&guest, target, 0, 1);
        let target = target as u32;
        assert_eq!(guest.run_from(&state).values, [target, 0, target, 1]);
        assert_eq!(guest.state().gprs[usize::from(gpr::RDI)], 2);
    }

    fn the_host_can_set_the_resume_flag(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.nop()?;
            end(a)
        });
        let mut state = with_breakpoint(&guest, at::CODE, 0, 1);
        assert_eq!(debug_traps(&guest.run_from(&state)), [(at::CODE, 1)]);
        state.rflags |= rflags::RF;
        assert_eq!(debug_traps(&guest.run_from(&state)), []);
    }

    fn the_resume_flag_is_gone_after_an_instruction(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.nop()?;
            end(a)
        });
        let mut state = guest.long_mode();
        state.rflags |= rflags::RF;
        guest.run_from(&state);
        assert_eq!(guest.state().rflags & rflags::RF, 0);
    }

    fn single_step_and_a_data_breakpoint_are_one_exception(engine) {
        let mut guest = Guest::new(engine);
        guest.resume(resume::SAME);
        let [after] = guest.labelled(at::CODE, |a| {
            let mut after = a.create_label();
            a.mov(byte_ptr(at::DATA), 1)?;
            a.set_label(&mut after)?;
            end(a)?;
            Ok([after])
        });
        let mut state = with_breakpoint(&guest, at::DATA, 1, 1);
        state.rflags |= rflags::TF;
        assert_eq!(debug_traps(&guest.run_from(&state)), [(after, BS | 1)]);
    }

    fn port_breakpoints_trap_after_the_access(engine) {
        let mut guest = Guest::new(engine);
        guest.resume(resume::SAME);
        let [out, input] = guest.labelled(at::CODE, |a| {
            let mut labels = [a.create_label(), a.create_label()];
            a.out(port::VALUE, eax)?;
            a.set_label(&mut labels[0])?;
            a.in_(al, 0x61)?;
            a.set_label(&mut labels[1])?;
            end(a)?;
            Ok(labels)
        });
        let mut state = with_breakpoint(&guest, port::VALUE.into(), 2, 1);
        state.debug[1] = 0x61;
        state.debug[5] |= enable(1, 2, 1);
        assert_ne!(state.cr4 & cr4::DE, 0);
        assert_eq!(debug_traps(&guest.run_from(&state)), [(out, 1), (input, 2)]);
    }

    fn general_detect_guards_the_debug_registers(engine) {
        let mut guest = Guest::new(engine);
        guest.resume(resume::SAME);
        guest.code(at::CODE, |a| {
            a.mov(rax, dr3)?;
            report_number(a, 1)?;
            end(a)
        });
        let mut state = guest.long_mode();
        state.debug[5] = 0x400 | GD;
        // The exception clears it: the handler and the second try get through.
        let log = guest.run_from(&state);
        assert_eq!((debug_traps(&log), log.values), (vec![(at::CODE, BD)], vec![1]));
    }

    fn dr4_and_dr5_exist_without_debugging_extensions_only(engine) {
        let mut guest = Guest::new(engine);
        // MOV RAX, DR4.
        guest.memory.write(at::CODE, &[0x0f, 0x21, 0xe0]);
        guest.code(at::CODE + 3, |a| {
            a.out(port::VALUE, eax)?;
            end(a)
        });
        let mut state = guest.long_mode();
        assert_eq!(guest.run_from(&state).faults(), [(6, 0)]);
        state.cr4 &= !cr4::DE;
        assert_eq!(guest.run_from(&state).values, [0xffff_0ff0]);
    }
}
