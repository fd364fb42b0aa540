//! A vCPU's descriptor: [`Vcpu`], with KVM_RUN, the pages that it shares, and the signals that are blocked meanwhile.
//!
//! Its calls are made one after the other, whichever threads make them; who waits for another one can be killed.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use abi::ioctl;
use abi::memory::DIRTY_LOG_PAGE_OFFSET;
use arch_x86::hardware::Virtualization;
use arch_x86::ioctl::{create_vcpu, run, vcpu};
use virt::Errno;
use virt::ioctl::{Argument, DirtyGfns, ring_size};

use crate::allocator::boxed;
use crate::descriptor::{Object, install};
use crate::kernel::Kernel;
use crate::shared::{SharedPages, VcpuPages};
use crate::sleep_lock::SleepLock;
use crate::statistics::Statistics;
use crate::thread;
use crate::vm::Machine;

type CoreVcpu<V> = arch_x86::vcpu::Vcpu<<V as Virtualization<Kernel>>::Engine, Kernel>;

/// What one call at a time has.
struct State<V: Virtualization<Kernel>> {
    core: Box<CoreVcpu<V>>,
    /// The signals that are blocked during KVM_RUN, if it was said which.
    mask: Option<u64>,
}

/// A vCPU.
pub struct Vcpu<V: Virtualization<Kernel>> {
    /// Before its machine goes.
    state: SleepLock<State<V>>,
    pages: VcpuPages,
    dirty: Option<Arc<SharedPages>>,
    machine: Arc<Machine<V>>,
}

impl<V: Virtualization<Kernel>> Vcpu<V> {
    /// Makes vCPU `id` of a machine. One after the other.
    ///
    /// # Errors
    /// As [`create_vcpu`], and `ENOMEM`.
    pub fn new(machine: &Arc<Machine<V>>, id: u32) -> Result<Self, Errno> {
        // A vCPU that was made has its number for good: so what may fail comes before.
        let pages = VcpuPages::new(Arc::clone(machine.ring()))?;
        let lock = SleepLock::new(())?;
        let (mut core, mut dirty) = (boxed_core(machine, id)?, None);
        if let Some(entries) = machine.core().ring_entries() {
            let pages = Arc::new(SharedPages::new(ring_size(entries) as usize)?);
            let gfns = boxed(DirtyGfns(Arc::clone(&pages)))?;
            core.set_dirty_ring(machine.core().add_dirty_ring(gfns, entries)?);
            dirty = Some(pages);
        }
        let state = lock.of(State { core, mask: None });
        Ok(Self { state, pages, dirty, machine: Arc::clone(machine) })
    }

    /// KVM_SET_SIGNAL_MASK. See: api.rst 4.18.
    fn set_signal_mask(&self, argument: u64) -> Result<u32, Errno> {
        let mask = if argument == 0 {
            None
        } else {
            let from = Argument::new(Kernel, argument);
            if from.read::<u32>()? as usize != size_of::<u64>() {
                return Err(Errno::EINVAL);
            }
            Some(from.elsewhere(argument.wrapping_add(4)).read()?)
        };
        self.state.lock()?.mask = mask;
        Ok(0)
    }
}

/// Makes the core's vCPU, which is large, on the heap.
#[inline(never)]
fn boxed_core<V: Virtualization<Kernel>>(
    machine: &Machine<V>,
    id: u32,
) -> Result<Box<CoreVcpu<V>>, Errno> {
    // The place first: what is handed on by value has one more copy on the stack.
    let place = boxed(MaybeUninit::uninit())?;
    Ok(Box::write(place, create_vcpu(machine.core(), id)?))
}

impl<V: Virtualization<Kernel>> Object for Vcpu<V> {
    fn ioctl(&self, number: u32, argument: u64) -> Result<u32, Errno> {
        self.machine.check_process()?;
        match number {
            ioctl::RUN => {
                let mut state = self.state.lock()?;
                let mask = state.mask;
                thread::with_signals(mask, || run(&mut state.core, argument, &self.pages))
            }
            ioctl::SET_SIGNAL_MASK => self.set_signal_mask(argument),
            _ => {
                let mut state = self.state.lock()?;
                vcpu(&mut state.core, number, argument, |file| {
                    install(c"kvm-vcpu-stats", Statistics::new(file))
                })
            }
        }
    }

    /// The ring of dirty pages is written to by both sides, which a copy would not be.
    fn may_map(&self, first: u64, count: u64, plain: bool) -> Result<(), Errno> {
        let start = u64::from(DIRTY_LOG_PAGE_OFFSET);
        let is_ring = |number: u64| {
            let page = number.checked_sub(start);
            page.is_some_and(|page| {
                self.dirty.as_ref().is_some_and(|ring| ring.page(page).is_some())
            })
        };
        let last = first.saturating_add(count).saturating_sub(1);
        let has_ring = is_ring(first) || is_ring(last);
        if plain || !has_ring { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn page(&self, number: u64) -> Option<NonNull<u8>> {
        self.pages.page(number).or_else(|| {
            let ring = self.dirty.as_ref()?;
            ring.page(number.checked_sub(DIRTY_LOG_PAGE_OFFSET.into())?)
        })
    }
}
