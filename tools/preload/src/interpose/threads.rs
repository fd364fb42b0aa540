//! `pthread_cancel`: who is in KVM_RUN comes out ([`crate::cancels`]).

use libc::{c_int, pthread_t};

use crate::cancels;
use crate::next::Next;

type Cancel = unsafe extern "C" fn(pthread_t) -> c_int;

// SAFETY: as the C library declares it.
static CANCEL: Next<Cancel> = unsafe { Next::new(c"pthread_cancel") };

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn pthread_cancel(thread: pthread_t) -> c_int {
    // Nobody cancels a thread while memory is allocated.
    let Some(next) = CANCEL.look_up() else { return libc::ENOSYS };
    // SAFETY: the caller's promise.
    let done = unsafe { next(thread) };
    cancels::ask(thread);
    done
}
