//! Test bodies of irqfds of a level: KVM_IRQFD with resample.

use abi::cap;
use abi::ioctl::{IRQ_LINE, IRQFD};
use abi::irq::{IRQFD_FLAG_DEASSIGN, IRQFD_FLAG_RESAMPLE, IrqLevel, Irqfd};
use alloc::sync::Arc;
use selftest::{Failure, cases, check, check_eq};
use virt::host::{Event as HostEvent, Notify};
use virt::{Errno, Host};

use super::caller::Caller;
use super::routes_test::{event, pin, routes, waiting};
use crate::engine::Intercept;
use crate::irqchip::i8259;
use crate::irqchip::ioapic::Redirection;
use crate::regs::gpr;
use crate::vcpu::Answer;
use crate::vcpu::run_test::{TestVcpu, enable_apic, engine, out, set_if};
use crate::vcpu::scripted::TestEvent;

/// The global system interrupt, and the I/O APIC's pin that it leads to.
const GSI: u32 = 20;
/// Its vector.
const VECTOR: u8 = 0x74;

fn irqfd() -> Irqfd {
    Irqfd { fd: 1, gsi: GSI, flags: IRQFD_FLAG_RESAMPLE, resamplefd: 2, ..Irqfd::default() }
}

/// A machine whose pin is a level, and which has the irqfd.
fn with_level() -> Result<(Caller, TestVcpu), Failure> {
    let (caller, mut vcpu) = Caller::with_vcpu()?;
    enable_apic(&mut vcpu)?;
    let entry = Redirection::LEVEL | u64::from(VECTOR);
    let machine = caller.fixture.vm.arch().machine();
    for (offset, value) in [(0, 0x10 + 2 * GSI), (0x10, entry as u32)] {
        machine.with_chips(|chips, _| ((), chips.write_mmio(offset, &value.to_le_bytes())));
    }
    check_eq!(caller.set_vm(IRQFD, &irqfd()), Ok(0));
    Ok((caller, vcpu))
}

/// The guest takes the interrupt, and ends it.
fn take_and_end(vcpu: &mut TestVcpu) {
    engine(vcpu).then(|state, _| {
        set_if(state, true);
        Intercept::InterruptWindow
    });
    engine(vcpu).then(|state, _| {
        set_if(state, false);
        state.gprs[usize::from(gpr::RCX)] = 0x80b;
        state.gprs[usize::from(gpr::RAX)] = 0;
        state.gprs[usize::from(gpr::RDX)] = 0;
        Intercept::WriteMsr { len: 2 }
    });
    engine(vcpu).then(out);
    vcpu.run(Answer::None);
}

/// The I/O APIC's pins that are active.
fn active(caller: &Caller) -> u32 {
    caller.fixture.vm.arch().machine().look_at_chips(|chips| chips.ioapic().state().lines)
}

/// A device that interrupts on: as soon as it is asked whether it still does.
struct Insistent(TestEvent);

impl Notify for Insistent {
    fn signalled(&self) {
        self.0.signal();
    }
}

cases! {
    fn a_level_stays_until_the_guest_has_ended_the_interrupt() {
        let (caller, mut vcpu) = with_level()?;
        check_eq!(caller.vm(abi::ioctl::CHECK_EXTENSION, cap::IRQFD_RESAMPLE.into()), Ok(1));
        event(&caller, 1).signal();
        check_eq!((waiting(&mut vcpu), active(&caller), event(&caller, 2).take()), (Some(VECTOR), 1 << GSI, 0));
        take_and_end(&mut vcpu);
        check_eq!((waiting(&mut vcpu), active(&caller), event(&caller, 2).take()), (None, 0, 1));
        // Its end is told once.
        event(&caller, 1).signal();
        event(&caller, 1).signal();
        take_and_end(&mut vcpu);
        check_eq!((waiting(&mut vcpu), event(&caller, 2).take()), (None, 1));
    }

    fn a_device_that_still_interrupts_does_so_again() {
        let (caller, mut vcpu) = with_level()?;
        let device = Arc::new(Insistent(event(&caller, 1)));
        let watch = caller.fixture.host.watch(&event(&caller, 2), device);
        check!(watch.is_ok());
        event(&caller, 1).signal();
        for _ in 0..3 {
            take_and_end(&mut vcpu);
            check_eq!((waiting(&mut vcpu), active(&caller)), (Some(VECTOR), 1 << GSI));
        }
        drop(watch);
        take_and_end(&mut vcpu);
        check_eq!((waiting(&mut vcpu), active(&caller), event(&caller, 2).take()), (None, 0, 1));
    }

    fn a_line_of_the_same_gsi_stays_as_it_is() {
        let (caller, mut vcpu) = with_level()?;
        check_eq!(caller.set_vm(IRQ_LINE, &IrqLevel { irq: GSI, level: 1 }), Ok(0));
        event(&caller, 1).signal();
        take_and_end(&mut vcpu);
        check_eq!((waiting(&mut vcpu), active(&caller), event(&caller, 2).take()), (Some(VECTOR), 1 << GSI, 1));
        check_eq!(caller.set_vm(IRQ_LINE, &IrqLevel { irq: GSI, level: 0 }), Ok(0));
        take_and_end(&mut vcpu);
        check_eq!((waiting(&mut vcpu), active(&caller), event(&caller, 2).take()), (None, 0, 1));
    }

    fn several_devices_share_a_level() {
        let (caller, mut vcpu) = with_level()?;
        check_eq!(caller.set_vm(IRQFD, &Irqfd { fd: 3, resamplefd: 0, ..irqfd() }), Ok(0));
        event(&caller, 3).signal();
        take_and_end(&mut vcpu);
        check_eq!((event(&caller, 2).take(), event(&caller, 0).take()), (1, 1));
        // One that is taken away does not take the other's level along.
        event(&caller, 3).signal();
        let gone = |fd| Irqfd { fd, flags: IRQFD_FLAG_DEASSIGN, ..irqfd() };
        check_eq!(caller.set_vm(IRQFD, &gone(1)), Ok(0));
        check_eq!(active(&caller), 1 << GSI);
        check_eq!(caller.set_vm(IRQFD, &gone(3)), Ok(0));
        check_eq!(active(&caller), 0);
        take_and_end(&mut vcpu);
        check_eq!((event(&caller, 2).take(), event(&caller, 0).take()), (0, 0));
        event(&caller, 3).signal();
        check_eq!(active(&caller), 0);
    }

    fn one_that_was_refused_leaves_nothing() {
        let (caller, mut vcpu) = with_level()?;
        check_eq!(caller.set_vm(IRQFD, &irqfd()), Err(Errno::EBUSY));
        let elsewhere = Irqfd { gsi: 21, ..irqfd() };
        check_eq!(caller.set_vm(IRQFD, &elsewhere), Err(Errno::EBUSY));
        event(&caller, 1).signal();
        take_and_end(&mut vcpu);
        check_eq!(event(&caller, 2).take(), 1);
        for (fd, resamplefd, errno) in [(0, 7, Errno::EINVAL), (0, 9, Errno::EBADF), (9, 0, Errno::EBADF)] {
            let wrong = Irqfd { fd, resamplefd, ..irqfd() };
            check_eq!(caller.set_vm(IRQFD, &wrong), Err(errno));
        }
    }

    fn both_chips_of_a_gsi_are_low_when_one_has_ended_it() {
        let (caller, mut vcpu) = with_level()?;
        check_eq!(routes(&caller, &[pin(GSI, 2, GSI), pin(GSI, 0, 5)]), Ok(0));
        let lines = || caller.fixture.vm.arch().machine().look_at_chips(|chips| chips.pic().chips()[0].lines);
        let write = |port, value| {
            caller.fixture.vm.arch().machine().with_chips(|chips, now| ((), chips.write_port(port, value, now)));
        };
        write(i8259::port::FIRST_DATA, 0xff);
        event(&caller, 1).signal();
        check_eq!((lines(), active(&caller)), (1 << 5, 1 << GSI));
        take_and_end(&mut vcpu);
        check_eq!((lines(), active(&caller)), (0, 0));
        // The guest uses the 8259s, and ends there.
        write(i8259::port::FIRST_DATA, 0);
        event(&caller, 1).signal();
        check_eq!(event(&caller, 2).take(), 1);
        caller.fixture.vm.arch().machine().with_chips(|chips, _| chips.acknowledge());
        write(i8259::port::FIRST_COMMAND, 0x20);
        check_eq!((lines(), active(&caller), event(&caller, 2).take()), (0, 0, 1));
    }

    fn chips_of_the_vmm_tell_nothing() {
        let caller = Caller::without_chips()?;
        check_eq!(caller.enable(cap::SPLIT_IRQCHIP, 24), Ok(0));
        check_eq!(caller.set_vm(IRQFD, &irqfd()), Err(Errno::EINVAL));
        check_eq!(caller.set_vm(IRQFD, &Irqfd { flags: 0, ..irqfd() }), Ok(0));
    }
}
