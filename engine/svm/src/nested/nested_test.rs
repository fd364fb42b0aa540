//! Tests of the nested tables: what is mapped, how, and what takes it away.

use alloc::sync::Arc;

use virt::memory::{Memory, Slot, View};

use super::table::{Reserve, entry};
use super::tree::{LARGE, Mapping};
use super::{Mapped, Nested};
use crate::test_platform::{PHYSICAL, TestPages, TestPlatform};

const RIGHTS: u64 = entry::PRESENT | entry::USER;
const WRITABLE: u64 = RIGHTS | entry::WRITABLE;
/// Where the host has the first slot.
const HVA: u64 = 0x7f00_0000_0000;

struct Tables {
    platform: TestPlatform,
    memory: Arc<Memory<spin::Mutex<()>>>,
    nested: Nested<TestPlatform>,
    view: View,
}

fn slot(id: u32, gpa: u64, size: u64) -> Slot {
    Slot { id, gpa, size, hva: HVA + gpa, ..Slot::default() }
}

impl Tables {
    fn new(slots: &[Slot]) -> Self {
        Self::on(slots, 0)
    }

    fn on(slots: &[Slot], cr4: u64) -> Self {
        let (platform, memory) = (TestPlatform::new(), Arc::new(Memory::default()));
        slots.iter().for_each(|slot| memory.insert(*slot).expect("a slot"));
        let nested = Nested::new(&platform, cr4, memory.view()).expect("memory");
        let view = memory.view();
        Self { platform, memory, nested, view }
    }

    fn reserve(&self) -> Reserve<TestPages> {
        let mut reserve = Reserve::default();
        reserve.fill(&self.platform).expect("memory");
        reserve
    }

    fn mapping(&self, gpa: u64) -> Mapping {
        let slot = self.view.slots().find(gpa).expect("a slot");
        let hva = slot.hva + (gpa - slot.gpa);
        Mapping { gpa, hva, physical: hva + PHYSICAL, size: 4096, writable: true }
    }

    /// Maps what nothing has changed of.
    fn map(&self, mapping: Mapping) -> Mapped {
        self.nested.map(self.nested.ticket(), &self.view, mapping, &mut self.reserve())
    }

    fn map_small(&self, gpa: u64) -> u64 {
        let mapping = self.mapping(gpa);
        assert_eq!(self.map(mapping), Mapped::Done);
        mapping.physical
    }

    fn map_large(&self, gpa: u64) -> u64 {
        let mapping = Mapping { size: LARGE, ..self.mapping(gpa) };
        assert_eq!(self.map(mapping), Mapped::Done);
        mapping.physical & !(LARGE - 1)
    }

    /// How often somebody was waited for.
    fn waits_of_flush(&self) -> u32 {
        let waits = core::cell::Cell::new(0);
        self.nested.flush(|| waits.set(waits.get() + 1));
        waits.get()
    }
}

#[test]
fn a_page_is_mapped_with_its_rights_and_taken_out() {
    let tables = Tables::new(&[slot(0, 0, 64 << 20)]);
    for gpa in [0, 0x1000, 0x1f_f000, 0x20_0000, 0x3ff_f000] {
        assert_eq!(tables.nested.look(gpa), None);
        let physical = tables.map_small(gpa);
        assert_eq!(tables.nested.look(gpa), Some((physical | WRITABLE, 4096)));
    }
    let only_read = Mapping { writable: false, ..tables.mapping(0x5000) };
    assert_eq!(tables.map(only_read), Mapped::Done);
    assert_eq!(tables.nested.look(0x5000), Some((only_read.physical | RIGHTS, 4096)));
    tables.nested.renew(0x1000, 0x6000);
    assert_eq!([0x1000, 0x5000].map(|gpa| tables.nested.look(gpa)), [None, None]);
    assert!(tables.nested.look(0).is_some() && tables.nested.look(0x1f_f000).is_some());
    tables.nested.renew(0, u64::MAX);
    for gpa in [0, 0x1f_f000, 0x20_0000, 0x3ff_f000] {
        assert_eq!(tables.nested.look(gpa), None);
    }
}

#[test]
fn a_large_page_needs_all_three_addresses_aligned_alike_and_a_slot_around_it() {
    let tables = Tables::new(&[slot(0, 0, 4 << 20), slot(1, 8 << 20, 1 << 20)]);
    let physical = tables.map_large(0x12_3000);
    assert_eq!(tables.nested.look(0), Some((physical | WRITABLE | entry::LARGE, LARGE)));
    assert_eq!(tables.nested.look(0x1f_f000), tables.nested.look(0));
    // The host's page is small; the physical address is another's; the slot ends.
    let large = Mapping { size: LARGE, ..tables.mapping(0x20_0000) };
    let askew = Mapping { physical: large.physical + 4096, ..large };
    assert_eq!(tables.map(askew), Mapped::Done);
    assert_eq!(tables.nested.look(0x20_0000), Some((askew.physical | WRITABLE, 4096)));
    tables.map_large(8 << 20);
    assert_eq!(tables.nested.look(8 << 20).map(|(_, size)| size), Some(4096));
    let elsewhere = Tables::new(&[Slot { hva: HVA + 4096, ..slot(0, 0, 4 << 20) }]);
    elsewhere.map_large(0);
    assert_eq!(elsewhere.nested.look(0).map(|(_, size)| size), Some(4096), "the host's address");
}

#[test]
fn small_pages_give_way_to_a_large_one_when_they_are_gone() {
    let tables = Tables::new(&[slot(0, 0, 4 << 20)]);
    tables.map_small(0x1000);
    tables.map_large(0x2000);
    assert_eq!(tables.nested.look(0x2000).map(|(_, size)| size), Some(4096), "one is in use");
    tables.nested.change(HVA, HVA + LARGE);
    tables.nested.changed();
    let before = tables.nested.flushes();
    tables.map_large(0x2000);
    assert_eq!(tables.nested.look(0x1000).map(|(_, size)| size), Some(LARGE));
    assert!(tables.nested.flushes() > before, "a processor may know the table");
    // And the other way: the place of the table was kept.
    tables.nested.change(HVA, HVA + 4096);
    tables.nested.changed();
    assert_eq!(tables.nested.look(0x1000), None, "all of a large page goes");
    tables.map_small(0x1000);
    assert_eq!(tables.nested.look(0x1000).map(|(_, size)| size), Some(4096));
    assert_eq!(tables.nested.look(0x2000), None);
}

#[test]
fn a_large_page_that_is_small_now_is_forgotten_by_processors() {
    let tables = Tables::new(&[slot(0, 0, 4 << 20)]);
    let large = tables.map_large(0);
    assert_eq!(tables.waits_of_flush(), 0, "nothing was taken out");
    let before = tables.nested.flushes();
    let small = tables.map_small(0x1000);
    assert_eq!(tables.nested.look(0x1000), Some((small | WRITABLE, 4096)));
    for gpa in [0, 0x2000, 0x1f_f000] {
        assert_eq!(tables.nested.look(gpa), Some(((large + gpa) | WRITABLE, 4096)), "the same");
    }
    assert!(tables.nested.flushes() > before);
    assert_eq!(tables.waits_of_flush(), 1, "who takes a page of it away has to wait");
    tables.nested.renew(0, LARGE);
    assert_eq!(tables.nested.look(0x2000), None);
    tables.map_large(0);
    assert_eq!(tables.nested.look(0).map(|(_, size)| size), Some(LARGE));
}

#[test]
fn what_was_in_a_large_page_and_is_elsewhere_now_takes_all_of_it_out() {
    let tables = Tables::new(&[slot(0, 0, 4 << 20)]);
    let large = tables.map_large(0);
    let elsewhere = Mapping { physical: large + (8 << 20), ..tables.mapping(0x1000) };
    assert_eq!(tables.map(elsewhere), Mapped::Done);
    assert_eq!(tables.nested.look(0x1000), Some((elsewhere.physical | WRITABLE, 4096)));
    assert_eq!(tables.nested.look(0x2000), None);
    assert_eq!(tables.waits_of_flush(), 1);
}

#[test]
fn a_logged_slot_has_small_pages_that_are_protected_and_not_taken_out() {
    let tables = Tables::new(&[Slot { log_dirty: true, ..slot(0, 0, 4 << 20) }]);
    tables.map_large(0);
    assert_eq!(tables.nested.look(0).map(|(_, size)| size), Some(4096));
    let physical = tables.map_small(0x1000);
    tables.nested.renew(0x1000, 0x2000);
    assert_eq!(tables.nested.look(0x1000), Some((physical | RIGHTS, 4096)));
    assert_ne!(tables.nested.look(0).expect("mapped").0 & entry::WRITABLE, 0, "not asked for");
    assert_eq!(tables.waits_of_flush(), 1);
    tables.nested.renew(0x1000, 0x2000);
    assert_eq!(tables.waits_of_flush(), 0, "it could not be written");
    // Written again.
    tables.map_small(0x1000);
    assert_eq!(tables.nested.look(0x1000), Some((physical | WRITABLE, 4096)));
}

#[test]
fn a_page_that_can_be_written_stays_so_when_it_is_read() {
    // Another vCPU may have it so in its TLB: what takes that away has to see that it was there.
    let tables = Tables::new(&[Slot { log_dirty: true, ..slot(0, 0, 4 << 20) }]);
    let physical = tables.map_small(0);
    let read = Mapping { writable: false, ..tables.mapping(0) };
    assert_eq!(tables.map(read), Mapped::Done);
    assert_eq!(tables.nested.look(0), Some((physical | WRITABLE, 4096)));
    // Another page of the host's does not get the right.
    let other = Mapping { physical: physical + (1 << 30), ..read };
    assert_eq!(tables.map(other), Mapped::Done);
    assert_eq!(tables.nested.look(0), Some((other.physical | RIGHTS, 4096)));
    assert_eq!(tables.waits_of_flush(), 1, "the former is still known");
}

#[test]
fn a_change_between_finding_a_page_and_mapping_it_is_noticed() {
    let tables = Tables::new(&[slot(0, 0, 4 << 20)]);
    let mapping = tables.mapping(0x3000);
    let mut reserve = tables.reserve();
    // Begun and ended meanwhile.
    let ticket = tables.nested.ticket();
    tables.nested.change(HVA + 0x3000, HVA + 0x4000);
    tables.nested.changed();
    assert_eq!(tables.nested.map(ticket, &tables.view, mapping, &mut reserve), Mapped::Again);
    assert_eq!(tables.nested.look(0x3000), None);
    // Under way: with a ticket from before it, and with one from within.
    let before = tables.nested.ticket();
    tables.nested.change(HVA + 0x3000, HVA + 0x4000);
    for ticket in [before, tables.nested.ticket()] {
        assert_eq!(tables.nested.map(ticket, &tables.view, mapping, &mut reserve), Mapped::Busy);
    }
    // What it is not about goes on, also where a large page would reach into it.
    let beside = Mapping { size: LARGE, ..tables.mapping(0x4000) };
    assert_eq!(tables.nested.map(before, &tables.view, beside, &mut reserve), Mapped::Done);
    assert_eq!(tables.nested.look(0x4000).map(|(_, size)| size), Some(4096));
    tables.nested.changed();
    let after = tables.nested.ticket();
    assert_eq!(tables.nested.map(after, &tables.view, mapping, &mut reserve), Mapped::Done);
    // What was logged, and is taken, as well.
    let ticket = tables.nested.ticket();
    tables.nested.renew(0, 0x1000);
    assert_eq!(tables.nested.map(ticket, &tables.view, mapping, &mut reserve), Mapped::Again);
}

#[test]
fn changes_that_overlap_in_time_hold_pages_back_until_the_last_is_over() {
    let tables = Tables::new(&[slot(0, 0, 4 << 20)]);
    tables.nested.change(HVA, HVA + 0x1000);
    tables.nested.change(HVA + 0x10_0000, HVA + 0x10_1000);
    tables.nested.changed();
    assert_eq!(tables.map(tables.mapping(0)), Mapped::Busy);
    assert_eq!(tables.map(tables.mapping(0x10_0000)), Mapped::Busy);
    tables.nested.changed();
    assert_eq!(tables.map(tables.mapping(0)), Mapped::Done);
}

#[test]
fn a_change_reaches_all_slots_that_have_the_memory() {
    let twice = Slot { hva: HVA, ..slot(1, 64 << 20, 4 << 20) };
    let tables = Tables::new(&[slot(0, 0, 4 << 20), twice]);
    for gpa in [0x1000, 0x2000, (64 << 20) + 0x1000, (64 << 20) + 0x2000] {
        tables.map_small(gpa);
    }
    tables.nested.change(HVA + 0x1000, HVA + 0x2000);
    tables.nested.changed();
    assert_eq!([0x1000, (64 << 20) + 0x1000].map(|gpa| tables.nested.look(gpa)), [None, None]);
    for gpa in [0x2000, (64 << 20) + 0x2000] {
        assert!(tables.nested.look(gpa).is_some());
    }
}

#[test]
fn a_slot_that_is_gone_is_known_until_its_pages_are_out() {
    let tables = Tables::new(&[slot(0, 0, 4 << 20), slot(1, 8 << 20, 4 << 20)]);
    tables.map_small(0);
    tables.map_small(8 << 20);
    tables.memory.remove(1).expect("it is there");
    // Nobody maps by the new slots before the tables are of them, nor by the old ones then.
    let new = tables.memory.view();
    let ticket = tables.nested.ticket();
    let mapping = tables.mapping(0x1000);
    let mut reserve = tables.reserve();
    assert_eq!(tables.nested.map(ticket, &new, mapping, &mut reserve), Mapped::Busy);
    // The host's change is found by the old ones.
    tables.nested.change(HVA + (8 << 20), HVA + (8 << 20) + 0x1000);
    tables.nested.changed();
    assert_eq!(tables.nested.look(8 << 20), None);
    tables.map_small((8 << 20) + 0x1000);
    assert!(tables.nested.adopt(|| tables.memory.view()));
    assert_eq!(tables.nested.look((8 << 20) + 0x1000), None);
    assert!(tables.nested.look(0).is_some(), "that slot stays");
    assert_eq!(tables.map(mapping), Mapped::Busy, "the view is old");
    assert_eq!(tables.waits_of_flush(), 1);
    let ticket = tables.nested.ticket();
    assert_eq!(tables.nested.map(ticket, &new, mapping, &mut reserve), Mapped::Done);
}

#[test]
fn a_slot_that_is_logged_from_now_on_loses_what_could_be_written() {
    let tables = Tables::new(&[slot(0, 0, 4 << 20)]);
    let large = tables.map_large(0);
    let small = tables.map_small(LARGE);
    tables.memory.set_log(0, true).expect("it is there");
    assert!(tables.nested.adopt(|| tables.memory.view()));
    assert_eq!(tables.nested.look(0), Some((large | RIGHTS | entry::LARGE, LARGE)));
    assert_eq!(tables.nested.look(LARGE), Some((small | RIGHTS, 4096)));
    assert_eq!(tables.waits_of_flush(), 1);
    // What is written to is a small page of the large one; the others can still only be read.
    let view = tables.memory.view();
    let (ticket, mapping) = (tables.nested.ticket(), tables.mapping(0x1000));
    let mapped = tables.nested.map(ticket, &view, mapping, &mut tables.reserve());
    assert_eq!(mapped, Mapped::Done);
    assert_eq!(tables.nested.look(0x1000), Some((mapping.physical | WRITABLE, 4096)));
    assert_eq!(tables.nested.look(0x2000), Some(((large + 0x2000) | RIGHTS, 4096)));
    // When it is not logged any more all of it may be had at once again.
    tables.memory.set_log(0, false).expect("it is there");
    assert!(tables.nested.adopt(|| tables.memory.view()));
    assert_eq!([0x1000, LARGE].map(|gpa| tables.nested.look(gpa)), [None, None]);
}

#[test]
fn who_comes_second_waits_as_well() {
    let tables = Tables::new(&[slot(0, 0, 4 << 20)]);
    tables.map_small(0);
    tables.nested.change(HVA, HVA + 0x1000);
    // The first has taken the page out, and not waited yet: the second finds nothing, and must not go on.
    tables.nested.change(HVA, HVA + 0x1000);
    let flushes = tables.nested.flushes();
    assert_eq!(tables.waits_of_flush(), 1);
    assert!(tables.nested.flushes() > flushes);
    assert_eq!(tables.waits_of_flush(), 0, "that was for both");
}

#[test]
fn addresses_beyond_the_tables_are_not_mapped_and_do_no_harm() {
    let high = 1 << 48;
    let slots = [slot(0, 0, 4 << 20), Slot { hva: HVA, ..slot(1, high, 4 << 20) }];
    let tables = Tables::new(&slots);
    assert!(tables.nested.reaches(high - 1) && !tables.nested.reaches(high));
    tables.map_small(0x1000);
    assert_eq!(tables.map(tables.mapping(high)), Mapped::Again);
    tables.nested.renew(high, high + (4 << 20));
    assert!(tables.nested.look(0x1000).is_some(), "it is not the same");
    // With five levels they are.
    let tables = Tables::on(&slots, 1 << 12);
    assert!(tables.nested.reaches(high));
    let physical = tables.map_small(high);
    assert_eq!(tables.nested.look(high), Some((physical | WRITABLE, 4096)));
    assert_eq!(tables.nested.look(0), None);
    tables.nested.renew(high, high + 0x1000);
    assert_eq!(tables.nested.look(high), None);
}

#[test]
fn without_tables_in_reserve_nothing_is_mapped() {
    let tables = Tables::new(&[slot(0, 0, 4 << 20)]);
    let ticket = tables.nested.ticket();
    let mapping = tables.mapping(0);
    let mapped = tables.nested.map(ticket, &tables.view, mapping, &mut Reserve::default());
    assert_eq!(mapped, Mapped::Again);
    assert_eq!(tables.map(mapping), Mapped::Done);
}
