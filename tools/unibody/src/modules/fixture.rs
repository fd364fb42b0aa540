//! Modules for tests: ELF files with a section `.modinfo` and no code.

use std::fs;
use std::path::Path;

/// A module that says this of itself.
pub(crate) fn module(info: &[&str]) -> Vec<u8> {
    let info: Vec<u8> = info.iter().flat_map(|entry| [entry.as_bytes(), b"\0"].concat()).collect();
    of_sections(&[(".modinfo", &info)])
}

/// A relocatable file for x86-64 with these sections.
pub(crate) fn of_sections(sections: &[(&str, &[u8])]) -> Vec<u8> {
    const HEADER: usize = 64;
    let mut names = b"\0.shstrtab\0".to_vec();
    let mut data = Vec::new();
    // Name, kind, place and size: none, the names, and then the others.
    let mut headers = vec![[0; 4], [1, 3, 0, 0]];
    for (name, bytes) in sections {
        headers.push([names.len(), 1, HEADER + data.len(), bytes.len()]);
        names.extend_from_slice(name.as_bytes());
        names.push(0);
        data.extend_from_slice(bytes);
    }
    headers[1] = [1, 3, HEADER + data.len(), names.len()];
    data.extend_from_slice(&names);
    data.resize(data.len().next_multiple_of(8), 0);

    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [1_u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for word in [0, 0, HEADER + data.len()] {
        elf.extend((word as u64).to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [HEADER as u16, 0, 0, 64, headers.len() as u16, 1] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(data);
    for [name, kind, offset, size] in headers {
        elf.extend((name as u32).to_le_bytes());
        elf.extend((kind as u32).to_le_bytes());
        for word in [0, 0, offset, size] {
            elf.extend((word as u64).to_le_bytes());
        }
        elf.extend([0; 8]);
        for word in [1_u64, 0] {
            elf.extend(word.to_le_bytes());
        }
    }
    elf
}

/// Puts files into a folder.
pub(crate) fn fill(folder: &Path, files: &[(&str, &[u8])]) {
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A few modules, as a package has them: without what depmod makes.
pub(crate) fn kernel(folder: &Path) {
    let blk =
        module(&["alias=virtio:d00000002v*", "depends=virtio,virtio_ring", "name=virtio_blk"]);
    fill(
        folder,
        &[
            ("kernel/drivers/virtio/virtio.ko", &module(&["depends=virtio_ring", "name=virtio"])),
            ("kernel/drivers/virtio/virtio_ring.ko", &module(&["depends=", "name=virtio_ring"])),
            ("kernel/drivers/block/virtio_blk.ko", &blk),
            ("kernel/drivers/char/virtio-rng.ko", &module(&["depends=virtio,rng-core"])),
            ("kernel/fs/xfs/xfs.ko", &module(&["alias=fs-xfs", "softdep=pre: crc32c", "depends="])),
            ("kernel/crypto/crc32c-intel.ko", &module(&["alias=crc32c", "depends="])),
            ("kernel/other.ko", &module(&["depends="])),
            ("modules.builtin", b"kernel/fs/ext4/ext4.ko\nkernel/drivers/char/rng-core.ko\n"),
        ],
    );
}
