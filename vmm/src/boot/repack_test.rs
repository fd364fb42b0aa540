use std::io::Cursor;

use vm_memory::{Bytes, GuestAddress};

use super::super::unpack::Compression;
use super::super::{Kernel, fixture};
use super::*;

const LIMIT: u64 = 16 << 20;

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// What is written, of a file with these bytes.
fn repacked(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut written = Cursor::new(Vec::new());
    let size = repack(file(bytes).path(), LIMIT, &mut written)?;
    assert_eq!(size, written.get_ref().len() as u64);
    Ok(written.into_inner())
}

/// A `vmlinux` with stretches of zeros, short ones and long ones, more than one chunk long, and relocations behind it.
fn vmlinux() -> Vec<u8> {
    let mut text: Vec<u8> = (0..900_000_u32).map(|i| ((i * 7) >> 5) as u8 | 1).collect();
    text[100_000..150_000].fill(0);
    text[300_000..700_000].fill(0);
    let mut data = vec![0; 200_000];
    data[170_000..].fill(0x5a);
    // In the middle of a page, and not far behind the other.
    let loads = [
        (0x100_0000, text.as_slice(), 1_000_000),
        (0x110_0123, data.as_slice(), 300_000),
        (0x180_0000, &[][..], 5000),
    ];
    [fixture::elf(0x100_1000, &loads, Some(0x100_0850)), vec![0x33; 1 << 20]].concat()
}

/// What a kernel is after it was loaded: its entry, its range, its PVH entry, and the guest's memory.
fn loaded(kernel: Kernel) -> (u64, Range<u64>, Option<u64>, Vec<u8>) {
    let (entry, range) = (kernel.elf().entry, kernel.elf().range());
    let memory = fixture::memory(64 << 20);
    let pvh = kernel.load(&memory).unwrap();
    let mut bytes = vec![0; 64 << 20];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    (entry, range, pvh, bytes)
}

#[test]
fn a_kernel_comes_out_as_it_went_in() {
    let unpacked = vmlinux();
    for packed in [fixture::lz4_with_size(&unpacked), fixture::pack(Compression::Gzip, &unpacked)] {
        let packed = fixture::bzimage(&packed);
        let written = repacked(&packed).unwrap();
        let [new, old] = [written, packed].map(|bytes| Kernel::from_bytes(bytes, LIMIT).unwrap());
        assert_eq!((new.compression(), new.version()), (None, old.version()));
        let [new, old] = [new, old].map(loaded);
        assert_eq!((new.0, &new.1, new.2), (old.0, &old.1, old.2));
        assert_eq!((new.1, new.2), (0x100_0000..0x180_0000 + 5000, Some(0x100_0850)));
        assert!(new.3 == old.3);
    }
}

#[test]
fn long_stretches_of_zeros_are_left_out_and_pages_are_pages() {
    let written = repacked(&fixture::bzimage(&fixture::lz4_with_size(&vmlinux()))).unwrap();
    let before = fixture::bzimage(&[]).len();
    let kernel = Kernel::from_bytes(written.clone(), LIMIT).unwrap();
    let parts = &kernel.elf().segments[1..];
    let within_a_page = |start: u64, end: u64| start % PAGE == end % PAGE;
    for part in parts {
        assert!(within_a_page(part.address, before as u64 + part.offset));
        assert_eq!(part.file_size, part.memory_size);
    }
    // The first one goes on behind the short stretch, and ends in the page where the long one begins.
    let page = |address: u64| address.next_multiple_of(PAGE);
    let ends = parts.iter().map(|part| (part.address, page(part.address + part.file_size)));
    let ends: Vec<_> = ends.collect();
    let second = 0x100_0000 + 700_000 - 700_000 % PAGE;
    assert_eq!(
        ends[..2],
        [(0x100_0000, page(0x100_0000 + 300_000)), (second, page(0x100_0000 + 900_000))]
    );
    assert_eq!(ends[2].1, page(0x110_0123 + 200_000));
    assert_eq!(ends.len(), 3);
    let bytes: u64 = parts.iter().map(|part| part.file_size).sum();
    assert!((written.len() as u64) < before as u64 + bytes + 4 * PAGE + 1000, "{}", written.len());
}

#[test]
fn what_has_too_many_parts_is_refused() {
    const PART: usize = 0x12000;
    let packed = |count: usize| {
        let text = [&[1; 4096][..], &[0; PART - 4096]].concat().repeat(count);
        let loads = [(0x100_0000, text.as_slice(), text.len() as u64)];
        let unpacked = fixture::elf(0x100_0000, &loads, Some(0x100_0850));
        fixture::bzimage(&fixture::lz4_with_size(&unpacked))
    };
    // There are the note and the whole kernel besides.
    let written = repacked(&packed(MAX_HEADERS - 2)).unwrap();
    let kernel = Kernel::from_bytes(written, LIMIT).unwrap();
    assert_eq!(kernel.elf().segments.len(), MAX_HEADERS - 1);
    assert_eq!(loaded(kernel).2, Some(0x100_0850));
    for count in [MAX_HEADERS - 1, 2 * MAX_HEADERS] {
        let mut written = Cursor::new(Vec::new());
        let result = repack(file(&packed(count)).path(), LIMIT, &mut written);
        assert!(matches!(result, Err(Error::Scattered)));
        // It does not go on when it is known.
        assert!(written.get_ref().len() < (MAX_HEADERS + 3) * 4096);
    }
}

#[test]
fn what_is_not_packed_or_no_bzimage_is_left_alone() {
    let vmlinux = fixture::vmlinux();
    for bytes in [fixture::bzimage(&vmlinux), vmlinux, b"kernel".to_vec(), Vec::new()] {
        assert_eq!(repacked(&bytes).unwrap(), []);
    }
}

#[test]
fn what_is_damaged_or_too_big_is_an_error() {
    let mut packed = fixture::lz4_with_size(&fixture::vmlinux());
    packed.truncate(200);
    assert!(matches!(repacked(&fixture::bzimage(&packed)), Err(Error::Kernel(_))));
    let vmlinux = fixture::vmlinux();
    let packed = fixture::bzimage(&fixture::lz4_with_size(&vmlinux));
    // As it comes out; with more than that before it.
    for limit in [1000, vmlinux.len() as u64] {
        let result = repack(file(&packed).path(), limit, &mut Cursor::new(Vec::new()));
        assert!(matches!(result, Err(Error::Kernel(_))), "{limit}");
    }
}

#[test]
fn a_file_that_takes_no_more_is_told_apart() {
    let packed = file(&fixture::bzimage(&fixture::lz4_with_size(&fixture::vmlinux())));
    let mut room = [0; 2000];
    let result = repack(packed.path(), LIMIT, &mut Cursor::new(&mut room[..]));
    assert!(matches!(result, Err(Error::Write(_))));
}
