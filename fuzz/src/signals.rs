//! Which signals reach the thread that cases run on: `set_up`, and the one that brings it out of a run of the kernel's: [`Thread`].

use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;

use libc::c_int;

/// What interrupts a run. Nobody else makes use of it, and it does not queue up.
pub(crate) const INTERRUPT: c_int = libc::SIGURG;

extern "C" fn nothing(_: c_int) {}

/// Has no signal reach this thread but those that are its own fault, and [`INTERRUPT`] if there may be runs of the kernel's.
pub(crate) fn set_up(kernels: bool) {
    let mut set = MaybeUninit::uninit();
    let faults =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT];
    // SAFETY: zeros are a valid action, whose fields are then set; its handler does nothing. The next call fills the set, the others
    // change or read it. None fails with these arguments.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
        // What else the thread waits for goes on.
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(INTERRUPT, &raw const action, null_mut());
        libc::sigfillset(set.as_mut_ptr());
        for signal in faults.into_iter().chain(kernels.then_some(INTERRUPT)) {
            libc::sigdelset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), null_mut());
    }
}

/// A thread of this process.
#[derive(Clone, Copy)]
pub struct Thread(libc::pthread_t);

impl Thread {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        // SAFETY: it always succeeds.
        Self(unsafe { libc::pthread_self() })
    }

    /// Has a system call of its end that waits, or a run.
    pub(crate) fn interrupt(self) {
        // SAFETY: the thread is there: the worker's ends only with the process, or by a panic, in no run.
        unsafe { libc::pthread_kill(self.0, INTERRUPT) };
    }
}
