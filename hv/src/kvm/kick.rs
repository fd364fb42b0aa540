//! [`Kicked`]: a signal brings a vCPU's thread out of the guest.
//!
//! The signal's handler sets `immediate_exit` of what the thread runs: so KVM_RUN returns at once even if the signal comes just before
//! it. See: Linux, Documentation/virt/kvm/api.rst, 5, `immediate_exit`.

use std::cell::Cell;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use libc::{c_int, pthread_t};
use parking_lot::Mutex;

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

/// The signal: the first of real time, which neither Rust's nor C's library uses.
fn signal() -> c_int {
    libc::SIGRTMIN()
}

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
            libc::sigaction(signal(), &raw const action, null_mut())
        };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    });
    installed.map_err(io::Error::from_raw_os_error)
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or_default()
}

/// What others need of a vCPU: the thread that runs it, to kick, and how often it has come out of the guest.
#[derive(Debug, Default)]
pub(super) struct Kicked {
    thread: Mutex<Option<pthread_t>>,
    runs: AtomicU32,
}

impl Kicked {
    /// Brings the vCPU out of the guest, if it is in there.
    pub fn kick(&self) {
        let thread = self.thread.lock();
        if let Some(thread) = *thread {
            // SAFETY: the thread is alive: it takes its number out, under the lock, before it ends.
            unsafe { libc::pthread_kill(thread, signal()) };
        }
    }
}

impl Kicked {
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

/// This thread runs a vCPU, until this is dropped, on the thread.
#[derive(Debug)]
pub(super) struct Running {
    kicked: std::sync::Arc<Kicked>,
    thread: pthread_t,
    immediate_exit: NonNull<u8>,
}

// SAFETY: where it is dropped on another thread, it takes nothing of that thread's away, and the number of the old one is taken out.
unsafe impl Send for Running {}

impl Running {
    /// From now on kicks come to this thread. `immediate_exit` is of the vCPU's mapping, which outlives this.
    pub fn new(kicked: std::sync::Arc<Kicked>, immediate_exit: NonNull<u8>) -> Self {
        // SAFETY: always succeeds.
        let thread = unsafe { libc::pthread_self() };
        // SAFETY: a set is made, and this thread's mask changed by it.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, signal());
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, null_mut());
        }
        *kicked.thread.lock() = Some(thread);
        let running = Self { kicked, thread, immediate_exit };
        running.show();
        running
    }

    /// Whether it is this thread.
    pub fn is_here(&self) -> bool {
        // SAFETY: always succeeds.
        unsafe { libc::pthread_self() == self.thread }
    }

    /// A thread may have several vCPUs: it runs this one.
    pub fn show(&self) {
        IMMEDIATE_EXIT.set(self.immediate_exit.as_ptr());
    }

    /// What was asked for has been seen.
    pub fn reset(&self) {
        // SAFETY: as in `handle`.
        unsafe { AtomicU8::from_ptr(self.immediate_exit.as_ptr()) }.store(0, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut thread = self.kicked.thread.lock();
        if *thread == Some(self.thread) {
            *thread = None;
        }
        drop(thread);
        if self.is_here() && IMMEDIATE_EXIT.get() == self.immediate_exit.as_ptr() {
            IMMEDIATE_EXIT.set(null_mut());
        }
    }
}
