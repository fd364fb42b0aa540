//! Exceptions: which one, with what error code, at which instruction, and in what order.
//! See: Intel SDM vol. 3, 6.9, 6.15; AMD APM vol. 2, 8.2, 8.5.

use guests::paging::pte;
use guests::programs::{end, report};
use guests::x86::{Seg, State, cr0, cr4, gpr, rflags};
use guests::{Guest, Hypervisor, IcedError, at, code_asm::*, port, selector, states};

/// Nothing is mapped here.
const UNMAPPED: u64 = 0x7000_0000;
/// Bit 1 of an error code: it is about an entry of the IDT.
const IDT: u32 = 2;

/// Assembles an instruction.
type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Runs one instruction (in user mode if `state` says so); gives vector and error code of what it
/// raises, which must be raised at it.
fn raised<H: Hypervisor>(
    guest: &mut Guest<H>,
    state: &State,
    instruction: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> (u32, u32) {
    guest.code(state.rip, |a| {
        instruction(a)?;
        end(a)
    });
    let log = guest.run_from(state);
    let [trap] = log.traps[..] else { panic!("one exception, not {log:x?}") };
    assert_eq!(trap.rip, state.rip, "{trap:x?}");
    (trap.vector, trap.error)
}

/// The same for bytes.
fn raised_by_bytes<H: Hypervisor>(guest: &mut Guest<H>, state: &State, bytes: &[u8]) -> (u32, u32) {
    raised(guest, state, |a| a.db(bytes))
}

/// The general-protection faults and their kin of loading each selector into DS and SS.
fn load<H: Hypervisor>(guest: &mut Guest<H>, state: &State, selector: u16) -> [(u32, u32); 2] {
    let mut state = state.clone();
    state.gprs[usize::from(gpr::RAX)] = selector.into();
    [raised(guest, &state, |a| a.mov(ds, ax)), raised(guest, &state, |a| a.mov(ss, ax))]
}

/// User mode without access to ports.
fn confined<H: Hypervisor>(guest: &Guest<H>) -> State {
    let mut state = states::user(guest.long_mode());
    state.rflags &= !rflags::IOPL;
    state
}

guests::on_every_processor! {
    fn divide_errors(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        assert_eq!(raised(&mut guest, &state, |a| a.div(ecx)), (0, 0));
        state.gprs[usize::from(gpr::RCX)] = u64::MAX;
        state.gprs[usize::from(gpr::RAX)] = 1 << 63;
        state.gprs[usize::from(gpr::RDX)] = u64::MAX;
        assert_eq!(raised(&mut guest, &state, |a| a.idiv(rcx)), (0, 0), "overflow");
    }

    fn software_interrupts_push_the_next_instruction(engine) {
        let mut guest = Guest::new(engine);
        let state = guest.long_mode();
        for (bytes, vector) in [(&[0xcc][..], 3), (&[0xcd, 0x80], 0x80), (&[0xcd, 14], 14)] {
            // No error code, whatever the vector: the handler for page faults expects one.
            if vector == 14 {
                guest.handler(14, |a| {
                    a.mov(rax, qword_ptr(rsp))?;
                    report(a)?;
                    end(a)
                });
            }
            guest.memory.write(at::CODE, bytes);
            let log = guest.run_from(&state);
            let rip = at::CODE + bytes.len() as u64;
            if vector == 14 {
                assert_eq!(log.values, [rip as u32]);
            } else {
                assert_eq!((log.traps[0].vector, log.traps[0].rip), (vector, rip));
            }
        }
    }

    fn invalid_opcodes(engine) {
        let mut guest = Guest::new(engine);
        let state = guest.long_mode();
        let invalid: [&[u8]; 14] = [
            &[0x0f, 0x0b], // UD2
            &[0x0f, 0xb9, 0xc0], // UD1
            &[0x0f, 0xff, 0xc0], // UD0
            &[0x06], // PUSH ES
            &[0xce], // INTO
            &[0xd4, 0x0a], // AAM
            &[0xea, 0, 0, 0, 0, 0, 0], // JMP far
            &[0x9a, 0, 0, 0, 0, 0, 0], // CALL far
            &[0xf0, 0x01, 0xc0], // LOCK ADD EAX, EAX
            &[0x8d, 0xc0], // LEA of a register
            &[0x8e, 0xc8], // MOV CS
            &[0x0f, 0x20, 0xc8], // MOV from CR1
            &[0xfe, 0xd0], // Group 4
            &[0x62, 0xc0], // BOUND
        ];
        for bytes in invalid {
            assert_eq!(raised_by_bytes(&mut guest, &state, bytes), (6, 0), "{bytes:x?}");
        }
    }

    fn only_what_modifies_memory_can_be_locked(engine) {
        let mut guest = Guest::new(engine);
        let state = guest.long_mode();
        let locked_mov = [0xf0, 0x8b, 0x00];
        assert_eq!(raised_by_bytes(&mut guest, &state, &locked_mov), (6, 0));
    }

    fn an_instruction_of_more_than_15_bytes_is_general_protection(engine) {
        let mut guest = Guest::new(engine);
        let state = guest.long_mode();
        assert_eq!(raised_by_bytes(&mut guest, &state, &[&[0x66; 15][..], &[0x90]].concat()), (13, 0));
    }

    fn a_device_that_is_not_available(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        let whole = state.cr0;
        state.cr0 = whole | cr0::TS;
        assert_eq!(raised(&mut guest, &state, |a| a.fninit()), (7, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.wait()), (7, 0), "MP and TS");
        assert_eq!(raised(&mut guest, &state, |a| a.xorps(xmm0, xmm0)), (7, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.fxsave(byte_ptr(at::DATA))), (7, 0));
        state.cr0 = whole | cr0::EM;
        assert_eq!(raised(&mut guest, &state, |a| a.fninit()), (7, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.xorps(xmm0, xmm0)), (6, 0));
        state.cr0 = whole;
        state.cr4 &= !cr4::OSFXSR;
        assert_eq!(raised(&mut guest, &state, |a| a.xorps(xmm0, xmm0)), (6, 0));
    }

    fn bad_selectors_are_in_the_error_code(engine) {
        let mut guest = Guest::new(engine);
        let state = guest.long_mode();
        let bad = |selector: u16| u32::from(selector) & !3;
        for selector in [selector::BEYOND, selector::BEYOND | 3, selector::TSS, 0x0c] {
            let error = bad(selector);
            assert_eq!(load(&mut guest, &state, selector), [(13, error); 2], "{selector:#x}");
        }
        let absent = selector::ABSENT_DATA;
        assert_eq!(load(&mut guest, &state, absent), [(11, bad(absent)), (12, bad(absent))]);
        // What DS takes and SS does not: read-only data, code, another level's data.
        let mut refused = |selector: u16| {
            let mut state = state.clone();
            state.gprs[usize::from(gpr::RAX)] = selector.into();
            assert_eq!(raised(&mut guest, &state, |a| a.mov(ss, ax)), (13, bad(selector)));
        };
        refused(selector::READ_ONLY);
        refused(selector::CODE);
        refused(selector::USER_DATA);
        refused(selector::DATA | 3);
    }

    fn segments_come_from_a_local_table_too(engine) {
        let mut guest = Guest::new(engine);
        guest.memory.write_u64(at::LDT + 8, states::descriptor(0xf_ffff, 0xc93));
        let mut state = guest.long_mode();
        state.gprs[usize::from(gpr::RBX)] = 0x0c;
        state.gprs[usize::from(gpr::RCX)] = 0x14;
        let [beyond] = guest.labelled(at::CODE, |a| {
            let mut beyond = a.create_label();
            a.mov(eax, u32::from(selector::LDT))?;
            a.lldt(ax)?;
            a.mov(ds, bx)?;
            a.mov(eax, ds)?;
            report(a)?;
            a.set_label(&mut beyond)?;
            a.mov(ds, cx)?;
            Ok([beyond])
        });
        let log = guest.run_from(&state);
        assert_eq!((log.values.as_slice(), log.faults()), ([0x0c].as_slice(), vec![(13, 0x14)]));
        assert_eq!(log.traps[0].rip, beyond);
    }

    fn far_returns_check_the_code_segment(engine) {
        let mut guest = Guest::new(engine);
        let state = guest.long_mode();
        for (selector, vector) in [
            (selector::DATA, 13),
            (selector::BEYOND, 13),
            (selector::TSS, 13),
            (selector::ABSENT_CODE, 11),
            (0, 13),
        ] {
            guest.memory.write_u64(at::STACK - 16, at::CODE + 0x100);
            guest.memory.write_u64(at::STACK - 8, selector.into());
            let mut state = state.clone();
            state.gprs[usize::from(gpr::RSP)] = at::STACK - 16;
            let seen = raised_by_bytes(&mut guest, &state, &[0x48, 0xcb]);
            assert_eq!(seen, (vector, selector.into()));
        }
    }

    fn code_of_64_and_of_32_bits_does_not_exist(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        guest.code(at::CODE + 0x100, end);
        guest.memory.write_u64(at::STACK - 16, at::CODE + 0x100);
        guest.memory.write_u64(at::STACK - 8, selector::BAD_CODE.into());
        state.gprs[usize::from(gpr::RSP)] = at::STACK - 16;
        let seen = raised_by_bytes(&mut guest, &state, &[0x48, 0xcb]);
        assert_eq!(seen, (13, selector::BAD_CODE.into()));
    }

    fn system_segments_are_checked(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        let accumulator = usize::from(gpr::RAX);
        state.gprs[accumulator] = selector::TSS.into();
        assert_eq!(raised(&mut guest, &state, |a| a.lldt(ax)), (13, selector::TSS.into()));
        guest.memory.write(at::GDT + u64::from(selector::TSS) + 5, &[0x8b]);
        assert_eq!(raised(&mut guest, &state, |a| a.ltr(ax)), (13, selector::TSS.into()), "busy");
        guest.memory.write(at::GDT + u64::from(selector::TSS) + 5, &[0x09]);
        assert_eq!(raised(&mut guest, &state, |a| a.ltr(ax)), (11, selector::TSS.into()), "absent");
    }

    fn a_task_is_not_null(engine) {
        let mut guest = Guest::new(engine);
        let state = guest.long_mode();
        assert_eq!(raised(&mut guest, &state, |a| a.ltr(ax)), (13, 0));
    }

    fn addresses_that_are_not_canonical(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        state.gprs[usize::from(gpr::RBX)] = 1 << 47;
        assert_eq!(raised(&mut guest, &state, |a| a.mov(eax, dword_ptr(rbx))), (13, 0));
    }

    fn jumps_to_addresses_that_are_not_canonical(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        state.gprs[usize::from(gpr::RBX)] = 1 << 47;
        assert_eq!(raised(&mut guest, &state, |a| a.jmp(rbx)), (13, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.call(rbx)), (13, 0));
    }

    fn addresses_of_the_stack_that_are_not_canonical(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        let address = 1 << 47;
        state.gprs[usize::from(gpr::RBP)] = address;
        assert_eq!(raised(&mut guest, &state, |a| a.mov(eax, dword_ptr(rbp))), (12, 0));
        // Handlers need a stack that works.
        for vector in [12, 13] {
            guest.reporting_gate(vector, 1, 0);
        }
        state.gprs[usize::from(gpr::RSP)] = address;
        assert_eq!(raised(&mut guest, &state, |a| a.pop(rax)), (12, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.mov(eax, dword_ptr(rsp))), (12, 0));
    }

    fn alignment_is_checked_in_user_mode_with_am_and_ac(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::user(guest.long_mode());
        state.gprs[usize::from(gpr::RBX)] = at::USER_DATA + 1;
        state.rflags |= rflags::AC;
        assert_eq!(raised(&mut guest, &state, |a| a.mov(eax, dword_ptr(rbx))), (17, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.mov(word_ptr(rbx), ax)), (17, 0));
        for (am, ac) in [(false, true), (true, false)] {
            let mut state = state.clone();
            state.cr0 &= if am { !0 } else { !cr0::AM };
            state.rflags &= if ac { !0 } else { !rflags::AC };
            assert_eq!(guest.run_from(&state).faults(), []);
        }
        let mut kernel = guest.long_mode();
        kernel.rflags |= rflags::AC;
        kernel.gprs[usize::from(gpr::RBX)] = at::DATA + 1;
        guest.code(at::CODE, |a| {
            a.mov(eax, dword_ptr(rbx))?;
            end(a)
        });
        assert_eq!(guest.run_from(&kernel).faults(), []);
    }

    fn user_mode_may_not_do_what_is_the_kernels(engine) {
        let mut guest = Guest::new(engine);
        let state = confined(&guest);
        let privileged: [&[u8]; 17] = [
            &[0xf4], // HLT
            &[0xfa], // CLI
            &[0xfb], // STI
            &[0xe6, 0x80], // OUT
            &[0xec], // IN
            &[0x6e], // OUTSB
            &[0x0f, 0x20, 0xc0], // MOV from CR0
            &[0x0f, 0x22, 0xd8], // MOV to CR3
            &[0x44, 0x0f, 0x20, 0xc0], // MOV from CR8
            &[0x0f, 0x21, 0xc0], // MOV from DR0
            &[0x0f, 0x32], // RDMSR
            &[0x0f, 0x30], // WRMSR
            &[0x0f, 0x06], // CLTS
            &[0x0f, 0x01, 0xf8], // SWAPGS
            &[0x0f, 0x01, 0xf0], // LMSW
            &[0x0f, 0x09], // WBINVD
            &[0x0f, 0x07], // SYSRET
        ];
        for bytes in privileged {
            assert_eq!(raised_by_bytes(&mut guest, &state, bytes), (13, 0), "{bytes:x?}");
        }
        let tables: [Program; 5] = [
            |a| a.lgdt(qword_ptr(UNMAPPED)),
            |a| a.lidt(qword_ptr(UNMAPPED)),
            |a| a.lldt(word_ptr(UNMAPPED)),
            |a| a.ltr(ax),
            |a| a.invlpg(byte_ptr(UNMAPPED)),
        ];
        for instruction in tables {
            assert_eq!(raised(&mut guest, &state, instruction), (13, 0), "before its operand");
        }
    }

    fn the_permission_map_opens_single_ports(engine) {
        let mut guest = Guest::new(engine);
        let mut state = confined(&guest);
        // A map behind the TSS that lets through the port that ends the guest.
        state.segments[Seg::Tr as usize].limit = 0x67 + 0x40;
        guest.memory.write(at::TSS + 0x68, &[0xff; 0x40]);
        guest.memory.write(at::TSS + 0x68 + u64::from(port::END / 8), &[!1]);
        guest.code(at::USER_CODE, end);
        assert_eq!(guest.run_from(&state).faults(), []);
        assert_eq!(raised(&mut guest, &state, |a| a.out(port::END + 1, al)), (13, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.out(port::END, ax)), (13, 0), "both ports count");
    }

    fn gates_are_checked(engine) {
        let mut guest = Guest::new(engine);
        let kernel = guest.long_mode();
        let user = confined(&guest);
        let mut vector = |state: &State| raised_by_bytes(&mut guest, state, &[0xcd, 0x40]).0;
        assert_eq!(vector(&user), 13, "level");
        let mut short = kernel.clone();
        short.idtr.limit = 0x40 * 16 - 1;
        assert_eq!(vector(&short), 13, "limit");
        let mut gate = states::gate(at::STUBS, 0, 0);
        gate[0] &= !(1 << 47);
        guest.gate(0x40, gate);
        let mut vector = |state: &State| raised_by_bytes(&mut guest, state, &[0xcd, 0x40]).0;
        assert_eq!(vector(&kernel), 11, "absent");
        assert_eq!(vector(&user), 13, "level first");
        gate[0] = gate[0] & !(0xf << 40) | 0x5 << 40 | 1 << 47;
        guest.gate(0x40, gate);
        assert_eq!(raised_by_bytes(&mut guest, &kernel, &[0xcd, 0x40]).0, 13, "task gate");
    }

    fn error_codes_about_gates_name_them(engine) {
        let mut guest = Guest::new(engine);
        let kernel = guest.long_mode();
        let user = confined(&guest);
        let error = 0x40 * 8 + IDT;
        assert_eq!(raised_by_bytes(&mut guest, &user, &[0xcd, 0x40]), (13, error));
        assert_eq!(raised_by_bytes(&mut guest, &user, &[0xcc]), (13, 3 * 8 + IDT));
        let mut gate = states::gate(at::STUBS, 0, 0);
        gate[0] &= !(1 << 47);
        guest.gate(0x40, gate);
        assert_eq!(raised_by_bytes(&mut guest, &kernel, &[0xcd, 0x40]), (11, error));
        let mut short = kernel.clone();
        short.idtr.limit = 0x40 * 16 - 1;
        assert_eq!(raised_by_bytes(&mut guest, &short, &[0xcd, 0x40]), (13, error));
    }

    fn what_gates_lead_to_is_checked(engine) {
        let mut guest = Guest::new(engine);
        let kernel = guest.long_mode();
        let user = confined(&guest);
        for (selector, vector) in
            [(selector::DATA, 13), (selector::CODE32, 13), (selector::ABSENT_CODE, 11), (0, 13)]
        {
            let mut gate = states::gate(at::STUBS, 0, 0);
            gate[0] = gate[0] & !(0xffff << 16) | u64::from(selector) << 16;
            guest.gate(0x40, gate);
            let seen = raised_by_bytes(&mut guest, &kernel, &[0xcd, 0x40]);
            assert_eq!(seen, (vector, selector.into()));
        }
        guest.gate(0x40, states::gate(at::STUBS + 0x400, 0, 3));
        guest.memory.write(at::USER_CODE, &[0xcd, 0x40]);
        assert_eq!(guest.run_from(&user).traps[0].vector, 0x40, "open to all");
    }

    fn the_target_of_a_gate_is_canonical(engine) {
        let mut guest = Guest::new(engine);
        let kernel = guest.long_mode();
        guest.gate(0x40, states::gate(1 << 47, 0, 0));
        assert_eq!(raised_by_bytes(&mut guest, &kernel, &[0xcd, 0x40]), (13, 0));
    }

    fn a_task_state_that_is_too_short_is_named(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::user(guest.long_mode());
        state.segments[Seg::Tr as usize].limit = 3;
        guest.reporting_gate(0x80, 0, 3);
        // The handler runs at level 3, in a conforming segment, because there is no inner stack.
        let handler = at::USER_CODE + 0x800;
        let mut gate = states::gate(handler, 0, 0);
        gate[0] = gate[0] & !(0xffff << 16) | u64::from(selector::CONFORMING) << 16;
        guest.gate(10, gate);
        guest.code(handler, |a| {
            a.pop(rax)?;
            report(a)?;
            end(a)
        });
        guest.memory.write(at::USER_CODE, &[0xcd, 0x80]);
        assert_eq!(guest.run_from(&state).values, [u32::from(selector::TSS)]);
    }

    fn the_nested_task_flag_is_general_protection_in_long_mode(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        state.rflags |= rflags::NT;
        assert_eq!(raised(&mut guest, &state, |a| a.iretq()), (13, 0));
    }

    /// Two faults of one instruction: which one is reported.
    fn the_first_of_several_faults_is_raised(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        let on = |state: &mut State, bit| state.cr0 |= bit;
        assert_eq!(raised(&mut guest, &state, |a| a.div(dword_ptr(UNMAPPED))), (14, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.mov(ds, word_ptr(UNMAPPED))), (14, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.movaps(xmm0, xmmword_ptr(UNMAPPED + 8))), (13, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.movups(xmm0, xmmword_ptr(UNMAPPED + 8))), (14, 0));
        on(&mut state, cr0::TS);
        assert_eq!(raised(&mut guest, &state, |a| a.fld(dword_ptr(UNMAPPED))), (7, 0));
        assert_eq!(raised(&mut guest, &state, |a| a.movaps(xmm0, xmmword_ptr(UNMAPPED + 8))), (7, 0));
        // Read before write; the first of two operands.
        let mut state = guest.long_mode();
        state.gprs[usize::from(gpr::RSI)] = UNMAPPED;
        state.gprs[usize::from(gpr::RDI)] = UNMAPPED - 0x1000;
        guest.code(at::CODE, |a| a.movsb());
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].cr2), (vec![(14, 0)], UNMAPPED));
    }

    fn a_modification_is_a_write(engine) {
        let mut guest = Guest::with_program(engine, |a| a.add(dword_ptr(UNMAPPED), eax));
        assert_eq!(guest.run().faults(), [(14, 2)]);
    }

    /// MOV to CR5 does not exist for anybody.
    fn what_does_not_exist_is_an_invalid_opcode_at_every_level(engine) {
        let mut guest = Guest::new(engine);
        let user = confined(&guest);
        assert_eq!(raised_by_bytes(&mut guest, &user, &[0x0f, 0x22, 0xe8]), (6, 0));
    }

    fn a_page_fault_in_a_repeated_string_keeps_what_was_done(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        let entry = guest.tables.map(&guest.memory, 0x6_1000, 0x6_1000, 0x1000, pte::P | pte::W)[3];
        guest.memory.write_u64(entry, 0);
        state.gprs[usize::from(gpr::RDI)] = 0x6_0ffc;
        state.gprs[usize::from(gpr::RCX)] = 10;
        state.gprs[usize::from(gpr::RAX)] = 0x77;
        guest.code(at::CODE, |a| a.rep().stosb());
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].cr2), (vec![(14, 2)], 0x6_1000));
        assert_eq!(log.traps[0].rip, at::CODE);
        let state = guest.state();
        assert_eq!((state.gprs[usize::from(gpr::RCX)], state.gprs[usize::from(gpr::RDI)]), (6, 0x6_1000));
        assert_eq!(guest.memory.read::<4>(0x6_0ffc), [0x77; 4]);
    }

    fn faults_are_pushed_with_the_resume_flag(engine) {
        let mut guest = Guest::with_program(engine, |a| a.ud2());
        assert_ne!(u64::from(guest.run().traps[0].flags) & rflags::RF, 0);
        guest.code(at::CODE, |a| a.int3());
        let state = guest.long_mode();
        assert_eq!(u64::from(guest.run_from(&state).traps[0].flags) & rflags::RF, 0);
    }

    fn the_frame_is_aligned_and_the_handler_runs_with_interrupts_off(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.sti()?;
            a.nop()?;
            a.ud2()
        });
        guest.handler(6, |a| {
            a.pushfq()?;
            a.pop(rax)?;
            report(a)?;
            a.mov(rax, rsp)?;
            report(a)?;
            a.mov(rax, qword_ptr(rsp + 24))?;
            report(a)?;
            end(a)
        });
        let mut state = guest.long_mode();
        let stack = at::STACK - 5;
        state.gprs[usize::from(gpr::RSP)] = stack;
        let values = guest.run_from(&state).values;
        assert_eq!(u64::from(values[0]) & (rflags::IF | rflags::RF | rflags::TF), 0);
        assert_eq!(u64::from(values[1]), (stack & !15) - 40);
        assert_eq!(u64::from(values[2]), stack);
    }
}
