//! Threads of this crate's own: [`start`].
//!
//! They live in other people's processes as well, whose signals are for threads of theirs: a handler that ran here would find a
//! stack, and a mask, that it does not expect, and would keep timers and events waiting.

use std::io;
use std::mem::MaybeUninit;

/// Starts a thread that no signal reaches.
///
/// # Errors
/// When the host has none left.
pub fn start(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // A thread has the mask of who makes it from its first instruction on.
    let before = block_signals();
    let started = std::thread::Builder::new().name(name.into()).spawn(body);
    restore(&before);
    started.map(drop)
}

/// Blocks all signals in this thread, and gives those that were blocked.
fn block_signals() -> libc::sigset_t {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the first call fills `all`, which the second one reads; that fills `before`. Neither fails with these arguments.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

/// Has these, and no other signals, be blocked in this thread.
fn restore(before: &libc::sigset_t) {
    // SAFETY: the call reads the set, and is told not to write the old one.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::channel;

    use super::*;

    /// The signals that this thread has blocked, as the kernel tells.
    fn blocked() -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    }

    #[test]
    fn no_signal_reaches_it_and_who_starts_it_is_as_before() {
        let before = blocked();
        let (sender, receiver) = channel();
        start("test", move || sender.send(blocked()).unwrap()).unwrap();
        let there = receiver.recv().unwrap();
        // SIGKILL and SIGSTOP can't be blocked; 32 and 33 are the C library's own.
        let exempt = [libc::SIGKILL, libc::SIGSTOP, 32, 33].map(|signal| 1 << (signal - 1));
        assert_eq!(!there & !exempt.iter().sum::<u64>(), 0, "{there:x}");
        assert_eq!(blocked(), before);
    }
}
