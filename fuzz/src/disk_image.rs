//! A qcow2 image with some bytes of its tables otherwise, and requests to it: [`run`].
//!
//! The bytes are changes of an image that makes sense, behind each other, and then what is done to the disk. Nothing but an error may come
//! of it, whatever the image is: no panic, no end without an end, no memory beyond what the tables of the format take.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::VolatileSlice;
use vmm::disk::{Disk, Format, Options};

use crate::input::Input;

/// Bytes of a cluster: the smallest, so that an image is small.
const CLUSTER: usize = 512;

/// The clusters of the image: its header, the table of refcount blocks, a block, the table of L2 tables, the first of these, data.
const CLUSTERS: usize = 10;

/// Bytes of the disk: more than one L2 table is for.
const SIZE: u64 = 80 << 10;

/// An L2 table, or a cluster of data, that nobody else uses.
const COPIED: u64 = 1 << 63;

/// Makes an image of the bytes, and uses it.
///
/// # Panics
/// When the host has no memory for it, or what is looked for happens.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut image = template();
    for _ in 0..input.u8() % 32 {
        let place = usize::from(input.u16()) % image.len();
        let size = usize::from(input.u8() % 16).min(image.len() - place);
        let change = input.bytes(size);
        image[place..place + change.len()].copy_from_slice(change);
    }
    let how = input.u8();
    if how & 1 != 0 {
        image.truncate(usize::from(input.u16()) % image.len());
    }
    let file = memfd_create("image", MemfdFlags::CLOEXEC).expect("there is memory");
    let mut file = File::from(file);
    file.write_all(&image).expect("there is memory");
    let options = Options {
        path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
        format: Some(Format::Qcow2),
        read_only: how & 2 != 0,
        ephemeral: how & 6 == 4,
        direct: false,
    };
    if let Ok(disk) = Disk::open(&options) {
        use_it(&disk, &mut input);
    }
}

/// Some requests. The disk may be of any size by now.
fn use_it(disk: &Disk, input: &mut Input<'_>) {
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let what = input.u8();
        let sectors = disk.size() / 512;
        let first = u64::from(input.u16()) % sectors.max(1);
        let size = u64::from(input.u8() % 64).min(sectors - first) * 512;
        let mut data = vec![what; size as usize];
        let slice = [VolatileSlice::from(&mut data[..])];
        // Each may fail, and does so with an error.
        let _ = match what % 6 {
            0 | 1 => disk.write(&slice, first * 512),
            2 => disk.read(&slice, first * 512),
            3 => disk.discard(first * 512, size),
            4 => disk.write_zeroes(first * 512, size),
            _ => disk.flush(),
        };
    }
}

/// An image of version 3 with a cluster of data, as QEMU makes it. See: QEMU, docs/interop/qcow2.txt.
fn template() -> Vec<u8> {
    let mut image = vec![0; CLUSTERS * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let cluster = |number: u64| number * CLUSTER as u64;
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &9_u32.to_be_bytes());
    put(24, &SIZE.to_be_bytes());
    put(36, &3_u32.to_be_bytes());
    put(40, &cluster(3).to_be_bytes());
    put(48, &cluster(1).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &[0, 0, 0, 4, 0, 0, 0, 104]);
    put(CLUSTER, &cluster(2).to_be_bytes());
    for used in 0..7 {
        put(2 * CLUSTER + 2 * used, &[0, 1]);
    }
    put(3 * CLUSTER, &(cluster(4) | COPIED).to_be_bytes());
    put(4 * CLUSTER, &(cluster(5) | COPIED).to_be_bytes());
    // A cluster that is compressed, of one sector.
    put(4 * CLUSTER + 8, &(cluster(6) | 1 << 62).to_be_bytes());
    put(5 * CLUSTER, &[0x5a; CLUSTER]);
    image
}
