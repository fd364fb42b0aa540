//! The walk of the guest's page tables: linear to guest-physical addresses.
//!
//! [`Paging`] is what the control registers say about translation, [`Query`]
//! an access, [`walk()`] does what the processor's table walker does: it reads
//! the entries, checks rights and reserved bits, and sets accessed and dirty
//! bits. The [`Translation`] that it returns has what a TLB needs to decide
//! later accesses to the page without another walk ([`Translation::permits`]).
//!
//! Pure: memory is handed in as [`PhysMemory`]. The engines keep the TLBs;
//! [`crate::emulate`] never sees anything but linear addresses.
//!
//! Whether an address is canonical is checked by who makes the access (its
//! fault is #GP or #SS, not #PF). Protection keys, shadow stacks and memory
//! encryption are not implemented, and `CPUID` does not offer them.

mod walk;
#[cfg(feature = "selftest")]
pub mod walk_test;

use crate::exception::Exception;
use crate::regs::{Regs, cr0, cr4, efer};

pub use walk::walk;

/// 4 KiB, the smallest page.
pub const PAGE_SIZE: u64 = 4096;

/// No memory answers at a guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory {
    /// The address.
    pub gpa: u64,
}

/// Guest-physical memory, as the walk needs it. Addresses are naturally aligned.
pub trait PhysMemory {
    /// Reads a 32-bit entry.
    ///
    /// # Errors
    /// Nothing answers there.
    fn read_u32(&mut self, gpa: u64) -> Result<u32, NoMemory>;
    /// Reads a 64-bit entry.
    ///
    /// # Errors
    /// Nothing answers there.
    fn read_u64(&mut self, gpa: u64) -> Result<u64, NoMemory>;
    /// Atomically replaces `current` by `new`; false if something else was there.
    ///
    /// # Errors
    /// Nothing that may be written answers there.
    fn compare_exchange_u32(&mut self, gpa: u64, current: u32, new: u32) -> Result<bool, NoMemory>;
    /// Atomically replaces `current` by `new`; false if something else was there.
    ///
    /// # Errors
    /// Nothing that may be written answers there.
    fn compare_exchange_u64(&mut self, gpa: u64, current: u64, new: u64) -> Result<bool, NoMemory>;
}

/// How linear addresses are translated.
/// See: AMD APM vol. 2, 5.1, table 5-1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Paging is off: linear is physical.
    #[default]
    None,
    /// Two levels of 32-bit entries; 4 MiB pages with CR4.PSE.
    Legacy32,
    /// Three levels of 64-bit entries.
    Pae,
    /// Long mode.
    FourLevel,
    /// Long mode with CR4.LA57.
    FiveLevel,
}

/// What the processor offers and CPUID tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// MAXPHYADDR: 32 to 52.
    pub phys_bits: u8,
    /// Whether there are pages of 1 GiB; if not, their bit is reserved.
    pub gib_pages: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { phys_bits: 40, gib_pages: true }
    }
}

/// The paging state of a processor: everything that decides a translation
/// except the access itself and the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    /// The mode.
    pub mode: Mode,
    /// CR3, whole.
    pub cr3: u64,
    /// CR0.WP: supervisor writes honour R/W.
    pub write_protect: bool,
    /// EFER.NXE, where entries have an NX bit.
    pub no_execute: bool,
    /// CR4.SMEP.
    pub smep: bool,
    /// CR4.SMAP.
    pub smap: bool,
    /// CR4.PSE (it matters to [`Mode::Legacy32`] only).
    pub page_size_extensions: bool,
    /// CR4.PGE.
    pub global_pages: bool,
    /// What CPUID tells.
    pub limits: Limits,
}

impl Paging {
    /// The paging state that these control registers mean.
    #[must_use]
    pub const fn new(cr0: u64, cr3: u64, cr4: u64, efer: u64, limits: Limits) -> Self {
        let mode = if cr0 & cr0::PG == 0 {
            Mode::None
        } else if efer & efer::LMA != 0 {
            if cr4 & cr4::LA57 != 0 { Mode::FiveLevel } else { Mode::FourLevel }
        } else if cr4 & cr4::PAE != 0 {
            Mode::Pae
        } else {
            Mode::Legacy32
        };
        let wide = matches!(mode, Mode::Pae | Mode::FourLevel | Mode::FiveLevel);
        Self {
            mode,
            cr3,
            write_protect: cr0 & cr0::WP != 0,
            no_execute: wide && efer & efer::NXE != 0,
            smep: cr4 & cr4::SMEP != 0,
            smap: cr4 & cr4::SMAP != 0,
            page_size_extensions: cr4 & cr4::PSE != 0,
            global_pages: cr4 & cr4::PGE != 0,
            limits,
        }
    }

    /// The paging state of a processor.
    #[must_use]
    pub fn of(regs: &impl Regs, limits: Limits) -> Self {
        Self::new(regs.cr0(), regs.cr3(), regs.cr4(), regs.efer(), limits)
    }
}

/// An access to one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The linear address.
    pub linear: u64,
    /// A write (also the read of an instruction that reads and writes).
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// Made with the rights of a user: CPL 3, and not to a processor structure.
    pub user: bool,
    /// A supervisor access by the processor itself while CPL is 3 (to a
    /// descriptor table, the TSS, an inner stack): SMAP applies whatever RFLAGS.AC says.
    pub implicit_supervisor: bool,
    /// RFLAGS.AC, with which a supervisor lifts SMAP.
    pub ac: bool,
}

/// What a page is mapped to, and with which rights: those that all levels grant together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Guest-physical address of the queried byte.
    pub gpa: u64,
    /// Size of the page: 4 KiB, 2 MiB, 4 MiB or 1 GiB.
    pub page_size: u64,
    /// R/W of all levels.
    pub writable: bool,
    /// U/S of all levels.
    pub user: bool,
    /// No level has NX.
    pub executable: bool,
    /// G, with CR4.PGE on: survives a change of CR3.
    pub global: bool,
    /// D is set: a write needs no walk. A TLB that caches a clean page has to walk again
    /// at the first write, because that is what sets D.
    pub dirty: bool,
}

impl Translation {
    /// Whether `query` is allowed without another walk.
    ///
    /// False also for a write to a page that is not yet dirty.
    #[must_use]
    pub const fn permits(&self, paging: &Paging, query: &Query) -> bool {
        self.allows(paging, query) && (!query.write || self.dirty)
    }

    /// Whether the rights allow `query`. See: AMD APM vol. 2, 5.6.
    const fn allows(&self, paging: &Paging, query: &Query) -> bool {
        if query.fetch {
            return self.executable
                && if query.user { self.user } else { !(paging.smep && self.user) };
        }
        if query.user {
            return self.user && (!query.write || self.writable);
        }
        let smap_lifted = query.ac && !query.implicit_supervisor;
        if paging.smap && self.user && !smap_lifted {
            return false;
        }
        !query.write || self.writable || !paging.write_protect
    }
}

/// Why a walk gave no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The guest faults: a #PF with its error code and linear address.
    Fault(Exception),
    /// A table lies where there is no memory.
    NoMemory {
        /// The guest-physical address of the entry.
        gpa: u64,
    },
}

impl From<NoMemory> for WalkError {
    fn from(NoMemory { gpa }: NoMemory) -> Self {
        WalkError::NoMemory { gpa }
    }
}
