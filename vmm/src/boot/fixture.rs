//! Small kernel images for tests, made up byte by byte.

use std::io::Write;

use vm_memory::{GuestMemory as _, GuestMemoryMmap};

use super::layout;
use super::unpack::Compression;

/// A loadable segment of a made-up ELF file: address, bytes, size in memory.
pub type Load<'a> = (u64, &'a [u8], u64);

/// Makes an ELF file with the given segments, and a PVH note if asked for.
pub fn elf(entry: u64, loads: &[Load<'_>], pvh_entry: Option<u32>) -> Vec<u8> {
    let count = loads.len() + usize::from(pvh_entry.is_some());
    let mut headers = Vec::new();
    let mut data = Vec::new();
    let data_start = 64 + 56 * count as u64;
    for (address, bytes, memory_size) in loads {
        let offset = data_start + data.len() as u64;
        headers.extend(program_header(1, offset, *address, bytes.len() as u64, *memory_size));
        data.extend_from_slice(bytes);
    }
    if let Some(pvh_entry) = pvh_entry {
        let offset = data_start + data.len() as u64;
        let note = note(pvh_entry);
        headers.extend(program_header(4, offset, 0, note.len() as u64, 0));
        data.extend(note);
    }
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(2u16.to_le_bytes()); // ET_EXEC
    file.extend(62u16.to_le_bytes()); // x86-64
    file.extend(1u32.to_le_bytes());
    file.extend(entry.to_le_bytes());
    file.extend(64u64.to_le_bytes()); // program headers
    file.extend(0u64.to_le_bytes()); // no section headers
    file.extend(0u32.to_le_bytes());
    for half in [64, 56, count as u16, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(headers);
    file.extend(data);
    file
}

fn program_header(kind: u32, offset: u64, address: u64, size: u64, memory_size: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(7u32.to_le_bytes());
    for word in [offset, address.wrapping_sub(0x8000_0000), address, size, memory_size, 4] {
        header.extend(word.to_le_bytes());
    }
    header
}

/// Two notes, the second of which is PVH's.
fn note(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    for (name, kind, desc) in [(*b"GNU\0", 3u32, 0x1111_1111u32), (*b"Xen\0", 18, entry)] {
        note.extend(4u32.to_le_bytes());
        note.extend(4u32.to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(name);
        note.extend(desc.to_le_bytes());
    }
    note
}

/// Makes a Multiboot header, with `addresses` where there are any.
pub fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    let words = [&[MAGIC, flags, checksum], addresses].concat();
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Makes a 32-bit ELF file of a Multiboot header and `code` behind it, at 1 MiB.
pub fn multiboot_elf32(code: &[u8], flags: u32) -> Vec<u8> {
    const ADDRESS: u32 = 0x10_0000;
    let text = [&multiboot_header(flags, &[]), code].concat();
    let size = text.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2u16.to_le_bytes()); // ET_EXEC
    file.extend(3u16.to_le_bytes()); // i386
    for word in [1, ADDRESS + 12, 52, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [52u16, 32, 1, 40, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // The offset has to be a multiple of four, as it is.
    for word in [1, 84, ADDRESS, ADDRESS, size, size, 7, 4] {
        file.extend(word.to_le_bytes());
    }
    file.extend(text);
    file
}

/// A `vmlinux` of one segment at 16 MiB, entered at its second page.
pub fn vmlinux() -> Vec<u8> {
    let text: Vec<u8> = (0..0x3000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    elf(0x100_1000, &[(0x100_0000, &text, 0x5000)], Some(0x100_0850))
}

/// Wraps a payload in a `bzImage` of protocol 2.15 with one setup sector.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0u8; 1024];
    let mut put = |offset: usize, bytes: &[u8]| {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0x1f1, &[1]); // setup_sects
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x6a]); // jump over the header
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x20e, &0x100u16.to_le_bytes()); // kernel_version
    put(0x211, &[1]); // LOADED_HIGH
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x236, &1u16.to_le_bytes()); // XLF_KERNEL_64
    put(0x238, &2047u32.to_le_bytes());
    put(0x248, &0x10u32.to_le_bytes()); // payload_offset
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x300, b"6.1.0-test (x) #1\0");
    file.extend([0x90; 0x10]);
    file.extend(payload);
    file
}

/// Packs as a kernel build does: LZ4 legacy frame and the unpacked size.
pub fn lz4_with_size(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    for block in bytes.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    packed.extend((bytes.len() as u32).to_le_bytes());
    packed
}

/// Packs in a format, without the unpacked size.
pub fn pack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            w.write_all(bytes).unwrap();
            w.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut w = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            w.write_all(bytes).unwrap();
            w.finish().unwrap()
        }
        Compression::Lzma => {
            let options = lzma_rust2::LzmaOptions::with_preset(1);
            let mut w = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
            w.write_all(bytes).unwrap();
            w.finish().unwrap()
        }
        Compression::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut w = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            w.write_all(bytes).unwrap();
            w.finish().unwrap()
        }
        Compression::Lz4 => {
            let mut packed = lz4_with_size(bytes);
            packed.truncate(packed.len() - 4);
            packed
        }
        Compression::Zstd => {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        }
        Compression::Lzo => unreachable!("there is no encoder"),
    }
}

/// What can be unpacked.
pub const FORMATS: [Compression; 6] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Lzma,
    Compression::Xz,
    Compression::Lz4,
    Compression::Zstd,
];

/// Guest memory of `ram` bytes.
pub fn memory(ram: u64) -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&layout::ram_regions(ram)).unwrap();
    assert!(memory.physical_memory().is_some());
    memory
}
