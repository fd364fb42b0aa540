//! [`Accesses`]: the moments in which a run loop reads or writes guest memory by itself.
//!
//! An engine has its own means to stop using an old mapping ([`Engine::invalidate`](crate::engine::Engine::invalidate)). The run loop
//! locks nothing: it says that it accesses memory, and looks whether the slots have changed then ([`View::refresh`]).
//! Who changes them does so, and looks then: one of the two sees the other.
//!
//! [`View::refresh`]: virt::memory::View::refresh

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use virt::host::Host;

/// How many of a vCPU's accesses to guest memory are under way. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Accesses(Arc<AtomicU32>);

/// One that is under way, until this is dropped.
struct UnderWay<'a>(&'a Accesses);

impl Drop for UnderWay<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Accesses {
    /// Accesses memory by `work`, which looks for a change of the slots first. Process context.
    #[inline]
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.begin();
        let _under_way = UnderWay(self);
        work()
    }

    // Sequentially consistent, as `wait` and the slots' generation.
    #[inline]
    pub(super) fn begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    #[inline]
    pub(super) fn end(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    /// The slots have changed: waits until no access goes by what they were. Process context; not while the same thread
    /// accesses memory.
    pub fn wait(&self, host: &impl Host) {
        while self.0.load(Ordering::SeqCst) != 0 {
            host.yield_now();
        }
    }
}
