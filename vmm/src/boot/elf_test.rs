use proptest::prelude::*;

use super::super::fixture;
use super::*;

/// Parses a file that is there as a whole.
fn parse(file: &[u8]) -> Result<Elf, Error> {
    Elf::parse(file, Some(file.len() as u64))
}

/// The PVH entry that the file's notes give.
fn pvh_entry_of(file: &[u8], elf: &Elf) -> Option<u64> {
    let bytes = |notes: &Notes| &file[notes.offset as usize..][..notes.size as usize];
    elf.notes.iter().find_map(|notes| pvh_entry(notes, bytes(notes)))
}

#[test]
fn segments_entries_and_range_are_found() {
    let file = fixture::elf(
        0x100_0002,
        &[(0x100_0000, b"text", 4), (0x200_0000, b"data", 0x1000), (0x300_0000, b"", 0x2000)],
        Some(0x100_0001),
    );
    let elf = parse(&file).unwrap();
    assert_eq!((elf.entry, pvh_entry_of(&file, &elf)), (0x100_0002, Some(0x100_0001)));
    assert_eq!(elf.file_end(), elf.segments[2].offset);
    assert_eq!(elf.range(), 0x100_0000..0x300_2000);
    assert_eq!(elf.segments.len(), 3);
    let data = elf.segments[1];
    assert_eq!(&file[data.offset as usize..][..data.file_size as usize], b"data");
    assert_eq!((data.address, data.memory_size), (0x200_0000, 0x1000));
}

#[test]
fn a_virtual_entry_is_translated() {
    let address = 0x100_0000u64;
    let virtual_address = address.wrapping_sub(0x8000_0000);
    let file = fixture::elf(virtual_address + 2, &[(address, b"text", 4)], None);
    let elf = parse(&file).unwrap();
    assert_eq!((elf.entry, elf.notes.as_slice()), (address + 2, &[][..]));
}

#[test]
fn another_architecture_is_named() {
    let mut file = fixture::vmlinux();
    file[18] = 183;
    let error = parse(&file).unwrap_err();
    assert!(error.to_string().contains("AArch64"), "{error}");
    // s390x is big-endian.
    file[5] = 2;
    (file[18], file[19]) = (0, 22);
    let error = parse(&file).unwrap_err();
    assert!(error.to_string().contains("s390x"), "{error}");
    let mut file = fixture::vmlinux();
    (file[4], file[18]) = (1, 3);
    let error = parse(&file).unwrap_err();
    assert!(error.to_string().contains("32-bit x86"), "{error}");
}

#[test]
fn what_is_no_kernel_is_named() {
    let parse = |file: Vec<u8>| parse(&file).unwrap_err();
    assert_eq!(parse(fixture::elf(0, &[], None)), Error::NoSegments);
    assert_eq!(
        parse(fixture::elf(0x1000, &[(0x1000, b"text", 4)], None)),
        Error::LowSegment(0x1000)
    );
    let file = fixture::elf(0x200_0000, &[(0x100_0000, b"text", 4)], None);
    assert_eq!(parse(file), Error::Entry(0x200_0000));
    let file = fixture::elf(0x100_0000, &[(0x100_0000, b"text", 2)], None);
    assert!(matches!(parse(file), Error::Headers(_)));
    let file = fixture::elf(u64::MAX - 4, &[(u64::MAX - 4, b"text", 8)], None);
    assert!(matches!(parse(file), Error::Headers(_)));
    let mut file = fixture::elf(0x100_0000, &[(0x100_0000, b"text", 4)], None);
    file.pop();
    assert!(matches!(parse(file), Error::Truncated { .. }));
    assert!(matches!(parse(b"\x7fELF".to_vec()), Error::Truncated { length: 4, .. }));
}

proptest! {
    #[test]
    fn arbitrary_headers_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.extend(bytes);
        if file.len() > 20 {
            (file[18], file[19]) = (62, 0);
        }
        let _ = parse(&file);
    }

    #[test]
    fn damaged_files_parse_to_segments_within_them(
        damage in prop::collection::vec((4usize..300, any::<u8>()), 1..5),
    ) {
        let mut file = fixture::vmlinux();
        for (offset, value) in damage {
            file[offset] = value;
        }
        if let Ok(elf) = parse(&file) {
            for segment in elf.segments {
                prop_assert!(segment.offset + segment.file_size <= file.len() as u64);
                prop_assert!(segment.address.checked_add(segment.memory_size).is_some());
            }
        }
    }
}
