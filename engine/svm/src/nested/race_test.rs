//! A test of the nested tables with threads: vCPUs that map what the host takes away.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use virt::memory::{Memory, Slot, View};

use super::table::{Reserve, entry};
use super::tree::Mapping;
use super::{Mapped, Nested};
use crate::test_platform::TestPlatform;

/// Pages that are mapped and taken away.
const PAGES: u64 = 4;
/// How often the host takes some away.
const CHANGES: u64 = 3000;
/// After so many changes it waits for a page to be mapped, so often for another thread's turn at most.
const PAUSE: u64 = 100;
const PATIENCE: u64 = 100_000;

/// What the host has behind each page: it is another page after each change.
struct HostTables([AtomicU64; PAGES as usize]);

impl HostTables {
    fn physical(&self, page: u64) -> u64 {
        self.0[page as usize].load(Ordering::SeqCst) << 12
    }

    fn move_page(&self, page: u64) {
        self.0[page as usize].fetch_add(PAGES, Ordering::SeqCst);
    }
}

#[test]
fn no_page_outlives_what_took_it_away() {
    let (platform, memory) = (TestPlatform::new(), Memory::<spin::Mutex<()>>::default());
    memory.insert(Slot { size: 1 << 20, ..Slot::default() }).expect("a slot");
    let nested = Nested::new(&platform, 0, memory.view()).expect("memory");
    let host = HostTables(core::array::from_fn(|page| AtomicU64::new(page as u64 + 1)));
    let over = AtomicBool::new(false);
    let mapped = AtomicU64::new(0);
    let vcpu = |first: u64, view: View| {
        let mut reserve = Reserve::default();
        let mut page = first;
        while !over.load(Ordering::SeqCst) {
            reserve.fill(&platform).expect("memory");
            page = (page + 1) % PAGES;
            let (gpa, ticket) = (page << 12, nested.ticket());
            let physical = host.physical(page);
            thread::yield_now();
            let mapping = Mapping { gpa, hva: gpa, physical, size: 4096, writable: true };
            if nested.map(ticket, &view, mapping, &mut reserve) == Mapped::Done {
                mapped.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    // Two of them change, each a page of its own and one that both do.
    let changer = |own: u64| {
        for n in 0..CHANGES {
            let page = if n % 2 == 0 { own } else { 3 };
            if page == own
                && let Some((found, _)) = nested.look(page << 12)
            {
                assert_eq!(found & entry::ADDRESS, host.physical(page), "what there is now");
            }
            nested.change(page << 12, (page + 1) << 12);
            assert_eq!(nested.look(page << 12), None, "it is the host's");
            host.move_page(page);
            thread::yield_now();
            assert_eq!(nested.look(page << 12), None, "until that is over");
            nested.changed();
            if n % PAUSE == 0 {
                // However busy the machine is, vCPUs get to map something.
                let before = mapped.load(Ordering::Relaxed);
                let is_mapped = || mapped.load(Ordering::Relaxed) != before;
                (0..PATIENCE).take_while(|_| !is_mapped()).for_each(|_| thread::yield_now());
            }
        }
    };
    thread::scope(|scope| {
        let views = [memory.view(), memory.view()];
        let mut first = 0..;
        let vcpus = views.map(|view| {
            let (first, vcpu) = (first.next().unwrap_or_default(), &vcpu);
            scope.spawn(move || vcpu(first, view))
        });
        let changers = [scope.spawn(|| changer(0)), scope.spawn(|| changer(1))];
        let results = changers.map(|changer| changer.join());
        over.store(true, Ordering::SeqCst);
        assert!(vcpus.map(|vcpu| vcpu.join()).iter().all(Result::is_ok));
        assert!(results.iter().all(Result::is_ok));
    });
    for page in 0..PAGES {
        if let Some((found, _)) = nested.look(page << 12) {
            assert_eq!(found & entry::ADDRESS, host.physical(page), "what there is now");
        }
    }
    assert!(mapped.load(Ordering::Relaxed) > 0, "some were mapped in between");
}
