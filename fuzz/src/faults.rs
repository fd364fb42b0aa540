//! Faults of the process's own: those that are looked for, at addresses that are not there, and such as libFuzzer is to be told.
//!
//! An argument's access that fails is resumed by [`host_user::fixup`], whose handler would end the process for any other fault. Here that
//! goes to the handler that was there before: libFuzzer's, which keeps the input.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use host_user::fixup;
use libc::{SA_ONSTACK, SA_SIGINFO, SIG_DFL, SIG_IGN, sigaction, siginfo_t};

type Handler = unsafe extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// The handlers that were there before, of SIGSEGV and SIGBUS.
static BEFORE: OnceLock<[usize; 2]> = OnceLock::new();

/// Sets the handlers.
pub fn handle() {
    BEFORE.get_or_init(|| [libc::SIGSEGV, libc::SIGBUS].map(before));
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        let handler: Handler = on_fault;
        set(signal, handler as usize);
    }
}

/// The handler that a signal has.
fn before(signal: c_int) -> usize {
    let mut action = MaybeUninit::<sigaction>::uninit();
    // SAFETY: the call writes the action there is, and does not fail for a signal that exists.
    unsafe {
        sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    }
}

fn set(signal: c_int, handler: usize) {
    // SAFETY: all of it may be zero: no signals are blocked. The handler is one, or a word for the default.
    unsafe {
        let mut action: sigaction = std::mem::zeroed();
        (action.sa_sigaction, action.sa_flags) = (handler, SA_SIGINFO | SA_ONSTACK);
        sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

unsafe extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: this is the handler, and the context the kernel's.
    if unsafe { fixup::resume(context) } {
        return;
    }
    let before = BEFORE.get().map_or(SIG_DFL, |before| before[usize::from(signal == libc::SIGBUS)]);
    if before == SIG_DFL || before == SIG_IGN {
        // It comes again when this returns.
        set(signal, SIG_DFL);
    } else {
        // SAFETY: libFuzzer's handlers take these three.
        unsafe { std::mem::transmute::<usize, Handler>(before)(signal, info, context) };
    }
}
