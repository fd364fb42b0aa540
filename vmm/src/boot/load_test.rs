use vm_memory::Bytes;

use super::super::fixture;
use super::super::unpack::Compression;
use super::*;

#[test]
fn a_chunk_gives_what_it_has_of_a_range() {
    let chunk = Chunk { offset: 100, bytes: b"0123456789" };
    assert_eq!(chunk.overlap(102, 3), Some((0, &b"234"[..])));
    assert_eq!(chunk.overlap(90, 12), Some((10, &b"01"[..])));
    assert_eq!(chunk.overlap(108, 50), Some((0, &b"89"[..])));
    assert_eq!(chunk.overlap(50, u64::MAX), Some((50, &b"0123456789"[..])));
    for (offset, size) in [(100, 0), (90, 10), (110, 5), (u64::MAX, u64::MAX)] {
        assert_eq!(chunk.overlap(offset, size), None);
    }
}

/// Segments that are bigger than the chunks in which they come, out of order, one within another.
fn big_vmlinux() -> (Vec<u8>, Elf) {
    let text: Vec<u8> = (0..600_000u32).map(|i| ((i * 7) >> 5) as u8).collect();
    let data: Vec<u8> = (0..300_000u32).map(|i| ((i * 5) >> 6) as u8).collect();
    let loads = [
        (0x200_0000, text.as_slice(), 600_000),
        (0x100_0000, data.as_slice(), 400_000),
        (0x180_0000, &[][..], 5000),
    ];
    let file = fixture::elf(0x200_0000, &loads, Some(0x200_0010));
    let mut elf = Elf::parse(&file, Some(file.len() as u64)).unwrap();
    let inner = elf::Segment { offset: 500_000, file_size: 1000, ..elf.segments[2] };
    elf.segments.push(inner);
    (file, elf)
}

#[test]
fn segments_and_notes_arrive_from_every_kind_of_source() {
    let (file, elf) = big_vmlinux();
    let check = |name: &str, load: &dyn Fn(&_) -> Result<Vec<Vec<u8>>, Error>| {
        let memory = fixture::memory(64 << 20);
        let notes = load(&memory).unwrap();
        for segment in &elf.segments {
            let mut loaded = vec![0; segment.file_size as usize];
            memory.read_slice(&mut loaded, GuestAddress(segment.address)).unwrap();
            assert!(loaded == file[segment.offset as usize..][..loaded.len()], "{name}");
        }
        assert_eq!(elf::pvh_entry(&elf.notes[0], &notes[0]), Some(0x200_0010), "{name}");
    };
    check("stored", &|memory| stored(&Input::bytes(file.clone()), &elf, memory));
    for format in fixture::FORMATS {
        let input = || Input::bytes(fixture::pack(format, &file));
        let unpacker = || Unpacker::new(input(), 1 << 20).unwrap();
        check(format.name(), &|memory| packed(unpacker(), &elf, memory));
    }
}

#[test]
fn a_file_that_unpacks_to_less_than_its_headers_say_is_cut_off() {
    let (file, elf) = big_vmlinux();
    for format in [Compression::Gzip, Compression::Lz4] {
        let input = Input::bytes(fixture::pack(format, &file[..800_000]));
        let unpacker = Unpacker::new(input, 1 << 20).unwrap();
        let error = packed(unpacker, &elf, &fixture::memory(64 << 20)).unwrap_err();
        let expected = elf::Error::Truncated { length: 800_000, needed: elf.file_end() };
        assert!(matches!(error, Error::Elf(error) if error == expected));
    }
}

#[test]
fn pages_of_zeros_are_not_placed() {
    const SIZE: usize = 4096;
    // What is placed begins and ends within a page of the guest's.
    const ADDRESS: usize = 0x20_0000 - 100;
    let mut bytes = vec![1; 10 * SIZE];
    let zeros = [0..100, 100 + SIZE..100 + 3 * SIZE, 100 + 5 * SIZE - 1..100 + 6 * SIZE];
    for range in zeros {
        bytes[range].fill(0);
    }
    let mut found = vec![7; 4 << 20];
    but_zeros::<()>(&bytes, ADDRESS as u64, &mut |part, address| {
        found[address as usize..][..part.len()].copy_from_slice(part);
        Ok(())
    })
    .unwrap();

    // The last byte before a page of zeros is one itself: it belongs to the page before.
    let mut expected = vec![7; 4 << 20];
    expected[ADDRESS..][..bytes.len()].copy_from_slice(&bytes);
    for untouched in [0..100, 100 + SIZE..100 + 3 * SIZE, 100 + 5 * SIZE..100 + 6 * SIZE] {
        expected[ADDRESS..][untouched].fill(7);
    }
    assert!(found == expected);
}
