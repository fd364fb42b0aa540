use proptest::prelude::*;

use super::super::super::fixture;
use super::*;

/// A header with `flags` and, if they say so, `addresses`.
fn header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    fixture::multiboot_header(flags, addresses)
}

fn at(offset: usize, header: &[u8]) -> Vec<u8> {
    let mut file = vec![0x90; offset];
    file.extend(header);
    file
}

/// What is loaded of a file, or why it is not.
fn image(file: &[u8]) -> Result<Elf, String> {
    let header = Header::find(file).expect("a header");
    header.image(file, file.len() as u64).map_err(|error| error.to_string())
}

#[test]
fn a_header_is_found_where_it_may_be() {
    for offset in [0, 4, 0x1000, SEARCHED - 12] {
        let found = Header::find(&at(offset, &header(3, &[]))).unwrap();
        assert_eq!(found, Header { offset: offset as u64, flags: 3, addresses: None });
    }
    for offset in [1, 2, SEARCHED - 8, SEARCHED] {
        assert_eq!(Header::find(&at(offset, &header(3, &[]))), None, "{offset}");
    }
    // Its addresses have to be there, too.
    let long = header(1 << 16, &[1, 2, 3, 4, 5]);
    let addresses = Addresses { header: 1, load: 2, load_end: 3, bss_end: 4, entry: 5 };
    let found = Header::find(&at(SEARCHED - 32, &long)).unwrap();
    assert_eq!(found.addresses, Some(addresses));
    assert_eq!(Header::find(&at(SEARCHED - 28, &long)), None);
}

#[test]
fn what_only_looks_like_a_header_is_passed_over() {
    let mut wrong = header(3, &[]);
    wrong[8] ^= 1;
    assert_eq!(Header::find(&wrong), None);
    wrong.extend(header(2, &[]));
    assert_eq!(Header::find(&wrong).unwrap().flags, 2);
}

#[test]
fn addresses_say_what_is_loaded() {
    let mut file = at(0x20, &header(1 << 16, &[0x10_0010, 0x10_0000, 0, 0, 0x10_0030]));
    file.resize(0x80, 0xcc);
    let loaded = |file_size, memory_size| Elf {
        segments: vec![Segment { offset: 0x10, file_size, address: 0x10_0000, memory_size }],
        entry: 0x10_0030,
        notes: Vec::new(),
    };
    assert_eq!(image(&file), Ok(loaded(0x70, 0x70)));
    let mut set = |index: usize, value: u32| {
        file[0x20 + index * 4..][..4].copy_from_slice(&value.to_le_bytes());
        image(&file)
    };
    assert_eq!(set(5, 0x10_0060), Ok(loaded(0x60, 0x60)));
    assert_eq!(set(6, 0x10_2000), Ok(loaded(0x60, 0x2000)));
    let refused = |result: Result<Elf, String>, said: &str| {
        let error = result.unwrap_err();
        assert!(error.contains(said), "{error}");
    };
    refused(set(6, 0x10_0040), "zeros");
    refused(set(5, 0x10_0071), "file ends");
    refused(set(5, 0xf_ffff), "before its beginning");
    set(6, 0).unwrap_err();
    set(5, 0).unwrap();
    refused(set(7, 0x10_0070), "entry");
    refused(set(3, 0xf_fff0), "header is not in");
    refused(set(3, 0x10_0021), "header is not in");
    let endless = Header::find(&header(1 << 16, &[1 << 20, 1 << 20, 0, 0, 1 << 20])).unwrap();
    for length in [1 << 32, u64::MAX] {
        let error = endless.image(&[], length).unwrap_err().to_string();
        assert!(error.contains("beyond 4 GiB"), "{error}");
    }
}

#[test]
fn demands_that_are_not_known_are_refused_and_wishes_are_not() {
    let kernel = |flags| fixture::multiboot_elf32(&[0xf4], flags);
    assert!(image(&kernel(0)).is_ok());
    assert!(image(&kernel(0x7)).is_ok(), "a video mode is a wish");
    assert!(image(&kernel(0xfffe_0000)).is_ok(), "the upper half may be ignored");
    let error = image(&kernel(1 << 3)).unwrap_err();
    assert_eq!(error, "its Multiboot header demands what is not supported (flags 0x8)");
    assert!(image(&kernel(1 << 15 | 1)).unwrap_err().contains("0x8001"));
}

#[test]
fn both_classes_of_elf_files_are_loaded_and_others_are_not() {
    let file = fixture::multiboot_elf32(&[0xf4], 3);
    let elf = image(&file).unwrap();
    assert_eq!((elf.entry, elf.segments[0].address), (0x10_000c, 0x10_0000));
    let text = [&header(3, &[])[..], &[0xf4]].concat();
    let size = text.len() as u64;
    let elf = image(&fixture::elf(0x10_000c, &[(0x10_0000, &text, size)], None)).unwrap();
    assert_eq!((elf.entry, elf.segments[0].address), (0x10_000c, 0x10_0000));

    let mut arm = file.clone();
    arm[18] = 40;
    assert!(image(&arm).unwrap_err().contains("32-bit Arm"));
    assert!(image(&header(3, &[])).unwrap_err().contains("no ELF file"));
    let beyond = fixture::elf(1 << 32, &[(1 << 32, &text, size)], None);
    assert!(image(&beyond).unwrap_err().contains("beyond 4 GiB"));
}

#[test]
fn a_kernel_may_load_below_1_mib_but_not_where_the_machine_has_its_own() {
    let load = |address: u64, size: u64| {
        let text = [&header(0, &[])[..], &[0xf4]].concat();
        image(&fixture::elf(address, &[(address, &text, size)], None)).map(|elf| elf.entry)
    };
    assert_eq!(load(0x4000, 0x9_0000), Ok(0x4000), "as kvm-unit-tests' realmode.flat does");
    assert!(load(0x500, 0x100).unwrap_err().contains("loads at 0x500"));
    assert!(load(0x9_0000, 0x1_0001).unwrap_err().contains("loads at 0x90000"));
    assert!(load(0xe_0000, 0x10_0000).unwrap_err().contains("no memory for a kernel"));
}

proptest! {
    #[test]
    fn arbitrary_headers_do_no_harm(
        offset in 0usize..64,
        flags: u32,
        words: [u32; 5],
        no_end: bool,
        length in prop_oneof![any::<u64>(), u64::MAX - (1 << 33)..=u64::MAX, 0u64..1 << 33],
    ) {
        let mut words = words;
        if no_end {
            (words[2], words[3]) = (0, 0);
        }
        let mut file = at(offset * 4, &header(flags, &words));
        file.resize(file.len() + 64, 0);
        let found = Header::find(&file).unwrap();
        prop_assert_eq!(found.offset, offset as u64 * 4);
        if let Ok(elf) = found.image(&file, length) {
            for segment in elf.segments {
                prop_assert!(segment.offset.checked_add(segment.file_size).unwrap() <= length);
                prop_assert!(segment.file_size <= segment.memory_size);
                prop_assert!(segment.address + segment.memory_size <= 1 << 32);
            }
        }
    }

    #[test]
    fn plausible_addresses_do_no_harm(
        offset in 0usize..64,
        near in prop::array::uniform5(0u32..0x400),
        length in 0u64..0x400,
    ) {
        let words = near.map(|offset| 0x10_0000 + offset);
        let file = at(offset * 4, &header(1 << 16, &words));
        if let Ok(elf) = Header::find(&file).unwrap().image(&file, length) {
            let segment = elf.segments[0];
            prop_assert!(segment.offset + segment.file_size <= length);
            prop_assert!(elf.entry - segment.address < segment.file_size);
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(header) = Header::find(&bytes) {
            let _ = header.image(&bytes, bytes.len() as u64);
        }
    }

    #[test]
    fn damaged_elf_files_do_no_harm(
        damage in prop::collection::vec((4usize..97, any::<u8>()), 1..5),
        length: u64,
    ) {
        let mut file = fixture::multiboot_elf32(&[0xf4; 16], 3);
        for (offset, value) in damage {
            file[offset] = value;
        }
        if let Some(header) = Header::find(&file)
            && let Ok(elf) = header.image(&file, length)
        {
            for segment in elf.segments {
                prop_assert!(segment.offset + segment.file_size <= length);
            }
        }
    }
}
