use std::io::Write;
use std::sync::LazyLock;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::fixture;
use super::*;

const LIMIT: u64 = 16 << 20;

fn temporary(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Loads `kernel` and checks that its segments are those of `vmlinux`.
fn check_loaded(kernel: Kernel, vmlinux: &[u8]) {
    let memory = fixture::memory(32 << 20);
    let segments = kernel.elf().segments.clone();
    assert_eq!(kernel.range(32 << 20).unwrap(), 0x100_0000..0x100_5000);
    assert_eq!(kernel.load(&memory).unwrap(), Some(0x100_0850));
    assert!(!segments.is_empty());
    for segment in segments {
        let mut loaded = vec![0; segment.file_size as usize];
        memory.read_slice(&mut loaded, GuestAddress(segment.address)).unwrap();
        assert!(loaded == vmlinux[segment.offset as usize..][..loaded.len()]);
    }
}

fn message(bytes: &[u8]) -> String {
    Kernel::from_bytes(bytes.to_vec(), LIMIT).unwrap_err().to_string()
}

#[test]
fn a_bzimage_is_unpacked_and_loaded() {
    let vmlinux = fixture::vmlinux();
    let file = temporary(&fixture::bzimage(&fixture::lz4_with_size(&vmlinux)));
    let kernel = Kernel::open(file.path(), LIMIT).unwrap();
    assert_eq!(kernel.compression(), Some(Compression::Lz4));
    assert_eq!(kernel.version(), Some("6.1.0-test (x) #1"));
    assert_eq!(kernel.release(), Some("6.1.0-test"));
    assert_eq!(kernel.command_line_limit(), 2047);
    assert!(!kernel.kaslr());

    check_loaded(kernel, &vmlinux);
}

#[test]
fn a_vmlinux_is_read_from_its_file() {
    let vmlinux = fixture::vmlinux();
    let file = temporary(&vmlinux);
    let kernel = Kernel::open(file.path(), 10).unwrap();
    assert_eq!((kernel.compression(), kernel.version()), (None, None));
    assert!(kernel.setup_header().is_none());
    check_loaded(kernel, &vmlinux);
}

#[test]
fn a_kernel_may_be_packed_in_each_format_inside_and_as_a_whole() {
    let vmlinux = fixture::vmlinux();
    let bzimage = fixture::bzimage(&vmlinux);
    for format in fixture::FORMATS {
        let inside = fixture::bzimage(&fixture::pack(format, &vmlinux));
        for file in [inside, fixture::pack(format, &vmlinux), fixture::pack(format, &bzimage)] {
            let kernel = Kernel::open(temporary(&file).path(), LIMIT).unwrap();
            assert_eq!(kernel.compression(), Some(format));
            assert_eq!(kernel.elf().entry, 0x100_1000);
            check_loaded(kernel, &vmlinux);
            check_loaded(Kernel::from_bytes(file, LIMIT).unwrap(), &vmlinux);
        }
    }
}

#[test]
fn a_kernel_may_be_stored_in_a_bzimage() {
    let vmlinux = fixture::vmlinux();
    let file = fixture::bzimage(&vmlinux);
    check_loaded(Kernel::open(temporary(&file).path(), LIMIT).unwrap(), &vmlinux);
    check_loaded(Kernel::from_bytes(file, LIMIT).unwrap(), &vmlinux);
}

#[test]
fn files_that_are_none_are_named() {
    let missing = Kernel::open(Path::new("/nonexistent/bzimage"), LIMIT).unwrap_err();
    assert_eq!(missing.to_string(), "cannot open it: no such file");
    assert!(matches!(Kernel::open(Path::new("/"), LIMIT), Err(Error::Directory)));
    assert!(matches!(Kernel::open(temporary(b"").path(), LIMIT), Err(Error::Empty)));
    assert!(matches!(Kernel::open(temporary(&[1; 100]).path(), 99), Err(Error::TooBig(99))));
    assert!(Kernel::open(Path::new("/dev/null"), LIMIT).is_err());
}

#[test]
fn other_things_are_named() {
    let text = message(b"\n#!/bin/sh\necho hello\n");
    assert!(text.contains("a text file (it begins with \"#!/bin/sh\")"), "{text}");
    assert!(message(&[7, 8, 9]).contains("[07, 08, 09]"));
    assert!(message(b"070701000").contains("cpio archive"));
    let mut arm = vec![0; 100];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    assert!(message(&arm).contains("a kernel for 64-bit Arm (AArch64)"));
    let mut efi = vec![0; 0x100];
    efi[..2].copy_from_slice(b"MZ");
    efi[0x3c] = 0x80;
    efi[0x80..0x86].copy_from_slice(b"PE\0\0\x64\x86");
    assert!(message(&efi).contains("EFI program"));
}

#[test]
fn damage_inside_is_named() {
    let packed = fixture::lz4_with_size(b"not an ELF file at all");
    assert!(message(&fixture::bzimage(&packed)).contains("contains no ELF file"));
    let unknown = message(&fixture::bzimage(b"\xde\xad\xbe\xefxxxx"));
    assert!(unknown.contains("unknown compression (it begins with [de, ad, be, ef"), "{unknown}");
    let file = fixture::bzimage(&fixture::lz4_with_size(&fixture::vmlinux()));
    assert!(message(&file[..file.len() - 1]).contains("cut off"));
    let too_big = Kernel::from_bytes(file, 10_000).unwrap_err();
    assert!(matches!(too_big, Error::Unpack(unpack::Error::TooBig { limit: 10_000, .. })));
}

#[test]
fn a_kernel_bigger_than_memory_is_refused() {
    let kernel = Kernel::from_bytes(fixture::vmlinux(), LIMIT).unwrap();
    let result = kernel.range(16 << 20);
    assert!(matches!(result, Err(Error::NoRoom { needed: 0x100_5000, memory: 0x100_0000 })));
}

/// A `vmlinux` of many chunks, packed in each format.
static LONG: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let text: Vec<u8> =
        (0..700_000u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let vmlinux = fixture::elf(0x100_0000, &[(0x100_0000, &text, 700_000)], None);
    fixture::FORMATS.into_iter().map(|format| fixture::pack(format, &vmlinux)).collect()
});

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Kernel::from_bytes(bytes, 10_000).is_err());
    }

    #[test]
    fn damaged_kernels_do_no_harm(
        format in 0..fixture::FORMATS.len(),
        inside: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let packed = fixture::pack(fixture::FORMATS[format], &fixture::vmlinux());
        let mut file = if inside { fixture::bzimage(&packed) } else { packed };
        for (index, value) in damage {
            let index = index.index(file.len());
            file[index] = value;
        }
        if let Ok(kernel) = Kernel::from_bytes(file, LIMIT) && kernel.range(32 << 20).is_ok() {
            let _ = kernel.load(&fixture::memory(32 << 20));
        }
    }

    #[test]
    fn kernels_cut_off_behind_their_headers_are_errors_when_they_are_loaded(
        format in 0..fixture::FORMATS.len(),
        kept in 0.4f64..0.99,
    ) {
        let packed = &LONG[format];
        let file = fixture::bzimage(&packed[..(packed.len() as f64 * kept) as usize]);
        let error = match Kernel::from_bytes(file, LIMIT) {
            Ok(kernel) => kernel.load(&fixture::memory(32 << 20)).unwrap_err(),
            Err(error) => error,
        };
        prop_assert!(matches!(error, Error::Unpack(_)), "{}", error);
    }
}
