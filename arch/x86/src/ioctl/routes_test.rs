//! Test bodies of interrupts on their way, as a VMM sends them: the neutral `interrupts` and `events`, on this architecture.

use abi::encoding::Encoded;
use abi::ioctl::{IOEVENTFD, IRQ_LINE, IRQ_LINE_STATUS, IRQFD, SET_GSI_ROUTING, SIGNAL_MSI};
use abi::irq::{
    IOEVENTFD_FLAG_DATAMATCH, IOEVENTFD_FLAG_DEASSIGN, IOEVENTFD_FLAG_PIO, IRQFD_FLAG_DEASSIGN,
    IRQFD_FLAG_RESAMPLE, Ioeventfd, IrqLevel, IrqRoutingEntry, IrqRoutingHeader, IrqRoutingIrqchip,
    IrqRoutingMsi, Irqfd, Msi,
};
use selftest::{Outcome, cases, check_eq};
use virt::host::Event;
use virt::{Errno, Host};

use super::caller::Caller;
use crate::irqchip::ioapic::Redirection;
use crate::vcpu::run_test::{TestVcpu, enable_apic, host_error};
use crate::vcpu::scripted::{TestEvent, TestHost};

const HEADER: u64 = IrqRoutingHeader::SIZE as u64;
const ENTRY: u64 = IrqRoutingEntry::SIZE as u64;
const MESSAGE: IrqRoutingMsi =
    IrqRoutingMsi { address_lo: 0xfee0_0000, address_hi: 0, data: 0x51, devid: 0 };

pub(super) fn routes(caller: &Caller, entries: &[IrqRoutingEntry]) -> Result<u32, Errno> {
    for (n, entry) in (0..).zip(entries) {
        caller.put(HEADER + n * ENTRY, entry);
    }
    caller.set_vm(SET_GSI_ROUTING, &IrqRoutingHeader { nr: entries.len() as u32, flags: 0 })
}

pub(super) fn pin(gsi: u32, irqchip: u32, pin: u32) -> IrqRoutingEntry {
    IrqRoutingEntry::to_irqchip(gsi, IrqRoutingIrqchip { irqchip, pin })
}

/// Which vectors wait at a vCPU's local APIC.
pub(super) fn waiting(vcpu: &mut TestVcpu) -> Option<u8> {
    vcpu.settle();
    vcpu.lapic().pending()
}

/// The test host's event of a descriptor.
pub(super) fn event(caller: &Caller, descriptor: i32) -> TestEvent {
    caller.fixture.host.event(descriptor).unwrap_or_default()
}

/// An I/O APIC that sends each pin's interrupt as vector 0x60 and that pin.
fn program_ioapic(caller: &Caller) {
    caller.fixture.vm.arch().machine().with_chips(|chips, _| {
        let programmed = chips.restore(|_, _, ioapic| {
            let mut state = ioapic.state().clone();
            for (entry, vector) in state.redirections.iter_mut().zip(0x60..) {
                *entry = Redirection(vector);
            }
            ioapic.set_state(state);
        });
        ((), programmed)
    });
}

fn signalled(caller: &Caller, vcpu: &mut TestVcpu, change: &Irqfd, there: bool) -> Outcome {
    check_eq!(caller.set_vm(IRQFD, change), Ok(0));
    event(caller, change.fd as i32).signal();
    check_eq!(waiting(vcpu).is_some(), there, "{change:x?}");
    Ok(())
}

cases! {
    fn a_line_is_moved() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        program_ioapic(&caller);
        check_eq!(caller.set_vm(IRQ_LINE, &IrqLevel { irq: 9, level: 1 }), Ok(0));
        check_eq!(waiting(&mut vcpu), Some(0x69));
        check_eq!(caller.set_vm(IRQ_LINE_STATUS, &IrqLevel { irq: 10, level: 7 }), Ok(0));
        // By both chips.
        check_eq!(caller.at::<IrqLevel>(0), IrqLevel { irq: 2, level: 7 });
        check_eq!(waiting(&mut vcpu), Some(0x6a));
        for irq in [24, 5000, u32::MAX] {
            check_eq!(caller.set_vm(IRQ_LINE, &IrqLevel { irq, level: 1 }), Ok(0), "it leads nowhere");
        }
    }

    fn it_is_told_what_a_line_has_reached() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        program_ioapic(&caller);
        const NOBODY: u32 = u32::MAX;
        let told = |irq, level| {
            let answer = caller.set_vm(IRQ_LINE_STATUS, &IrqLevel { irq, level });
            answer.map(|_| caller.at::<IrqLevel>(0).irq)
        };
        let redirect = |pin: u32, entry: u64| {
            for (offset, value) in [(0, 0x10 + 2 * pin), (0x10, entry as u32)] {
                caller.fixture.vm.arch().machine().with_chips(|chips, _| ((), chips.write_mmio(offset, &value.to_le_bytes())));
            }
        };
        let pic = |port, value| {
            caller.fixture.vm.arch().machine().with_chips(|chips, now| ((), chips.write_port(port, value, now)));
        };
        // At the I/O APIC alone: an edge, one that is there, and its end.
        check_eq!([told(20, 1), told(20, 1), told(20, 0), told(20, 1)], [Ok(1), Ok(0), Ok(1), Ok(1)]);
        // A level: as long as its interrupt has not ended, it is for nobody.
        redirect(21, Redirection::LEVEL | 0x75);
        check_eq!([told(21, 1), told(21, 1)], [Ok(1), Ok(NOBODY)]);
        redirect(22, Redirection::MASKED | 0x76);
        check_eq!([told(22, 1), told(22, 0), told(24, 1)], [Ok(NOBODY), Ok(1), Ok(NOBODY)]);
        // For a processor that there is none of, and for all.
        redirect(23, Redirection::LOGICAL | 0x77);
        check_eq!(told(23, 1), Ok(NOBODY));
        // At the 8259s as well: one counts.
        redirect(5, Redirection::MASKED);
        check_eq!([told(5, 1), told(5, 1), told(5, 0), told(5, 1)], [Ok(1), Ok(1), Ok(2), Ok(0)]);
        pic(0x21, 1 << 5);
        check_eq!(told(5, 0), Ok(1));
        pic(0x4d0, 1 << 6);
        redirect(6, Redirection::MASKED);
        check_eq!([told(6, 1), told(6, 1), told(6, 0)], [Ok(1), Ok(0), Ok(2)]);
        check_eq!(routes(&caller, &[IrqRoutingEntry::to_msi(30, MESSAGE)]), Ok(0));
        check_eq!([told(30, 1), told(30, 0)], [Ok(1), Ok(NOBODY)]);
    }

    fn it_is_told_what_a_message_has_reached() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        let send = |address_lo, data| caller.set_vm(SIGNAL_MSI, &Msi { address_lo, data, ..Msi::default() });
        check_eq!(send(0xfee0_0000, 0x45), Ok(1));
        for (address, data) in [(0xfee0_1000, 0x45), (0xfee0_9000, 0x145), (0x1234_0000, 0x45), (0xfee0_0000, 0x345)] {
            check_eq!(send(address, data), Err(Errno::EPERM), "{address:x} {data:x}");
        }
        // What is taken by nobody whom it is for: SMI, and the end of INIT.
        check_eq!((send(0xfee0_0000, 0x200), send(0xfee0_0000, 0x8500)), (Ok(0), Ok(0)));
        let _other = host_error(caller.fixture.vcpu(1))?;
        // To all: an NMI, to one of them, and to those that are switched on.
        check_eq!((send(0xfeef_f000, 0x400), send(0xfeef_f000, 0x145), send(0xfeef_f000, 0x45)), (Ok(2), Ok(1), Ok(1)));
    }

    fn a_message_is_sent() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        let message = Msi { address_lo: 0xfee0_0000, data: 0x42, ..Msi::default() };
        check_eq!(caller.set_vm(SIGNAL_MSI, &message), Ok(1));
        check_eq!(waiting(&mut vcpu), Some(0x42));
        for flags in [2, u32::MAX] {
            check_eq!(caller.set_vm(SIGNAL_MSI, &Msi { flags, ..message }), Err(Errno::EINVAL));
        }
    }

    fn routes_lead_to_pins_and_messages() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        program_ioapic(&caller);
        let all = [pin(5, 2, 23), pin(5, 0, 7), pin(6, 1, 7), IrqRoutingEntry::to_msi(4095, MESSAGE)];
        check_eq!(routes(&caller, &all), Ok(0));
        check_eq!(caller.set_vm(IRQ_LINE, &IrqLevel { irq: 4095, level: 1 }), Ok(0));
        check_eq!(waiting(&mut vcpu), Some(0x51));
        for irq in [4, 5, 6] {
            check_eq!(caller.set_vm(IRQ_LINE, &IrqLevel { irq, level: 1 }), Ok(0));
        }
        check_eq!(waiting(&mut vcpu), Some(0x60 + 23));
        let lines = caller.fixture.vm.arch().machine().look_at_chips(|chips| {
            chips.pic().chips().each_ref().map(|chip| chip.lines & !4)
        });
        check_eq!(lines, [0x80, 0x80]);
    }

    fn routes_that_cannot_be_are_refused() {
        let caller = Caller::new()?;
        let message = IrqRoutingEntry::to_msi(5, MESSAGE);
        for wrong in [
            &[pin(0, 0, 8)][..], &[pin(0, 1, 8)], &[pin(0, 2, 24)], &[pin(0, 3, 0)], &[pin(0, u32::MAX, u32::MAX)],
            &[pin(4096, 2, 0)], &[IrqRoutingEntry { type_: 3, ..message }], &[IrqRoutingEntry { type_: 0, ..message }],
            &[IrqRoutingEntry { flags: 2, ..message }], &[IrqRoutingEntry { flags: 1, ..pin(0, 2, 0) }],
            &[message, message], &[pin(5, 2, 1), pin(5, 2, 2)], &[message, pin(5, 2, 1)], &[pin(5, 2, 1), message],
        ] {
            check_eq!(routes(&caller, wrong), Err(Errno::EINVAL), "{wrong:x?}");
        }
        check_eq!(routes(&caller, &[IrqRoutingEntry { flags: 1, ..message }]), Ok(0));
        for header in [IrqRoutingHeader { nr: 4097, flags: 0 }, IrqRoutingHeader { nr: 0, flags: 1 }] {
            check_eq!(caller.set_vm(SET_GSI_ROUTING, &header), Err(Errno::EINVAL));
        }
        check_eq!(caller.set_vm(SET_GSI_ROUTING, &IrqRoutingHeader { nr: 4096, flags: 0 }), Err(Errno::EFAULT));
        check_eq!(routes(&caller, &[]), Ok(0));
    }

    fn an_eventfd_interrupts_until_it_is_taken_away() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        check_eq!(routes(&caller, &[IrqRoutingEntry::to_msi(30, MESSAGE)]), Ok(0));
        let irqfd = Irqfd { fd: 1, gsi: 30, ..Irqfd::default() };
        signalled(&caller, &mut vcpu, &irqfd, true)?;
        check_eq!(caller.set_vm(IRQFD, &irqfd), Err(Errno::EBUSY));
        check_eq!(caller.set_vm(IRQFD, &Irqfd { gsi: 31, ..irqfd }), Err(Errno::EBUSY));
        for (wrong, errno) in [
            (Irqfd { flags: 4, ..irqfd }, Errno::EINVAL), (Irqfd { flags: IRQFD_FLAG_RESAMPLE, resamplefd: 100, ..irqfd }, Errno::EBADF),
            (Irqfd { fd: u32::MAX, ..irqfd }, Errno::EBADF), (Irqfd { fd: 100, ..irqfd }, Errno::EBADF),
            (Irqfd { fd: TestHost::OTHER as u32, ..irqfd }, Errno::EINVAL),
            (Irqfd { fd: 100, flags: IRQFD_FLAG_DEASSIGN, ..irqfd }, Errno::EBADF),
        ] {
            check_eq!(caller.set_vm(IRQFD, &wrong), Err(errno), "{wrong:x?}");
        }
        let mut other = caller.vcpu()?;
        enable_apic(&mut other)?;
        signalled(&caller, &mut other, &Irqfd { flags: IRQFD_FLAG_DEASSIGN, ..irqfd }, false)?;
        // Again, which is no error.
        signalled(&caller, &mut other, &Irqfd { flags: IRQFD_FLAG_DEASSIGN, ..irqfd }, false)?;
    }

    fn a_write_signals_an_eventfd() {
        let caller = Caller::new()?;
        let ioeventfds = &caller.fixture.vm.arch().machine().ioeventfds;
        let mut view = ioeventfds.view();
        let mut write = |at, bytes: &[u8]| view.write(ioeventfds, at, bytes);
        let port = Ioeventfd {
            datamatch: 0x1234_5678, addr: 0x510, len: 2, fd: 2, flags: IOEVENTFD_FLAG_PIO, pad: [0; 36],
        };
        let mmio = Ioeventfd { addr: 0x1_0000_0000, len: 0, fd: 3, flags: 0, ..port };
        check_eq!(caller.set_vm(IOEVENTFD, &port), Ok(0));
        check_eq!(caller.set_vm(IOEVENTFD, &mmio), Ok(0));
        let (at_port, at_mmio) = (virt::ioeventfd::IoAddress::Port(0x510), virt::ioeventfd::IoAddress::Mmio(0x1_0000_0000));
        check_eq!((write(at_port, &[1, 2]), write(at_port, &[1]), write(at_mmio, &[9])), (true, false, true));
        check_eq!((event(&caller, 2).take(), event(&caller, 3).take()), (1, 1));
        let matched = IOEVENTFD_FLAG_PIO | IOEVENTFD_FLAG_DATAMATCH;
        for (wrong, errno) in [
            (port, Errno::EEXIST), (Ioeventfd { len: 3, ..port }, Errno::EINVAL), (Ioeventfd { len: 1 << 8, ..port }, Errno::EINVAL),
            (Ioeventfd { flags: 8, ..port }, Errno::EINVAL), (Ioeventfd { len: 0, flags: matched, ..port }, Errno::EINVAL),
            (Ioeventfd { addr: u64::MAX, len: 8, flags: 0, ..port }, Errno::EINVAL), (Ioeventfd { addr: 1 << 16, ..port }, Errno::EINVAL),
            (Ioeventfd { fd: -1, ..port }, Errno::EBADF), (Ioeventfd { fd: 7, ..port }, Errno::EINVAL),
            (Ioeventfd { flags: matched | IOEVENTFD_FLAG_DEASSIGN, ..port }, Errno::ENOENT),
            (Ioeventfd { fd: 1, flags: IOEVENTFD_FLAG_PIO | IOEVENTFD_FLAG_DEASSIGN, ..port }, Errno::ENOENT),
            // What cannot be added is not there to be removed.
            (Ioeventfd { len: 3, flags: IOEVENTFD_FLAG_PIO | IOEVENTFD_FLAG_DEASSIGN, ..port }, Errno::ENOENT),
            (Ioeventfd { addr: 1 << 16, flags: IOEVENTFD_FLAG_PIO | IOEVENTFD_FLAG_DEASSIGN, ..port }, Errno::ENOENT),
            (Ioeventfd { flags: 8 | IOEVENTFD_FLAG_DEASSIGN, ..port }, Errno::ENOENT),
            (Ioeventfd { len: 3, fd: -1, flags: IOEVENTFD_FLAG_DEASSIGN, ..port }, Errno::EBADF),
        ] {
            check_eq!(caller.set_vm(IOEVENTFD, &wrong), Err(errno), "{wrong:x?}");
        }
        let gone = Ioeventfd { flags: IOEVENTFD_FLAG_PIO | IOEVENTFD_FLAG_DEASSIGN, ..port };
        check_eq!(caller.set_vm(IOEVENTFD, &gone), Ok(0));
        check_eq!(write(at_port, &[1, 2]), false);
        check_eq!(caller.set_vm(IOEVENTFD, &Ioeventfd { len: 4, flags: matched, ..port }), Ok(0));
        check_eq!((write(at_port, &[0x78, 0x56, 0x34, 0x12]), write(at_port, &[0; 4])), (true, false));
    }
}
