//! That this thread is in KVM_RUN: [`Running`], and what a signal does to that.
//!
//! With Linux's KVM a signal that reaches a thread in KVM_RUN brings it out, and its handler runs on the way. Here the run loop is the
//! program's own thread, so the kernel runs the handler by itself; what is left to do is to bring the vCPU out after that.
//! [`interpose::signals`](crate::interpose::signals) puts a handler of this library's around each of the program's,
//! which asks here: `current`.
//!
//! KVM_SET_SIGNAL_MASK says which signals are blocked during KVM_RUN. One that is blocked before and after it, but not
//! during, ends it and stays pending: its handler does not run, if it has one. So it is kept, and sent again when it is blocked.
//!
//! See: api.rst 4.10 (`KVM_RUN`), 4.18 (`KVM_SET_SIGNAL_MASK`), 5 (`immediate_exit`).

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr::null;

use engine_soft::SignalPlace;
use libc::{c_int, siginfo_t};

use crate::vcpu::Vcpu;

/// A set of signals as the kernel has it: bit N - 1 is signal N.
pub type SignalSet = u64;

/// Signals that are kept until they can be sent again. More are lost, as more of a kind are that are not real-time ones.
const KEPT: usize = 16;

/// What the System V ABI has below the stack pointer that is still in use.
const RED_ZONE: u64 = 128;

thread_local! {
    // Neither made nor dropped by code, so that a signal's handler finds it at any time.
    static CURRENT: Cell<*const Running<'static>> = const { Cell::new(null()) };
}

/// A KVM_RUN of this thread.
pub struct Running<'a> {
    vcpu: &'a Vcpu,
    place: SignalPlace,
    /// What was blocked before, if something else is during the run.
    blocked_before: Cell<SignalSet>,
    kept: UnsafeCell<[MaybeUninit<siginfo_t>; KEPT]>,
    how_many: Cell<usize>,
}

/// Whether this thread is in KVM_RUN: then this is a signal's handler.
#[must_use]
pub fn is_running() -> bool {
    !CURRENT.get().is_null()
}

/// This thread, as the C library numbers it.
pub(crate) fn this_thread() -> libc::pthread_t {
    // SAFETY: it is of this thread, and cannot fail.
    unsafe { libc::pthread_self() }
}

/// This thread's KVM_RUN.
pub(crate) fn current() -> Option<&'static Running<'static>> {
    // SAFETY: `during` has it there only while it exists, on this thread; and who asks is a handler that interrupts
    // this, and is over before it goes on.
    unsafe { CURRENT.get().as_ref() }
}

impl<'a> Running<'a> {
    /// One that is about to begin. `place` is where handlers run that interrupt translated code.
    pub(crate) fn new(vcpu: &'a Vcpu, place: SignalPlace) -> Self {
        Self {
            vcpu,
            place,
            blocked_before: Cell::new(0),
            kept: UnsafeCell::new([const { MaybeUninit::uninit() }; KEPT]),
            how_many: Cell::new(0),
        }
    }

    /// Runs, with only these signals blocked if it is said which.
    pub(crate) fn during<T>(&self, mask: Option<SignalSet>, run: impl FnOnce() -> T) -> T {
        let entered = Entered::new(self, mask);
        let result = run();
        drop(entered);
        result
    }

    /// Brings the vCPU out. Called in a handler.
    pub(crate) fn end(&self) {
        self.vcpu.end_run();
    }

    /// Keeps a signal that was blocked before, and gives whether it was. Called in a handler.
    pub(crate) fn keeps(&self, signal: c_int, info: *const siginfo_t) -> bool {
        if self.blocked_before.get() & bit(signal) == 0 {
            return false;
        }
        let n = self.how_many.get();
        if n < KEPT {
            // SAFETY: `info` is the kernel's, in the handler's frame. Entries are written by handlers on this thread only, one after the
            // other: one that interrupts this sees the old count, and what it writes is overwritten, as if it came before.
            unsafe {
                (*self.kept.get())[n] = MaybeUninit::new(info.read());
            }
            self.how_many.set(n + 1);
        }
        true
    }

    /// Sends the signals that were kept, which are blocked now, to this thread again.
    fn send_kept(&self) {
        for n in 0..self.how_many.take() {
            // SAFETY: that entry was written, and no handler writes any more. The call reads it.
            unsafe {
                let info = (*self.kept.get())[n].as_ptr();
                let (process, thread) = (libc::getpid(), libc::gettid());
                libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, (*info).si_signo, info);
            }
        }
    }

    /// Where a handler goes on that was called with this stack pointer: there, or, if that is in the vCPU, where it has as much room as
    /// on any thread.
    pub(crate) fn stack(&self, pointer: u64) -> u64 {
        let [start, end] = self.place.room;
        if !(start..end).contains(&pointer) {
            return pointer;
        }
        let host_stack: *const u64 =
            std::ptr::with_exposed_provenance(self.place.host_stack as usize);
        // SAFETY: the address is in the vCPU that this thread runs, where translated code has put it, which this interrupts.
        let host_stack = unsafe { host_stack.read_volatile() };
        (host_stack - RED_ZONE) & !0xf
    }
}

/// As long as this is, the thread is in KVM_RUN.
struct Entered<'a, 'b> {
    running: &'a Running<'b>,
    before: Option<SignalSet>,
}

impl<'a, 'b> Entered<'a, 'b> {
    fn new(running: &'a Running<'b>, mask: Option<SignalSet>) -> Self {
        let before = mask.map(|_| change_mask(None));
        running.blocked_before.set(before.unwrap_or(0) & !mask.unwrap_or(0));
        CURRENT.set(std::ptr::from_ref(running).cast());
        // What is pending comes in now.
        if mask.is_some() {
            change_mask(mask);
        }
        Self { running, before }
    }
}

impl Drop for Entered<'_, '_> {
    fn drop(&mut self) {
        if self.before.is_some() {
            change_mask(self.before);
        }
        CURRENT.set(null());
        self.running.send_kept();
    }
}

pub(crate) const fn bit(signal: c_int) -> SignalSet {
    1_u64.wrapping_shl(signal.wrapping_sub(1) as u32)
}

/// Sets this thread's blocked signals, if it is said to which; gives those that were. As the kernel has them: `pthread_sigmask` leaves
/// out the C library's own.
pub(crate) fn change_mask(new: Option<SignalSet>) -> SignalSet {
    let mut old: SignalSet = 0;
    let from = new.as_ref().map_or(null(), std::ptr::from_ref);
    let (how, size) = (libc::SIG_SETMASK, size_of::<SignalSet>());
    // SAFETY: the call reads one set, if there is one, and writes the other. It does not fail with these arguments.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, from, &raw mut old, size) };
    old
}
