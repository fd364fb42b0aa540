use std::ops::Range;

use super::memory::CodeMemory;

const PAGE: usize = 4096;

/// The mappings of memory for translated code in this process: where, and with which rights.
fn mappings() -> Vec<(Range<u64>, String)> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("this process's mappings");
    let ours = maps.lines().filter(|line| line.contains("memfd:unibody-jit"));
    ours.map(|line| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next().and_then(|range| range.split_once('-')).expect("a range");
        let number = |text| u64::from_str_radix(text, 16).expect("an address");
        (number(start)..number(end), words.next().expect("rights").to_owned())
    })
    .collect()
}

#[test]
fn no_mapping_is_both_writable_and_executable() {
    let mut memory = CodeMemory::new(PAGE).expect("executable memory");
    let at = memory.add(&[0xc3], &[]).expect("room");
    let mappings = mappings();
    let executable = mappings.iter().find(|(range, _)| range.contains(&at)).expect("it is mapped");
    assert_eq!(executable.1, "r-xs");
    // Those of tests that run at the same time, too.
    for (range, rights) in &mappings {
        assert!(rights == "r-xs" || rights == "rw-s", "{range:x?}: {rights}");
    }
}

#[test]
fn it_is_unmapped_when_it_is_dropped() {
    // As many pages as no other test's has.
    let size = 37 * PAGE as u64;
    let memory = CodeMemory::new(size as usize).expect("executable memory");
    let at = memory.next();
    let is_mapped = || mappings().iter().any(|(range, _)| *range == (at..at + size));
    assert!(is_mapped());
    drop(memory);
    assert!(!is_mapped());
}

#[test]
fn code_is_added_one_behind_the_other_until_it_is_full() {
    let mut memory = CodeMemory::new(PAGE - 1).expect("executable memory");
    assert_eq!((memory.used(), memory.room()), (0, PAGE), "whole pages");
    let start = memory.next();
    assert_eq!(start % PAGE as u64, 0);
    assert_eq!(memory.add(&[0x90; 100], &[]), Some(start));
    assert_eq!(memory.add(&[], &[]), Some(start + 112), "aligned");
    assert_eq!((memory.next(), memory.used()), (start + 112, 112));
    assert_eq!(memory.add(&[0x90; PAGE - 112 + 1], &[]), None);
    assert_eq!(memory.used(), 112, "nothing happened");
    assert_eq!(memory.add(&[0x90; PAGE - 112], &[]), Some(start + 112));
    assert_eq!((memory.room(), memory.add(&[0x90], &[])), (0, None));
}

#[test]
fn what_is_truncated_has_room_again() {
    let mut memory = CodeMemory::new(PAGE).expect("executable memory");
    let kept = memory.add(&[0x90; 16], &[]).expect("room");
    memory.add(&[0x90; PAGE - 16], &[]).expect("room");
    memory.truncate(PAGE * 2);
    assert_eq!(memory.room(), 0, "there is not that much");
    memory.truncate(16);
    assert_eq!((memory.used(), memory.next()), (16, kept + 16));
    assert!(memory.add(&[0x90], &[]).is_some());
}
