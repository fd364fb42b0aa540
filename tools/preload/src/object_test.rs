use std::cell::RefCell;
use std::thread;

use abi::encoding::Encoded;
use abi::ioctl;
use abi::memory::UserspaceMemoryRegion;
use arch_x86::ioctl::offered::{Descriptor, OFFERED};
use host_user::fixup;

use super::*;
use crate::options::Options;

/// An argument that nothing is at.
const NOWHERE: u64 = 8;

/// The device, a VM and a vCPU.
struct Objects {
    device: Object,
    vm: Object,
    vcpu: Object,
}

impl Objects {
    fn new() -> Self {
        fixup::install();
        let device = Object::device(Device::new(Options::default()));
        let (_, vm) = made(&device, ioctl::CREATE_VM, 0);
        // Without it some of a vCPU's are refused.
        assert_eq!(vm.ioctl(ioctl::CREATE_IRQCHIP, 0, |_| Ok(0)), Ok(0));
        let (_, vcpu) = made(&vm, ioctl::CREATE_VCPU, 0);
        Self { device, vm, vcpu }
    }

    fn ask(&self, of: Descriptor, number: u32, argument: u64) -> Result<u32, Errno> {
        let object = match of {
            Descriptor::Device => &self.device,
            Descriptor::Vm => &self.vm,
            Descriptor::Vcpu => &self.vcpu,
        };
        object.ioctl(number, argument, |_| Ok(77))
    }

    /// Whether there is such a call. All but a VM say of one that there is not what they say of a bad argument.
    fn has(&self, of: Descriptor, number: u32) -> bool {
        let argument = match number {
            ioctl::GET_API_VERSION | ioctl::CREATE_VM | ioctl::GET_VCPU_MMAP_SIZE => 0,
            ioctl::RUN => 0,
            ioctl::SET_TSC_KHZ => 0,
            _ => NOWHERE,
        };
        if (of, number) == (Descriptor::Vcpu, ioctl::KVMCLOCK_CTRL) {
            // It is refused as an unknown one is as long as the guest has no such clock, which none has here.
            return true;
        }
        let unknown = if of == Descriptor::Vm { Errno::ENOTTY } else { Errno::EINVAL };
        self.ask(of, number, argument) != Err(unknown)
    }
}

/// What a call makes, and what it answers.
fn made(by: &Object, number: u32, argument: u64) -> (u32, Object) {
    let slot = RefCell::new(None);
    let answer = by.ioctl(number, argument, |made| {
        slot.replace(Some(made.object));
        Ok(5)
    });
    (answer.unwrap(), slot.into_inner().unwrap())
}

#[test]
fn what_is_offered_is_there_and_nothing_else() {
    let objects = Objects::new();
    let not_offered = [ioctl::SMI, ioctl::GET_SUPPORTED_HV_CPUID];
    let all = OFFERED.iter().map(|offered| offered.number).chain(not_offered);
    for number in all {
        for of in [Descriptor::Device, Descriptor::Vm, Descriptor::Vcpu] {
            let listed = OFFERED.iter().any(|offered| (offered.of, offered.number) == (of, number));
            assert_eq!(objects.has(of, number), listed, "{number:#x} of {of:?}");
        }
    }
}

#[test]
fn what_is_made_gets_the_number_that_it_is_given() {
    fixup::install();
    let device = Object::device(Device::new(Options::default()));
    let (number, vm) = made(&device, ioctl::CREATE_VM, 0);
    assert_eq!(number, 5);
    let refuse = |_| Err(Errno(libc::EMFILE));
    assert_eq!(vm.ioctl(ioctl::CREATE_VCPU, 3, refuse), Err(Errno(libc::EMFILE)));
    let (_, vcpu) = made(&vm, ioctl::CREATE_VCPU, 4);
    drop((device, vm));
    // It lives on.
    assert_eq!(vcpu.ioctl(ioctl::GET_REGS, NOWHERE, |_| Ok(0)), Err(Errno::EFAULT));
    let mut state = [0_u32; 1];
    let at = state.as_mut_ptr() as u64;
    assert_eq!(vcpu.ioctl(ioctl::GET_MP_STATE, at, |_| Ok(0)), Ok(0));
}

#[test]
fn a_run_ends_when_another_thread_says_so() {
    const PAGE: usize = 4096;
    let device = Object::device(Device::new(Options::default()));
    let (_, vm) = made(&device, ioctl::CREATE_VM, 0);
    // The page that a processor begins in, where it jumps to where it is.
    let mut memory = vec![0_u8; 2 * PAGE];
    let page = memory.as_ptr().align_offset(PAGE);
    memory[page + 0xff0..][..2].copy_from_slice(&[0xeb, 0xfe]);
    let region = UserspaceMemoryRegion {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0xffff_f000,
        memory_size: PAGE as u64,
        userspace_addr: memory[page..].as_mut_ptr().expose_provenance() as u64,
    };
    let mut argument = [0_u8; UserspaceMemoryRegion::SIZE];
    region.encode(&mut argument);
    let at = argument.as_mut_ptr().expose_provenance() as u64;
    assert_eq!(vm.ioctl(ioctl::SET_USER_MEMORY_REGION, at, |_| Ok(0)), Ok(0));
    let (_, vcpu) = made(&vm, ioctl::CREATE_VCPU, 0);
    thread::scope(|scope| {
        let run = scope.spawn(|| vcpu.ioctl(ioctl::RUN, 0, |_| Ok(0)));
        while !run.is_finished() {
            // What is said before it has begun is not for this run.
            vcpu.end_run();
            vm.end_run();
            thread::yield_now();
        }
        assert_eq!(run.join().unwrap(), Err(Errno::EINTR));
    });
    drop((vcpu, vm));
}
