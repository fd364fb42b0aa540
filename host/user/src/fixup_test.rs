use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::ptr::null_mut;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect};
use virt::host::BadAddress;

use crate::fixup::{compare_exchange, copy, install, load, store};

const PAGE: usize = 4096;
const SIZES: [usize; 5] = [1, 2, 4, 8, 16];

/// Two pages: one that can be written, and one that cannot be reached.
fn pages() -> *mut u8 {
    install();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a mapping of its own, which nothing else has.
    unsafe {
        let start = mmap_anonymous(null_mut(), 2 * PAGE, access, MapFlags::PRIVATE).unwrap();
        mprotect(start.byte_add(PAGE), PAGE, MprotectFlags::empty()).unwrap();
        start.cast()
    }
}

fn low(value: u128, size: usize) -> u128 {
    if size == 16 { value } else { value & ((1 << (8 * size)) - 1) }
}

#[test]
fn words_are_read_written_and_exchanged() {
    let start = pages();
    let value = 0xfedc_ba98_7654_3210_0123_4567_89ab_cdef_u128;
    for size in SIZES {
        // SAFETY: of this test's own page.
        unsafe {
            start.write_bytes(0x11, 2 * size);
            let ones = low(u128::MAX / 0xff * 0x11, size);
            assert_eq!(compare_exchange(start, size, 5, value), Ok(ones));
            assert_eq!(compare_exchange(start, size, ones, value), Ok(ones));
            assert_eq!(compare_exchange(start, size, 5, 0), Ok(low(value, size)));
            assert_eq!(start.add(size).read(), 0x11, "beside it nothing changes");
            if size < 16 {
                assert_eq!(load(start, size).map(u128::from), Ok(low(value, size)));
                assert_eq!(store(start, size, u64::MAX), Ok(()));
                assert_eq!(load(start, size).map(u128::from), Ok(low(u128::MAX, size)));
                assert_eq!(start.add(size).read(), 0x11);
            }
        }
    }
}

#[test]
fn what_cannot_be_reached_is_told_and_goes_on() {
    let none = pages().wrapping_add(PAGE);
    let not_canonical = (1_u64 << 60) as *mut u8;
    for at in [none, null_mut(), not_canonical] {
        for size in SIZES {
            // SAFETY: nothing is there.
            unsafe {
                assert_eq!(compare_exchange(at, size, 0, 0), Err(BadAddress));
                assert_eq!(load(at, size), Err(BadAddress));
                assert_eq!(store(at, size, 0), Err(BadAddress));
            }
        }
    }
}

#[test]
fn a_copy_goes_as_far_as_it_can() {
    let start = pages();
    let source: Vec<u8> = (0..PAGE).map(|n| (n % 251) as u8).collect();
    for len in [1, 7, 8, 9, 511, 512, 513, PAGE] {
        for inside in [0, 1, len / 2, len - 1, len] {
            let to = start.wrapping_add(PAGE - inside);
            let mut back = vec![0; len];
            // SAFETY: of this test's own pages.
            unsafe {
                let expected = if inside == len { Ok(()) } else { Err(BadAddress) };
                assert_eq!(copy(to, source.as_ptr(), len), expected, "{inside} of {len}");
                assert_eq!(copy(back.as_mut_ptr(), to, len), expected);
            }
            // What it moves at once it need not begin.
            let whole = inside.saturating_sub(7);
            assert_eq!(back[..whole], source[..whole], "{inside} of {len}");
        }
    }
}

#[test]
fn a_file_that_was_cut_off_is_not_there() {
    install();
    let file: OwnedFd = memfd_create(c"cut off", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, PAGE as u64).unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a mapping of its own.
    unsafe {
        let at = mmap(null_mut(), PAGE, access, MapFlags::SHARED, &file, 0).unwrap().cast();
        assert_eq!(store(at, 8, 5), Ok(()));
        ftruncate(&file, 0).unwrap();
        assert_eq!(load(at, 8), Err(BadAddress));
    }
}

extern "C" fn exits(_signal: libc::c_int) {
    // SAFETY: it ends this process alone.
    unsafe { libc::_exit(7) };
}

/// What the next test does in a process of its own, as it is to die of it.
#[test]
fn fault_for_another_test() {
    let Ok(kind) = std::env::var("UNIBODY_TEST_FAULT") else { return };
    let before = if kind == "handled" { exits as *const () as usize } else { libc::SIG_DFL };
    // SAFETY: a handler, or the default: Rust's own would be there.
    unsafe { libc::signal(libc::SIGSEGV, before) };
    let none = pages().wrapping_add(PAGE);
    // SAFETY: nothing is there, which is what it is about; signals to this process.
    unsafe {
        match kind.as_str() {
            "read" | "handled" => drop(none.read_volatile()),
            "sent" => drop(libc::raise(libc::SIGSEGV)),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn any_other_fault_and_what_is_sent_are_what_they_were() {
    let [fault, exit] = [Some(libc::SIGSEGV), Some(7)];
    for (kind, signal, code) in
        [("read", fault, None), ("sent", fault, None), ("handled", None, exit)]
    {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "fixup_test::fault_for_another_test", "--nocapture"]);
        let output = child.env("UNIBODY_TEST_FAULT", kind).output().unwrap();
        let ended = (output.status.signal(), output.status.code());
        assert_eq!(ended, (signal, code), "{kind}: {output:?}");
    }
}
