//! The slow way of a memory access: from a linear address to a [`Page`], through
//! the guest's page tables and the memory slots, and into the TLB.

use arch_x86::emulate::{Access, Stop, debug, operand};
use arch_x86::engine::Intercept;
use arch_x86::exception::{self, Exception};
use arch_x86::mmu::{self, NoMemory, PhysMemory, Query, Translation, WalkError};
use arch_x86::regs::{Regs, rflags};
use virt::dirty_ring::DirtyRing;
use virt::memory::{Unreached, View};

use crate::code_pages::{self, CodePages};
use crate::ram::{self, Page, Probe};
use crate::tlb::{Fill, Rights};
use crate::vcpu::{CodeWrite, SoftVcpu, attention};

/// A page of memory that an access may use.
#[derive(Clone, Copy)]
pub(crate) struct Located {
    pub page: Page,
    /// The guest-physical page.
    pub gpa: u64,
}

/// The page tables, as the walk sees them.
struct Tables<'a> {
    view: &'a View,
    probe: Option<Probe>,
    code_pages: &'a CodePages,
    code_writes: &'a mut Vec<CodeWrite>,
    /// Accessed or dirty bits were set.
    marked: &'a mut bool,
}

impl Tables<'_> {
    fn page(&self, gpa: u64, write: bool) -> Result<Page, NoMemory> {
        reach(self.view, self.probe, gpa, write).map_err(|_| NoMemory { gpa })
    }

    /// An accessed or dirty bit was set: in a page with code as well, if the guest is odd.
    fn written(&mut self, gpa: u64) {
        *self.marked = true;
        note_code_write(self.code_pages, self.code_writes, gpa, 8);
    }
}

impl PhysMemory for Tables<'_> {
    fn read_u32(&mut self, gpa: u64) -> Result<u32, NoMemory> {
        self.page(gpa, false)?.load(gpa % ram::SIZE).ok_or(NoMemory { gpa })
    }
    fn read_u64(&mut self, gpa: u64) -> Result<u64, NoMemory> {
        self.page(gpa, false)?.load(gpa % ram::SIZE).ok_or(NoMemory { gpa })
    }
    fn compare_exchange_u32(&mut self, gpa: u64, current: u32, new: u32) -> Result<bool, NoMemory> {
        let page = self.page(gpa, true)?;
        let found = page.compare_exchange(gpa % ram::SIZE, current, new).ok_or(NoMemory { gpa })?;
        self.written(gpa);
        Ok(found == current)
    }
    fn compare_exchange_u64(&mut self, gpa: u64, current: u64, new: u64) -> Result<bool, NoMemory> {
        let page = self.page(gpa, true)?;
        let found = page.compare_exchange(gpa % ram::SIZE, current, new).ok_or(NoMemory { gpa })?;
        self.written(gpa);
        Ok(found == current)
    }
}

/// The page that holds `gpa`, if it is in a slot, and there.
fn reach(view: &View, probe: Option<Probe>, gpa: u64, write: bool) -> Result<Page, Unreached> {
    let page = Page::of(view, gpa, write)?;
    let is_there = probe.is_none_or(|probe| page.is_there(probe, write));
    if is_there { Ok(page) } else { Err(Unreached::BadAddress { gpa }) }
}

/// Notes a write of `size` bytes at `gpa` if it met decoded code. Gives whether it did.
fn note_code_write(pages: &CodePages, writes: &mut Vec<CodeWrite>, gpa: u64, size: u64) -> bool {
    let Some((page, decoded)) = pages.decoded(gpa & !(ram::SIZE - 1)) else { return false };
    let granules = code_pages::granules(gpa % ram::SIZE, size.max(1)) & decoded;
    if granules == 0 {
        return false;
    }
    match writes.last_mut() {
        Some(last) if last.page == page => last.granules |= granules,
        _ => writes.push(CodeWrite { page, granules }),
    }
    true
}

impl SoftVcpu {
    /// With whose rights an access is made.
    #[inline(always)]
    pub(crate) fn rights(&self, access: Access) -> Rights {
        match access {
            Access::Operand => self.operand_rights,
            Access::System => self.system_rights,
        }
    }

    /// The table that the slow way of an access looks into and fills: also while the fast way is not to hit.
    fn table(&self, access: Access) -> Rights {
        self.lockstep.behind(access).unwrap_or_else(|| self.rights(access))
    }

    /// Walks the guest's page tables.
    pub(crate) fn walk(&mut self, query: Query) -> Result<Translation, Stop> {
        let mut tables = Tables {
            view: &self.view,
            probe: self.shared.probe,
            code_pages: &self.code_pages,
            code_writes: &mut self.code_writes,
            marked: &mut self.lockstep.marked,
        };
        let walked = mmu::walk(&self.paging, query, &mut tables);
        if !self.code_writes.is_empty() {
            self.leave_for_code();
        }
        walked.map_err(|error| match error {
            WalkError::Fault(exception) => self.raise(exception),
            WalkError::NoMemory { gpa } => {
                self.come_out(Intercept::NestedFault { gpa, write: false })
            }
        })
    }

    /// The page of `linear` in the slots.
    pub(crate) fn page_of(&mut self, gpa: u64, write: bool) -> Result<Page, Stop> {
        let page = reach(&self.view, self.shared.probe, gpa, write);
        if write && self.view.ring().is_some_and(DirtyRing::is_nearly_full) {
            // `attend` comes out.
            self.sync.look();
        }
        page.map_err(|unreached| {
            self.come_out(match unreached {
                Unreached::NoSlot { .. } => Intercept::NestedFault { gpa, write },
                Unreached::BadAddress { .. } => Intercept::BadMemory { gpa },
            })
        })
    }

    /// The page that an access of `size` bytes at `linear` uses; they lie in one
    /// page. Enters it into the TLB. Fails as the access does.
    pub(crate) fn locate(
        &mut self,
        linear: u64,
        size: u64,
        write: bool,
        access: Access,
    ) -> Result<Located, Stop> {
        let located = self.find_page(linear, size, write, access)?;
        if write {
            self.lockstep.about_to_write(located.page, linear % ram::SIZE, size);
        }
        Ok(located)
    }

    fn find_page(
        &mut self,
        linear: u64,
        size: u64,
        write: bool,
        access: Access,
    ) -> Result<Located, Stop> {
        let rights = self.table(access);
        let (entry, frame) = (self.tlb.read(rights, linear), self.tlb.frame(rights, linear));
        if linear.wrapping_sub(entry.tag) < ram::SIZE && (!write || frame.writable()) {
            return Ok(Located { page: entry.page, gpa: frame.gpa() });
        }
        if self.long_mode() && !operand::canonical(self, linear) {
            return Err(self.raise(Exception::gp(0)));
        }
        self.check_alignment_of(linear, size, access)?;
        let system = access == Access::System;
        let query = Query {
            linear,
            write,
            fetch: false,
            user: self.cpl == 3 && !system,
            implicit_supervisor: system && self.cpl == 3,
            // The processor's own accesses are never lifted over SMAP.
            ac: !system && self.flags & rflags::AC != 0,
        };
        let translation = self.walk(query)?;
        let page = self.page_of(translation.gpa, write)?;
        let gpa = translation.gpa & !(ram::SIZE - 1);
        // No access that meets a breakpoint hits the TLB. See: AMD APM vol. 2, 13.1.
        if self.watch_data && size != 0 {
            self.data_hits |= debug::data(self, linear, size, write).unwrap_or(0);
        }
        // A page that is to be marked as dirty when it is written to is found once more then.
        let probe = Query { write: true, ..query };
        // So is one that was only found to be readable.
        let is_free = self.shared.probe.is_none() && self.view.is_freely_written(gpa);
        let writable = translation.permits(&self.paging, &probe) && (write || is_free);
        let is_operand = access == Access::Operand && self.lockstep.behind(access).is_none();
        if is_operand && !write {
            self.find_range(linear, &translation, rights);
        }
        self.tlb.fill(
            rights,
            Fill {
                linear,
                gpa,
                page,
                writable,
                code: self.code_pages.is_code(gpa),
                global: translation.global,
                page_size: translation.page_size,
            },
        );
        if is_operand {
            self.note_large_page(linear, &translation, rights);
        }
        Ok(Located { page, gpa })
    }

    /// #AC for a misaligned operand, where that is checked: no such access hits the TLB.
    /// It comes before what the page raises. See: AMD APM vol. 2, 8.2.17.
    pub(crate) fn check_alignment_of(
        &mut self,
        linear: u64,
        size: u64,
        access: Access,
    ) -> Result<(), Stop> {
        let natural = matches!(size, 2 | 4 | 8);
        if self.check_alignment
            && access == Access::Operand
            && natural
            && !linear.is_multiple_of(size)
        {
            return Err(self.raise(Exception::with_error(exception::AC, 0)));
        }
        Ok(())
    }

    /// `size` bytes at `offset` of a page were written the slow way.
    pub(crate) fn wrote(&mut self, at: Located, linear: u64, size: u64, access: Access) {
        let gpa = at.gpa | (linear % ram::SIZE);
        if note_code_write(&self.code_pages, &mut self.code_writes, gpa, size) {
            self.leave_for_code();
        } else if !self.code_pages.is_code(at.gpa) {
            let rights = self.table(access);
            self.tlb.allow_writes(rights, linear);
        }
    }

    /// Decoded code was written to: the block may be it.
    fn leave_for_code(&mut self) {
        self.leave_block = true;
        self.attention |= attention::CODE_WRITTEN;
    }
}
