//! Test bodies of the run loop, on the scripted engine.

use alloc::boxed::Box;

use selftest::{Failure, Outcome, cases, check, check_eq};
use virt::Host;

use super::scripted::{Fixture, Scripted, ScriptedVcpu, TestHost};
use super::{Answer, Data, Exit, Vcpu};
use crate::engine::{Event, Intercept};
use crate::exception::{Exception, GP};
use crate::msr::index;
use crate::pvclock::TimeInfo;
use crate::regs::{Attr, Regs, Seg, State, cr0, cr4, efer, gpr, rflags};

pub(crate) type TestVcpu = Box<Vcpu<Scripted, TestHost>>;

/// Where test code lies.
pub(crate) const CODE: u64 = 0x1000;
const EVENT_VECTOR: u8 = 0x41;

pub(crate) fn host_error<T>(result: Result<T, virt::Errno>) -> Result<T, Failure> {
    result.map_err(|errno| Failure {
        file: file!(),
        line: line!(),
        message: alloc::format!("the core refused: {errno:?}"),
    })
}

/// 64-bit mode without paging surprises: a page table that maps the first 2 MiB onto itself.
pub(crate) fn long_mode(fixture: &Fixture, vcpu: &mut TestVcpu) -> Outcome {
    let tables = [(0x2000_u64, 0x3003_u64), (0x3000, 0x4003), (0x4000, 0x83)];
    for (gpa, entry) in tables {
        check_eq!(fixture.host.write(gpa, &entry.to_le_bytes()), Ok(()));
    }
    // The directory's next entries lead to 0xfec0_0000 and 0xfee0_0000, the chips' pages.
    for (slot, target) in [(1_u64, 0xfec0_0000_u64), (2, 0xfee0_0000), (3, 0xd000_0000)] {
        let entry = target | 0x83;
        check_eq!(fixture.host.write(0x4000 + slot * 8, &entry.to_le_bytes()), Ok(()));
    }
    let mut state = State::at_reset();
    state.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE;
    state.cr3 = 0x2000;
    state.cr4 = cr4::PAE;
    state.efer = efer::LME | efer::LMA;
    state.rip = CODE;
    state.segments[Seg::Cs as usize].attr = Attr(0xa9b);
    state.segments[Seg::Cs as usize].base = 0;
    state.write(vcpu.engine_mut());
    Ok(())
}

pub(super) fn machine(cpus: u32) -> Result<(Fixture, TestVcpu), Failure> {
    let fixture = host_error(Fixture::new(cpus))?;
    let mut vcpu = host_error(fixture.vcpu(0))?;
    long_mode(&fixture, &mut vcpu)?;
    Ok((fixture, vcpu))
}

pub(crate) fn engine(vcpu: &mut TestVcpu) -> &mut ScriptedVcpu {
    vcpu.engine_mut()
}

/// Switches the local APIC on, in x2APIC mode.
pub(crate) fn enable_apic(vcpu: &mut TestVcpu) -> Outcome {
    let base = 0xfee0_0000 | 1 << 11 | 1 << 10;
    check!(vcpu.write_msr(index::APIC_BASE, base).is_ok());
    check!(vcpu.write_msr(0x80f, 0x1ff).is_ok());
    Ok(())
}

pub(crate) fn set_if(state: &mut State, on: bool) {
    state.rflags = if on { state.rflags | rflags::IF } else { state.rflags & !rflags::IF };
}

/// A step that does nothing but come out for port 0x80.
pub(crate) fn out(state: &mut State, _: &crate::engine::Entry) -> Intercept {
    state.gprs[0] = 0x5a;
    Intercept::Out { port: 0x1080, size: 1, len: 2 }
}

cases! {
    fn a_vcpu_is_made_once() {
        let fixture = host_error(Fixture::new(2))?;
        check_eq!(fixture.vcpu(2).err(), Some(virt::Errno::EINVAL));
        let _one = host_error(fixture.vcpu(1))?;
        check_eq!(fixture.vcpu(1).err(), Some(virt::Errno::EEXIST));
        check!(fixture.vcpu(0).is_ok());
        // What went wrong may be tried again.
        let fixture = host_error(Fixture::new(1))?;
        let published = fixture.vm.arch().machine().vcpu(0).ok_or(virt::Errno::EINVAL);
        let failed: Result<(), _> = host_error(published)?.make_once(|| Err(virt::Errno::ENOMEM));
        check_eq!(failed, Err(virt::Errno::ENOMEM));
        check!(fixture.vcpu(0).is_ok());
    }

    fn cpuid_answers_from_the_table_and_moves_on() {
        let (_fixture, mut vcpu) = machine(1)?;
        engine(&mut vcpu).then(|state, _| {
            state.gprs[usize::from(gpr::RAX)] = 0xffff_ffff_4000_0000;
            Intercept::Cpuid { len: 2 }
        });
        engine(&mut vcpu).then(out);
        check_eq!(vcpu.run(Answer::None), Exit::Out { port: 0x1080, size: 1, data: Data::new(&[0x5a]) });
        check_eq!(vcpu.engine().gpr(gpr::RBX), u64::from(u32::from_le_bytes(*b"KVMK")));
        check_eq!(vcpu.engine().rip(), CODE + 4);
    }

    fn an_unknown_msr_is_a_general_protection_fault_at_the_instruction() {
        let (_fixture, mut vcpu) = machine(1)?;
        engine(&mut vcpu).then(|state, _| {
            state.gprs[usize::from(gpr::RCX)] = 0xdead;
            Intercept::ReadMsr { len: 2 }
        });
        engine(&mut vcpu).then(out);
        vcpu.run(Answer::None);
        check_eq!(vcpu.engine().injected(), [Event::Exception(Exception::gp(0))]);
        check_eq!(vcpu.engine().rip(), CODE + 2);
        check_eq!(GP, 13);
    }

    fn an_in_completes_with_the_answer_and_keeps_the_rest_of_rax() {
        let (_fixture, mut vcpu) = machine(1)?;
        for size in [1_u8, 2, 4] {
            engine(&mut vcpu).then(move |state, _| {
                state.gprs[0] = 0x1111_1111_1111_1111;
                Intercept::In { port: 0x1000, size, len: 1 }
            });
        }
        let data = Answer::Data(Data::new(&[1, 2, 3, 4]));
        let exit = |size| Exit::In { port: 0x1000, size, count: 1 };
        check_eq!(vcpu.run(Answer::None), exit(1));
        check_eq!(vcpu.run(data), exit(2));
        check_eq!(vcpu.engine().rip(), CODE + 1);
        check_eq!(vcpu.run(data), exit(4));
        engine(&mut vcpu).then(|state, _| {
            state.gprs[1] = state.gprs[0];
            Intercept::Shutdown
        });
        check_eq!(vcpu.run(data), Exit::Shutdown);
        check_eq!(vcpu.engine().gpr(gpr::RCX), 0x0403_0201);
    }

    fn an_interrupt_waits_for_the_window() {
        let (_fixture, mut vcpu) = machine(1)?;
        enable_apic(&mut vcpu)?;
        engine(&mut vcpu).then(|_, entry| {
            // Interrupts are off: the loop asks for the window instead.
            if entry.inject.is_some() || !entry.interrupt_window { return Intercept::Shutdown }
            Intercept::Cpuid { len: 2 }
        });
        engine(&mut vcpu).then(|state, _| {
            set_if(state, true);
            Intercept::InterruptWindow
        });
        engine(&mut vcpu).then(out);
        // A self-IPI, as the guest would send it.
        check!(vcpu.write_msr(0x83f, EVENT_VECTOR.into()).is_ok());
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: EVENT_VECTOR }]);
        check!(vcpu.lapic().pending().is_none());
    }

    fn an_interrupt_shadow_holds_an_interrupt_back_for_one_instruction() {
        let (_fixture, mut vcpu) = machine(1)?;
        enable_apic(&mut vcpu)?;
        check!(vcpu.write_msr(0x83f, EVENT_VECTOR.into()).is_ok());
        let flags = vcpu.engine().rflags() | rflags::IF;
        engine(&mut vcpu).set_rflags(flags);
        engine(&mut vcpu).set_interrupt_shadow(true);
        engine(&mut vcpu).then(|state, _| {
            state.interrupt_shadow = false;
            Intercept::InterruptWindow
        });
        engine(&mut vcpu).then(out);
        vcpu.run(Answer::None);
        check_eq!(vcpu.engine().entries[0].inject, None);
        check!(vcpu.engine().entries[0].interrupt_window);
        check_eq!(vcpu.engine().entries[1].inject, Some(Event::Interrupt { vector: EVENT_VECTOR }));
    }

    fn a_halted_vcpu_sleeps_until_its_timer_fires() {
        let (fixture, mut vcpu) = machine(1)?;
        enable_apic(&mut vcpu)?;
        // LVT timer in TSC-deadline mode.
        check!(vcpu.write_msr(0x832, 2 << 17 | u64::from(EVENT_VECTOR)).is_ok());
        let now = vcpu.read_msr(index::TSC).unwrap_or(0);
        check!(vcpu.write_msr(index::TSC_DEADLINE, now + 5_000_000).is_ok());
        let before = fixture.host.now();
        engine(&mut vcpu).then(|state, _| {
            set_if(state, true);
            Intercept::Halt { len: 1 }
        });
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(fixture.host.now(), before + 5_000_000);
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: EVENT_VECTOR }]);
        check_eq!(vcpu.read_msr(index::TSC_DEADLINE), Ok(0));
    }

    fn a_signal_brings_a_vcpu_out_before_it_enters_and_while_it_is_halted() {
        let (fixture, mut vcpu) = machine(1)?;
        engine(&mut vcpu).then(out);
        fixture.host.interrupt(true);
        for _ in 0..2 {
            check_eq!(vcpu.run(Answer::None), Exit::Interrupted);
        }
        check_eq!(vcpu.engine().entries.len(), 0);
        fixture.host.interrupt(false);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        let host = fixture.host.clone();
        engine(&mut vcpu).then(move |state, _| {
            set_if(state, true);
            host.interrupt(true);
            Intercept::Halt { len: 1 }
        });
        engine(&mut vcpu).then(out);
        for _ in 0..2 {
            check_eq!(vcpu.run(Answer::None), Exit::Interrupted);
        }
        check_eq!(vcpu.engine().entries.len(), 2);
        // It is halted still, and what wakes it does.
        fixture.host.interrupt(false);
        fixture.vm.arch().machine().post(0, super::inbox::request::NMI);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), [Event::Nmi]);
    }

    fn halting_for_good_is_told_once() {
        let (fixture, mut vcpu) = machine(1)?;
        engine(&mut vcpu).then(|_, _| Intercept::Halt { len: 1 });
        check_eq!(vcpu.run(Answer::None), Exit::Halted);
        // An NMI still ends it.
        fixture.vm.arch().machine().post(0, super::inbox::request::NMI);
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), [Event::Nmi]);
    }

    fn an_nmi_waits_while_another_is_handled() {
        let (fixture, mut vcpu) = machine(1)?;
        let machine = fixture.vm.arch().machine();
        engine(&mut vcpu).set_nmi_blocked(true);
        machine.post(0, super::inbox::request::NMI);
        engine(&mut vcpu).then(|state, entry| {
            if entry.inject.is_some() || !entry.nmi_window { return Intercept::Shutdown }
            state.nmi_blocked = false;
            Intercept::NmiWindow
        });
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), [Event::Nmi]);
    }

    fn init_and_start_up_bring_up_a_second_vcpu() {
        let (fixture, mut first) = machine(2)?;
        let mut second = host_error(fixture.vcpu(1))?;
        enable_apic(&mut first)?;
        // INIT, then start-up at page 0x9a, to APIC ID 1.
        check!(first.write_msr(0x830, 1 << 32 | 0x4500).is_ok());
        check!(first.write_msr(0x830, 1 << 32 | 0x4600 | 0x9a).is_ok());
        engine(&mut second).then(|state, _| {
            state.gprs[0] = 0x5a;
            Intercept::Out { port: 0x1080, size: 1, len: 2 }
        });
        check!(matches!(second.run(Answer::None), Exit::Out { .. }));
        let code = second.engine().segment(Seg::Cs);
        check_eq!((code.selector, code.base), (0x9a00, 0x9_a000));
        check_eq!(second.engine().rip(), 2);
        check_eq!(second.engine().cr0() & cr0::PE, 0);
    }

    fn an_ipi_reaches_the_vcpu_that_it_is_for() {
        let (fixture, mut first) = machine(2)?;
        let mut second = host_error(fixture.vcpu(1))?;
        long_mode(&fixture, &mut second)?;
        enable_apic(&mut first)?;
        enable_apic(&mut second)?;
        check!(first.write_msr(0x830, 1 << 32 | u64::from(EVENT_VECTOR)).is_ok());
        let interrupted = |id| {
            let published = fixture.vm.arch().machine().vcpu(id);
            let mail = published.map_or(0, |vcpu| vcpu.inbox.take(0).request);
            mail & super::inbox::request::INTERRUPT != 0
        };
        check!(!interrupted(0));
        check!(interrupted(1));
    }

    fn the_legacy_timer_interrupts_through_the_8259s() {
        let (fixture, mut vcpu) = machine(1)?;
        let machine = fixture.vm.arch().machine();
        // ICW1–4 with base 0x20, all but line 0 masked; channel 0 as a rate generator.
        let writes = [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe),
                      (0x43, 0x34), (0x40, 0x00), (0x40, 0x10)];
        for (port, value) in writes {
            machine.with_chips(|chips, now| ((), chips.write_port(port, value, now)));
        }
        engine(&mut vcpu).then(|state, _| {
            set_if(state, true);
            Intercept::Halt { len: 1 }
        });
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: 0x20 }]);
    }

    fn a_devices_line_interrupts_through_the_ioapic() {
        let (fixture, mut vcpu) = machine(1)?;
        enable_apic(&mut vcpu)?;
        let machine = fixture.vm.arch().machine();
        // The same line is wired to the 8259s: masked there.
        machine.with_chips(|chips, now| ((), chips.write_port(0x21, 0xff, now)));
        // Redirection entry 4: vector, edge, physical destination 0, not masked.
        for (offset, value) in [(0, 0x18_u32), (0x10, EVENT_VECTOR.into()), (0, 0x19), (0x10, 0)] {
            machine.with_chips(|chips, _| ((), chips.write_mmio(offset, &value.to_le_bytes())));
        }
        fixture.vm.set_irq(4, true);
        let flags = vcpu.engine().rflags() | rflags::IF;
        engine(&mut vcpu).set_rflags(flags);
        engine(&mut vcpu).then(out);
        vcpu.run(Answer::None);
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: EVENT_VECTOR }]);
        // Code may have changed before it was sent.
        check!(vcpu.engine().entries[0].fresh);
    }

    fn a_write_to_the_ioapic_is_emulated() {
        let (fixture, mut vcpu) = machine(1)?;
        // mov dword [0x200000], 0x18: the I/O APIC's index, by the page table.
        let code = [0xc7, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0x18, 0, 0, 0];
        check_eq!(fixture.host.write(CODE, &code), Ok(()));
        let fault = Intercept::NestedFault { gpa: 0xfec0_0000, write: true };
        engine(&mut vcpu).then(move |_, _| fault);
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().rip(), CODE + code.len() as u64 + 2);
        let mut index = [0; 4];
        fixture.vm.arch().machine().with_chips(|chips, _| {
            chips.read_mmio(0, &mut index);
            ((), crate::irqchip::chips::Effects::default())
        });
        check_eq!(index[0], 0x18);
    }

    fn what_an_engine_leaves_to_the_run_loop_is_emulated() {
        let (fixture, mut vcpu) = machine(1)?;
        // cpuid; mov eax, 7
        check_eq!(fixture.host.write(CODE, &[0x0f, 0xa2, 0xb8, 7, 0, 0, 0]), Ok(()));
        engine(&mut vcpu).set_gpr(gpr::RAX, 0x8000_0001);
        let [.., edx] = vcpu.cpuid().get(0x8000_0001, 0).unwrap_or_default();
        engine(&mut vcpu).then(|_, _| Intercept::Emulate);
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check!(edx != 0);
        check_eq!(vcpu.engine().gpr(gpr::RDX), edx.into());
        engine(&mut vcpu).set_rip(CODE + 2);
        engine(&mut vcpu).then(|_, _| Intercept::Emulate);
        check_eq!(vcpu.run(Answer::None), Exit::Shutdown);
        check_eq!((vcpu.engine().gpr(gpr::RAX), vcpu.engine().rip()), (7, CODE + 7));
    }

    fn a_read_from_a_device_is_answered_by_the_vmm_and_the_instruction_done_anew() {
        let (fixture, mut vcpu) = machine(1)?;
        // add eax, [0x600010]
        let code = [0x03, 0x04, 0x25, 0x10, 0x00, 0x60, 0x00];
        check_eq!(fixture.host.write(CODE, &code), Ok(()));
        engine(&mut vcpu).set_gpr(gpr::RAX, 2);
        let fault = Intercept::NestedFault { gpa: 0xd000_0010, write: false };
        engine(&mut vcpu).then(move |_, _| fault);
        engine(&mut vcpu).then(move |_, _| fault);
        check_eq!(vcpu.run(Answer::None), Exit::MmioRead { gpa: 0xd000_0010, size: 4 });
        check_eq!(vcpu.engine().rip(), CODE);
        check_eq!(vcpu.run(Answer::Data(Data::new(&[5, 0, 0, 0]))), Exit::Shutdown);
        check_eq!(vcpu.engine().gpr(gpr::RAX), 7);
        check_eq!(vcpu.engine().rip(), CODE + code.len() as u64);
    }

    fn a_string_copy_to_a_device_makes_a_write_a_round() {
        let (fixture, mut vcpu) = machine(1)?;
        // rep movsb to 0x600000
        check_eq!(fixture.host.write(CODE, &[0xf3, 0xa4]), Ok(()));
        check_eq!(fixture.host.write(0x5000, b"abc"), Ok(()));
        for (register, value) in [(gpr::RSI, 0x5000), (gpr::RDI, 0x60_0000), (gpr::RCX, 3)] {
            engine(&mut vcpu).set_gpr(register, value);
        }
        let fault = Intercept::NestedFault { gpa: 0xd000_0000, write: true };
        for _ in 0..3 {
            engine(&mut vcpu).then(move |_, _| fault);
        }
        for (offset, byte) in b"abc".iter().enumerate() {
            let gpa = 0xd000_0000 + offset as u64;
            check_eq!(vcpu.run(Answer::None), Exit::MmioWrite { gpa, data: Data::new(&[*byte]) });
        }
        check_eq!(vcpu.run(Answer::None), Exit::Shutdown);
        check_eq!(vcpu.engine().gpr(gpr::RCX), 0);
        check_eq!(vcpu.engine().rip(), CODE + 2);
    }

    fn a_page_fault_of_an_emulated_instruction_is_the_guests() {
        let (fixture, mut vcpu) = machine(1)?;
        // mov eax, [0x40000000]: not mapped.
        check_eq!(fixture.host.write(CODE, &[0x8b, 0x04, 0x25, 0, 0, 0, 0x40]), Ok(()));
        let fault = Intercept::NestedFault { gpa: 0xd000_0000, write: false };
        engine(&mut vcpu).then(move |_, _| fault);
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), [Event::Exception(Exception::pf(0x4000_0000, 0))]);
    }

    fn where_there_is_no_memory_nothing_is_fetched() {
        let (_fixture, mut vcpu) = machine(1)?;
        let fault = Intercept::NestedFault { gpa: 0xd000_0000, write: false };
        engine(&mut vcpu).then(move |state, _| {
            state.rip = 0x60_0000;
            fault
        });
        check_eq!(vcpu.run(Answer::None), Exit::Unsupported { bytes: [0; 15], len: 0 });
        check_eq!(vcpu.engine().rip(), 0x60_0000);
    }

    fn an_instruction_may_end_where_memory_does() {
        let (fixture, mut vcpu) = machine(1)?;
        // mov eax, [rbx], with nothing behind it.
        let end = Fixture::MEMORY - 2;
        check_eq!(fixture.host.write(end, &[0x8b, 0x03]), Ok(()));
        let fault = Intercept::NestedFault { gpa: 0xd000_0000, write: false };
        engine(&mut vcpu).then(move |state, _| {
            state.rip = end;
            state.gprs[usize::from(gpr::RBX)] = 0x60_0000;
            fault
        });
        check_eq!(vcpu.run(Answer::None), Exit::MmioRead { gpa: 0xd000_0000, size: 4 });
    }

    fn strings_of_port_accesses_carry_a_buffer() {
        let (fixture, mut vcpu) = machine(1)?;
        // rep outsb
        check_eq!(fixture.host.write(CODE, &[0xf3, 0x6e]), Ok(()));
        check_eq!(fixture.host.write(0x5000, b"hello"), Ok(()));
        for (register, value) in [(gpr::RSI, 0x5000), (gpr::RDX, 0x1000), (gpr::RCX, 5)] {
            engine(&mut vcpu).set_gpr(register, value);
        }
        engine(&mut vcpu).then(|_, _| Intercept::StringIo);
        let data = Data::new(b"hello");
        check_eq!(vcpu.run(Answer::None), Exit::Out { port: 0x1000, size: 1, data });
        check_eq!(vcpu.engine().rip(), CODE + 2);
        check_eq!(vcpu.engine().gpr(gpr::RSI), 0x5005);
        // rep insw, two words
        check_eq!(fixture.host.write(CODE + 2, &[0xf3, 0x66, 0x6d]), Ok(()));
        for (register, value) in [(gpr::RDI, 0x5010), (gpr::RCX, 2)] {
            engine(&mut vcpu).set_gpr(register, value);
        }
        engine(&mut vcpu).then(|_, _| Intercept::StringIo);
        check_eq!(vcpu.run(Answer::None), Exit::In { port: 0x1000, size: 2, count: 2 });
        check_eq!(vcpu.run(Answer::Data(Data::new(&[1, 2, 3, 4]))), Exit::Shutdown);
        let mut back = [0; 4];
        check_eq!(fixture.host.read(0x5010, &mut back), Ok(()));
        check_eq!(back, [1, 2, 3, 4]);
        check_eq!(vcpu.engine().gpr(gpr::RCX), 0);
    }

    fn kvms_clock_is_where_the_guest_asked_for_it() {
        let (fixture, mut vcpu) = machine(1)?;
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, 0x6001).is_ok());
        let mut bytes = [0; TimeInfo::SIZE];
        check_eq!(fixture.host.read(0x6000, &mut bytes), Ok(()));
        check_eq!(bytes[0] & 1, 0);
        check_eq!(bytes[29], TimeInfo::STABLE);
        check!(vcpu.write_msr(index::KVM_WALL_CLOCK_NEW, 0x7000).is_ok());
        let mut seconds = [0; 4];
        check_eq!(fixture.host.read(0x7004, &mut seconds), Ok(()));
        check_eq!(u32::from_le_bytes(seconds), 1_700_000_000);
        // An address without memory is the guest's mistake.
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, 0xf000_0001).is_err());
    }

    fn single_step_traps_after_an_instruction_that_is_handled_here() {
        let (_fixture, mut vcpu) = machine(1)?;
        engine(&mut vcpu).then(|state, _| {
            state.rflags |= rflags::TF;
            Intercept::Cpuid { len: 2 }
        });
        engine(&mut vcpu).then(out);
        vcpu.run(Answer::None);
        check_eq!(vcpu.engine().injected(), [Event::Exception(Exception::db(1 << 14))]);
    }

    fn port_breakpoints_trap_after_the_access() {
        let (_fixture, mut vcpu) = machine(1)?;
        engine(&mut vcpu).then(|state, _| {
            state.cr4 |= cr4::DE;
            // Breakpoint 1 watches ports 0x1080 to 0x1083.
            state.debug = [0, 0x1080, 0, 0, 0xffff_0ff0, 0x400 | 1 << 2 | 0b1110 << 20];
            Intercept::In { port: 0x1082, size: 1, len: 2 }
        });
        engine(&mut vcpu).then(out);
        engine(&mut vcpu).then(|state, _| {
            state.cr4 &= !cr4::DE;
            Intercept::Out { port: 0x1080, size: 1, len: 2 }
        });
        vcpu.run(Answer::None);
        check_eq!(vcpu.engine().injected(), []);
        for _ in 0..2 {
            vcpu.run(Answer::None);
        }
        let hit = Event::Exception(Exception::db(1 << 1));
        check_eq!(vcpu.engine().injected(), [hit, hit]);
    }

    fn a_request_to_return_is_seen_before_the_guest_runs() {
        let (fixture, mut vcpu) = machine(1)?;
        fixture.vm.arch().machine().post(0, super::inbox::request::EXIT);
        check_eq!(vcpu.run(Answer::None), Exit::Interrupted);
        check!(vcpu.engine().entries.is_empty());
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
    }

    fn the_neutral_state_covers_what_the_accessor_shows() {
        let mut state = Box::new(State::at_reset());
        for (n, value) in state.gprs.iter_mut().enumerate() {
            *value = n as u64 + 1;
        }
        state.sysregs = core::array::from_fn(|n| n as u64 + 100);
        state.debug = [1, 2, 3, 4, 5, 6];
        (state.rip, state.cr2, state.cr3, state.nmi_blocked) = (7, 8, 9, true);
        state.interrupt_shadow = true;
        let mut copy = Box::new(State::at_reset());
        state.write(&mut *copy);
        check!(*copy == *state);
        check!(State::read(&*copy) == *state);
    }

    fn removed_memory_is_gone_for_the_vcpu_and_told_to_the_engine() {
        let (fixture, mut vcpu) = machine(1)?;
        check!(fixture.vm.remove_slot(0).is_ok());
        let machine = fixture.vm.arch().machine();
        check_eq!(machine.engine.invalidated.lock().last().copied(), Some((0, Fixture::MEMORY)));
        engine(&mut vcpu).then(|_, _| Intercept::Cpuid { len: 2 });
        vcpu.run(Answer::None);
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, 0x6001).is_err());
    }
}
