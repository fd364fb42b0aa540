//! The chips that vCPUs share, behind their one lock, with the 8254's timer: [`LockedChips`].
//!
//! Who has them carries out what they set off, with no lock held: [`crate::machine`], or a back end whose local
//! APICs are the kernel's. What must not be seen out of order — the 8259s' output and the 8254's next deadline — is
//! published, or read again, under a lock.
//!
//! Lock order: the timer, then the chips.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lock_api::Mutex;
use virt::host::{Host, Timer};

use crate::irqchip::chips::{Chips, Effects, Rearm};
use crate::irqchip::ioapic;

/// What no vector is.
const NO_VECTOR: u32 = u32::MAX;

/// The 8259s, the 8254 and the I/O APIC.
pub struct LockedChips<H: Host> {
    chips: Mutex<H::RawMutex, Chips>,
    /// The 8259s ask for attention.
    pic_output: AtomicBool,
    /// [`Chips::tick_vector`], or [`NO_VECTOR`].
    tick_vector: AtomicU32,
    timer: Mutex<H::RawMutex, Option<H::Timer>>,
}

impl<H: Host> Default for LockedChips<H> {
    /// After power-on, without a timer, and so without an 8254.
    fn default() -> Self {
        Self {
            chips: Mutex::new(Chips::new(ioapic::Version::V20, false)),
            pic_output: AtomicBool::new(false),
            tick_vector: AtomicU32::new(NO_VECTOR),
            timer: Mutex::new(None),
        }
    }
}

impl<H: Host> LockedChips<H> {
    /// Gives the 8254 its timer, which is to call [`Chips::advance`] when it expires.
    pub fn set_timer(&self, timer: H::Timer) {
        *self.timer.lock() = Some(timer);
    }

    /// Works on the chips, arms the timer if that is due, and then has the other effects carried out: the messages, and
    /// the change of the 8259s' output. Atomic context.
    pub fn change<T>(
        &self,
        work: impl FnOnce(&mut Chips) -> (T, Effects),
        carry_out: impl FnOnce(&Effects),
    ) -> T {
        let mut chips = self.chips.lock();
        let (result, effects) = work(&mut chips);
        // Seen by whoever is kicked for it; and who misses the kick has yet to look.
        self.pic_output.store(chips.intr(), Ordering::SeqCst);
        self.tick_vector.store(chips.tick_vector().map_or(NO_VECTOR, u32::from), Ordering::SeqCst);
        drop(chips);
        if effects.timer != Rearm::Keep {
            self.arm();
        }
        carry_out(&effects);
        result
    }

    /// Looks at the chips. Atomic context.
    pub fn look<T>(&self, look: impl FnOnce(&Chips) -> T) -> T {
        look(&self.chips.lock())
    }

    /// Whether the 8259s ask for attention. Any context.
    pub fn pic_output(&self) -> bool {
        self.pic_output.load(Ordering::SeqCst)
    }

    /// The vector whose end, as an edge, the chips are to be told of. Any context.
    #[inline]
    pub fn tick_vector(&self) -> Option<u8> {
        u8::try_from(self.tick_vector.load(Ordering::SeqCst)).ok()
    }

    /// Arms the 8254's timer for the deadline that holds now.
    fn arm(&self) {
        let timer = self.timer.lock();
        let deadline = self.chips.lock().deadline();
        match (&*timer, deadline) {
            (Some(timer), Some(at)) => timer.arm(at),
            (Some(timer), None) => timer.disarm(),
            (None, _) => {}
        }
    }
}
