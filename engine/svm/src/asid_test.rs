//! Tests of ASIDs.

use alloc::vec::Vec;

use crate::asid::{Asids, Assigned};
use crate::vmcb::tlb_control::{FLUSH_ALL, FLUSH_ASID, KEEP};

#[test]
fn a_generation_begins_with_a_flush_of_all_and_gives_each_out_once() {
    let asids = Asids::new(4);
    let mut vcpus = [Assigned::default(); 4];
    let given: Vec<_> = vcpus.iter_mut().map(|vcpu| asids.assign(0, vcpu, false, true)).collect();
    // 0 is the host's: the fourth begins the next generation.
    assert_eq!(given, [(1, FLUSH_ALL), (2, KEEP), (3, KEEP), (1, FLUSH_ALL)]);
    // The last has its own, and the others theirs no more.
    assert_eq!(asids.assign(0, &mut vcpus[3], false, true), (1, KEEP));
    assert_eq!(asids.assign(0, &mut vcpus[0], false, true), (2, KEEP));
    assert_eq!(asids.assign(0, &mut vcpus[0], false, true), (2, KEEP));
    assert_eq!(asids.assign(0, &mut vcpus[1], false, true), (3, KEEP));
    assert_eq!(asids.assign(0, &mut vcpus[2], false, true), (1, FLUSH_ALL));
}

#[test]
fn a_flush_is_of_one_asid_or_by_a_new_one() {
    let asids = Asids::new(8);
    let mut vcpu = Assigned::default();
    asids.assign(0, &mut vcpu, false, true);
    assert_eq!(asids.assign(0, &mut vcpu, true, true), (1, FLUSH_ASID));
    assert_eq!(asids.assign(0, &mut vcpu, true, false), (2, KEEP), "nothing is known of it");
    assert_eq!(asids.assign(0, &mut vcpu, false, false), (2, KEEP));
}

#[test]
fn a_flush_without_asids_left_is_one_of_all() {
    let asids = Asids::new(2);
    let mut vcpu = Assigned::default();
    assert_eq!(asids.assign(0, &mut vcpu, false, false), (1, FLUSH_ALL));
    assert_eq!(asids.assign(0, &mut vcpu, false, false), (1, KEEP));
    assert_eq!(asids.assign(0, &mut vcpu, true, false), (1, FLUSH_ALL));
}

#[test]
fn another_processors_asid_is_none_here() {
    let (first, second) = (Asids::new(8), Asids::new(8));
    let (mut vcpu, mut other) = (Assigned::default(), Assigned::default());
    first.assign(0, &mut vcpu, false, true);
    second.assign(1, &mut other, false, true);
    assert!(vcpu.is_of(0) && !vcpu.is_of(1));
    assert_eq!(second.assign(1, &mut vcpu, false, true), (2, KEEP));
    assert!(vcpu.is_of(1));
    // What it left there long ago is not taken up again.
    assert_eq!(first.assign(0, &mut vcpu, false, true), (2, KEEP));
}

#[test]
fn what_was_given_out_before_the_processor_was_switched_on_is_void() {
    let asids = Asids::new(8);
    let mut vcpu = Assigned::default();
    asids.assign(0, &mut vcpu, false, true);
    asids.assign(0, &mut Assigned::default(), false, true);
    asids.restart();
    assert_eq!(asids.assign(0, &mut vcpu, false, true), (1, FLUSH_ALL));
    assert_eq!(asids.assign(0, &mut vcpu, false, true), (1, KEEP));
}
