//! The walk itself: [`walk`]. See [`super`] for its types.
//!
//! A walk goes down first, reading entries; then it checks the rights; then, if
//! the access is allowed, it sets the accessed bits of all entries it used and on a
//! write the dirty bit of the last. A processor may set accessed bits earlier,
//! even for accesses that fault; none does so visibly enough to be relied on.
//! Each bit is set by compare-exchange with the entry as it was read: if another
//! processor changed it, the walk starts again.
//!
//! See: AMD APM vol. 2, 5.2–5.5.

use super::{Mode, NoMemory, PAGE_SIZE, Paging, PhysMemory, Query, Translation, WalkError};
use crate::exception::{Exception, page_fault};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// Address bits of a 64-bit entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Translates one access.
///
/// # Errors
/// A page fault, or a table outside memory. Nothing has been written then, except that
/// accessed bits may be set if an entry lies in memory that cannot be written.
pub fn walk(
    paging: &Paging,
    query: Query,
    memory: &mut impl PhysMemory,
) -> Result<Translation, WalkError> {
    loop {
        let mut path = Path::new(paging, query);
        match paging.mode {
            Mode::None => return Ok(identity(query.linear)),
            Mode::Legacy32 => path.descend_32(memory)?,
            Mode::Pae => path.descend_pae(memory)?,
            Mode::FourLevel => path.descend(4, paging.cr3 & ADDRESS, memory)?,
            Mode::FiveLevel => path.descend(5, paging.cr3 & ADDRESS, memory)?,
        }
        path.check_rights()?;
        if path.mark(memory)? {
            return Ok(path.result);
        }
    }
}

/// Without paging everything is allowed.
fn identity(linear: u64) -> Translation {
    Translation {
        gpa: linear & 0xffff_ffff,
        page_size: PAGE_SIZE,
        writable: true,
        user: true,
        executable: true,
        global: false,
        dirty: true,
    }
}

/// One entry that the walk used.
#[derive(Clone, Copy, Default)]
struct Step {
    gpa: u64,
    entry: u64,
}

/// The entries of one walk from the root down, and what they grant together.
struct Path<'a> {
    paging: &'a Paging,
    query: Query,
    steps: [Step; 5],
    depth: usize,
    result: Translation,
}

impl<'a> Path<'a> {
    fn new(paging: &'a Paging, query: Query) -> Self {
        let result = Translation { dirty: false, ..identity(0) };
        Self { paging, query, steps: [Step::default(); 5], depth: 0, result }
    }

    /// Notes an entry that is used; fails if it is not present or has one of `reserved` set.
    fn visit(&mut self, gpa: u64, entry: u64, reserved: u64) -> Result<(), WalkError> {
        if entry & PRESENT == 0 {
            return Err(self.fault(0));
        }
        if entry & reserved != 0 {
            return Err(self.fault(page_fault::PRESENT | page_fault::RESERVED));
        }
        if let Some(step) = self.steps.get_mut(self.depth) {
            *step = Step { gpa, entry };
            self.depth += 1;
        }
        self.result.writable &= entry & WRITABLE != 0;
        self.result.user &= entry & USER != 0;
        self.result.executable &= entry & NO_EXECUTE == 0;
        Ok(())
    }

    /// The walk arrived: `entry` maps a page of `size` bytes at `base`.
    fn arrive(&mut self, entry: u64, base: u64, size: u64) {
        self.result.gpa = base | self.query.linear & (size - 1);
        self.result.page_size = size;
        self.result.global = entry & GLOBAL != 0 && self.paging.global_pages;
        self.result.dirty = entry & DIRTY != 0 || self.query.write;
    }

    /// Two levels of 32-bit entries. See: AMD APM vol. 2, 5.2.2, 5.2.3.
    fn descend_32(&mut self, memory: &mut impl PhysMemory) -> Result<(), WalkError> {
        let linear = self.query.linear & 0xffff_ffff;
        let gpa = (self.paging.cr3 & 0xffff_f000) + (linear >> 22) * 4;
        let entry = u64::from(memory.read_u32(gpa)?);
        if entry & LARGE != 0 && self.paging.page_size_extensions {
            // PSE-36: bits 13–20 hold address bits 32–39; bit 21 and those beyond the
            // processor's width are reserved. See: AMD APM vol. 2, 5.2.3.
            let width = u64::from(self.paging.limits.phys_bits).clamp(32, 40) - 32;
            let reserved = 0x003f_e000 & !(((1 << width) - 1) << 13);
            self.visit(gpa, entry, reserved)?;
            let base = entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32;
            self.arrive(entry, base, 4 << 20);
            return Ok(());
        }
        self.visit(gpa, entry, 0)?;
        let gpa = (entry & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4;
        let entry = u64::from(memory.read_u32(gpa)?);
        self.visit(gpa, entry, 0)?;
        self.arrive(entry, entry & 0xffff_f000, PAGE_SIZE);
        Ok(())
    }

    /// The page-directory-pointer entry, then two levels as in long mode.
    ///
    /// A processor of Intel's reads the four entries when CR3 is loaded, one of AMD's with
    /// nested paging when it needs them, as here. An entry has neither rights
    /// nor an accessed bit. See: AMD APM vol. 2, 5.2.4, 15.25.10.
    fn descend_pae(&mut self, memory: &mut impl PhysMemory) -> Result<(), WalkError> {
        let gpa = (self.paging.cr3 & 0xffff_ffe0) + (self.query.linear >> 30 & 3) * 8;
        let entry = memory.read_u64(gpa)?;
        if entry & PRESENT == 0 {
            return Err(self.fault(0));
        }
        let reserved = 0b1_1110_0110 | NO_EXECUTE | self.too_high();
        if entry & reserved != 0 {
            return Err(self.fault(page_fault::PRESENT | page_fault::RESERVED));
        }
        self.descend(2, entry & ADDRESS, memory)
    }

    /// The levels of 64-bit entries from `level` (1 is the page table) down,
    /// the first of them at `table`. See: AMD APM vol. 2, 5.3.
    fn descend(
        &mut self,
        mut level: u32,
        mut table: u64,
        memory: &mut impl PhysMemory,
    ) -> Result<(), WalkError> {
        loop {
            let shift = 12 + 9 * (level - 1);
            let gpa = table + (self.query.linear >> shift & 0x1ff) * 8;
            let entry = memory.read_u64(gpa)?;
            let large = entry & LARGE != 0 && self.may_be_large(level);
            self.visit(gpa, entry, self.reserved(level, large))?;
            if large || level == 1 {
                let size = 1 << shift;
                // A large page's bit 12 is its PAT bit.
                self.arrive(entry, entry & ADDRESS & !(size - 1), size);
                return Ok(());
            }
            table = entry & ADDRESS;
            level -= 1;
        }
    }

    fn may_be_large(&self, level: u32) -> bool {
        level == 2 || level == 3 && self.paging.limits.gib_pages
    }

    /// The reserved bits of a 64-bit entry at `level`.
    ///
    /// AMD also reserves bit 8 of PML4 and PDP entries, Intel ignores it, as here.
    fn reserved(&self, level: u32, large: bool) -> u64 {
        let mut reserved = self.too_high();
        if !self.paging.no_execute {
            reserved |= NO_EXECUTE;
        }
        if large {
            // Below the page's address, above the PAT bit.
            reserved |= ((1 << (12 + 9 * (level - 1))) - 1) & !0x1fff;
        } else if level >= 3 {
            reserved |= LARGE;
        }
        reserved
    }

    /// Address bits beyond the processor's width; without long mode also those above bit 51.
    fn too_high(&self) -> u64 {
        let width = self.paging.limits.phys_bits.clamp(32, 52);
        let top = if self.paging.mode == Mode::Pae { !NO_EXECUTE } else { (1 << 52) - 1 };
        top & !((1 << width) - 1)
    }

    fn check_rights(&self) -> Result<(), WalkError> {
        if self.result.allows(self.paging, &self.query) {
            Ok(())
        } else {
            Err(self.fault(page_fault::PRESENT))
        }
    }

    /// A page fault: `cause` and the bits that tell the access.
    /// See: AMD APM vol. 2, 8.4.2.
    #[cold]
    fn fault(&self, cause: u32) -> WalkError {
        let mut error = cause;
        if self.query.write {
            error |= page_fault::WRITE;
        }
        if self.query.user {
            error |= page_fault::USER;
        }
        if self.query.fetch && (self.paging.no_execute || self.paging.smep) {
            error |= page_fault::FETCH;
        }
        WalkError::Fault(Exception::pf(self.query.linear, error))
    }

    /// Sets the accessed and dirty bits; false if an entry changed meanwhile.
    fn mark(&self, memory: &mut impl PhysMemory) -> Result<bool, NoMemory> {
        let steps = self.steps.get(..self.depth).unwrap_or(&[]);
        for (n, step) in steps.iter().enumerate() {
            let last = n + 1 == steps.len();
            let dirty = if last && self.query.write { DIRTY } else { 0 };
            let marked = step.entry | ACCESSED | dirty;
            if marked == step.entry {
                continue;
            }
            let done = if self.paging.mode == Mode::Legacy32 {
                memory.compare_exchange_u32(step.gpa, step.entry as u32, marked as u32)?
            } else {
                memory.compare_exchange_u64(step.gpa, step.entry, marked)?
            };
            if !done {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
