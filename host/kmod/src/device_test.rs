//! Bodies about descriptors: what a program finds that makes a VM, on a virtualization that runs a script.
//!
//! They are the descriptors of the process that loads the module, used as system calls do.

use alloc::sync::Arc;
use alloc::vec;
use core::ffi::{c_int, c_long};
use core::sync::atomic::Ordering;

use ::selftest::{Failure, Outcome, cases, check, check_eq};
use abi::device::EnableCap;
use abi::encoding::Encoded;
use abi::memory::{DIRTY_LOG_PAGE_OFFSET, UserspaceMemoryRegion};
use abi::run::Run;
use abi::{cap, exit, ioctl};
use arch_x86::hardware::Platform;
use core::mem::offset_of;
use virt::Host;
use virt::host::BadAddress;
use virt::host_test::{PAGE, given};
use virt::ioctl::VCPU_MMAP_SIZE;

use crate::device::{Device, descriptor};
use crate::host_test::{address, map, unmap};
use crate::kernel::Kernel;
use crate::test_engine::{
    BLOCKED, CHANGES, ON, PORTS, TestVirtualization, unibody_blocked_signals,
};
use crate::virtualization::{
    pretend_no_reboot, unibody_reboot_begins, unibody_sleep_begins, unibody_sleep_ends,
};

// SAFETY: these are the glue's functions (glue/selftest.c), which do what system calls do.
unsafe extern "C" {
    safe fn unibody_ioctl_of(descriptor: c_int, number: u32, argument: u64) -> c_long;
    safe fn unibody_read_of(descriptor: c_int, to: u64, size: usize, offset: &mut i64) -> c_long;
    safe fn unibody_map_of(descriptor: c_int, size: usize, page: u64, shared: bool) -> u64;
    safe fn unibody_close(descriptor: c_int);
    /// Whether it is read at any offset.
    safe fn unibody_may_pread(descriptor: c_int) -> bool;
    /// How many descriptors this process may have from now on; gives how many until now.
    safe fn unibody_limit_descriptors(most: u64) -> u64;
    safe fn unibody_pretend_signal(there: bool);
}

const EINTR: c_long = -4;
const EBUSY: c_long = -16;
const EINVAL: c_long = -22;
const ENOTTY: c_long = -25;

/// A descriptor, which is closed when this is dropped.
struct Descriptor(c_int);

impl Descriptor {
    fn device() -> Result<Self, Failure> {
        let device: Arc<Device<TestVirtualization>> = given(Device::new())?;
        Ok(Self(given(descriptor(&device))? as c_int))
    }

    fn vm() -> Result<Self, Failure> {
        Self::device()?.make(ioctl::CREATE_VM, 0)
    }

    fn ioctl(&self, number: u32, argument: u64) -> c_long {
        unibody_ioctl_of(self.0, number, argument)
    }

    /// The descriptor that an ioctl gives.
    fn make(&self, number: u32, argument: u64) -> Result<Self, Failure> {
        let made = self.ioctl(number, argument);
        check!(made >= 0, "ioctl {number:#x} gave {made}");
        Ok(Self(made as c_int))
    }

    fn map(&self, size: u64, page: u64, shared: bool) -> Result<u64, Failure> {
        address(unibody_map_of(self.0, size as usize, page, shared))
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        unibody_close(self.0);
        // Files are released on the way to user space, or here.
        let _ = Kernel.is_interrupted();
    }
}

/// A structure in this process's memory, as an argument.
fn with_argument<T: Encoded, R>(value: &T, work: impl FnOnce(u64) -> R) -> Result<R, Failure> {
    let at = map(PAGE, true, true)?;
    let mut bytes = vec![0; T::SIZE];
    value.encode(&mut bytes);
    let written = Kernel.write(at, &bytes);
    let result = work(at);
    unmap(at, PAGE);
    check_eq!(written, Ok(()));
    Ok(result)
}

fn byte(at: u64) -> Result<u8, Failure> {
    let mut bytes = [0];
    given(Kernel.read(at, &mut bytes))?;
    Ok(bytes[0])
}

fn word(at: u64) -> Result<u32, Failure> {
    let mut bytes = [0; 4];
    given(Kernel.read(at, &mut bytes))?;
    Ok(u32::from_ne_bytes(bytes))
}

/// The exit is one for an access of a byte to a port; gives where the byte is.
fn port_access(run: u64, direction: u8, port: u16) -> Result<u64, Failure> {
    check_eq!(word(run + offset_of!(Run, exit_reason) as u64)?, exit::IO);
    let details = run + offset_of!(Run, exit) as u64;
    check_eq!(word(details)?, u32::from(direction) | 1 << 8 | u32::from(port) << 16);
    check_eq!(word(details + 4)?, 1);
    Ok(run + u64::from(word(details + 8)?))
}

cases! {
    fn the_device_answers() {
        let device = Descriptor::device()?;
        check_eq!(device.ioctl(ioctl::GET_API_VERSION, 0), 12);
        check_eq!(device.ioctl(ioctl::GET_VCPU_MMAP_SIZE, 0), c_long::from(VCPU_MMAP_SIZE));
        check_eq!(device.ioctl(ioctl::CREATE_VM, 99), EINVAL);
        check_eq!(device.ioctl(ioctl::RUN, 0), EINVAL);
        check!(device.map(PAGE, 0, true).is_err());
        let at = map(PAGE, true, true)?;
        let read = unibody_read_of(device.0, at, 8, &mut 0);
        unmap(at, PAGE);
        check_eq!(read, EINVAL);
    }

    fn virtualization_is_on_while_there_are_vms() {
        let online = (0..Kernel.processors()).fold(0, |mask, processor| mask | 1_u64 << processor);
        check_eq!(ON.load(Ordering::SeqCst), 0);
        let device = Descriptor::device()?;
        let (one, other) = (device.make(ioctl::CREATE_VM, 0)?, device.make(ioctl::CREATE_VM, 0)?);
        check_eq!(ON.load(Ordering::SeqCst), online);
        // They are nobody else's now.
        check_eq!(Descriptor::device()?.ioctl(ioctl::CREATE_VM, 0), EBUSY);
        check_eq!(ON.load(Ordering::SeqCst), online);
        let vcpu = one.make(ioctl::CREATE_VCPU, 0)?;
        drop(one);
        drop(other);
        // It keeps its VM.
        check_eq!(ON.load(Ordering::SeqCst), online);
        drop(vcpu);
        check_eq!(ON.load(Ordering::SeqCst), 0);
    }

    fn the_machine_sleeps_without_vms_only() {
        let device = Descriptor::device()?;
        let vm = device.make(ioctl::CREATE_VM, 0)?;
        check!(!unibody_sleep_begins());
        // So it does not.
        device.make(ioctl::CREATE_VM, 0)?;
        drop(vm);
        let may = unibody_sleep_begins();
        let made = device.ioctl(ioctl::CREATE_VM, 0);
        unibody_sleep_ends();
        check_eq!((may, made), (true, EBUSY));
        device.make(ioctl::CREATE_VM, 0)?;
    }

    fn no_vm_is_made_once_the_machine_reboots() {
        let device = Descriptor::device()?;
        let vm = device.make(ioctl::CREATE_VM, 0)?;
        unibody_reboot_begins();
        let beside = device.ioctl(ioctl::CREATE_VM, 0);
        drop(vm);
        let alone = device.ioctl(ioctl::CREATE_VM, 0);
        pretend_no_reboot();
        check_eq!((beside, alone, ON.load(Ordering::SeqCst)), (EBUSY, EBUSY, 0));
        device.make(ioctl::CREATE_VM, 0)?;
    }

    fn a_guest_runs() {
        let vm = Descriptor::vm()?;
        check_eq!(vm.ioctl(0x1234, 0), ENOTTY);
        let vcpu = vm.make(ioctl::CREATE_VCPU, 0)?;
        check_eq!(vm.ioctl(ioctl::CREATE_VCPU, 0), -17);
        let run = vcpu.map(VCPU_MMAP_SIZE.into(), 0, true)?;
        let outcome = run_script(&vcpu, run);
        unmap(run, VCPU_MMAP_SIZE.into());
        outcome?;
    }

    fn a_vcpu_without_a_descriptor_has_no_number() {
        let vm = Descriptor::vm()?;
        let before = unibody_limit_descriptors(0);
        let made = vm.ioctl(ioctl::CREATE_VCPU, 0);
        unibody_limit_descriptors(before);
        check_eq!(made, -24);
        vm.make(ioctl::CREATE_VCPU, 0)?;
        // Nor does one that cannot be made have a descriptor.
        check_eq!(vm.ioctl(ioctl::CREATE_VCPU, 0), -17);
    }

    fn what_is_mapped_is_what_the_vcpus_share() {
        let vm = Descriptor::vm()?;
        let vcpus = [vm.make(ioctl::CREATE_VCPU, 0)?, vm.make(ioctl::CREATE_VCPU, 1)?];
        let size = u64::from(VCPU_MMAP_SIZE) + PAGE;
        let first = vcpus[0].map(size, 0, true)?;
        let second = vcpus[1].map(size, 0, true)?;
        let private = vcpus[1].map(PAGE, 1, false)?;
        let written = (0..3).map(|page| Kernel.write(first + page * PAGE + 100, &[7 + page as u8]));
        let written = written.fold(Ok(()), Result::and);
        let seen = [0, 1, 2].map(|page| byte(second + page * PAGE + 100).ok());
        // What is behind them is nobody's.
        let beyond = Kernel.read(first + 3 * PAGE, &mut [0]);
        let of_private = byte(private + 100).ok();
        drop(vcpus);
        // A mapping keeps what it is of.
        let kept = byte(first + 100).ok();
        for (at, size) in [(first, size), (second, size), (private, PAGE)] {
            unmap(at, size);
        }
        check_eq!((written, beyond), (Ok(()), Err(BadAddress)));
        check_eq!((seen, of_private), ([Some(0), Some(0), Some(9)], Some(0)));
        check_eq!(kept, Some(7));
    }

    fn a_ring_of_dirty_pages_is_mapped() {
        let vm = Descriptor::vm()?;
        let (cap, args) = (cap::DIRTY_LOG_RING, [16 * PAGE, 0, 0, 0]);
        let enable = EnableCap { cap, flags: 0, args, pad: [0; 64] };
        let enabled = with_argument(&enable, |at| vm.ioctl(ioctl::ENABLE_CAP, at))?;
        check_eq!(enabled, 0);
        let vcpu = vm.make(ioctl::CREATE_VCPU, 0)?;
        let first = u64::from(DIRTY_LOG_PAGE_OFFSET);
        check!(vcpu.map(PAGE, first, false).is_err());
        check!(vcpu.map(2 * PAGE, first - 1, false).is_err());
        check!(vcpu.map(PAGE, first + 15, false).is_err());
        let ring = vcpu.map(17 * PAGE, first, true)?;
        let there = [0, 15, 16].map(|page| Kernel.write(ring + page * PAGE, &[1]));
        unmap(ring, 17 * PAGE);
        check_eq!(there, [Ok(()), Ok(()), Err(BadAddress)]);
    }

    fn a_signal_ends_a_run() {
        let vm = Descriptor::vm()?;
        let vcpu = vm.make(ioctl::CREATE_VCPU, 0)?;
        let run = vcpu.map(VCPU_MMAP_SIZE.into(), 0, true)?;
        unibody_pretend_signal(true);
        let interrupted = vcpu.ioctl(ioctl::RUN, 0);
        unibody_pretend_signal(false);
        let reason = word(run + offset_of!(Run, exit_reason) as u64);
        // The VMM asks for the same.
        let asked = Kernel.write(run + offset_of!(Run, immediate_exit) as u64, &[1]);
        let at_once = vcpu.ioctl(ioctl::RUN, 0);
        unmap(run, VCPU_MMAP_SIZE.into());
        check_eq!((interrupted, asked, at_once), (EINTR, Ok(()), EINTR));
        check_eq!(reason?, exit::INTR);
    }

    fn a_signal_that_keeps_a_vm_from_being_made_is_told() {
        let device = Descriptor::device()?;
        unibody_pretend_signal(true);
        let interrupted = device.ioctl(ioctl::CREATE_VM, 0);
        unibody_pretend_signal(false);
        check_eq!((interrupted, ON.load(Ordering::SeqCst)), (EINTR, 0));
        device.make(ioctl::CREATE_VM, 0)?;
    }

    fn signals_are_blocked_during_a_run_as_was_said() {
        let vm = Descriptor::vm()?;
        let vcpu = vm.make(ioctl::CREATE_VCPU, 0)?;
        let set = |size: u32, mask: u64| {
            with_argument(&size, |at| {
                given(Kernel.write(at + 4, &mask.to_ne_bytes()))?;
                Ok(vcpu.ioctl(ioctl::SET_SIGNAL_MASK, at))
            })?
        };
        check_eq!(set(7, 0)?, EINVAL);
        let before = unibody_blocked_signals();
        // SIGUSR1, and SIGKILL, which cannot be.
        check_eq!(set(8, 1 << 9 | 1 << 8)?, 0);
        check_eq!(vcpu.ioctl(ioctl::RUN, 0), 0);
        check_eq!((BLOCKED.load(Ordering::SeqCst), unibody_blocked_signals()), (1 << 9, before));
        check_eq!(vcpu.ioctl(ioctl::SET_SIGNAL_MASK, 0), 0);
        check_eq!(vcpu.ioctl(ioctl::SET_SIGNAL_MASK, 8), -14);
        check_eq!(vcpu.ioctl(ioctl::RUN, 0), 0);
    }

    fn pages_that_go_are_told() {
        let vm = Descriptor::vm()?;
        let memory = map(4 * PAGE, true, true)?;
        let region = UserspaceMemoryRegion {
            memory_size: 4 * PAGE,
            userspace_addr: memory,
            ..UserspaceMemoryRegion::default()
        };
        let set = with_argument(&region, |at| vm.ioctl(ioctl::SET_USER_MEMORY_REGION, at))?;
        check_eq!(Kernel.write(memory, &[1]), Ok(()));
        let before = [0, 1].map(|at| CHANGES[at].load(Ordering::SeqCst));
        unmap(memory, 4 * PAGE);
        let after = [0, 1, 2, 3].map(|at| CHANGES[at].load(Ordering::SeqCst));
        check_eq!(set, 0);
        let times = [after[0] - before[0], after[1] - before[1]];
        check!(times[0] > 0 && times[0] == times[1], "{before:?}, {after:?}");
        check!(after[2] <= memory && after[3] >= memory + 4 * PAGE, "{after:x?}");
        drop(vm);
        // All pages have gone, and nobody is told any more.
        let after = CHANGES.each_ref().map(|change| change.load(Ordering::SeqCst));
        check_eq!((after[0], after[2], after[3]), (before[0] + times[0] + 1, 0, u64::MAX));
        let memory = map(PAGE, true, true)?;
        check_eq!(Kernel.write(memory, &[1]), Ok(()));
        unmap(memory, PAGE);
        check_eq!(CHANGES[0].load(Ordering::SeqCst), after[0]);
    }

    fn statistics_are_read() {
        let vm = Descriptor::vm()?;
        let vcpu = vm.make(ioctl::CREATE_VCPU, 0)?;
        for of in [&vm, &vcpu] {
            let statistics = of.make(ioctl::GET_STATS_FD, 0)?;
            check!(unibody_may_pread(statistics.0) && !unibody_may_pread(of.0));
            let at = map(4 * PAGE, true, true)?;
            let mut offset = 0;
            let first = unibody_read_of(statistics.0, at, 24, &mut offset);
            let rest = unibody_read_of(statistics.0, at + 24, 3 * PAGE as usize, &mut offset);
            let end = unibody_read_of(statistics.0, at, 8, &mut offset);
            let bad = unibody_read_of(statistics.0, 8, 8, &mut 0);
            let count = word(at + 8);
            unmap(at, 4 * PAGE);
            check_eq!((first, end, bad), (24, 0, -14));
            check!(rest > 64 && offset == 24 + rest, "{rest} bytes, at {offset}");
            check!(count? > 0);
            check_eq!(statistics.ioctl(ioctl::GET_STATS_FD, 0), ENOTTY);
        }
    }
}

/// Runs the test engine's script: a byte goes out, one comes in, one more goes out, a halt.
fn run_script(vcpu: &Descriptor, run: u64) -> Outcome {
    check_eq!(vcpu.ioctl(ioctl::RUN, 1), EINVAL);
    check_eq!(vcpu.ioctl(ioctl::RUN, 0), 0);
    check_eq!(byte(port_access(run, exit::IO_OUT, PORTS[0])?)?, 0x5a);
    check_eq!(vcpu.ioctl(ioctl::RUN, 0), 0);
    let at = port_access(run, exit::IO_IN, PORTS[1])?;
    check_eq!(Kernel.write(at, &[0x21]), Ok(()));
    check_eq!(vcpu.ioctl(ioctl::RUN, 0), 0);
    check_eq!(byte(port_access(run, exit::IO_OUT, PORTS[0])?)?, 0x22);
    check_eq!(vcpu.ioctl(ioctl::RUN, 0), 0);
    check_eq!(word(run + offset_of!(Run, exit_reason) as u64)?, exit::HLT);
    Ok(())
}
