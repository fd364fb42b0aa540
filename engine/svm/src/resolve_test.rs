//! Tests of pages that the guest reaches, and of who takes them away while it runs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arch_x86::engine::{Engine, EngineVcpu, Entry, Event, Intercept};
use arch_x86::hardware::HostPages;
use virt::dirty_ring::{DirtyRing, Entries, RESERVED};
use virt::memory::{Memory, Slot};

use crate::engine::SvmEngine;
use crate::exits::code;
use crate::nested::table::entry;
use crate::nested::tree::LARGE;
use crate::test_platform::PHYSICAL;
use crate::test_processor::{TestEngine, TestMachine, TestVcpu, enter, enter_with, svm};

const RIGHTS: u64 = entry::PRESENT | entry::USER;
const WRITABLE: u64 = RIGHTS | entry::WRITABLE;
const WRITE: u64 = 4 | 2;
const READ: u64 = 4;

fn same(engine: &TestEngine) -> TestEngine {
    SvmEngine { shared: Arc::clone(&engine.shared) }
}

/// The guest reaches a page, and comes out for what it is not its own to finish.
fn reach(machine: &TestMachine, vcpu: &mut TestVcpu, gpa: u64, access: u64) -> Intercept {
    machine.then(move |vmcb, _| {
        (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (0x400, access, gpa);
    });
    enter(vcpu)
}

/// The same, with the page found and mapped behind it; gives its entry.
fn fault(machine: &TestMachine, vcpu: &mut TestVcpu, gpa: u64, access: u64) -> Option<(u64, u64)> {
    assert_eq!(reach(machine, vcpu, gpa, access), Intercept::Interrupted);
    vcpu.prepare().expect("memory");
    machine.engine.shared.nested.look(gpa)
}

#[test]
fn what_no_slot_has_is_a_devices() {
    let machine = TestMachine::new();
    machine
        .memory
        .insert(Slot { id: 1, gpa: 8 << 20, size: 4096, read_only: true, ..Slot::default() })
        .expect("a slot");
    machine.engine.invalidate(8 << 20, 4096);
    let mut vcpu = machine.vcpu();
    for (gpa, access, write) in
        [(0xfee0_0300, WRITE, true), (0xfee0_0020, READ, false), ((8 << 20) + 5, WRITE, true)]
    {
        let device = Intercept::NestedFault { gpa, write };
        assert_eq!(reach(&machine, &mut vcpu, gpa, access), device);
    }
    assert_eq!(fault(&machine, &mut vcpu, 8 << 20, READ), Some((PHYSICAL | RIGHTS, 4096)));
    assert!(machine.platform.asked.pages.lock().iter().all(|(_, write)| !write));
}

#[test]
fn a_page_is_found_on_the_way_back_in() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let mapped = fault(&machine, &mut vcpu, 0x5678, WRITE);
    assert_eq!(mapped, Some(((0x5000 + PHYSICAL) | WRITABLE, 4096)));
    // One that may be written anyway is had for writing at once.
    let mapped = fault(&machine, &mut vcpu, 0x6000, READ);
    assert_eq!(mapped, Some(((0x6000 + PHYSICAL) | WRITABLE, 4096)));
    assert_eq!(
        *machine.platform.asked.pages.lock(),
        [(0x5000, true), (0x6000, false), (0x6000, true)]
    );
    // One that is shared is not, until it is written.
    machine.platform.asked.shares.store(true, Ordering::Relaxed);
    let mapped = fault(&machine, &mut vcpu, 0x7000, READ);
    assert_eq!(mapped, Some(((0x7000 + PHYSICAL) | RIGHTS, 4096)));
    let mapped = fault(&machine, &mut vcpu, 0x7000, WRITE);
    assert_eq!(mapped, Some(((0x7000 + PHYSICAL) | WRITABLE, 4096)));
}

#[test]
fn a_large_page_of_the_hosts_is_one_of_the_guests() {
    let memory = Arc::new(Memory::default());
    memory.insert(Slot { size: 4 << 20, hva: 64 << 20, ..Slot::default() }).expect("a slot");
    let machine = TestMachine::with(svm::ALL, memory);
    machine.platform.asked.page_size.store(1 << 30, Ordering::Relaxed);
    let mut vcpu = machine.vcpu();
    let mapped = fault(&machine, &mut vcpu, 0x20_5000, WRITE);
    let physical = (66 << 20) + PHYSICAL;
    assert_eq!(mapped, Some((physical | WRITABLE | entry::LARGE, LARGE)));
}

#[test]
fn a_write_to_a_logged_page_is_marked_before_it_can_be_made() {
    let machine = TestMachine::new();
    machine.memory.set_log(0, true).expect("a slot");
    machine.engine.invalidate(0, TestMachine::MEMORY);
    let mut vcpu = machine.vcpu();
    let (_, log) = machine.memory.log(0).expect("a log");
    machine.platform.asked.shares.store(true, Ordering::Relaxed);
    let mapped = fault(&machine, &mut vcpu, 0x5000, READ);
    assert_eq!(mapped, Some(((0x5000 + PHYSICAL) | RIGHTS, 4096)));
    assert_eq!(log.look().expect("memory")[0], 0);
    machine.platform.asked.shares.store(false, Ordering::Relaxed);
    let mapped = fault(&machine, &mut vcpu, 0x5000, WRITE);
    assert_eq!(mapped, Some(((0x5000 + PHYSICAL) | WRITABLE, 4096)));
    // Taken, and written again.
    assert_eq!(log.take().expect("memory")[0], 1 << 5);
    machine.engine.invalidate(0, TestMachine::MEMORY);
    assert_eq!(
        machine.engine.shared.nested.look(0x5000),
        Some(((0x5000 + PHYSICAL) | RIGHTS, 4096))
    );
    fault(&machine, &mut vcpu, 0x5000, WRITE);
    assert_eq!(log.take().expect("memory")[0], 1 << 5);
    // One that the host lets be written is had for writing when it is read, and that is marked, too.
    let mapped = fault(&machine, &mut vcpu, 0x6000, READ);
    assert_eq!(mapped, Some(((0x6000 + PHYSICAL) | WRITABLE, 4096)));
    assert_eq!(log.take().expect("memory")[0], 1 << 6);
}

#[test]
fn a_mark_that_is_taken_before_the_page_is_mapped_is_made_again() {
    let machine = TestMachine::new();
    machine.memory.set_log(0, true).expect("a slot");
    machine.engine.invalidate(0, TestMachine::MEMORY);
    let mut vcpu = machine.vcpu();
    let (_, log) = machine.memory.log(0).expect("a log");
    let (engine, taken, once) = (same(&machine.engine), Arc::clone(&log), AtomicBool::new(true));
    *machine.platform.asked.on_page.lock() = Some(Box::new(move |_, _| {
        if once.swap(false, Ordering::Relaxed) {
            assert_eq!(taken.take().expect("memory")[0], 1 << 3);
            engine.invalidate(0, TestMachine::MEMORY);
        }
    }));
    let mapped = fault(&machine, &mut vcpu, 0x3000, WRITE);
    assert_eq!(mapped, Some(((0x3000 + PHYSICAL) | WRITABLE, 4096)));
    assert_eq!(log.take().expect("memory")[0], 1 << 3, "the write would be lost");
}

#[test]
fn a_page_that_the_host_takes_back_meanwhile_is_not_mapped() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    // A change that does not end: the guest asks again and again.
    let (engine, once) = (same(&machine.engine), AtomicBool::new(true));
    *machine.platform.asked.on_page.lock() = Some(Box::new(move |_, _| {
        if once.swap(false, Ordering::Relaxed) {
            engine.change(0x5000, 0x6000);
        }
    }));
    assert_eq!(fault(&machine, &mut vcpu, 0x5000, WRITE), None);
    assert!(machine.platform.asked.yields.load(Ordering::Relaxed) > 0);
    machine.engine.changed(0x5000, 0x6000);
    assert!(fault(&machine, &mut vcpu, 0x5000, WRITE).is_some());
    // One that is over at once: the page is found anew.
    let (engine, once) = (same(&machine.engine), AtomicBool::new(true));
    let before = machine.platform.asked.pages.lock().len();
    let yields = machine.platform.asked.yields.load(Ordering::Relaxed);
    *machine.platform.asked.on_page.lock() = Some(Box::new(move |_, _| {
        if once.swap(false, Ordering::Relaxed) {
            engine.change(0x7000, 0x8000);
            engine.changed(0x7000, 0x8000);
        }
    }));
    assert!(fault(&machine, &mut vcpu, 0x7000, WRITE).is_some());
    assert_eq!(machine.platform.asked.pages.lock().len(), before + 2);
    assert_eq!(
        machine.platform.asked.yields.load(Ordering::Relaxed),
        yields,
        "nobody is waited for"
    );
}

#[test]
fn a_slot_that_goes_while_its_page_is_looked_for_is_not_mapped() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let (engine, memory) = (same(&machine.engine), Arc::clone(&machine.memory));
    *machine.platform.asked.on_page.lock() = Some(Box::new(move |_, _| {
        if memory.remove(0).is_ok() {
            engine.invalidate(0, TestMachine::MEMORY);
        }
    }));
    assert_eq!(fault(&machine, &mut vcpu, 0x5000, WRITE), None);
    let device = Intercept::NestedFault { gpa: 0x5000, write: true };
    assert_eq!(reach(&machine, &mut vcpu, 0x5000, WRITE), device, "there is nothing any more");
}

#[test]
fn where_the_host_has_nothing_the_memory_is_bad() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    machine.platform.asked.has_none.store(true, Ordering::Relaxed);
    assert_eq!(fault(&machine, &mut vcpu, 0x5008, READ), None);
    let event = Some(Event::Interrupt { vector: 0x31 });
    let entry = Entry { inject: event, ..Entry::default() };
    assert_eq!(enter_with(&mut vcpu, &entry), Intercept::BadMemory { gpa: 0x5008 });
    assert_eq!(vcpu.take_undelivered(), event);
    // It may be there by the next time.
    machine.platform.asked.has_none.store(false, Ordering::Relaxed);
    assert!(fault(&machine, &mut vcpu, 0x5008, READ).is_some());
}

#[test]
fn who_takes_a_page_away_waits_for_the_guest_which_forgets_it() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    fault(&machine, &mut vcpu, 0x5000, WRITE);
    machine.then_exit(code::SHUTDOWN);
    enter(&mut vcpu);
    machine.platform.asked.processor.store(1, Ordering::Relaxed);
    let engine = same(&machine.engine);
    machine.then(move |vmcb, _| {
        engine.change(0x5000, 0x6000);
        engine.changed(0x5000, 0x6000);
        vmcb.exit_code = code::INTR;
    });
    machine.then(|vmcb, _| {
        assert_eq!(vmcb.tlb_control, 3, "before it runs again");
        vmcb.exit_code = code::SHUTDOWN;
    });
    assert_eq!(enter(&mut vcpu), Intercept::Shutdown);
    assert_eq!(*machine.platform.asked.waited.lock(), [1], "where it is");
    assert_eq!(machine.engine.shared.nested.look(0x5000), None);
    // What is not mapped is nobody's to wait for, nor is a guest that is outside.
    machine.engine.change(0x5000, 0x6000);
    machine.engine.changed(0x5000, 0x6000);
    fault(&machine, &mut vcpu, 0x5000, WRITE);
    machine.engine.invalidate(0x5000, 4096);
    assert_eq!(machine.platform.asked.waited.lock().len(), 1);
}

#[test]
fn a_kick_interrupts_the_processor_that_the_vcpu_is_on() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    machine.engine.kick(0);
    machine.engine.kick(77);
    machine.engine.kick(u32::MAX);
    assert!(machine.platform.asked.interrupted.lock().is_empty(), "it is outside");
    machine.platform.asked.processor.store(1, Ordering::Relaxed);
    let engine = same(&machine.engine);
    machine.then(move |vmcb, _| {
        engine.kick(0);
        engine.kick(1);
        vmcb.exit_code = code::SHUTDOWN;
    });
    enter(&mut vcpu);
    assert_eq!(*machine.platform.asked.interrupted.lock(), [1]);
}

/// Entries that nobody collects.
struct Uncollected(Arc<spin::Mutex<Vec<(u32, u64)>>>);

impl Entries for Uncollected {
    fn fill(&self, _at: u32, slot: u32, page: u64) {
        self.0.lock().push((slot, page));
    }

    fn free(&self, _at: u32) -> Option<(u32, u64)> {
        None
    }
}

#[test]
fn written_pages_are_told_in_a_ring_and_a_full_one_brings_the_vcpu_out() {
    let machine = TestMachine::new();
    machine.memory.set_log(0, true).expect("a slot");
    machine.engine.invalidate(0, TestMachine::MEMORY);
    let mut vcpu = machine.vcpu();
    let told = Arc::new(spin::Mutex::new(Vec::new()));
    let entries = Box::new(Uncollected(Arc::clone(&told)));
    vcpu.set_dirty_ring(Arc::new(DirtyRing::new(entries, RESERVED + 2)));
    fault(&machine, &mut vcpu, 0x5000, WRITE);
    fault(&machine, &mut vcpu, 0x5000, WRITE);
    fault(&machine, &mut vcpu, 0x9000, WRITE);
    assert_eq!(*told.lock(), [(0, 5), (0, 9)]);
    assert_eq!(vcpu.enter(&Default::default(), &AtomicU32::new(0)), Intercept::Interrupted);
    assert!(machine.processor.state.lock().script.is_empty());
}
