//! Ticks of the 8254 that a guest was too late for, and that are made up for: [`OwedTicks`], a part of
//! [`Chips`](super::chips::Chips).
//!
//! A guest that counts ticks would lose time with each that comes while the one before has not ended. So a tick is an
//! edge of the line only when the last one has ended, and the others are as soon as that does. What is owed is forgotten
//! when the guest programs the counter, or lets its interrupt through again: it has begun to count anew.
//!
//! See: Linux, arch/x86/kvm/i8254.c, `kvm_pit_ack_irq`, `pit_do_work`.

/// What is owed to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwedTicks {
    /// Ticks that have not ended: with the one that is under way.
    waiting: u64,
    /// None is under way.
    is_free: bool,
}

impl Default for OwedTicks {
    fn default() -> Self {
        Self { waiting: 0, is_free: true }
    }
}

impl OwedTicks {
    /// So many came. Gives whether the line has an edge for one now.
    pub const fn come(&mut self, ticks: u64) -> bool {
        self.waiting = self.waiting.saturating_add(ticks);
        core::mem::replace(&mut self.is_free, false)
    }

    /// The one that is under way has ended. Gives whether the line has an edge for the next.
    pub const fn end(&mut self) -> bool {
        self.waiting = self.waiting.saturating_sub(1);
        self.is_free = self.waiting == 0;
        !self.is_free
    }
}
