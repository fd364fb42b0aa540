//! A signal to a thread, whose handler only counts, and after which no system call goes on by itself (without `SA_RESTART`).

use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, pid_t};

const SIGNAL: c_int = libc::SIGUSR1;

static TAKEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: c_int) {
    TAKEN.fetch_add(1, Ordering::Relaxed);
}

/// How many this process has taken.
pub fn taken() -> u32 {
    TAKEN.load(Ordering::Relaxed)
}

/// A thread of this process that takes them.
#[derive(Clone, Copy)]
pub struct Target(pid_t);

impl Target {
    /// This thread.
    pub fn this_thread() -> Self {
        // SAFETY: zeros are a valid action, whose handler is then set, which does what a handler may; `gettid` always succeeds.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as extern "C" fn(c_int) as usize;
            assert_eq!(libc::sigaction(SIGNAL, &raw const action, null_mut()), 0);
            Self(libc::gettid())
        }
    }

    /// Sends it one.
    pub fn signal(self) {
        // SAFETY: numbers only; whoever of this process has the number takes the signal, and counts.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, SIGNAL) };
    }
}
