use std::io::Write;

use proptest::prelude::*;

use super::super::fixture;
use super::*;

const LIMIT: u64 = 16 << 20;

fn temporary(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
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
    assert_eq!(kernel.command_line_limit(), 2047);
    assert!(!kernel.kaslr());

    let memory = fixture::memory(32 << 20);
    assert_eq!(kernel.load(&memory, 32 << 20).unwrap(), 0x100_0000..0x100_5000);
    let segment = kernel.elf().segments[0];
    let mut loaded = vec![0; 0x3000];
    memory.read_slice(&mut loaded, GuestAddress(0x100_0000)).unwrap();
    assert!(loaded == vmlinux[segment.offset as usize..][..0x3000]);
}

#[test]
fn a_vmlinux_is_read_from_its_file() {
    let vmlinux = fixture::vmlinux();
    let file = temporary(&vmlinux);
    let kernel = Kernel::open(file.path(), 10).unwrap();
    assert_eq!((kernel.compression(), kernel.version()), (None, None));
    assert!(kernel.setup_header().is_none());
    let memory = fixture::memory(32 << 20);
    kernel.load(&memory, 32 << 20).unwrap();
    let segment = kernel.elf().segments[0];
    let mut loaded = vec![0; 0x3000];
    memory.read_slice(&mut loaded, GuestAddress(0x100_0000)).unwrap();
    assert!(loaded == vmlinux[segment.offset as usize..][..0x3000]);
}

#[test]
fn a_kernel_may_be_compressed_as_a_whole() {
    for inner in [fixture::vmlinux(), fixture::bzimage(&fixture::vmlinux())] {
        let kernel = Kernel::from_bytes(fixture::lz4_with_size(&inner), LIMIT).unwrap();
        assert_eq!(kernel.compression(), Some(Compression::Lz4));
        assert_eq!(kernel.elf().entry, 0x100_1000);
    }
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
    let too_big = Kernel::from_bytes(file, 1000).unwrap_err();
    assert!(matches!(too_big, Error::Unpack(unpack::Error::TooBig { limit: 1000, .. })));
}

#[test]
fn a_kernel_bigger_than_memory_is_refused() {
    let kernel = Kernel::from_bytes(fixture::vmlinux(), LIMIT).unwrap();
    let memory = fixture::memory(16 << 20);
    let result = kernel.load(&memory, 16 << 20);
    assert!(matches!(result, Err(Error::NoRoom { needed: 0x100_5000, memory: 0x100_0000 })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Kernel::from_bytes(bytes, 10_000).is_err());
    }

    #[test]
    fn damaged_kernels_do_no_harm(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = fixture::bzimage(&fixture::lz4_with_size(&fixture::vmlinux()));
        for (index, value) in damage {
            let index = index.index(file.len());
            file[index] = value;
        }
        if let Ok(kernel) = Kernel::from_bytes(file, LIMIT) {
            let _ = kernel.load(&fixture::memory(32 << 20), 32 << 20);
        }
    }
}
