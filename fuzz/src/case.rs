//! One sequence of steps: [`Case`], on what is there for all of them: [`World`].

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use abi::ioctl;
use arch_x86::ioctl::offered::Descriptor;
use rustix::event::{EventfdFlags, eventfd};
use virt::Errno;

use crate::arena::Arena;
use crate::feedback::{self, Complaints};
use crate::input::Input;
use crate::objects::{Object, Vcpu};
use crate::worker::Running;

/// How many there may be at a time.
const MAX_VMS: usize = 2;
const MAX_VCPUS: usize = 4;
/// Steps of a case.
const MAX_STEPS: usize = 64;
/// Runs of a case.
const MAX_RUNS: usize = 12;

/// What a call may answer, wherever it is made: Linux's own module answers cases in the nest with nothing else either.
/// See: api.rst, and the sources that the decoding of ioctls names.
const KNOWN: [i32; 16] = [
    libc::EPERM,
    libc::ENOENT,
    libc::EINTR,
    libc::EIO,
    libc::ENXIO,
    libc::E2BIG,
    libc::EBADF,
    libc::ENOMEM,
    libc::EFAULT,
    libc::EBUSY,
    libc::EEXIST,
    libc::ENODEV,
    libc::EINVAL,
    libc::EMFILE,
    libc::ENOTTY,
    libc::ENOSPC,
];

/// Looks at the answer of a call, which `what` tells.
pub(crate) fn check_answer(answer: Result<u32, Errno>, what: impl FnOnce() -> String) {
    if let Err(Errno(errno)) = answer {
        assert!(KNOWN.contains(&errno), "{}: {errno}", what());
    }
}

/// What is there for all cases: the device, and memory.
pub struct World {
    /// The memory.
    pub arena: Arena,
    /// Which vCPU runs.
    pub running: Running,
    device: Object,
    /// Of the kernel's, if the device is in there.
    complaints: Option<Complaints>,
    events: [OwnedFd; 2],
    other: File,
}

impl World {
    /// With memory, and some descriptors to name.
    ///
    /// # Panics
    /// When the host has none.
    #[must_use]
    pub fn new(running: Running) -> Self {
        let event = || eventfd(0, EventfdFlags::NONBLOCK).expect("a descriptor");
        let other = File::open("/dev/null").expect("it is there");
        let device = Object::device();
        let complaints = device.is_kernels().then(Complaints::new);
        let events = [event(), event()];
        Self { arena: Arena::new(), running, device, complaints, events, other }
    }

    /// Whether calls are made of the kernel.
    #[must_use]
    pub fn is_kernels(&self) -> bool {
        self.device.is_kernels()
    }

    /// Descriptors that an argument may name.
    #[must_use]
    pub fn descriptors(&self) -> [i32; 4] {
        let [first, second] = self.events.each_ref().map(AsRawFd::as_raw_fd);
        [first, second, self.other.as_raw_fd(), -1]
    }
}

/// Some steps, and what has come of them.
pub struct Case<'a> {
    pub(crate) world: &'a World,
    pub(crate) input: Input<'a>,
    pub(crate) vms: Vec<Object>,
    pub(crate) vcpus: Vec<Arc<Vcpu>>,
    pub(crate) runs: usize,
}

impl<'a> Case<'a> {
    /// With nothing yet.
    #[must_use]
    pub fn new(world: &'a World, input: Input<'a>) -> Self {
        world.arena.clear();
        Self { world, input, vms: Vec::new(), vcpus: Vec::new(), runs: MAX_RUNS }
    }

    /// Makes all steps.
    ///
    /// # Panics
    /// When an answer is unknown, or memory was written that may not be.
    pub fn make(mut self) {
        self.make_vm(0);
        match self.input.u8() % 4 {
            0 => {}
            1 => self.enable(abi::cap::SPLIT_IRQCHIP, 24),
            _ => drop(self.call(Descriptor::Vm, 0, ioctl::CREATE_IRQCHIP, 0)),
        }
        self.make_memory();
        self.make_vcpu(0, 0);
        for _ in 0..MAX_STEPS {
            if self.input.is_empty() {
                break;
            }
            self.step();
        }
        let world = self.world;
        drop(self);
        assert!(world.arena.guards_are_whole(), "something was written beside the slots");
        if let Some(complaints) = &world.complaints {
            complaints.check();
        }
    }

    fn step(&mut self) {
        match self.input.u8() % 16 {
            0 => {
                let kind = u64::from(self.input.u8() & 1);
                self.make_vm(kind);
            }
            1 => {
                let (vm, id) = (self.input.u8(), self.input.u8());
                self.make_vcpu(vm, u64::from(id % 8));
            }
            2 => self.close(),
            3 => self.make_memory(),
            4 | 5 => self.write_memory(),
            6 => self.start(),
            7 | 8 => self.run_some(),
            9 | 10 => self.change_state(),
            11 => self.set_register(),
            _ => self.any_call(),
        }
    }

    /// Makes a call of one of the objects of a kind, if there is any, and looks at the answer.
    pub(crate) fn call(
        &self,
        of: Descriptor,
        which: u8,
        number: u32,
        argument: u64,
    ) -> Option<(u32, Option<Object>)> {
        let one = |len: usize| usize::from(which) % len.max(1);
        let object = match of {
            Descriptor::Device => &self.world.device,
            Descriptor::Vm => self.vms.get(one(self.vms.len()))?,
            Descriptor::Vcpu => &self.vcpus.get(one(self.vcpus.len()))?.object,
        };
        let room = match number {
            ioctl::CREATE_VM => self.vms.len() < MAX_VMS,
            ioctl::CREATE_VCPU => self.vcpus.len() < MAX_VCPUS,
            _ => true,
        };
        let (answer, made) = object.ioctl(number, argument, room);
        check_answer(answer, || format!("{of:?} {number:#x}, {argument:#x}"));
        if self.world.is_kernels() {
            feedback::note(number, answer);
        }
        answer.ok().map(|value| (value, made))
    }

    fn make_vm(&mut self, kind: u64) {
        if let Some((_, Some(made))) = self.call(Descriptor::Device, 0, ioctl::CREATE_VM, kind) {
            self.vms.push(made);
        }
    }

    fn make_vcpu(&mut self, vm: u8, id: u64) {
        if let Some((_, Some(made))) = self.call(Descriptor::Vm, vm, ioctl::CREATE_VCPU, id) {
            self.vcpus.push(Arc::new(Vcpu::new(made)));
        }
    }

    /// Closes something. A vCPU keeps its VM.
    fn close(&mut self) {
        let which = usize::from(self.input.u8());
        if which & 1 == 0 && !self.vcpus.is_empty() {
            self.vcpus.swap_remove(which / 2 % self.vcpus.len());
        } else if !self.vms.is_empty() {
            self.vms.swap_remove(which / 2 % self.vms.len());
        }
    }
}
