//! One sequence of steps: [`Case`], on what is there for all of them: [`World`].

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use abi::ioctl;
use arch_x86::ioctl::offered::Descriptor;
use preload::device::Device;
use preload::object::{Made, Object};
use preload::options::Options;
use preload::pages::SharedPages;
use rustix::event::{EventfdFlags, eventfd};
use virt::Errno;
use virt::ioctl::VCPU_MMAP_SIZE;

use crate::arena::Arena;
use crate::input::Input;
use crate::worker::Running;

/// How many there may be at a time.
const MAX_VMS: usize = 2;
const MAX_VCPUS: usize = 4;
/// Steps of a case.
const MAX_STEPS: usize = 64;
/// Runs of a case.
const MAX_RUNS: usize = 12;
/// Bytes of translated code.
const JIT_CACHE: usize = 1 << 20;

/// What a call may answer. See: api.rst, and the sources that the decoding of ioctls names.
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
        let options = Options { jit_cache: Some(JIT_CACHE), ..Options::default() };
        let device = Object::device(Device::new(options));
        Self { arena: Arena::new(), running, device, events: [event(), event()], other }
    }

    /// Descriptors that an argument may name.
    #[must_use]
    pub fn descriptors(&self) -> [i32; 4] {
        let [first, second] = self.events.each_ref().map(AsRawFd::as_raw_fd);
        [first, second, self.other.as_raw_fd(), -1]
    }
}

/// A VM, and the vCPUs that were made of it.
pub(crate) struct Vm {
    pub object: Arc<Object>,
}

/// A vCPU, and what it shares.
pub(crate) struct Vcpu {
    pub object: Arc<Object>,
    pub pages: SharedPages,
}

/// Some steps, and what has come of them.
pub struct Case<'a> {
    pub(crate) world: &'a World,
    pub(crate) input: Input<'a>,
    pub(crate) vms: Vec<Vm>,
    pub(crate) vcpus: Vec<Vcpu>,
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
    ) -> Option<(u32, Option<Made>)> {
        let one = |len: usize| usize::from(which) % len.max(1);
        let object = match of {
            Descriptor::Device => &self.world.device,
            Descriptor::Vm => &self.vms.get(one(self.vms.len()))?.object,
            Descriptor::Vcpu => &self.vcpus.get(one(self.vcpus.len()))?.object,
        };
        let made = RefCell::new(None);
        let room = Cell::new(match number {
            ioctl::CREATE_VM => self.vms.len() < MAX_VMS,
            ioctl::CREATE_VCPU => self.vcpus.len() < MAX_VCPUS,
            _ => true,
        });
        let answer = object.ioctl(number, argument, |new| {
            if !room.get() {
                return Err(Errno(libc::EMFILE));
            }
            made.replace(Some(new));
            Ok(3)
        });
        check_answer(answer, || format!("{of:?} {number:#x}, {argument:#x}"));
        answer.ok().map(|value| (value, made.into_inner()))
    }

    fn make_vm(&mut self, kind: u64) {
        if let Some((_, Some(made))) = self.call(Descriptor::Device, 0, ioctl::CREATE_VM, kind) {
            self.vms.push(Vm { object: Arc::new(made.object) });
        }
    }

    fn make_vcpu(&mut self, vm: u8, id: u64) {
        let Some((_, Some(made))) = self.call(Descriptor::Vm, vm, ioctl::CREATE_VCPU, id) else {
            return;
        };
        let pages = SharedPages::new(&made.descriptor, VCPU_MMAP_SIZE as usize);
        self.vcpus.push(Vcpu { object: Arc::new(made.object), pages: pages.expect("memory") });
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
