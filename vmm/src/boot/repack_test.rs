use std::io::Cursor;

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

#[test]
fn a_kernel_comes_out_as_it_went_in() {
    // More than one chunk, and relocations behind the ELF file.
    let vmlinux = [fixture::vmlinux(), vec![0x5a; 1 << 20]].concat();
    for packed in [fixture::lz4_with_size(&vmlinux), fixture::pack(Compression::Gzip, &vmlinux)] {
        let written = repacked(&fixture::bzimage(&packed)).unwrap();
        assert!(written == fixture::bzimage(&vmlinux));
        let [new, old] = [written, fixture::bzimage(&packed)]
            .map(|bytes| Kernel::from_bytes(bytes, LIMIT).unwrap());
        assert_eq!((new.compression(), new.version()), (None, old.version()));
        assert_eq!(new.elf().segments, old.elf().segments);
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
    let packed = fixture::bzimage(&fixture::lz4_with_size(&fixture::vmlinux()));
    let result = repack(file(&packed).path(), 1000, &mut Cursor::new(Vec::new()));
    assert!(matches!(result, Err(Error::Kernel(_))));
}

#[test]
fn a_file_that_takes_no_more_is_told_apart() {
    let packed = file(&fixture::bzimage(&fixture::lz4_with_size(&fixture::vmlinux())));
    let mut room = [0; 2000];
    let result = repack(packed.path(), LIMIT, &mut Cursor::new(&mut room[..]));
    assert!(matches!(result, Err(Error::Write(_))));
}
