//! [`Kicked`]: a signal brings a vCPU's thread out of the guest.
//!
//! The signal's handler sets `immediate_exit` of what the thread runs: so KVM_RUN returns at once even if the signal comes just before
//! it. A signal that comes to a thread that runs nothing, or something else by now, does no harm.
//! See: Linux, Documentation/virt/kvm/api.rst, 5, `immediate_exit`.

use std::cell::Cell;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};

use libc::{c_int, pid_t};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
    /// This thread's number; 0: not known yet.
    static THREAD: Cell<pid_t> = const { Cell::new(0) };
}

/// The signal, of which nobody else here makes use, and which is ignored where no handler is. One of real time would not do: they
/// queue up, so that a vCPU that is kicked again and again runs handlers only, and are refused when this user has as many of
/// them pending as it may. See: Linux, man-pages, signal(7), setrlimit(2), `RLIMIT_SIGPENDING`.
const SIGNAL: c_int = libc::SIGURG;

extern "C" fn handle(_: c_int) {
    let byte = IMMEDIATE_EXIT.get();
    if !byte.is_null() {
        // SAFETY: it is one byte of a mapping that stays while the thread has its address; nobody has a reference to it.
        unsafe { AtomicU8::from_ptr(byte) }.store(1, Ordering::Relaxed);
    }
}

/// Has the process handle the signal, once.
///
/// # Errors
/// When the host refuses.
pub(super) fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: zeros are a valid action, whose fields are then set; the handler does what a handler may.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as extern "C" fn(c_int) as usize;
            // What else the thread waits for goes on.
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(SIGNAL, &raw const action, null_mut())
        };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    });
    installed.map_err(io::Error::from_raw_os_error)
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or_default()
}

/// This thread's number. Once it is known to others they can send it the signal.
#[inline]
fn this_thread() -> pid_t {
    match THREAD.get() {
        0 => meet_thread(),
        thread => thread,
    }
}

#[cold]
fn meet_thread() -> pid_t {
    // SAFETY: a set is made, and this thread's mask changed by it; `gettid` always succeeds.
    let thread = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, null_mut());
        libc::gettid()
    };
    THREAD.set(thread);
    thread
}

/// What others need of a vCPU: the thread that ran it last, to kick, and how often it has come out of the guest.
#[derive(Debug, Default)]
pub(super) struct Kicked {
    /// 0: none has.
    thread: AtomicI32,
    runs: AtomicU32,
}

impl Kicked {
    /// Brings the vCPU out of the guest, if it is in there.
    pub fn kick(&self) {
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: numbers only. If the thread is gone there is none, or another one of this process to which the signal does
            // no harm.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) };
        }
    }

    /// It has come out. For its thread alone.
    pub fn count(&self) {
        let runs = self.runs.load(Ordering::Relaxed);
        self.runs.store(runs.wrapping_add(1), Ordering::Relaxed);
    }

    /// How often it has.
    pub fn runs(&self) -> u32 {
        self.runs.load(Ordering::Relaxed)
    }
}

/// This thread runs a vCPU, until this is dropped.
pub(super) struct Here {
    immediate_exit: NonNull<u8>,
}

impl Here {
    /// From now on kicks come to this thread. `immediate_exit` is of the vCPU's mapping, which outlives this.
    #[inline]
    pub fn new(kicked: &Kicked, immediate_exit: NonNull<u8>) -> Self {
        let thread = this_thread();
        // Who asked for something before it saw this number has asked before the gate is looked at.
        if kicked.thread.load(Ordering::Relaxed) != thread {
            kicked.thread.store(thread, Ordering::SeqCst);
        }
        IMMEDIATE_EXIT.set(immediate_exit.as_ptr());
        Self { immediate_exit }
    }

    /// What was asked for so far will be looked at.
    pub fn reset(&self) {
        // SAFETY: as in `handle`.
        unsafe { AtomicU8::from_ptr(self.immediate_exit.as_ptr()) }.store(0, Ordering::Relaxed);
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kick sets the byte of what the thread runs, and of nothing else.
    #[test]
    fn a_kick_reaches_what_the_thread_runs() {
        install().unwrap();
        let (first, second) = (Kicked::default(), Kicked::default());
        let mut bytes = [0_u8; 2];
        let place = |bytes: &mut [u8; 2], n: usize| NonNull::from(&mut bytes[n]);
        // Nobody has run it yet.
        first.kick();
        let (one, two) = (place(&mut bytes, 0), place(&mut bytes, 1));
        let here = Here::new(&first, one);
        first.kick();
        drop(here);
        // The thread runs nothing.
        first.kick();
        let here = Here::new(&second, two);
        here.reset();
        drop(here);
        assert_eq!(bytes, [1, 0]);
    }

    /// However many are sent while it can't take them, and whatever else this user has pending.
    #[test]
    fn kicks_do_not_queue_up() {
        install().unwrap();
        let kicked = Kicked::default();
        let mut byte = 0_u8;
        let here = Here::new(&kicked, NonNull::from(&mut byte));
        // SAFETY: this thread's mask is changed, and it is looked which signals wait for it.
        let waiting = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, SIGNAL);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, null_mut());
            (0..100).for_each(|_| kicked.kick());
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let take = || libc::sigtimedwait(&raw const set, null_mut(), &raw const now) == SIGNAL;
            (0..100).take_while(|_| take()).count()
        };
        drop(here);
        assert_eq!((waiting, byte), (1, 0));
    }

    #[test]
    fn a_thread_that_is_gone_is_not_missed() {
        install().unwrap();
        let kicked = Kicked::default();
        let mut byte = 0_u8;
        let place = &raw mut byte as usize;
        std::thread::scope(|scope| {
            scope.spawn(|| drop(Here::new(&kicked, NonNull::new(place as *mut u8).unwrap())));
        });
        kicked.kick();
        assert_eq!((byte, kicked.runs()), (0, 0));
        kicked.count();
        assert_eq!(kicked.runs(), 1);
    }
}
