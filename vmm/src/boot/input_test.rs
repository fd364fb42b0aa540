use std::io::Write;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::fixture;
use super::*;

/// The digits from 0 to 9, as a file and as bytes.
fn inputs() -> [Input; 2] {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    [Input::file(file, 10), Input::bytes(b"0123456789".to_vec())]
}

#[test]
fn parts_lie_within_their_whole() {
    for input in inputs() {
        assert_eq!(input.copy(8, 5).unwrap(), b"89");
        assert_eq!(input.copy(u64::MAX, 5).unwrap(), b"");
        let mut part = input.part(2..7).part(1..4);
        assert_eq!((part.length(), part.head(9).unwrap()), (3, b"345".to_vec()));
        let mut read = Vec::new();
        part.read_to_end(&mut read).unwrap();
        assert_eq!((part.length(), read), (0, b"345".to_vec()));
    }
    for input in inputs() {
        let mut rest = input.part(7..u64::MAX);
        assert_eq!(rest.length(), 3);
        rest = rest.part(5..9);
        assert_eq!((rest.length(), rest.head(1).unwrap()), (0, Vec::new()));
    }
}

#[test]
fn guest_memory_gets_what_is_asked_for_or_an_error() {
    for input in inputs() {
        let memory = fixture::memory(4 << 20);
        let input = input.part(3..10);
        let load = |offset, size| input.load(offset, size, &memory, GuestAddress(0x1000));
        load(2, 4).unwrap();
        assert_eq!(&memory.read_obj::<[u8; 5]>(GuestAddress(0x1000)).unwrap(), b"5678\0");
        assert!(load(2, 6).is_err());
        assert!(load(u64::MAX, 1).is_err());
    }
}

/// What is between two regions, and behind the last, is no memory.
#[test]
fn a_file_goes_over_regions_whole_or_that_is_an_error() {
    const MIB: u64 = 1 << 20;
    let bytes: Vec<u8> =
        (0..3 * MIB as u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let input = Input::file(file, bytes.len() as u64);
    let ranges = [(0, 2 * MIB), (2 * MIB, 4 * MIB), (8 * MIB, MIB)]
        .map(|(start, size)| (GuestAddress(start), size as usize));
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
    let load = |offset, size, address| input.load(offset, size, &memory, GuestAddress(address));
    for (offset, size, address) in
        [(3, 150_000, 0x1ffe), (4096, 3 * MIB - 4096, MIB + 77), (0, 2 * MIB, 2 * MIB - 1)]
    {
        memory.write_slice(&[0; 6 << 20], GuestAddress(0)).unwrap();
        load(offset, size, address).unwrap();
        let mut found = vec![0; size as usize + 1];
        memory.read_slice(&mut found, GuestAddress(address)).unwrap();
        let (found, behind) = found.split_at(size as usize);
        assert!(found == &bytes[offset as usize..][..size as usize] && *behind == [0]);
    }
    load(3 * MIB - 10, 10, 0).unwrap();
    for (offset, size) in [(3 * MIB - 10, 11), (1, 3 * MIB), (u64::MAX - 7, 9), (0, u64::MAX)] {
        assert!(load(offset, size, 0).is_err(), "{size} at {offset}");
    }
    for (size, address) in
        [(10, 7 * MIB), (10, 9 * MIB - 9), (2 * MIB, 5 * MIB), (3 * MIB, u64::MAX - 7)]
    {
        assert!(load(0, size, address).is_err(), "{size} to {address:#x}");
    }
}

#[test]
fn a_file_that_has_become_shorter_ends_early() {
    let file = tempfile::tempfile().unwrap();
    let mut input = Input::file(file, 100);
    assert_eq!(input.head(10).unwrap(), b"");
    assert_eq!(input.read(&mut [0; 10]).unwrap(), 0);
}
