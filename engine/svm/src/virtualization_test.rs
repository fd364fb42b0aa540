//! Tests of what is asked of the processor, and of switching SVM on and off.

use alloc::sync::Arc;

use arch_x86::engine::{Engine, EngineVcpu, Entry, Event, Intercept};
use arch_x86::hardware::{Unusable, Virtualization};
use virt::{Errno, Memory};

use crate::features::Features;
use crate::test_platform::TestPlatform;
use crate::test_processor::{State, TestMachine, TestProcessor, enter, enter_with, svm};
use crate::virtualization::Svm;

fn looked_at(change: impl FnOnce(&mut State)) -> Result<Features, Unusable> {
    let processor = TestProcessor::default();
    change(&mut processor.state.lock());
    Features::of(&processor)
}

#[test]
fn what_is_needed_is_asked_for() {
    assert_eq!(looked_at(|p| p.has_svm = false), Err(Unusable::Lacks("SVM")));
    assert_eq!(looked_at(|p| p.vm_cr = 1 << 4), Err(Unusable::Locked));
    assert_eq!(looked_at(|p| p.vm_cr = 1 << 3).map(|_| ()), Ok(()), "only a lock");
    assert_eq!(looked_at(|p| p.svm = !1), Err(Unusable::Lacks("nested paging")));
    let lacks = Err(Unusable::Lacks("address space identifiers"));
    assert_eq!(looked_at(|p| p.asids = 1), lacks);
}

#[test]
fn all_else_is_used_where_it_is_there() {
    let old = looked_at(|p| p.svm = svm::NESTED_PAGING).expect("SVM");
    assert!(!(old.next_rip || old.clean_bits || old.flush_by_asid || old.decode_assists));
    assert!(!(old.pause_filter || old.pause_filter_threshold));
    assert!(old.invpcid && old.tsc_aux && old.xsave && old.xsaves && old.prediction_barrier);
    let one = |bit| looked_at(|p| p.svm = svm::NESTED_PAGING | bit).expect("SVM");
    assert_eq!(one(svm::NEXT_RIP), Features { next_rip: true, ..old });
    assert_eq!(one(svm::CLEAN), Features { clean_bits: true, ..old });
    assert_eq!(one(svm::FLUSH_BY_ASID), Features { flush_by_asid: true, ..old });
    assert_eq!(one(svm::DECODE_ASSISTS), Features { decode_assists: true, ..old });
    assert_eq!(one(svm::PAUSE_FILTER), Features { pause_filter: true, ..old });
    assert_eq!(one(1 << 12), old, "a threshold for what is not counted");
}

#[test]
fn it_is_switched_on_once_and_off_again() {
    let (platform, processor) = (TestPlatform::new(), TestProcessor::default());
    let svm = Svm::on(platform, processor.clone()).expect("SVM");
    assert_eq!(svm.enable(0), Ok(()));
    assert!(processor.state.lock().is_on);
    assert_ne!(processor.state.lock().save_area, 0);
    assert_eq!(svm.enable(0), Err(Unusable::InUse), "by whomever");
    svm.disable(0);
    assert!(!processor.state.lock().is_on);
    assert_eq!(svm.enable(0), Ok(()));
    assert_eq!(svm.enable(4), Err(Unusable::Host(Errno::EINVAL)), "there are four");
}

#[test]
fn no_guest_is_run_where_it_was_switched_off() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    machine.svm.disable(0);
    let inject = Some(Event::Interrupt { vector: 0x30 });
    let intercept = enter_with(&mut vcpu, &Entry { inject, ..Entry::default() });
    assert_eq!(intercept, Intercept::Failed(Errno::EIO));
    assert_eq!(vcpu.take_undelivered(), inject);
    assert!(machine.processor.state.lock().seen.is_empty());
    assert_eq!(machine.svm.enable(0), Ok(()));
    assert_eq!(enter(&mut vcpu), Intercept::Shutdown, "it runs");
}

#[test]
fn an_engine_has_the_instructions_that_the_host_and_the_core_know() {
    let machine = TestMachine::new();
    let instructions = machine.engine.instructions();
    // Of AVX, XSAVE and OSXSAVE the first; of all of EDX the registers' own.
    assert_eq!((instructions.leaf1_ecx, instructions.leaf1_edx), (1 << 28, 0x0780_0001));
    assert_eq!((instructions.leaf7_ebx, instructions.extended1_ecx), (1 << 5, 1));
}

#[test]
fn avx_that_the_host_has_switched_off_is_not_there() {
    let machine = TestMachine::new();
    let before = (machine.engine.instructions(), machine.engine.lacks());
    machine.processor.state.lock().xcr0 = 3;
    let (instructions, lacks) = (machine.engine.instructions(), machine.engine.lacks());
    // AVX; AVX2.
    assert_eq!((instructions.leaf1_ecx, instructions.leaf7_ebx), (0, 0));
    assert_eq!(instructions.extended1_ecx, before.0.extended1_ecx);
    // FMA, AVX, F16C; AVX2; VAES, VPCLMULQDQ.
    assert_eq!(lacks.leaf1_ecx, before.1.leaf1_ecx | 1 << 12 | 1 << 28 | 1 << 29);
    assert_eq!(lacks.leaf7_ebx, before.1.leaf7_ebx | 1 << 5);
    assert_eq!(lacks.leaf7_ecx, before.1.leaf7_ecx | 1 << 9 | 1 << 10);
}

#[test]
fn a_vcpu_has_a_number_that_there_is_room_for() {
    let machine = TestMachine::new();
    assert_eq!(machine.engine.create_vcpu(1024).err(), Some(Errno::EINVAL));
    assert_eq!(machine.engine.create_vcpu(u32::MAX).err(), Some(Errno::EINVAL));
    assert!(machine.engine.create_vcpu(1023).is_ok());
}

#[test]
fn an_engine_is_made_of_the_slots_that_there_are() {
    let machine = TestMachine::new();
    let empty = machine.svm.engine(Arc::new(Memory::default())).expect("memory");
    assert_ne!(empty.shared.nested.root(), machine.engine.shared.nested.root());
}

#[test]
fn what_only_the_processor_could_run_and_does_not_have_is_not_offered() {
    let machine = TestMachine::new();
    let lacks = machine.engine.lacks();
    // The test's processor has XSAVE, INVPCID, RDPID, LAHF and RDTSCP.
    assert_eq!((lacks.leaf1_ecx, lacks.leaf1_edx), (1 << 17, 0));
    assert_eq!((lacks.leaf7_ebx, lacks.leaf7_ecx), (1 | 1 << 7 | 1 << 20, 1 << 2 | 1 << 16));
    assert_eq!((lacks.leaf7_edx, lacks.extended1_ecx), (1 << 14, 0));
    assert_eq!(lacks.extended1_edx, 1 << 26);
    assert_eq!(lacks.leaf_d1_eax, 0b110, "XSAVEOPT it has");
}

#[test]
fn what_the_processor_is_vulnerable_to_is_not_kept_from_the_guest() {
    let machine = TestMachine::new();
    let none = machine.engine.lacks();
    assert_eq!(none.extended8_ebx, 1 << 2 | 1 << 26 | 1 << 29);
    assert_eq!(none.extended21_eax, 1 << 2 | 1 << 6 | 1 << 8 | 1 << 29);
    // IBPB.
    assert_eq!(machine.engine.instructions().extended8_ebx, 1 << 12);
    machine.processor.state.lock().speculation = [!0, !0];
    let all = machine.engine.lacks();
    assert_eq!((all.extended8_ebx, all.extended21_eax), (0, 1 << 8));
    let has = machine.engine.instructions();
    assert_eq!(has.extended8_ebx, 1 << 12 | 0x3f << 14 | 1 << 24 | 1 << 28 | 1 << 30);
    assert_eq!(has.extended21_eax, 1 << 28);
}
