//! Several threads do whatever they like with blocks of their own, as queues do, and find what each of them had there. Their blocks share
//! clusters.

use std::path::Path;
use std::process::Command;

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use vm_memory::VolatileSlice;
use vmm::disk::{Disk, Format, Options};

const THREADS: u64 = 4;
const BLOCK: u64 = 4096;
/// Blocks of each thread.
const BLOCKS: u64 = 512;
/// What each thread does.
const STEPS: u32 = 3000;

/// Where a thread's block is: between those of the others.
fn place(thread: u64, block: u64) -> u64 {
    (block * THREADS + thread) * BLOCK
}

fn read(disk: &Disk, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; BLOCK as usize];
    disk.read(&[VolatileSlice::from(&mut bytes[..])], offset).unwrap();
    bytes
}

/// What one does: gives what its blocks are full of.
fn play(disk: &Disk, thread: u64) -> Vec<u8> {
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[thread as u8; 32]);
    let mut model = vec![0; BLOCKS as usize];
    for _ in 0..STEPS {
        let [what, value, block] = [8, 255, BLOCKS as u32].map(|most| random.next_u32() % most);
        let offset = place(thread, block.into());
        let known = &mut model[block as usize];
        match what {
            0..4 => {
                *known = value as u8;
                let mut bytes = vec![*known; BLOCK as usize];
                disk.write(&[VolatileSlice::from(&mut bytes[..])], offset).unwrap();
            }
            4 => {
                *known = 0;
                disk.discard(offset, BLOCK).unwrap();
                disk.write_zeroes(offset, BLOCK).unwrap();
            }
            5 if value < 32 => disk.flush().unwrap(),
            _ => assert!(read(disk, offset).iter().all(|byte| byte == known)),
        }
    }
    model
}

fn holds(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    let size = (THREADS * BLOCKS * BLOCK).to_string();
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-o", options]).arg(&path).arg(size);
    assert!(create.status().expect("it is installed").success());
    let disk = open(&path);
    let models: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let disk = &disk;
                scope.spawn(move || play(disk, thread))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    drop(disk);
    let mut check = Command::new("qemu-img");
    let status = check.args(["check", "-q", "-f", "qcow2"]).arg(&path).status().unwrap();
    assert!(status.success(), "{options}: {status}");
    let disk = open(&path);
    for (thread, model) in (0..).zip(&models) {
        for (block, known) in (0..).zip(model) {
            let found = read(&disk, place(thread, block));
            assert!(found.iter().all(|byte| byte == known), "{options}: {block} of {thread}");
        }
    }
}

fn open(path: &Path) -> Disk {
    let (path, format) = (path.to_path_buf(), Some(Format::Qcow2));
    Disk::open(&Options { path, format, read_only: false, ephemeral: false, direct: false })
        .unwrap()
}

#[test]
fn threads_find_what_they_have_written() {
    for options in ["cluster_size=64k", "cluster_size=512", "compat=0.10"] {
        holds(options);
    }
}
