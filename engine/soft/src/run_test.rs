//! Execution, faults, events and debugging.

use std::sync::atomic::{AtomicU32, Ordering};

use arch_x86::engine::{Engine, EngineVcpu, Entry, Event, Intercept};
use arch_x86::exception::{self, Exception};
use arch_x86::regs::{Attr, Regs, Seg, cr0, cr4, gpr, rflags};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::test_machine::{Machine, assemble, at, machine, pte, run, run_to_halt, selector};
use crate::test_ways::in_every_way;
use crate::{Options, SoftVcpu};

in_every_way! {
    computes_in_a_loop,
    what_is_no_instruction_faults_with_rip_at_it,
    faults_reach_their_handler_with_rip_at_the_instruction,
    user_mode_faults_on_supervisor_pages,
    a_triple_fault_shuts_down,
    intercepts_leave_rip_at_the_instruction,
    what_no_slot_backs_is_a_nested_fault,
    unknown_instructions_are_ud_and_lacking_ones_come_out,
    the_request_word_ends_even_an_endless_loop,
    keys_that_are_used_up_start_anew,
    injected_interrupts_run_their_handler_and_return,
    an_event_that_an_intercept_kept_is_given_back,
    the_interrupt_window_opens_one_instruction_after_sti,
    hlt_after_sti_comes_out_in_the_shadow,
    the_nmi_window_opens_with_iret,
    alignment_is_checked_when_asked_for,
    alignment_of_sixteen_bytes_is_not_checked,
    alignment_is_checked_across_pages_and_before_them,
    smap_is_lifted_by_ac_only,
    real_mode_runs_with_its_segments,
    code_beyond_the_limit_of_cs_faults,
    exceptions_are_values,
}

pub(crate) fn handler(
    machine: &Machine,
    vector: u8,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    let code = assemble(at::HANDLERS + u64::from(vector) * 256, program);
    machine.handle(vector, &code);
}

fn enter(vcpu: &mut SoftVcpu, entry: Entry) -> Intercept {
    vcpu.enter(&entry, &AtomicU32::new(0))
}

fn computes_in_a_loop(options: Options) {
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 1000)?;
        a.xor(eax, eax)?;
        a.set_label(&mut top)?;
        a.add(rax, rcx)?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.mov(qword_ptr(at::DATA), rax)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!(machine.read_u64(at::DATA), 500_500);
    assert!(vcpu.instructions().is_none_or(|count| count == 2 + 3000 + 1));
    // What precedes the loop with its first round, the loop, what follows.
    let translated = match (options.translated, options.patience) {
        (0, _) => 0,
        (_, 0) => 3,
        // Only the loop comes again.
        _ => 1,
    };
    assert_eq!(vcpu.statistics().translated, translated);
}

fn what_is_no_instruction_faults_with_rip_at_it(options: Options) {
    for code in [&[0x06][..], &[0x0f, 0x0b], &[0x0f, 0xff, 0xc0], &[0x66; 16]] {
        let machine = machine(options, |a| {
            a.inc(rdx)?;
            a.db(code)
        });
        for vector in [exception::UD, exception::GP] {
            handler(&machine, vector, |a| a.hlt());
        }
        let mut vcpu = machine.vcpu();
        run_to_halt(&mut vcpu);
        let error = if code.len() > 15 { 8 } else { 0 };
        let frame = vcpu.gpr(gpr::RSP) + error;
        assert_eq!(machine.read_u64(frame), at::CODE + 3, "{code:x?}");
    }
}

fn faults_reach_their_handler_with_rip_at_the_instruction(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rbx, 0x1234_5000_u64)?;
        a.inc(rdx)?;
        a.mov(rax, qword_ptr(rbx + 8))?;
        a.mov(rsi, 0x77_u64)?;
        a.hlt()
    });
    // Maps nothing; corrects the address instead.
    handler(&machine, exception::PF, |a| {
        a.mov(rbx, at::DATA)?;
        a.mov(rdi, cr2)?;
        a.pop(r8)?;
        a.mov(r9, qword_ptr(rsp))?;
        a.iretq()
    });
    machine.write_u64(at::DATA + 8, 42);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RAX), 42);
    assert_eq!(vcpu.gpr(gpr::RDI), 0x1234_5008);
    assert_eq!(vcpu.gpr(gpr::R8), 0, "not present, read, supervisor");
    assert_eq!(vcpu.gpr(gpr::R9), at::CODE + 10 + 3);
    assert_eq!(vcpu.gpr(gpr::RDX), 1, "nothing is executed twice");
    assert_eq!(vcpu.gpr(gpr::RSI), 0x77);
    assert_eq!(vcpu.flags & rflags::RF, 0);
}

fn user_mode_faults_on_supervisor_pages(options: Options) {
    let machine = machine(options, |a| {
        a.push(u32::from(selector::USER_DATA) as i32)?;
        a.push(0x7_0000)?;
        a.pushfq()?;
        a.push(u32::from(selector::USER_CODE) as i32)?;
        a.push(at::USER_CODE as i32)?;
        a.iretq()
    });
    let user = assemble(at::USER_CODE, |a| {
        a.mov(rax, qword_ptr(at::DATA))?;
        a.mov(rbx, qword_ptr(at::DATA + 0x1000))?;
        a.hlt()
    });
    machine.write(at::USER_CODE, &user);
    machine.write_u64(at::PT + (at::DATA >> 12) * 8, at::DATA | pte::PRESENT | pte::WRITABLE);
    machine.write_u64(at::DATA, 5);
    let mut vcpu = machine.vcpu();
    handler(&machine, exception::PF, |a| {
        a.pop(rdx)?;
        a.mov(rcx, qword_ptr(at::DATA))?;
        a.hlt()
    });
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RDX), 0b101, "present, read, user");
    assert_eq!(vcpu.gpr(gpr::RCX), 5, "the supervisor may");
    assert_eq!(vcpu.cr2(), at::DATA);
    assert_eq!(vcpu.gpr(gpr::RSP), at::STACK0 - 40);
}

fn a_triple_fault_shuts_down(options: Options) {
    let machine = machine(options, |a| a.ud2());
    let mut vcpu = machine.vcpu();
    assert_eq!(run(&mut vcpu), Intercept::Shutdown);
}

fn intercepts_leave_rip_at_the_instruction(options: Options) {
    let machine = machine(options, |a| {
        a.mov(eax, 7)?;
        a.cpuid()?;
        a.out(0x80, al)?;
        a.mov(rbx, 0x0fed_0000_u64)?;
        a.mov(dword_ptr(0x1ff_f000), eax)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    assert_eq!(run(&mut vcpu), Intercept::Cpuid { len: 2 });
    assert_eq!(vcpu.rip(), at::CODE + 5);
    vcpu.set_rip(vcpu.rip() + 2);
    assert_eq!(run(&mut vcpu), Intercept::Out { port: 0x80, size: 1, len: 2 });
    vcpu.set_rip(vcpu.rip() + 2);
    assert_eq!(run(&mut vcpu), Intercept::Halt { len: 1 });
}

fn what_no_slot_backs_is_a_nested_fault(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rbx, at::LARGE)?;
        a.inc(rdx)?;
        a.add(dword_ptr(rbx + 16), edx)?;
        a.hlt()
    });
    let gpa = 0xfee0_0000;
    machine.write_u64(at::PD + 2 * 8, gpa | pte::RIGHTS | pte::LARGE);
    let mut vcpu = machine.vcpu();
    for _ in 0..2 {
        let expected = Intercept::NestedFault { gpa: gpa + 16, write: true };
        assert_eq!(run(&mut vcpu), expected);
        assert_eq!(vcpu.rip(), at::CODE + 10 + 3);
        assert_eq!(vcpu.gpr(gpr::RDX), 1);
    }
}

fn unknown_instructions_are_ud_and_lacking_ones_come_out(options: Options) {
    // VADDPS is not offered; RSM would be, but there is no system management mode.
    let machine = Machine::with(options, &[0xc5, 0xf8, 0x58, 0xc1]);
    handler(&machine, exception::UD, |a| {
        a.mov(rax, qword_ptr(rsp))?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RAX), at::CODE);
}

fn keys_that_are_used_up_start_anew(options: Options) {
    // Code at address 0 as well, which is what an empty place in the jump cache says.
    let machine = machine(options, |a| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)?;
        a.inc(rbx)?;
        a.xor(edx, edx)?;
        a.jmp(rdx)
    });
    let mut vcpu = machine.vcpu();
    for left in 0..4 {
        for end in [&[0xf4u8, 0x90][..], &[0x90, 0xf4]] {
            machine.write(0, end);
            vcpu.itlb.use_up(left);
            vcpu.set_rip(at::CODE);
            vcpu.set_gpr(gpr::RBX, 0);
            let intercept = run(&mut vcpu);
            assert_eq!(intercept, Intercept::Halt { len: 1 }, "{left} left");
            assert_eq!(vcpu.gpr(gpr::RBX), 1, "{left} left");
        }
    }
}

fn the_request_word_ends_even_an_endless_loop(options: Options) {
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.jmp(top)
    });
    let mut vcpu = machine.vcpu();
    let request = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| vcpu.enter(&Entry::default(), &request));
        request.store(1, Ordering::SeqCst);
        machine.engine.kick(0);
        assert_eq!(running.join().expect("no panic"), Intercept::Interrupted);
    });
    assert_eq!(vcpu.rip(), at::CODE);
}

fn injected_interrupts_run_their_handler_and_return(options: Options) {
    let machine = machine(options, |a| {
        a.inc(rbx)?;
        a.hlt()
    });
    handler(&machine, 0x30, |a| {
        a.mov(rax, qword_ptr(rsp))?;
        a.iretq()
    });
    let mut vcpu = machine.vcpu();
    let inject = Some(Event::Interrupt { vector: 0x30 });
    let out = enter(&mut vcpu, Entry { inject, fresh: true, ..Entry::default() });
    assert_eq!(out, Intercept::Halt { len: 1 });
    assert_eq!((vcpu.gpr(gpr::RAX), vcpu.gpr(gpr::RBX)), (at::CODE, 1));
}

fn an_event_that_an_intercept_kept_is_given_back(options: Options) {
    let machine = machine(options, |a| a.hlt());
    handler(&machine, 0x30, |a| a.iretq());
    machine.write_u64(at::PD + 2 * 8, 0xfee0_0000 | pte::RIGHTS | pte::LARGE);
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RSP, at::LARGE + 0x1000);
    let inject = Some(Event::Interrupt { vector: 0x30 });
    let out = enter(&mut vcpu, Entry { inject, ..Entry::default() });
    assert!(matches!(out, Intercept::NestedFault { gpa: 0xfee0_0ff8, write: true }), "{out:?}");
    assert_eq!(vcpu.take_undelivered(), inject);
    assert_eq!(vcpu.take_undelivered(), None);
    assert_eq!(vcpu.rip(), at::CODE);
}

fn the_interrupt_window_opens_one_instruction_after_sti(options: Options) {
    let machine = machine(options, |a| {
        a.nop()?;
        a.sti()?;
        a.inc(rax)?;
        a.inc(rax)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    let entry = Entry { interrupt_window: true, ..Entry::default() };
    assert_eq!(enter(&mut vcpu, entry), Intercept::InterruptWindow);
    assert_eq!(vcpu.gpr(gpr::RAX), 1);
    assert_eq!(vcpu.rip(), at::CODE + 2 + 3);
    assert!(!vcpu.interrupt_shadow());
    assert_eq!(enter(&mut vcpu, Entry::default()), Intercept::Halt { len: 1 });
    assert_eq!(vcpu.gpr(gpr::RAX), 2);
}

fn hlt_after_sti_comes_out_in_the_shadow(options: Options) {
    let machine = machine(options, |a| {
        a.sti()?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    let entry = Entry { interrupt_window: true, ..Entry::default() };
    assert_eq!(enter(&mut vcpu, entry), Intercept::Halt { len: 1 });
    assert!(vcpu.interrupt_shadow());
    assert_eq!(vcpu.rip(), at::CODE + 1);
}

fn the_nmi_window_opens_with_iret(options: Options) {
    let machine = machine(options, |a| {
        a.inc(rax)?;
        a.hlt()
    });
    handler(&machine, exception::NMI, |a| {
        a.inc(rbx)?;
        a.iretq()
    });
    let mut vcpu = machine.vcpu();
    let entry = Entry { inject: Some(Event::Nmi), nmi_window: true, ..Entry::default() };
    assert_eq!(enter(&mut vcpu, entry), Intercept::NmiWindow);
    assert_eq!((vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RAX)), (1, 0));
    assert_eq!(vcpu.rip(), at::CODE);
    assert!(!vcpu.nmi_blocked());
}

/// Makes `vcpu` execute in user mode, with alignment checked.
fn check_alignment(vcpu: &mut SoftVcpu) {
    let user =
        |selector, attr| arch_x86::regs::Segment { base: 0, limit: !0, selector, attr: Attr(attr) };
    vcpu.set_segment(Seg::Cs, user(selector::USER_CODE, 0xafb));
    vcpu.set_segment(Seg::Ss, user(selector::USER_DATA, 0xcf3));
    vcpu.set_cpl(3);
    vcpu.set_cr0(vcpu.cr0() | cr0::AM);
    vcpu.set_rflags(rflags::FIXED | rflags::AC);
}

fn alignment_is_checked_when_asked_for(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rax, qword_ptr(at::DATA + 8))?;
        a.mov(rax, qword_ptr(at::DATA + 1))?;
        a.hlt()
    });
    handler(&machine, exception::AC, |a| {
        a.pop(rdx)?;
        a.mov(rcx, qword_ptr(rsp))?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    check_alignment(&mut vcpu);
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RDX), vcpu.gpr(gpr::RCX)), (0, at::CODE + 10));
}

fn alignment_of_sixteen_bytes_is_not_checked(options: Options) {
    let machine = machine(options, |a| {
        a.movups(xmm0, xmmword_ptr(at::DATA + 1))?;
        a.movups(xmmword_ptr(at::DATA + 9), xmm0)?;
        a.int3()
    });
    handler(&machine, exception::BP, |a| {
        a.mov(ecx, 1)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    check_alignment(&mut vcpu);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RCX), 1);
}

fn alignment_is_checked_across_pages_and_before_them(options: Options) {
    type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let edge = at::DATA + 0x1000;
    let programs: [Program; 5] = [
        |a| a.mov(rax, qword_ptr(rbx)),
        |a| a.mov(qword_ptr(rbx), rax),
        |a| a.add(qword_ptr(rbx), rax),
        |a| a.lock().add(qword_ptr(rbx), rax),
        // Its last step is to look whether RSP can be written to.
        |a| a.enter(3, 0),
    ];
    for present in [false, true] {
        for program in programs {
            let machine = machine(options, program);
            if !present {
                machine.write_u64(at::PT + (edge >> 12) * 8, 0);
            }
            for vector in [exception::AC, exception::PF] {
                handler(&machine, vector, move |a| {
                    a.mov(ecx, u32::from(vector))?;
                    a.hlt()
                });
            }
            let mut vcpu = machine.vcpu();
            vcpu.set_gpr(gpr::RBX, edge - 3);
            check_alignment(&mut vcpu);
            run_to_halt(&mut vcpu);
            assert_eq!(vcpu.gpr(gpr::RCX), exception::AC.into());
        }
    }
}

fn smap_is_lifted_by_ac_only(options: Options) {
    let machine = machine(options, |a| {
        a.stac()?;
        a.mov(rax, qword_ptr(at::DATA))?;
        a.clac()?;
        a.mov(rax, qword_ptr(at::DATA))?;
        a.hlt()
    });
    // All but DATA become supervisor pages.
    for n in 0..512 {
        machine.write_u64(at::PT + n * 8, n << 12 | pte::PRESENT | pte::WRITABLE);
    }
    machine.write_u64(at::PT + (at::DATA >> 12) * 8, at::DATA | pte::RIGHTS);
    handler(&machine, exception::PF, |a| {
        a.mov(rcx, qword_ptr(rsp + 8))?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_cr4(vcpu.cr4() | cr4::SMAP);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RCX), at::CODE + 3 + 10 + 3);
}

fn real_mode_runs_with_its_segments(options: Options) {
    // mov ax, 0x1234; mov ds, ax; mov [0x10], ax; hlt
    let machine = Machine::with(options, &[]);
    machine.write(0x2_0100, &[0xb8, 0x34, 0x12, 0x8e, 0xd8, 0xa3, 0x10, 0x00, 0xf4]);
    let mut vcpu = machine.vcpu();
    let mut state = arch_x86::regs::State::at_reset();
    state.rip = 0x100;
    state.segments[Seg::Cs as usize].selector = 0x2000;
    state.segments[Seg::Cs as usize].base = 0x2_0000;
    state.write(&mut vcpu);
    run_to_halt(&mut vcpu);
    assert_eq!(machine.read_u64(0x1_2350) & 0xffff, 0x1234);
    assert_eq!(vcpu.rip(), 0x109);
}

fn code_beyond_the_limit_of_cs_faults(options: Options) {
    let machine = Machine::with(options, &[]);
    let mut vcpu = machine.vcpu();
    let mut state = arch_x86::regs::State::at_reset();
    // Two NOPs, then the first byte of an instruction that is cut off by the limit.
    machine.write(0xfffe, &[0x90, 0xb8]);
    machine.write(u64::from(exception::GP) * 4, &[0, 0, 0, 0x30]);
    machine.write(0x3_0000, &[0xf4]);
    state.rip = 0xfffe;
    state.segments[Seg::Cs as usize].selector = 0;
    state.segments[Seg::Cs as usize].base = 0;
    state.write(&mut vcpu);
    vcpu.set_gpr(gpr::RSP, 0x8000);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.segment(Seg::Cs).base, 0x3_0000);
    assert_eq!(machine.read_u64(0x7ffa) & 0xffff, 0xffff, "the pushed IP");
}

fn exceptions_are_values(options: Options) {
    let machine = machine(options, |a| a.hlt());
    handler(&machine, exception::GP, |a| {
        a.pop(rax)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    let inject = Some(Event::Exception(Exception::gp(0x18)));
    let out = enter(&mut vcpu, Entry { inject, ..Entry::default() });
    assert_eq!(out, Intercept::Halt { len: 1 });
    assert_eq!(vcpu.gpr(gpr::RAX), 0x18);
}
