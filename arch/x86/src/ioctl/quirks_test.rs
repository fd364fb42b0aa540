//! Test bodies of KVM_CAP_DISABLE_QUIRKS2 and what it changes: [`crate::quirks`].

use abi::cap;
use abi::cpuid::{CpuidEntry, CpuidHeader};
use abi::encoding::Encoded;
use abi::ioctl::SET_CPUID2;
use selftest::{Outcome, cases, check, check_eq};
use virt::{Errno, Host};

use super::caller::Caller;
use crate::emulate::Feature;
use crate::engine::{Event, Intercept};
use crate::exception::{self, Exception};
use crate::msr::index;
use crate::quirks::{FIX_HYPERCALL, MISC_ENABLE_NO_MWAIT, MWAIT_NEVER_FAULTS, Quirks};
use crate::regs::{Regs, gpr};
use crate::vcpu::run_test::{CODE, TestVcpu, engine, out};
use crate::vcpu::{Answer, Exit};

const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];

/// In IA32_MISC_ENABLE.
const MONITOR: u64 = 1 << 18;

/// Has CPUID say who made the processor, and leaf 1's ECX.
fn set_cpuid(caller: &Caller, vcpu: &mut TestVcpu, vendor: &[u8; 12], ecx: u32) -> Outcome {
    let word =
        |n: usize| u32::from_le_bytes([vendor[n], vendor[n + 1], vendor[n + 2], vendor[n + 3]]);
    let maker = CpuidEntry { ebx: word(0), edx: word(4), ecx: word(8), ..CpuidEntry::default() };
    let features = CpuidEntry { function: 1, ecx, ..CpuidEntry::default() };
    caller.put(0, &CpuidHeader { nent: 2, padding: 0 });
    for (n, entry) in (0..).zip([maker, features]) {
        caller.put(CpuidHeader::SIZE as u64 + n * CpuidEntry::SIZE as u64, &entry);
    }
    check_eq!(caller.call(vcpu, SET_CPUID2), Ok(0));
    Ok(())
}

/// The guest comes to a hypercall, and then to an OUT.
fn hypercall(caller: &Caller, vcpu: &mut TestVcpu, code: [u8; 3], number: u64) -> Outcome {
    check_eq!(caller.fixture.host.write(CODE, &code), Ok(()));
    engine(vcpu).set_rip(CODE);
    engine(vcpu).set_gpr(gpr::RAX, number);
    engine(vcpu).then(|_, _| Intercept::Hypercall { len: 3 });
    engine(vcpu).then(|_, _| Intercept::Out { port: 0x1080, size: 1, len: 2 });
    check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
    Ok(())
}

/// The same, where the processor does not know it.
fn undefined(caller: &Caller, vcpu: &mut TestVcpu, code: [u8; 3]) -> Outcome {
    check_eq!(caller.fixture.host.write(CODE, &code), Ok(()));
    engine(vcpu).set_rip(CODE);
    engine(vcpu).set_gpr(gpr::RAX, 11);
    engine(vcpu).then(|_, _| Intercept::Undefined);
    engine(vcpu).then(|_, _| Intercept::Out { port: 0x1080, size: 1, len: 2 });
    check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
    Ok(())
}

/// What is there instead of the hypercall.
fn code(caller: &Caller) -> [u8; 3] {
    let mut code = [0; 3];
    let _ = caller.fixture.host.read(CODE, &mut code);
    code
}

/// Runs the vCPU once, and says whether it has MONITOR then.
fn has_monitor(vcpu: &mut TestVcpu) -> bool {
    engine(vcpu).then(out);
    let _ = vcpu.run(Answer::None);
    vcpu.engine().features.has(Feature::Monitor)
}

cases! {
    fn what_the_processor_does_not_know_is_another_makers_hypercall_or_undefined() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        set_cpuid(&caller, &mut vcpu, b"AuthenticAMD", 0)?;
        undefined(&caller, &mut vcpu, VMCALL)?;
        check_eq!((code(&caller), vcpu.engine().rip()), (VMMCALL, CODE + 2));
        check!(vcpu.engine().injected().is_empty());
        undefined(&caller, &mut vcpu, [0x0f, 0x0b, 0xc1])?;
        check_eq!(vcpu.engine().injected(), [Event::Exception(Exception::ud())]);
        check_eq!(code(&caller), [0x0f, 0x0b, 0xc1]);
    }

    fn the_hypercall_of_another_maker_is_replaced_and_executed_again() {
        for (vendor, own, other) in [
            (b"GenuineIntel", VMCALL, VMMCALL), (b"AuthenticAMD", VMMCALL, VMCALL),
        ] {
            let (caller, mut vcpu) = Caller::with_vcpu()?;
            set_cpuid(&caller, &mut vcpu, vendor, 0)?;
            hypercall(&caller, &mut vcpu, other, 11)?;
            check_eq!((code(&caller), vcpu.engine().rip()), (own, CODE + 2));
            check_eq!(vcpu.engine().gpr(gpr::RAX), 11);
            check!(engine(&mut vcpu).entries[1].fresh);
            // Its own is answered: to yield to another processor, and what there is not.
            for (number, answer) in [(11, 0), (1, 0), (5, -1000_i64 as u64), (1000, -1000_i64 as u64)] {
                hypercall(&caller, &mut vcpu, own, number)?;
                check_eq!((code(&caller), vcpu.engine().rip()), (own, CODE + 5));
                check_eq!(vcpu.engine().gpr(gpr::RAX), answer, "{number}");
            }
        }
    }

    fn where_it_is_not_replaced_it_is_undefined() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        set_cpuid(&caller, &mut vcpu, b"GenuineIntel", 0)?;
        check_eq!(caller.enable(cap::DISABLE_QUIRKS2, FIX_HYPERCALL), Ok(0));
        hypercall(&caller, &mut vcpu, VMMCALL, 11)?;
        check_eq!(code(&caller), VMMCALL);
        let undefined = Event::Exception(Exception::plain(exception::UD));
        check_eq!(vcpu.engine().injected(), [undefined]);
    }

    fn to_yield_is_there_only_if_cpuid_says_so_where_that_counts() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        set_cpuid(&caller, &mut vcpu, b"GenuineIntel", 0)?;
        vcpu.enforce_pv_features(true);
        hypercall(&caller, &mut vcpu, VMCALL, 11)?;
        check_eq!(vcpu.engine().gpr(gpr::RAX), -1000_i64 as u64);
    }

    fn monitor_faults_where_cpuid_has_none_and_it_may_fault() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        set_cpuid(&caller, &mut vcpu, b"GenuineIntel", 1)?;
        check!(has_monitor(&mut vcpu));
        check_eq!(caller.enable(cap::DISABLE_QUIRKS2, MWAIT_NEVER_FAULTS), Ok(0));
        check!(!has_monitor(&mut vcpu));
        let offered = 1 | 1 << 3;
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(caller.enable(cap::DISABLE_QUIRKS, MWAIT_NEVER_FAULTS), Ok(0));
        set_cpuid(&caller, &mut vcpu, b"GenuineIntel", offered)?;
        check!(has_monitor(&mut vcpu));
    }

    fn monitor_is_there_by_a_register_if_that_is_asked_for() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        set_cpuid(&caller, &mut vcpu, b"GenuineIntel", 1)?;
        check_eq!(caller.enable(cap::DISABLE_QUIRKS2, MWAIT_NEVER_FAULTS | MISC_ENABLE_NO_MWAIT), Ok(0));
        check!(!has_monitor(&mut vcpu));
        let told = |vcpu: &TestVcpu| vcpu.current_leaf(1, 0, [0; 4])[2] >> 3 & 1;
        for (value, offered) in [(MONITOR, true), (0, false), (MONITOR, true)] {
            check_eq!(vcpu.write_msr(index::MISC_ENABLE, value), Ok(()));
            check_eq!((has_monitor(&mut vcpu), told(&vcpu)), (offered, u32::from(offered)));
        }
        // A processor without SSE3 has it by no register.
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(caller.enable(cap::DISABLE_QUIRKS2, MISC_ENABLE_NO_MWAIT), Ok(0));
        set_cpuid(&caller, &mut vcpu, b"GenuineIntel", 0)?;
        check!(has_monitor(&mut vcpu), "it never faults");
        check!(vcpu.write_msr(index::MISC_ENABLE, MONITOR).is_err());
    }

    fn what_is_no_quirk_is_refused_by_the_newer_of_both() {
        let caller = Caller::new()?;
        check_eq!(caller.enable(cap::DISABLE_QUIRKS2, 1 << 40), Err(Errno::EINVAL));
        check_eq!(caller.enable(cap::DISABLE_QUIRKS, 1 << 40), Ok(0));
        let quirks = &caller.fixture.vm.arch().machine().quirks;
        check_eq!(quirks.get(), Quirks::ALL);
        check_eq!(caller.enable(cap::DISABLE_QUIRKS2, Quirks::ALL), Ok(0));
        check_eq!(quirks.get(), 0);
        check!(!quirks.has(FIX_HYPERCALL));
    }
}
