//! Test bodies of `vapic`: the task priority, reported and kept in the guest's memory.

use core::mem::offset_of;

use abi::cap;
use abi::exit;
use abi::ioctl::{CHECK_EXTENSION, CREATE_IRQCHIP, SET_VAPIC_ADDR, TPR_ACCESS_REPORTING};
use abi::irq::TprAccessCtl;
use abi::run::{Run, TprAccess};
use alloc::boxed::Box;
use selftest::{Failure, Outcome, cases, check, check_eq};
use virt::{Errno, Host};

use super::caller::{BAD, Caller};
use super::run::{load, run};
use super::run_test::Shared;
use crate::engine::{Event, Intercept};
use crate::regs::{Regs, rflags};
use crate::vcpu::run_test::{CODE, TestVcpu, enable_apic, engine, host_error, long_mode, out};
use crate::vcpu::scripted::Fixture;

/// Where the word is: near the end of memory.
const WORD: u64 = Fixture::MEMORY - 4;

fn reporting(enabled: u32) -> TprAccessCtl {
    TprAccessCtl { enabled, ..TprAccessCtl::default() }
}

/// Has the guest execute this, which accesses the task priority's register in the local APIC's page.
fn accesses(caller: &Caller, vcpu: &mut TestVcpu, code: &[u8], write: bool) -> Outcome {
    check_eq!(caller.fixture.host.write(CODE, code), Ok(()));
    engine(vcpu).set_rip(CODE);
    engine(vcpu).then(move |_, _| Intercept::NestedFault { gpa: 0xfee0_0080, write });
    Ok(())
}

/// What is in the word, and what the guest writes there.
fn word(caller: &Caller) -> Result<[u8; 4], Failure> {
    let mut word = [0; 4];
    check_eq!(caller.fixture.host.read(WORD, &mut word), Ok(()));
    Ok(word)
}

cases! {
    fn accesses_to_the_task_priority_are_told() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(caller.vm(CHECK_EXTENSION, cap::VAPIC.into()), Ok(1));
        let shared = Shared::new();
        // mov [0x400080], eax; mov eax, [0x400080]; mov eax, [0x400090]
        let store = [0x89, 0x04, 0x25, 0x80, 0x00, 0x40, 0x00];
        let load = [0x8b, 0x04, 0x25, 0x80, 0x00, 0x40, 0x00];
        let other = [0x8b, 0x04, 0x25, 0x90, 0x00, 0x40, 0x00];
        // Not before it is asked for, nor after.
        for on in [0, 1, 0] {
            check_eq!(caller.set(&mut vcpu, TPR_ACCESS_REPORTING, &reporting(on)), Ok(0));
            for (code, is_write, told) in [(store, true, on), (load, false, on), (other, false, 0)] {
                accesses(&caller, &mut vcpu, &code, is_write)?;
                engine(&mut vcpu).then(out);
                if told != 0 {
                    check_eq!((run(&mut vcpu, 0, &shared), shared.reason()), (Ok(0), exit::TPR_ACCESS));
                    check_eq!(shared.details().tpr_access(), TprAccess { rip: CODE, is_write });
                    check_eq!(vcpu.engine().rip(), CODE + 7, "the access was made");
                }
                check_eq!((run(&mut vcpu, 0, &shared), shared.reason()), (Ok(0), exit::IO));
            }
        }
        // By the MSR as well.
        enable_apic(&mut vcpu)?;
        check_eq!(caller.set(&mut vcpu, TPR_ACCESS_REPORTING, &reporting(7)), Ok(0));
        engine(&mut vcpu).set_rip(CODE);
        engine(&mut vcpu).then(|state, _| {
            (state.gprs[1], state.gprs[0], state.gprs[2]) = (0x808, 0x30, 0);
            Intercept::WriteMsr { len: 2 }
        });
        check_eq!((run(&mut vcpu, 0, &shared), shared.reason()), (Ok(0), exit::TPR_ACCESS));
        check_eq!(shared.details().tpr_access(), TprAccess { rip: CODE, is_write: true });
        engine(&mut vcpu).then(|_, _| Intercept::ReadMsr { len: 2 });
        check_eq!((run(&mut vcpu, 0, &shared), shared.reason()), (Ok(0), exit::TPR_ACCESS));
        check_eq!(shared.details().tpr_access(), TprAccess { rip: CODE + 2, is_write: false });
        check_eq!(engine(&mut vcpu).gpr(0), 0x30);
        let wrong = TprAccessCtl { flags: 1, ..reporting(1) };
        caller.refused(&mut vcpu, TPR_ACCESS_REPORTING, &wrong, Errno::EINVAL)?;
    }

    fn the_task_priority_is_kept_in_a_word() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        check_eq!(caller.set(&mut vcpu, SET_VAPIC_ADDR, &WORD), Ok(0));
        check!(vcpu.write_msr(0x808, 0x25).is_ok());
        // One that is taken, and one that waits behind the priority.
        for vector in [0x51_u64, 0x1f] {
            check!(vcpu.write_msr(0x83f, vector).is_ok());
        }
        engine(&mut vcpu).set_rflags(rflags::FIXED | rflags::IF);
        let host = caller.fixture.host.clone();
        engine(&mut vcpu).then(move |_, _| {
            // The guest raises it, without an exit.
            let _ = host.write(WORD, &[0x60]);
            Intercept::Cpuid { len: 2 }
        });
        engine(&mut vcpu).then(out);
        vcpu.run(crate::vcpu::Answer::None);
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: 0x51 }]);
        check_eq!(vcpu.lapic().state().tpr, 0x60);
        check_eq!(word(&caller)?, [0x60, 0x50, 0, 0x1f]);
        check_eq!(vcpu.lapic().cr8(), 6);
        // Not any more.
        check_eq!(caller.set(&mut vcpu, SET_VAPIC_ADDR, &0_u64), Ok(0));
        check_eq!(caller.fixture.host.write(WORD, &[0]), Ok(()));
        engine(&mut vcpu).then(out);
        vcpu.run(crate::vcpu::Answer::None);
        check_eq!((vcpu.lapic().state().tpr, word(&caller)?[0]), (0x60, 0));
    }

    fn a_priority_that_is_lowered_is_told_where_the_local_apic_is_the_vmms() {
        for ours in [false, true] {
            let caller = Caller::without_chips()?;
            if ours {
                check_eq!(caller.vm(CREATE_IRQCHIP, 0), Ok(0));
            }
            let mut vcpu = host_error(super::create_vcpu(&caller.fixture.vm, 0).map(Box::new))?;
            long_mode(&caller.fixture, &mut vcpu)?;
            let shared = Shared::new();
            // Raised, the same, lowered; one that there is none of.
            for (value, told) in [(7, false), (7, false), (3, true), (0x10, false)] {
                if ours {
                    vcpu.set_cr8(if value == 3 { 7 } else { 0 });
                }
                engine(&mut vcpu).then(move |state, _| {
                    state.gprs[3] = value;
                    Intercept::WriteCr8 { gpr: 3, len: 4 }
                });
                engine(&mut vcpu).then(out);
                let rip = vcpu.engine().rip();
                check_eq!(run(&mut vcpu, 0, &shared), Ok(0));
                if told && !ours {
                    check_eq!((shared.reason(), vcpu.engine().rip()), (exit::SET_TPR, rip + 4));
                    check_eq!(load::<u64>(&shared, offset_of!(Run, cr8)), value);
                    check_eq!(run(&mut vcpu, 0, &shared), Ok(0));
                }
                check_eq!(shared.reason(), exit::IO);
            }
        }
    }

    fn a_word_is_in_memory() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        for wrong in [WORD + 1, Fixture::MEMORY, 0xfee0_0080, u64::MAX, u64::MAX - 3] {
            caller.refused(&mut vcpu, SET_VAPIC_ADDR, &wrong, Errno::EINVAL)?;
        }
        let caller = Caller::without_chips()?;
        let mut vcpu = caller.vcpu()?;
        check_eq!(caller.set(&mut vcpu, SET_VAPIC_ADDR, &0_u64), Err(Errno::EINVAL));
        check_eq!(Caller::call_with(&mut vcpu, SET_VAPIC_ADDR, BAD), Err(Errno::EINVAL));
    }
}
