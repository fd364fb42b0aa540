//! A vCPU: [`Vcpu`], with KVM_RUN and the signals that end it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::ioctl;
use arch_x86::ioctl::{create_vcpu, run, vcpu};
use arch_x86::vcpu::inbox::request;
use engine_soft::Kicker;
use libc::pthread_t;
use parking_lot::Mutex;
use virt::Errno;
use virt::ioctl::{Argument, DirtyGfns, RING_OFFSET, VCPU_MMAP_SIZE, ring_size};

use crate::cancels;
use crate::object::Made;
use crate::pages::{Ring, SharedPages, descriptor};
use crate::running::{Running, SignalSet, this_thread};
use crate::statistics::Statistics;
use crate::vm::Vm;
use crate::{CoreVcpu, Machine};

/// A vCPU. Its calls are made one after the other, whichever threads make them.
pub struct Vcpu {
    id: u32,
    /// It keeps its VM.
    vm: Arc<Vm>,
    kicker: Kicker,
    pages: SharedPages,
    core: Mutex<Box<CoreVcpu>>,
    /// The thread that is in KVM_RUN; 0 if none is.
    thread: AtomicU64,
    /// The signals that are blocked during KVM_RUN, if it was said which.
    mask: Mutex<Option<SignalSet>>,
}

impl Vcpu {
    /// Makes vCPU `id` of a VM, and its descriptor. One after the other.
    ///
    /// # Errors
    /// As [`create_vcpu`], and what the host lacks.
    pub fn new(vm: &Arc<Vm>, id: u32) -> Result<(Self, OwnedFd), Errno> {
        let entries = vm.core().ring_entries();
        let size = entries.map_or(VCPU_MMAP_SIZE, |entries| RING_OFFSET + ring_size(entries));
        let descriptor = descriptor(c"kvm-vcpu", size)?;
        let pages = SharedPages::of_vcpu(&descriptor, VCPU_MMAP_SIZE as usize, vm.ring())?;
        let mut core = boxed_core(vm, id)?;
        if let Some(entries) = entries {
            let size = ring_size(entries) as usize;
            let pages = SharedPages::from(&descriptor, RING_OFFSET, size)?;
            let ring = vm.core().add_dirty_ring(Box::new(DirtyGfns(pages)), entries)?;
            core.set_dirty_ring(ring);
        }
        let kicker = core.engine().kicker();
        let (core, mask) = (Mutex::new(core), Mutex::default());
        let thread = AtomicU64::new(0);
        Ok((Self { id, vm: Arc::clone(vm), kicker, pages, core, thread, mask }, descriptor))
    }

    /// Answers an ioctl. Statistics that it makes are given to `install`, which gives their number.
    ///
    /// # Errors
    /// As [`vcpu`] and [`run`].
    pub fn ioctl(
        &self,
        number: u32,
        argument: u64,
        install: impl FnOnce(Made) -> Result<u32, Errno>,
    ) -> Result<u32, Errno> {
        match number {
            ioctl::RUN => self.run(argument),
            ioctl::SET_SIGNAL_MASK => self.set_signal_mask(argument),
            _ => vcpu(&mut self.core.lock(), number, argument, |file| {
                install(Statistics::made(file)?)
            }),
        }
    }

    pub(crate) fn ring(&self) -> &Ring {
        self.vm.ring()
    }

    /// Whether a mapping of `size` bytes from `offset` on begins or ends in the ring of dirty pages.
    pub(crate) fn has_dirty_ring(&self, offset: usize, size: usize) -> bool {
        let entries = self.vm.core().ring_entries();
        let [start, len] = [RING_OFFSET, entries.map_or(0, ring_size)].map(|bytes| bytes as usize);
        let is_in = |at: usize| at.wrapping_sub(start) < len;
        is_in(offset) || is_in(offset.wrapping_add(size).wrapping_sub(1))
    }

    fn run(&self, argument: u64) -> Result<u32, Errno> {
        let mut core = self.core.lock();
        let mask = self.signal_mask();
        if let Some(published) = self.machine().vcpu(self.id) {
            // A signal that came when the last run was just over was that one's.
            published.inbox.take(!request::EXIT);
        }
        let thread = this_thread();
        self.thread.store(thread, Ordering::SeqCst);
        if cancels::was_asked(thread) {
            self.end_run();
        }
        self.vm.forget_what_is_gone();
        let place = core.engine().signal_room();
        let done = Running::new(self, place).during(mask, || run(&mut core, argument, &self.pages));
        self.thread.store(0, Ordering::Relaxed);
        done
    }

    /// Has [`run`] end so if this thread is in it. Without a lock.
    pub(crate) fn end_run_of(&self, thread: pthread_t) {
        if self.thread.load(Ordering::SeqCst) == thread {
            self.end_run();
        }
    }

    /// Has [`run`] end with EINTR. Without a lock: also called from a signal's handler that interrupts it.
    pub(crate) fn end_run(&self) {
        if let Some(published) = self.machine().vcpu(self.id) {
            published.post(request::EXIT);
            self.kicker.kick();
        }
    }

    /// The signals that are blocked during KVM_RUN, if it was said which.
    pub(crate) fn signal_mask(&self) -> Option<SignalSet> {
        *self.mask.lock()
    }

    /// KVM_SET_SIGNAL_MASK. See: api.rst 4.18.
    fn set_signal_mask(&self, argument: u64) -> Result<u32, Errno> {
        let mask = if argument == 0 {
            None
        } else {
            let from = Argument::new(self.machine().host.clone(), argument);
            if from.read::<u32>()? as usize != size_of::<SignalSet>() {
                return Err(Errno::EINVAL);
            }
            Some(from.elsewhere(argument.wrapping_add(4)).read()?)
        };
        // One after the other, as all calls.
        let _core = self.core.lock();
        *self.mask.lock() = mask;
        Ok(0)
    }

    fn machine(&self) -> &Machine {
        self.vm.machine()
    }
}

/// Makes the core's vCPU, which is large, on the heap.
#[inline(never)]
fn boxed_core(vm: &Vm, id: u32) -> Result<Box<CoreVcpu>, Errno> {
    create_vcpu(vm.core(), id).map(Box::new)
}
