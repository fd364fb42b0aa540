//! What of a machine is chosen before its first vCPU is made: which chips are the hypervisor's, which vCPU boots, how high
//! their numbers may be. [`Setup`] is in [`crate::machine`].
//!
//! Who chooses, and makes vCPUs, does so one after the other; vCPUs only look. Of the chips that are not the hypervisor's the
//! ports and pages are the VMM's, and without local APICs so are interrupts: it injects them, and HLT is an exit.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use virt::Errno;

use crate::irqchip::i8254::{self, Pit};
use crate::irqchip::i8259::Pic;

/// The local APICs.
const LOCAL_APICS: u32 = 1 << 0;
/// The 8259s and the I/O APIC.
const SHARED_CHIPS: u32 = 1 << 1;
/// The 8254.
const PIT: u32 = 1 << 2;
/// Port 61h.
const SPEAKER: u32 = 1 << 3;

/// The choices.
#[derive(Debug)]
pub struct Setup {
    /// The chips that are here.
    chips: AtomicU32,
    boot_cpu: AtomicU32,
    /// One past the highest number that a vCPU may have.
    limit: AtomicU32,
    is_limited: AtomicBool,
    /// One past the highest number that one has.
    made: AtomicU32,
    tells_payload: AtomicBool,
    tells_triple_fault: AtomicBool,
    has_wide_ids: AtomicBool,
    has_narrow_broadcast: AtomicBool,
    shadow_pages: AtomicU64,
}

impl Setup {
    /// No chips, for vCPUs with numbers below `limit`, of which 0 boots.
    #[must_use]
    pub const fn new(limit: u32) -> Self {
        Self {
            chips: AtomicU32::new(0),
            boot_cpu: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            is_limited: AtomicBool::new(false),
            made: AtomicU32::new(0),
            tells_payload: AtomicBool::new(false),
            tells_triple_fault: AtomicBool::new(false),
            has_wide_ids: AtomicBool::new(false),
            has_narrow_broadcast: AtomicBool::new(false),
            shadow_pages: AtomicU64::new(0),
        }
    }

    fn has(&self, chips: u32) -> bool {
        self.chips.load(Ordering::Relaxed) & chips == chips
    }

    fn add(&self, chips: u32) {
        self.chips.fetch_or(chips, Ordering::Relaxed);
    }

    /// Whether there are local APICs.
    pub fn has_local_apics(&self) -> bool {
        self.has(LOCAL_APICS)
    }

    /// Whether there are the 8259s and the I/O APIC.
    pub fn has_shared_chips(&self) -> bool {
        self.has(SHARED_CHIPS)
    }

    /// Whether there is the 8254.
    pub fn has_pit(&self) -> bool {
        self.has(PIT)
    }

    /// Whether a port is one of the chips'.
    pub fn has_port(&self, port: u16) -> bool {
        match port {
            i8254::port::SYSTEM_B => self.has(SPEAKER),
            _ if Pit::has_port(port) => self.has(PIT),
            _ => Pic::has_port(port) && self.has(SHARED_CHIPS),
        }
    }

    /// The local APICs, the 8259s and the I/O APIC are to be here.
    ///
    /// # Errors
    /// `EEXIST` if there are local APICs already, `EINVAL` if there is a vCPU.
    pub fn create_irqchip(&self) -> Result<(), Errno> {
        self.create(LOCAL_APICS | SHARED_CHIPS)
    }

    /// The local APICs only are to be here.
    ///
    /// # Errors
    /// As [`create_irqchip`](Self::create_irqchip).
    pub fn split_irqchip(&self) -> Result<(), Errno> {
        self.create(LOCAL_APICS)
    }

    fn create(&self, chips: u32) -> Result<(), Errno> {
        if self.has(LOCAL_APICS) {
            return Err(Errno::EEXIST);
        }
        if self.made() != 0 {
            return Err(Errno::EINVAL);
        }
        self.add(chips);
        Ok(())
    }

    /// The 8254 is to be here, with port 61h or without.
    ///
    /// # Errors
    /// `EEXIST` if there is one, `ENOENT` if there is no 8259 that it could interrupt by.
    pub fn create_pit(&self, speaker: bool) -> Result<(), Errno> {
        if self.has(PIT) {
            return Err(Errno::EEXIST);
        }
        if !self.has(SHARED_CHIPS) {
            return Err(Errno::ENOENT);
        }
        self.add(if speaker { PIT | SPEAKER } else { PIT });
        Ok(())
    }

    /// The number of the vCPU that boots.
    pub fn boot_cpu(&self) -> u32 {
        self.boot_cpu.load(Ordering::Relaxed)
    }

    /// Chooses the vCPU that boots.
    ///
    /// # Errors
    /// `EBUSY` if there is a vCPU.
    pub fn set_boot_cpu(&self, id: u32) -> Result<(), Errno> {
        if self.made() != 0 {
            return Err(Errno::EBUSY);
        }
        self.boot_cpu.store(id, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a vCPU may have this number.
    pub fn allows(&self, id: u32) -> bool {
        id < self.limit.load(Ordering::Relaxed)
    }

    /// Has numbers be below `limit`, which can be chosen once.
    ///
    /// # Errors
    /// `EINVAL` if another one was chosen, there is a vCPU, or it is higher than what there is room for.
    pub fn limit_ids(&self, limit: u32) -> Result<(), Errno> {
        let current = self.limit.load(Ordering::Relaxed);
        if self.is_limited.load(Ordering::Relaxed) || self.made() != 0 {
            return if limit == current { Ok(()) } else { Err(Errno::EINVAL) };
        }
        if limit > current {
            return Err(Errno::EINVAL);
        }
        // As if it had not been asked for.
        if limit == 0 {
            return Ok(());
        }
        self.limit.store(limit, Ordering::Relaxed);
        self.is_limited.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// How many shadow pages the VMM wants there to be at most. There are none.
    pub fn shadow_pages(&self) -> u64 {
        self.shadow_pages.load(Ordering::Relaxed)
    }

    /// Sets that.
    pub fn set_shadow_pages(&self, pages: u64) {
        self.shadow_pages.store(pages, Ordering::Relaxed);
    }

    /// Whether the VMM sees, and sets, what goes with an exception that is pending.
    pub fn tells_payload(&self) -> bool {
        self.tells_payload.load(Ordering::Relaxed)
    }

    /// Has it see that, or not.
    pub fn tell_payload(&self, on: bool) {
        self.tells_payload.store(on, Ordering::Relaxed);
    }

    /// Whether the VMM sees, and sets, that a triple fault is pending.
    pub fn tells_triple_fault(&self) -> bool {
        self.tells_triple_fault.load(Ordering::Relaxed)
    }

    /// Has it see that, or not.
    pub fn tell_triple_fault(&self, on: bool) {
        self.tells_triple_fault.store(on, Ordering::Relaxed);
    }

    /// Whether the VMM tells, and is told, x2APIC IDs with 32 bits: in a local APIC's registers, and in the addresses of messages.
    pub fn has_wide_ids(&self) -> bool {
        self.has_wide_ids.load(Ordering::Relaxed)
    }

    /// Has it do so.
    pub fn use_wide_ids(&self) {
        self.has_wide_ids.store(true, Ordering::Relaxed);
    }

    /// Whether a message that was sent with 8 bits of destination, all ones, is for xAPICs alone, as with processors. Else it is for every
    /// local APIC.
    pub fn has_narrow_broadcast(&self) -> bool {
        self.has_narrow_broadcast.load(Ordering::Relaxed)
    }

    /// Has it be so.
    pub fn narrow_broadcast(&self) {
        self.has_narrow_broadcast.store(true, Ordering::Relaxed);
    }

    /// One past the highest number of a vCPU that was made.
    pub fn made(&self) -> u32 {
        self.made.load(Ordering::Acquire)
    }

    /// The vCPU of this number is being made.
    pub fn note_made(&self, id: u32) {
        self.made.fetch_max(id.saturating_add(1), Ordering::AcqRel);
    }
}
