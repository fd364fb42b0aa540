//! Test bodies of KVM_CAP_X2APIC_API: identities with 32 bits, and whom destination 0xff is for.

use abi::cap;
use abi::ioctl::{CHECK_EXTENSION, GET_LAPIC, SET_LAPIC, SIGNAL_MSI};
use abi::irq::{
    IrqRoutingEntry, IrqRoutingMsi, Msi, X2APIC_API_DISABLE_BROADCAST_QUIRK,
    X2APIC_API_USE_32BIT_IDS,
};
use selftest::{Failure, cases, check, check_eq};
use virt::{Arch, Errno};

use super::caller::Caller;
use super::routes_test::{routes, waiting};
use crate::irqchip::ioapic::Redirection;
use crate::vcpu::run_test::{TestVcpu, enable_apic, host_error};

/// Where the identity is among the registers.
const ID: u64 = 0x20;

/// A message to a destination whose upper bits, all but the low eight, are `high`.
fn message(high: u32, low: u32, vector: u32) -> Msi {
    let (address_lo, data) = (0xfee0_0000 | low << 12, vector);
    Msi { address_lo, address_hi: high, data, ..Msi::default() }
}

/// A route for it.
fn route(message: &Msi) -> IrqRoutingEntry {
    let Msi { address_lo, address_hi, data, .. } = *message;
    IrqRoutingEntry::to_msi(30, IrqRoutingMsi { address_lo, address_hi, data, devid: 0 })
}

/// vCPU 1 of a machine, an x2APIC.
fn x2apic(caller: &Caller) -> Result<TestVcpu, Failure> {
    let mut vcpu = host_error(caller.fixture.vcpu(1))?;
    enable_apic(&mut vcpu)?;
    Ok(vcpu)
}

cases! {
    fn only_what_is_known_is_switched_on() {
        let caller = Caller::new()?;
        check_eq!(caller.vm(CHECK_EXTENSION, cap::X2APIC_API.into()), Ok(3));
        for flags in [4, 7, u64::MAX] {
            check_eq!(caller.enable(cap::X2APIC_API, flags), Err(Errno::EINVAL), "{flags:x}");
        }
        let setup = &caller.fixture.vm.arch().machine().setup;
        check!(!setup.has_wide_ids() && !setup.has_narrow_broadcast());
        check_eq!(caller.enable(cap::X2APIC_API, X2APIC_API_USE_32BIT_IDS), Ok(0));
        check_eq!(caller.enable(cap::X2APIC_API, X2APIC_API_DISABLE_BROADCAST_QUIRK), Ok(0));
        // It stays on.
        check_eq!(caller.enable(cap::X2APIC_API, 0), Ok(0));
        check!(setup.has_wide_ids() && setup.has_narrow_broadcast());
    }

    fn registers_have_all_of_an_identity() {
        let caller = Caller::new()?;
        check_eq!(caller.enable(cap::X2APIC_API, X2APIC_API_USE_32BIT_IDS), Ok(0));
        let mut vcpu = host_error(caller.fixture.vcpu(1))?;
        // An xAPIC's keeps its place.
        caller.get::<[u8; 0x400]>(&mut vcpu, GET_LAPIC)?;
        check_eq!(caller.at::<u32>(ID), 1 << 24);
        enable_apic(&mut vcpu)?;
        caller.get::<[u8; 0x400]>(&mut vcpu, GET_LAPIC)?;
        check_eq!(caller.at::<u32>(ID), 1);
        check_eq!(caller.call(&mut vcpu, SET_LAPIC), Ok(0));
        for other in [0, 2, 1 << 24, 0x101] {
            caller.put::<u32>(ID, &other);
            check_eq!(caller.call(&mut vcpu, SET_LAPIC), Err(Errno::EINVAL), "{other:x}");
        }
        check_eq!(vcpu.read_msr(0x802), Ok(1));
    }

    fn addresses_have_all_of_a_destination() {
        let caller = Caller::new()?;
        let mut vcpu = x2apic(&caller)?;
        // What it is not asked for does not count.
        check_eq!(caller.set_vm(SIGNAL_MSI, &message(0x100, 1, 0x51)), Ok(1));
        check_eq!(routes(&caller, &[route(&message(0x17, 1, 0x51))]), Ok(0));
        check_eq!(waiting(&mut vcpu), Some(0x51));
        check_eq!(caller.enable(cap::X2APIC_API, X2APIC_API_USE_32BIT_IDS), Ok(0));
        check_eq!(caller.set_vm(SIGNAL_MSI, &message(0, 1, 0x62)), Ok(1));
        check_eq!(waiting(&mut vcpu), Some(0x62));
        for high in [0x100, 0x8000_0000] {
            check_eq!(caller.set_vm(SIGNAL_MSI, &message(high, 1, 0x73)), Err(Errno::EPERM), "{high:x}");
            check_eq!(routes(&caller, &[route(&message(high, 1, 0x73))]), Ok(0));
            check_eq!(caller.fixture.vm.set_irq(30, true), None);
            caller.fixture.vm.set_irq(30, false);
        }
        // The low eight are in the other half.
        for high in [1, 0x80, 0x101] {
            check_eq!(caller.set_vm(SIGNAL_MSI, &message(high, 1, 0x73)), Err(Errno::EPERM), "{high:x}");
            check_eq!(routes(&caller, &[route(&message(high, 1, 0x73))]), Err(Errno::EINVAL), "{high:x}");
        }
        check_eq!(waiting(&mut vcpu), Some(0x62));
    }

    fn all_ones_of_eight_bits_can_be_for_xapics_alone() {
        let caller = Caller::new()?;
        let mut vcpu = x2apic(&caller)?;
        let ioapic = |vector: u64| {
            let machine = caller.fixture.vm.arch().machine();
            machine.with_chips(|chips, _| {
                let programmed = chips.restore(|_, _, ioapic| {
                    let mut state = ioapic.state().clone();
                    state.redirections[20] = Redirection(0xff << 56 | vector);
                    ioapic.set_state(state);
                });
                ((), programmed)
            });
            let reached = caller.fixture.vm.set_irq(20, true);
            caller.fixture.vm.set_irq(20, false);
            reached
        };
        check_eq!(caller.set_vm(SIGNAL_MSI, &message(0, 0xff, 0x51)), Ok(1));
        check_eq!(ioapic(0x52), Some(1));
        check_eq!(waiting(&mut vcpu), Some(0x52));
        let both = X2APIC_API_USE_32BIT_IDS | X2APIC_API_DISABLE_BROADCAST_QUIRK;
        check_eq!(caller.enable(cap::X2APIC_API, both), Ok(0));
        check_eq!(caller.set_vm(SIGNAL_MSI, &message(0, 0xff, 0x61)), Err(Errno::EPERM));
        check_eq!(ioapic(0x62), None);
        check_eq!(waiting(&mut vcpu), Some(0x52));
        // All ones of 32 bits are for all.
        check_eq!(caller.set_vm(SIGNAL_MSI, &message(0xffff_ff00, 0xff, 0x63)), Ok(1));
        check_eq!(waiting(&mut vcpu), Some(0x63));
        // An xAPIC has no more than eight.
        let mut xapic = host_error(caller.fixture.vcpu(0))?;
        check!(caller.fixture.vm.arch().machine().vcpu(0).is_some_and(|vcpu| !vcpu.address().enabled));
        caller.get::<[u8; 0x400]>(&mut xapic, GET_LAPIC)?;
        caller.put::<u32>(0xf0, &0x1ff);
        check_eq!(caller.call(&mut xapic, SET_LAPIC), Ok(0));
        check_eq!(caller.set_vm(SIGNAL_MSI, &message(0, 0xff, 0x71)), Ok(1));
        check_eq!(ioapic(0x72), Some(1));
        check_eq!((waiting(&mut xapic), waiting(&mut vcpu)), (Some(0x72), Some(0x63)));
        check!(!caller.fixture.vm.arch().is_msi(0x0000_0001_fee0_0000));
    }
}
