//! Ranges: long stretches of a kernel's linear addresses that lie one behind the other in RAM.
//!
//! A kernel maps all RAM, its own image, and what it notes of each page with large global pages. A look-up by page would
//! have an entry for each page that is read there. Instead the TLB keeps, beside its tables, for each of these where it
//! starts, ends, and lies on the host ([`Stretch`]). It is a TLB's entry for many pages at once: each was found in the page tables, with its
//! accessed bit set, since the last time that it was dropped; and it is dropped when any of its pages is, and with all
//! others. Only a supervisor's reads use it, and it has no page of user mode: so neither SMAP nor who writes to what
//! (code, dirty bits, the dirty log) has anything to do with it.
//!
//! See: AMD APM vol. 2, 5.5; Intel SDM vol. 3, 4.10.2.

use arch_x86::mmu::{self, NoMemory, PhysMemory, Query, Translation};
use virt::memory::View;

use crate::ram::{self, Page};
use crate::tlb::{Rights, Stretch};
use crate::vcpu::SoftVcpu;

/// Where kernels have their image: the last 2 GiB.
const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// A page from which a range is looked for is at least as large.
const LARGE: u64 = 2 << 20;
/// No address that was read.
pub const NO_LOAD: u64 = 1 << 62;
/// Pages that are looked at in either direction when a range is looked for the first time since it was dropped. Each time
/// they are twice as many: a guest that drops all again and again does not pay for much more than it uses.
const REACH: u32 = 16;
/// How many times it is looked for until it is dropped.
const TIMES: u32 = 9;

/// How many there are.
pub const COUNT: usize = 3;

/// Which part of a kernel's address space each range is for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ranges {
    /// By range: the number of a region of 1 TiB; 0: of none yet.
    regions: [u32; COUNT],
    /// How many times each was looked for since it was dropped.
    looked: [u32; COUNT],
}

impl Ranges {
    /// That of the image.
    pub const IMAGE: usize = 1;
    /// The one in which most is.
    pub const RAM: usize = 0;

    /// The range that an address belongs into, if there is one for it.
    pub fn of(&self, linear: u64) -> Option<usize> {
        if is_image(linear) {
            return Some(Self::IMAGE);
        }
        let region = region(linear);
        self.regions.iter().position(|known| *known == region && region != 0)
    }

    /// The same; one that is for nothing yet is for the address's region from now on.
    fn enter(&mut self, linear: u64) -> Option<usize> {
        if linear >> 63 == 0 {
            return None;
        }
        self.of(linear).or_else(|| {
            let free = (0..COUNT).find(|n| *n != Self::IMAGE && self.regions[*n] == 0)?;
            self.regions[free] = region(linear);
            Some(free)
        })
    }
}

/// The number of an address's region: 0 in the lower half of the address space.
const fn region(linear: u64) -> u32 {
    if linear >> 63 == 0 { 0 } else { (linear >> 40) as u32 }
}

/// Where an instruction was seen to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// It was not seen.
    #[default]
    Nowhere,
    /// In a range.
    Range(u8),
    /// In a large page of user mode: see [`crate::large_pages`].
    Large,
    /// Elsewhere.
    Elsewhere,
}

/// Whether an address is in the kernel's image.
pub const fn is_image(linear: u64) -> bool {
    linear >= IMAGE
}

/// The page tables, which stay as they are.
struct Tables<'a>(&'a View);

impl PhysMemory for Tables<'_> {
    fn read_u32(&mut self, gpa: u64) -> Result<u32, NoMemory> {
        let page = Page::of(self.0, gpa, false).map_err(|_| NoMemory { gpa })?;
        page.load(gpa % ram::SIZE).ok_or(NoMemory { gpa })
    }
    fn read_u64(&mut self, gpa: u64) -> Result<u64, NoMemory> {
        let page = Page::of(self.0, gpa, false).map_err(|_| NoMemory { gpa })?;
        page.load(gpa % ram::SIZE).ok_or(NoMemory { gpa })
    }
    fn compare_exchange_u32(&mut self, gpa: u64, _: u32, _: u32) -> Result<bool, NoMemory> {
        Err(NoMemory { gpa })
    }
    fn compare_exchange_u64(&mut self, gpa: u64, _: u64, _: u64) -> Result<bool, NoMemory> {
        Err(NoMemory { gpa })
    }
}

/// A page of a range.
struct Part {
    /// Its first address, and its size.
    linear: u64,
    size: u64,
    /// Where that is on the host.
    page: u64,
}

impl SoftVcpu {
    /// A supervisor has read `linear`, and the tables did not know it: looks for the range that it is in.
    pub(crate) fn find_range(&mut self, linear: u64, found: &Translation, rights: Rights) {
        let is_supervisor = matches!(rights, Rights::Supervisor | Rights::SmapLifted);
        if found.page_size < LARGE
            || !is_supervisor
            || self.cpl == 3
            || !found.global
            || found.user
            || !self.tlb.keeps_all()
        {
            return;
        }
        let Some(n) = self.ranges.enter(linear) else { return };
        let known = &self.tlb.ranges[n];
        let looked = &mut self.ranges.looked[n];
        if known.limit == 0 {
            *looked = 0;
        }
        if known.has(linear) || *looked == TIMES {
            return;
        }
        let reach = REACH << *looked;
        *looked += 1;
        if let Some(range) = self.range_around(linear, reach) {
            self.tlb.ranges[n] = range;
        }
    }

    /// Where an instruction has read, if it has.
    pub(crate) fn seen(&self) -> Seen {
        match self.last_load {
            NO_LOAD => Seen::Nowhere,
            linear if self.cpl == 3 && self.tlb.is_in_large(linear) => Seen::Large,
            linear => self.ranges.of(linear).map_or(Seen::Elsewhere, |n| Seen::Range(n as u8)),
        }
    }

    /// Pages around that of `linear` that belong to its range, up to so many in either direction.
    fn range_around(&self, linear: u64, reach: u32) -> Option<Stretch> {
        let first = self.range_part(linear)?;
        let (mut start, mut end) = (first.linear, first.linear.wrapping_add(first.size));
        let page = |linear: u64| first.page.wrapping_add(linear.wrapping_sub(first.linear));
        for _ in 0..reach {
            let goes_on = |part: &Part| part.linear == end && part.page == page(end);
            let Some(part) = self.range_part(end).filter(goes_on) else { break };
            // The last page there is ends at 0.
            let Some(next) = end.checked_add(part.size) else { break };
            if is_image(next) != is_image(linear) {
                break;
            }
            end = next;
        }
        for _ in 0..reach {
            let below = start.wrapping_sub(1);
            let Some(part) = self.range_part(below) else { break };
            let goes_on =
                part.page == page(part.linear) && part.linear.wrapping_add(part.size) == start;
            if !goes_on || is_image(part.linear) != is_image(linear) {
                break;
            }
            start = part.linear;
        }
        Some(Stretch::new(start, page(start), end.wrapping_sub(start)))
    }

    /// The page that holds `linear`, from its start on, if it may be part of a range.
    fn range_part(&self, linear: u64) -> Option<Part> {
        // A walk wants a canonical address.
        if (linear << 16) as i64 >> 16 != linear as i64 {
            return None;
        }
        let query = Query { linear, ..Query::default() };
        let found = mmu::walk(&self.paging, query, &mut Tables(&self.view)).ok()?;
        if found.user || !found.global {
            return None;
        }
        let slot = self.view.slots().find(found.gpa)?;
        // What of the page is in the slot.
        let before = (linear % found.page_size).min(found.gpa - slot.gpa);
        let gpa = found.gpa - before;
        let behind = found.page_size - linear % found.page_size;
        let size = (before + behind).min(slot.size - (gpa - slot.gpa));
        Some(Part { linear: linear - before, size, page: slot.hva + (gpa - slot.gpa) })
    }
}
