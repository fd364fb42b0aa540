//! What the VMM does to a guest that runs: pause, interrupt, look at its state and change it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guests::guest::Memory;
use guests::programs::end;
use guests::x86::{Answer, Exit, Seg, SysReg, rflags};
use guests::{Guest, Hypervisor, Vcpu, Vm, at, code_asm::*, port};

/// A guest that counts at [`at::DATA`] for ever.
fn counting<H: Hypervisor>(engine: &H) -> Guest<H> {
    Guest::with_program(engine, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.inc(qword_ptr(at::DATA))?;
        a.jmp(top)
    })
}

fn count(memory: &Memory) -> u64 {
    memory.read_u64(at::DATA)
}

/// Waits until the count is beyond `value`.
fn wait_beyond(memory: &Memory, value: u64) -> u64 {
    loop {
        let now = count(memory);
        if now > value {
            return now;
        }
        std::thread::yield_now();
    }
}

guests::on_every_engine! {
    fn while_paused_no_instruction_is_executed(engine) {
        let mut guest = counting(engine);
        let (vm, memory) = (Arc::clone(&guest.vm), guest.memory.clone());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let vcpu = &mut guest.vcpus[0];
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    assert_eq!(vcpu.run(Answer::None).expect("a run"), Exit::Interrupted);
                }
            });
            let mut last = wait_beyond(&memory, 0);
            for _ in 0..20 {
                vm.pause();
                let stopped = count(&memory);
                for _ in 0..50 {
                    std::thread::yield_now();
                    assert_eq!(count(&memory), stopped);
                }
                vm.resume();
                last = wait_beyond(&memory, last.max(stopped));
            }
            done.store(true, Ordering::SeqCst);
            vm.interrupt_vcpus();
        });
    }

    fn a_halted_machine_pauses_too(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(dword_ptr(at::DATA), 1)?;
            a.sti()?;
            a.hlt()
        });
        let (vm, memory) = (Arc::clone(&guest.vm), guest.memory.clone());
        std::thread::scope(|scope| {
            let vcpu = &mut guest.vcpus[0];
            let thread = scope.spawn(|| vcpu.run(Answer::None).expect("a run"));
            wait_beyond(&memory, 0);
            vm.pause();
            vm.resume();
            vm.pause();
            // Paused or not, it returns when asked to.
            vm.interrupt_vcpus();
            assert_eq!(thread.join().expect("no panic"), Exit::Interrupted);
            vm.resume();
        });
    }

    fn an_interrupted_guest_goes_on_where_it_was(engine) {
        let mut guest = counting(engine);
        let (vm, memory) = (Arc::clone(&guest.vm), guest.memory.clone());
        let mut last = 0;
        for _ in 0..20 {
            std::thread::scope(|scope| {
                let vcpu = &mut guest.vcpus[0];
                let thread = scope.spawn(|| vcpu.run(Answer::None).expect("a run"));
                last = wait_beyond(&memory, last);
                vm.interrupt_vcpus();
                assert_eq!(thread.join().expect("no panic"), Exit::Interrupted);
            });
            let rip = guest.state().rip;
            assert!((at::CODE..at::CODE + 10).contains(&rip), "{rip:#x}");
            last = count(&memory);
        }
    }

    fn an_interruption_asked_for_before_is_not_lost(engine) {
        let mut guest = counting(engine);
        guest.vm.interrupt_vcpus();
        assert_eq!(guest.vcpus[0].run(Answer::None).expect("a run"), Exit::Interrupted);
        assert_eq!(count(&guest.memory), 0);
    }

    /// An answer that comes in when the vCPU is only asked to return is kept for the exit it is for.
    fn an_answer_survives_an_interruption(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.in_(al, port::FREE)?;
            a.movzx(eax, al)?;
            guests::programs::report(a)?;
            end(a)
        });
        let mut log = guests::Log::default();
        let exit = guest.run_to_exit(Answer::None, &mut log);
        assert_eq!(exit, Exit::In { port: port::FREE as u16, size: 1, count: 1 });
        guest.vm.interrupt_vcpus();
        let answer = Answer::Data(guests::x86::Data::new(&[0x42]));
        assert_eq!(guest.vcpus[0].run(answer).expect("a run"), Exit::Interrupted);
        assert_eq!(guest.run().values, [0x42]);
    }

    fn what_is_set_is_what_is_read(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        for (n, value) in (1..).zip(&mut state.gprs) {
            *value = 0x0101_0101_0101_0101 * n;
        }
        state.rip = 0xffff_8000_0000_1234;
        state.rflags = rflags::FIXED | rflags::STATUS | rflags::IF | rflags::DF | rflags::ID;
        for seg in [Seg::Fs, Seg::Gs] {
            state.segments[seg as usize].base = 0xffff_8000_0000_0000 | seg as u64;
        }
        state.cr2 = 0x1234;
        state.debug = [1, 2, 3, 4, 0xffff_0ff1, 0x401];
        for (n, value) in (1..).zip(&mut state.sysregs) {
            *value = n * 8;
        }
        state.sysregs[SysReg::Xcr0 as usize] = 3;
        state.interrupt_shadow = true;
        state.nmi_blocked = true;
        for n in 0..16 {
            state.fx.set_xmm(n, u128::from(n) << 64 | 7);
        }
        state.fx.set_mxcsr(0x1fa0);
        guest.set_state(&state);
        assert_eq!(guest.state(), state);
    }

    fn what_is_set_is_what_the_guest_sees(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.movq(rax, xmm3)?;
            guests::programs::report(a)?;
            a.mov(rax, cr2)?;
            guests::programs::report(a)?;
            a.setc(al)?;
            a.movzx(eax, al)?;
            guests::programs::report(a)?;
            a.mov(ebx, 77)?;
            end(a)
        });
        let mut state = guest.long_mode();
        state.fx.set_xmm(3, 5);
        state.cr2 = 6;
        state.rflags |= rflags::CF;
        assert_eq!(guest.run_from(&state).values, [5, 6, 1]);
        assert_eq!(guest.state().gprs[3], 77);
    }

    fn retired_instructions_are_counted_where_they_are(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            let mut top = a.create_label();
            a.mov(ecx, 1000)?;
            a.set_label(&mut top)?;
            a.dec(ecx)?;
            a.jnz(top)?;
            end(a)
        });
        let before = guest.vcpus[0].counts();
        guest.run();
        if let (Some(before), Some(after)) = (before, guest.vcpus[0].counts()) {
            let retired = after.instructions - before.instructions;
            assert!((2001..=2002).contains(&retired), "{retired}");
        }
    }
}
