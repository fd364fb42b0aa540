//! A VMM that makes calls, for the test bodies: its memory is where the guest has none.

use abi::device::EnableCap;
use abi::encoding::Encoded;
use abi::ioctl::{
    ENABLE_CAP, GET_CPUID2, GET_DEBUGREGS, GET_DEVICE_ATTR, GET_FPU, GET_LAPIC, GET_MP_STATE,
    GET_MSRS, GET_NESTED_STATE, GET_REGS, GET_SREGS, GET_SREGS2, GET_VCPU_EVENTS, GET_XCRS,
    GET_XSAVE, GET_XSAVE2, HAS_DEVICE_ATTR, INTERRUPT, SET_CPUID2, SET_DEBUGREGS, SET_DEVICE_ATTR,
    SET_FPU, SET_GUEST_DEBUG, SET_LAPIC, SET_MP_STATE, SET_MSRS, SET_NESTED_STATE, SET_REGS,
    SET_SREGS, SET_SREGS2, SET_VAPIC_ADDR, SET_VCPU_EVENTS, SET_XCRS, SET_XSAVE,
    TPR_ACCESS_REPORTING, TRANSLATE, X86_SETUP_MCE,
};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use selftest::{Failure, Outcome, check_eq};
use virt::ioctl::New;
use virt::{Errno, Host};

use crate::irqchip::lapic::LocalApic;
use crate::regs::State;
use crate::vcpu::Pending;
use crate::vcpu::run_test::{TestVcpu, host_error, long_mode};
use crate::vcpu::scripted::Fixture;

/// Where arguments are.
pub(super) const ARGUMENT: u64 = 0xe_0000;
/// An address of which only the first byte is there.
pub(super) const BAD: u64 = Fixture::MEMORY - 1;

/// A descriptor of statistics.
pub(super) const STATISTICS: u32 = 77;
/// That of the device for VFIO.
pub(super) const VFIO: u32 = 78;

/// Every call with an argument in memory.
pub(super) const POINTERS: [u32; 37] = [
    GET_REGS,
    SET_REGS,
    GET_SREGS,
    SET_SREGS,
    GET_SREGS2,
    SET_SREGS2,
    GET_MSRS,
    SET_MSRS,
    GET_CPUID2,
    SET_CPUID2,
    GET_LAPIC,
    SET_LAPIC,
    GET_MP_STATE,
    SET_MP_STATE,
    GET_VCPU_EVENTS,
    SET_VCPU_EVENTS,
    INTERRUPT,
    GET_FPU,
    SET_FPU,
    GET_XSAVE,
    GET_XSAVE2,
    SET_XSAVE,
    GET_XCRS,
    SET_XCRS,
    GET_DEBUGREGS,
    SET_DEBUGREGS,
    SET_GUEST_DEBUG,
    TRANSLATE,
    GET_NESTED_STATE,
    SET_NESTED_STATE,
    TPR_ACCESS_REPORTING,
    SET_VAPIC_ADDR,
    X86_SETUP_MCE,
    ENABLE_CAP,
    HAS_DEVICE_ATTR,
    GET_DEVICE_ATTR,
    SET_DEVICE_ATTR,
];

/// What gets state, and what sets it.
pub(super) const PAIRS: [[u32; 2]; 13] = [
    [GET_REGS, SET_REGS],
    [GET_SREGS, SET_SREGS],
    [GET_SREGS2, SET_SREGS2],
    [GET_MSRS, SET_MSRS],
    [GET_CPUID2, SET_CPUID2],
    [GET_LAPIC, SET_LAPIC],
    [GET_MP_STATE, SET_MP_STATE],
    [GET_VCPU_EVENTS, SET_VCPU_EVENTS],
    [GET_FPU, SET_FPU],
    [GET_XSAVE, SET_XSAVE],
    [GET_XCRS, SET_XCRS],
    [GET_DEBUGREGS, SET_DEBUGREGS],
    [GET_NESTED_STATE, SET_NESTED_STATE],
];

/// A machine, and its caller.
pub(super) struct Caller {
    pub fixture: Fixture,
}

impl Caller {
    pub fn new() -> Result<Self, Failure> {
        host_error(Fixture::new(2)).map(|fixture| Self { fixture })
    }

    /// The same, of which nothing was chosen yet.
    pub fn without_chips() -> Result<Self, Failure> {
        host_error(Fixture::without_chips(4)).map(|fixture| Self { fixture })
    }

    /// Makes a VM's call, with an argument or its address. Who makes vCPUs gives their number for a descriptor, and [`STATISTICS`] and [`VFIO`]
    /// are those of the others.
    pub fn vm(&self, number: u32, argument: u64) -> Result<u32, Errno> {
        super::vm(&self.fixture.vm, number, argument, |new| match new {
            New::Vcpu(id) => Ok(id),
            New::Statistics(_) => Ok(STATISTICS),
            New::Vfio => Ok(VFIO),
        })
    }

    /// Makes a VM's call with a structure for its argument.
    pub fn set_vm<T: Encoded>(&self, number: u32, value: &T) -> Result<u32, Errno> {
        self.put(0, value);
        self.vm(number, ARGUMENT)
    }

    /// The structure that a VM's call fills.
    pub fn get_vm<T: Encoded>(&self, number: u32) -> Result<T, Failure> {
        self.fill(0, &vec![0xaa; T::SIZE]);
        host_error(self.vm(number, ARGUMENT))?;
        Ok(self.at(0))
    }

    /// Switches a capability of the VM on.
    pub fn enable(&self, cap: u32, value: u64) -> Result<u32, Errno> {
        let enable = EnableCap { cap, flags: 0, args: [value, 0, 0, 0], pad: [0; 64] };
        self.set_vm(ENABLE_CAP, &enable)
    }

    /// A vCPU 0 in 64-bit mode. One after the other can be made: state goes from one to the next.
    pub fn vcpu(&self) -> Result<TestVcpu, Failure> {
        let mut vcpu = host_error(self.fixture.vcpu_again(0))?;
        long_mode(&self.fixture, &mut vcpu)?;
        Ok(vcpu)
    }

    /// The same, and its caller.
    pub fn with_vcpu() -> Result<(Self, TestVcpu), Failure> {
        let caller = Self::new()?;
        let vcpu = caller.vcpu()?;
        Ok((caller, vcpu))
    }

    /// Makes a call with this argument, or its address.
    pub fn call_with(vcpu: &mut TestVcpu, number: u32, argument: u64) -> Result<u32, Errno> {
        super::vcpu(vcpu, number, argument, |_| Ok(STATISTICS))
    }

    /// Makes a call with the argument that is there.
    pub fn call(&self, vcpu: &mut TestVcpu, number: u32) -> Result<u32, Errno> {
        Self::call_with(vcpu, number, ARGUMENT)
    }

    /// Puts a structure at an offset from the argument's place.
    pub fn put<T: Encoded>(&self, offset: u64, value: &T) {
        let mut bytes = vec![0; T::SIZE];
        value.encode(&mut bytes);
        self.fill(offset, &bytes);
    }

    /// Puts bytes there.
    pub fn fill(&self, offset: u64, bytes: &[u8]) {
        // The place is there.
        let _ = self.fixture.host.write(ARGUMENT + offset, bytes);
    }

    /// The structure at an offset from the argument's place.
    pub fn at<T: Encoded>(&self, offset: u64) -> T {
        T::decode(&self.bytes(offset, T::SIZE))
    }

    /// Bytes there.
    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let _ = self.fixture.host.read(ARGUMENT + offset, &mut bytes);
        bytes
    }

    /// Makes a call with a structure for its argument.
    pub fn set<T: Encoded>(
        &self,
        vcpu: &mut TestVcpu,
        number: u32,
        value: &T,
    ) -> Result<u32, Errno> {
        self.put(0, value);
        self.call(vcpu, number)
    }

    /// The structure that a call fills.
    pub fn get<T: Encoded>(&self, vcpu: &mut TestVcpu, number: u32) -> Result<T, Failure> {
        self.fill(0, &vec![0xaa; T::SIZE]);
        host_error(self.call(vcpu, number))?;
        Ok(self.at(0))
    }

    /// Checks that a call is refused, and changes nothing.
    pub fn refused<T: Encoded>(
        &self,
        vcpu: &mut TestVcpu,
        number: u32,
        value: &T,
        errno: Errno,
    ) -> Outcome {
        let before = snapshot(vcpu);
        check_eq!(self.set(vcpu, number, value), Err(errno));
        check_eq!(snapshot(vcpu) == before, true);
        Ok(())
    }
}

/// What can be seen of a vCPU.
#[derive(PartialEq)]
pub(super) struct Snapshot {
    state: Box<State>,
    lapic: Box<LocalApic>,
    pending: Pending,
    cpuid: crate::cpuid::Table,
    exceptions: u32,
}

pub(super) fn snapshot(vcpu: &mut TestVcpu) -> Snapshot {
    Snapshot {
        pending: vcpu.pending(),
        state: Box::new(State::read(vcpu.engine())),
        lapic: Box::new(vcpu.lapic().clone()),
        cpuid: vcpu.cpuid().clone(),
        exceptions: vcpu.engine().exception_intercepts,
    }
}
