//! Test bodies of `msr_filter`, and of what becomes of an access that is not made.

use abi::cap;
use abi::ioctl::{GET_MSRS, SET_MSRS, X86_SET_MSR_FILTER};
use abi::msr::{
    MSR_FILTER_DEFAULT_DENY, MSR_FILTER_READ, MSR_FILTER_WRITE, MsrEntry, MsrFilter,
    MsrFilterRange, MsrsHeader,
};
use selftest::{Outcome, cases, check, check_eq};
use virt::Errno;

use super::caller::{ARGUMENT, Caller};
use crate::engine::{Event, Intercept};
use crate::exception::Exception;
use crate::msr::index;
use crate::msr_policy::MsrReason;
use crate::regs::{Regs, gpr};
use crate::vcpu::run_test::{CODE, TestVcpu, enable_apic, engine, out};
use crate::vcpu::{Answer, Data, Exit};

/// Where bitmaps are.
const BITMAP: u64 = ARGUMENT + 0x1000;

/// The exit of a step that is not about a register.
fn other() -> Exit {
    Exit::Out { port: 0x1080, size: 1, data: Data::new(&[0x5a]) }
}

fn range(flags: u32, base: u32, nmsrs: u32) -> MsrFilterRange {
    MsrFilterRange { flags, nmsrs, base, bitmap: BITMAP }
}

#[inline(never)]
fn filter(caller: &Caller, flags: u32, ranges: &[MsrFilterRange]) -> Result<u32, Errno> {
    let mut filter = MsrFilter { flags, ..MsrFilter::default() };
    filter.ranges[..ranges.len()].copy_from_slice(ranges);
    caller.set_vm(X86_SET_MSR_FILTER, &filter)
}

/// The guest reads a register, and does something else then. Gives the first exit.
fn read(vcpu: &mut TestVcpu, number: u32) -> Exit {
    restart(vcpu);
    engine(vcpu).then(move |state, _| {
        state.gprs[usize::from(gpr::RCX)] = number.into();
        Intercept::ReadMsr { len: 2 }
    });
    engine(vcpu).then(out);
    vcpu.run(Answer::None)
}

/// The same with a write.
fn write(vcpu: &mut TestVcpu, number: u32, value: u64) -> Exit {
    restart(vcpu);
    engine(vcpu).then(move |state, _| {
        state.gprs[usize::from(gpr::RCX)] = number.into();
        state.gprs[usize::from(gpr::RAX)] = value & 0xffff_ffff;
        state.gprs[usize::from(gpr::RDX)] = value >> 32;
        Intercept::WriteMsr { len: 2 }
    });
    engine(vcpu).then(out);
    vcpu.run(Answer::None)
}

fn restart(vcpu: &mut TestVcpu) {
    engine(vcpu).set_rip(CODE);
    engine(vcpu).entries.clear();
    engine(vcpu).script.clear();
}

/// Whether the last access made a general protection fault.
fn faulted(vcpu: &mut TestVcpu) -> bool {
    vcpu.engine().injected() == [Event::Exception(Exception::gp(0))]
}

fn is_made(vcpu: &mut TestVcpu, number: u32, read_is: bool, write_is: bool) -> Outcome {
    check_eq!(read(vcpu, number), other());
    check_eq!(faulted(vcpu), !read_is, "read of {number:x}");
    check_eq!(write(vcpu, number, 0), other());
    check_eq!(faulted(vcpu), !write_is, "write of {number:x}");
    Ok(())
}

cases! {
    fn a_filter_denies_the_guest_what_it_says() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        is_made(&mut vcpu, index::STAR, true, true)?;
        // Of STAR, LSTAR, CSTAR the second may be read, and the third written.
        caller.fill(0x1000, &[0b010, 0, 0, 0, 0, 0, 0, 0]);
        let reads = range(MSR_FILTER_READ, index::STAR, 3);
        let writes = MsrFilterRange { bitmap: BITMAP + 8, ..range(MSR_FILTER_WRITE, index::STAR, 3) };
        caller.fill(0x1008, &[0b100, 0, 0, 0, 0, 0, 0, 0]);
        let unused = MsrFilterRange { nmsrs: 0, flags: 9, ..reads };
        check_eq!(filter(&caller, 0, &[reads, unused, writes]), Ok(0));
        is_made(&mut vcpu, index::STAR, false, false)?;
        is_made(&mut vcpu, index::LSTAR, true, false)?;
        is_made(&mut vcpu, index::CSTAR, false, true)?;
        is_made(&mut vcpu, index::SFMASK, true, true)?;
        check_eq!(filter(&caller, MSR_FILTER_DEFAULT_DENY, &[reads]), Ok(0));
        is_made(&mut vcpu, index::LSTAR, true, false)?;
        is_made(&mut vcpu, index::SFMASK, false, false)?;
        // The local APIC's, always; and the VMM may all.
        is_made(&mut vcpu, 0x808, true, true)?;
        caller.put(0, &MsrsHeader { nmsrs: 1, pad: 0 });
        caller.put(8, &MsrEntry { index: index::SFMASK, reserved: 0, data: 5 });
        check_eq!((caller.call(&mut vcpu, SET_MSRS), caller.call(&mut vcpu, GET_MSRS)), (Ok(1), Ok(1)));
        check_eq!(filter(&caller, 0, &[]), Ok(0));
        is_made(&mut vcpu, index::STAR, true, true)?;
    }

    fn filters_that_cannot_be_are_refused() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let fine = range(MSR_FILTER_READ | MSR_FILTER_WRITE, index::STAR, 0x600 * 8);
        for (flags, wrong, errno) in [
            (2, &[fine][..], Errno::EINVAL), (MSR_FILTER_DEFAULT_DENY, &[], Errno::EINVAL),
            (0, &[MsrFilterRange { flags: 0, ..fine }], Errno::EINVAL),
            (0, &[MsrFilterRange { flags: 4, ..fine }], Errno::EINVAL),
            (0, &[MsrFilterRange { flags: 5, ..fine }], Errno::EINVAL),
            (0, &[MsrFilterRange { nmsrs: 0x600 * 8 + 1, ..fine }], Errno::EINVAL),
            (0, &[MsrFilterRange { nmsrs: u32::MAX, ..fine }], Errno::EINVAL),
            (0, &[MsrFilterRange { bitmap: u64::MAX - 8, ..fine }], Errno::EFAULT),
        ] {
            check_eq!(filter(&caller, flags, wrong), Err(errno), "{wrong:x?}");
        }
        is_made(&mut vcpu, index::STAR, true, true)?;
        caller.fill(0x1000, &[0; 0x600]);
        check_eq!(filter(&caller, 0, &[fine; 16]), Ok(0));
        is_made(&mut vcpu, index::STAR, false, false)?;
    }

    fn accesses_that_are_not_made_come_out_for_the_reasons_that_were_asked_for() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        for wrong in [8, 1 << 32] {
            check_eq!(caller.enable(cap::X86_USER_SPACE_MSR, wrong), Err(Errno::EINVAL));
        }
        let unknown = 0xdead;
        let bad = 1 << 60;
        check_eq!(caller.enable(cap::X86_USER_SPACE_MSR, 1), Ok(0));
        check_eq!((read(&mut vcpu, unknown), faulted(&mut vcpu)), (other(), true));
        let invalid = Exit::WriteMsr { number: index::LSTAR, value: bad, reason: MsrReason::Invalid };
        check_eq!(write(&mut vcpu, index::LSTAR, bad), invalid);
        check_eq!(caller.enable(cap::X86_USER_SPACE_MSR, 2), Ok(0));
        check_eq!(write(&mut vcpu, index::LSTAR, bad), other());
        let reason = MsrReason::Unknown;
        check_eq!(read(&mut vcpu, unknown), Exit::ReadMsr { number: unknown, reason });
        check_eq!(write(&mut vcpu, unknown, 7), Exit::WriteMsr { number: unknown, value: 7, reason });
        check_eq!(caller.enable(cap::X86_USER_SPACE_MSR, 4), Ok(0));
        caller.fill(0x1000, &[0; 8]);
        check_eq!(filter(&caller, 0, &[range(MSR_FILTER_READ, index::STAR, 1)]), Ok(0));
        let reason = MsrReason::Filtered;
        check_eq!(read(&mut vcpu, index::STAR), Exit::ReadMsr { number: index::STAR, reason });
        check_eq!(write(&mut vcpu, index::STAR, 7), other());
    }

    fn what_the_vmm_answers_is_what_the_guest_gets() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(caller.enable(cap::X86_USER_SPACE_MSR, 2), Ok(0));
        let value = Answer::Data(Data::new(&[1, 2, 3, 4, 5, 6, 7, 8]));
        for (answer, fault) in [(value, false), (Answer::Refused, true), (Answer::None, true)] {
            check!(matches!(read(&mut vcpu, 0xdead), Exit::ReadMsr { .. }));
            let before = [gpr::RAX, gpr::RDX].map(|n| vcpu.engine().gpr(n));
            // Looked at when it is answered: the other step changes RAX.
            check_eq!(vcpu.finish(answer), None);
            let found = [gpr::RAX, gpr::RDX].map(|n| vcpu.engine().gpr(n));
            check_eq!(found, if fault { before } else { [0x0403_0201, 0x0807_0605] });
            check_eq!(vcpu.engine().rip(), if fault { CODE } else { CODE + 2 });
            check_eq!((vcpu.run(Answer::None), faulted(&mut vcpu)), (other(), fault));
        }
        for (answer, fault) in [(Answer::None, false), (value, false), (Answer::Refused, true)] {
            check!(matches!(write(&mut vcpu, 0xdead, 1), Exit::WriteMsr { .. }));
            check_eq!((vcpu.run(answer), faulted(&mut vcpu)), (other(), fault));
        }
    }

    fn the_platforms_word_can_be_hidden_from_the_guest_only() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        const RATIO: u64 = 0xff00;
        check_eq!(vcpu.set_msr(index::PLATFORM_INFO, RATIO), Ok(()));
        check!(vcpu.set_msr(index::PLATFORM_INFO, 1 << 31).is_err(), "CPUID never faults");
        check_eq!(read(&mut vcpu, index::PLATFORM_INFO), other());
        check!(!faulted(&mut vcpu));
        is_made(&mut vcpu, index::PLATFORM_INFO, true, false)?;
        check_eq!(caller.enable(cap::MSR_PLATFORM_INFO, 0), Ok(0));
        is_made(&mut vcpu, index::PLATFORM_INFO, false, false)?;
        is_made(&mut vcpu, index::MISC_ENABLE, true, true)?;
        check_eq!(vcpu.read_msr(index::PLATFORM_INFO), Ok(RATIO));
        check_eq!(vcpu.set_msr(index::PLATFORM_INFO, 0), Ok(()));
        // The VMM may want to see it.
        check_eq!(caller.enable(cap::X86_USER_SPACE_MSR, 1), Ok(0));
        let exit = Exit::ReadMsr { number: index::PLATFORM_INFO, reason: MsrReason::Invalid };
        check_eq!(read(&mut vcpu, index::PLATFORM_INFO), exit);
        check_eq!(vcpu.run(Answer::Refused), other());
        for (cap, value) in [(cap::X86_USER_SPACE_MSR, 0), (cap::MSR_PLATFORM_INFO, 1)] {
            check_eq!(caller.enable(cap, value), Ok(0));
        }
        is_made(&mut vcpu, index::PLATFORM_INFO, true, false)?;
    }
}
