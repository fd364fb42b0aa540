//! Test bodies of writes that signal an event, and of events that interrupt: on the scripted engine.

use selftest::{cases, check, check_eq};
use virt::Host;
use virt::host::{Errno, Event as HostEvent};
use virt::ioeventfd::{IoAddress, IoEventFd};

use super::run_test::{CODE, TestVcpu, enable_apic, engine, host_error, machine, out, set_if};
use super::scripted::TestEvent;
use super::{Answer, Data, Exit};
use crate::engine::{Entry, Event, Intercept};
use crate::regs::{Regs, State, gpr};

const PORT: u16 = 0x500;
const VECTOR: u8 = 0x41;

fn on_port(size: u8, data: Option<u64>) -> IoEventFd<TestEvent> {
    IoEventFd { at: IoAddress::Port(PORT), size, data, event: TestEvent::default() }
}

/// A step that writes AX to the port.
fn out_word(value: u64) -> impl FnMut(&mut State, &Entry) -> Intercept {
    move |state, _| {
        state.gprs[usize::from(gpr::RAX)] = value;
        Intercept::Out { port: PORT, size: 2, len: 2 }
    }
}

/// The guest executes `code` at an address where no memory is.
fn store(vcpu: &mut TestVcpu) {
    let fault = Intercept::NestedFault { gpa: 0xd000_0000, write: true };
    engine(vcpu).then(move |_, _| fault);
}

cases! {
    fn a_write_to_a_port_signals_and_the_guest_goes_on() {
        let (fixture, mut vcpu) = machine(1)?;
        let one = on_port(2, Some(7));
        host_error(fixture.vm.add_ioeventfd(one.clone()))?;
        for value in [7, 7, 8] {
            engine(&mut vcpu).then(out_word(value));
        }
        let other = Exit::Out { port: PORT, size: 2, data: Data::new(&[8, 0]) };
        check_eq!(vcpu.run(Answer::None), other);
        check_eq!(one.event.take(), 2);
        check_eq!(vcpu.engine().rip(), CODE + 6);
        // Removed while the vCPU is there.
        host_error(fixture.vm.remove_ioeventfd(&one))?;
        engine(&mut vcpu).then(out_word(7));
        check!(matches!(vcpu.run(Answer::None), Exit::Out { port: PORT, .. }));
        check_eq!(one.event.take(), 0);
    }

    fn a_write_to_a_device_signals() {
        let (fixture, mut vcpu) = machine(1)?;
        // mov dword [0x600000], 7
        let code = [0xc7, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 7, 0, 0, 0];
        for n in 0..2 {
            check_eq!(fixture.host.write(CODE + n * code.len() as u64, &code), Ok(()));
        }
        let at = IoAddress::Mmio(0xd000_0000);
        let one = IoEventFd { at, size: 4, data: None, event: TestEvent::default() };
        host_error(fixture.vm.add_ioeventfd(one.clone()))?;
        store(&mut vcpu);
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(one.event.take(), 1);
        engine(&mut vcpu).set_rip(CODE);
        host_error(fixture.vm.remove_ioeventfd(&one))?;
        store(&mut vcpu);
        engine(&mut vcpu).then(out);
        let write = Exit::MmioWrite { gpa: 0xd000_0000, data: Data::new(&[7, 0, 0, 0]) };
        check_eq!(vcpu.run(Answer::None), write);
    }

    fn each_element_of_a_string_is_looked_at() {
        let (fixture, mut vcpu) = machine(1)?;
        // rep outsb
        check_eq!(fixture.host.write(CODE, &[0xf3, 0x6e]), Ok(()));
        check_eq!(fixture.host.write(0x5000, &[1, 1, 2, 1]), Ok(()));
        let one = on_port(1, Some(1));
        host_error(fixture.vm.add_ioeventfd(one.clone()))?;
        for (register, value) in [(gpr::RSI, 0x5000), (gpr::RDX, PORT.into()), (gpr::RCX, 4)] {
            engine(&mut vcpu).set_gpr(register, value);
        }
        for _ in 0..4 {
            engine(&mut vcpu).then(|_, _| Intercept::StringIo);
        }
        let other = Exit::Out { port: PORT, size: 1, data: Data::new(&[2]) };
        check_eq!(vcpu.run(Answer::None), other);
        check_eq!(one.event.take(), 2);
        check_eq!(vcpu.run(Answer::None), Exit::Shutdown);
        check_eq!(one.event.take(), 1);
        check_eq!(vcpu.engine().rip(), CODE + 2);
    }

    fn an_event_wakes_and_interrupts_a_halted_vcpu() {
        let (fixture, mut vcpu) = machine(1)?;
        enable_apic(&mut vcpu)?;
        let chips = fixture.vm.arch().machine();
        chips.with_chips(|chips, now| ((), chips.write_port(0x21, 0xff, now)));
        for (offset, value) in [(0, 0x18_u32), (0x10, VECTOR.into()), (0, 0x19), (0x10, 0)] {
            chips.with_chips(|chips, _| ((), chips.write_mmio(offset, &value.to_le_bytes())));
        }
        let event = TestEvent::default();
        host_error(fixture.vm.add_irqfd(4, &event))?;
        check_eq!(fixture.vm.add_irqfd(5, &event), Err(Errno::EBUSY));
        for _ in 0..3 {
            let signalled = event.clone();
            engine(&mut vcpu).then(move |state, _| {
                set_if(state, true);
                signalled.signal();
                Intercept::Halt { len: 1 }
            });
            engine(&mut vcpu).then(|state, _| {
                set_if(state, false);
                state.rip = CODE;
                Intercept::WriteMsr { len: 2 }
            });
        }
        // The end of the interrupt.
        engine(&mut vcpu).set_gpr(gpr::RCX, 0x80b);
        check_eq!(vcpu.run(Answer::None), Exit::Shutdown);
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: VECTOR }; 3]);
        host_error(fixture.vm.remove_irqfd(4, &event))?;
        event.signal();
        check_eq!(event.take(), 1);
    }
}
