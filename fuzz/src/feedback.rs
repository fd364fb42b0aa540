//! What is seen of a case where nothing tells which code was reached, as in the kernel: its answers, for libFuzzer to look for new
//! ones ([`note`]); and whether the kernel has complained ([`Complaints`]).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, Ordering};

use virt::Errno;

/// How many answers there are of a number's.
const ANSWERS: usize = 64;
/// Numbers, and one more row: exits.
const ROWS: usize = 256;
/// No ioctl of KVM's is that.
const EXITS: usize = 255;

// SAFETY: libFuzzer takes all that is in this section for counters of one byte, which these are; and nothing else is put there.
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static SEEN: [AtomicU8; ROWS * ANSWERS] = [const { AtomicU8::new(0) }; ROWS * ANSWERS];

fn count(row: usize, answer: usize) {
    let counter = &SEEN[row * ANSWERS + answer % ANSWERS];
    // Nobody else counts meanwhile. At the end it stays.
    counter.store(counter.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
}

/// An ioctl has answered.
pub(crate) fn note(number: u32, answer: Result<u32, Errno>) {
    let answer = answer.map_or_else(|Errno(errno)| errno as usize, |_| 0);
    count((number & 0xff) as usize % EXITS, answer);
}

/// A run has ended with an exit.
pub(crate) fn note_exit(reason: u32) {
    count(EXITS, reason as usize);
}

/// What of the kernel's state says that something is wrong with it: a bad page, an oops, a warning, a processor that hangs.
/// See: Linux, Documentation/admin-guide/tainted-kernels.rst.
const WRONG: u64 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 14;

/// Whether the kernel has complained since this was made.
pub(crate) struct Complaints {
    state: File,
    before: u64,
}

impl Complaints {
    pub(crate) fn new() -> Self {
        let state = File::open("/proc/sys/kernel/tainted").expect("any user may read it");
        let before = read(&state);
        Self { state, before }
    }

    /// # Panics
    /// If it has.
    pub(crate) fn check(&self) {
        let new = read(&self.state) & WRONG & !self.before;
        assert!(new == 0, "the kernel complains: {new:#x}");
    }
}

fn read(state: &File) -> u64 {
    let mut text = [0; 32];
    let len = state.read_at(&mut text, 0).expect("it can be read");
    let text = String::from_utf8_lossy(&text[..len]);
    text.trim().parse().expect("a number")
}
