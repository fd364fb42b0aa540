//! Test bodies of `lapic`.

use abi::encoding::Encoded;
use abi::ioctl::{GET_LAPIC, SET_LAPIC};
use alloc::vec::Vec;
use selftest::{Failure, cases, check, check_eq};

use super::caller::Caller;
use crate::engine::Event;
use crate::msr::index;
use crate::regs::{Regs, rflags};
use crate::vcpu::Answer;
use crate::vcpu::run_test::{TestVcpu, enable_apic, engine, out};

/// Offsets of registers.
const ID: u64 = 0x20;
const TPR: u64 = 0x80;
const SVR: u64 = 0xf0;
const ISR1: u64 = 0x110;
const IRR2: u64 = 0x220;
const LVT_LINT0: u64 = 0x350;
const LVT_TIMER: u64 = 0x320;
const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;

/// What is told of the local APIC. Not by value: the kernel's stack is small.
fn page(caller: &Caller, vcpu: &mut TestVcpu) -> Result<Vec<u8>, Failure> {
    check_eq!(caller.call(vcpu, GET_LAPIC), Ok(0));
    Ok(caller.bytes(0, 0x400))
}

cases! {
    fn registers_go_there_and_back() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let page = self::page(&caller, &mut vcpu)?;
        let at = |page: &[u8], offset: u64| u32::decode(&page[offset as usize..]);
        check_eq!((at(&page, SVR), at(&page, LVT_LINT0)), (0xff, 0x700));
        // Only whole registers are told, four bytes of sixteen.
        check!(page.chunks(16).all(|register| register[4..] == [0; 12]));
        // What a guest has set, an interrupt in service, and one that waits.
        let registers = [
            (TPR, 0x20), (SVR, 0x1ff), (ISR1, 1 << 9), (IRR2, 1 << 5), (LVT_LINT0, 0x1_0000),
            (LVT_TIMER, 0x2_00ec), (INITIAL, 1_000_000), (CURRENT, 400_000),
        ];
        for (offset, value) in registers {
            caller.put(offset, &value);
        }
        check_eq!(caller.call(&mut vcpu, SET_LAPIC), Ok(0));
        let got = self::page(&caller, &mut vcpu)?;
        let mut other = caller.vcpu()?;
        caller.fill(0, &got);
        check_eq!(caller.call(&mut other, SET_LAPIC), Ok(0));
        check_eq!(self::page(&caller, &mut other)?, got);
        for (offset, value) in registers {
            check_eq!(at(&got, offset), value, "register {offset:x}");
        }
        // 0x45 is of a higher priority than 0x29.
        engine(&mut other).set_rflags(rflags::FIXED | rflags::IF);
        engine(&mut other).then(out);
        other.run(Answer::None);
        check_eq!(other.engine().injected(), [Event::Interrupt { vector: 0x45 }]);
        // The timer counts on from where it was, in ticks of two nanoseconds.
        check!(caller.fixture.host.let_time_pass());
        other.settle();
        check!(other.lapic().state().irr.contains(0xec));
    }

    fn an_x2apics_identity_has_an_xapics_place() {
        let caller = Caller::new()?;
        let mut vcpu = crate::vcpu::run_test::host_error(caller.fixture.vcpu(1))?;
        for x2apic in [false, true] {
            if x2apic {
                enable_apic(&mut vcpu)?;
            }
            caller.get::<[u8; 0x400]>(&mut vcpu, GET_LAPIC)?;
            check_eq!(caller.at::<u32>(ID), 1 << 24);
            // What a VMM says of it does not count.
            caller.put(ID, &(7_u32 << 24));
            check_eq!(caller.call(&mut vcpu, SET_LAPIC), Ok(0));
            caller.get::<[u8; 0x400]>(&mut vcpu, GET_LAPIC)?;
            check_eq!(caller.at::<u32>(ID), 1 << 24);
        }
        check_eq!(vcpu.read_msr(0x802), Ok(1));
    }

    fn what_was_posted_is_part_of_the_state() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        let Some(published) = caller.fixture.vm.arch().machine().vcpu(0) else { return Ok(()) };
        published.inbox.post_interrupt(0x45, false);
        caller.get::<[u8; 0x400]>(&mut vcpu, GET_LAPIC)?;
        check_eq!(caller.at::<u32>(IRR2), 1 << 5);
        check!(!published.inbox.is_full());
    }

    fn others_see_what_was_restored() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let Some(published) = caller.fixture.vm.arch().machine().vcpu(0) else { return Ok(()) };
        check!(!published.address().enabled);
        caller.get::<[u8; 0x400]>(&mut vcpu, GET_LAPIC)?;
        caller.put(SVR, &0x1ff_u32);
        check_eq!(caller.call(&mut vcpu, SET_LAPIC), Ok(0));
        check!(published.address().enabled);
    }

    fn a_deadline_is_set_after_the_registers() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        check!(vcpu.write_msr(0x832, 0x4_00ec).is_ok());
        check!(vcpu.write_msr(index::TSC_DEADLINE, 1 << 40).is_ok());
        let page = self::page(&caller, &mut vcpu)?;
        let mut other = caller.vcpu()?;
        enable_apic(&mut other)?;
        caller.fill(0, &page);
        check_eq!(caller.call(&mut other, SET_LAPIC), Ok(0));
        check_eq!(other.set_msr(index::TSC_DEADLINE, 1 << 40), Ok(()));
        check_eq!(other.lapic().deadline(), vcpu.lapic().deadline());
    }
}
