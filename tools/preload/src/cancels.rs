//! Cancelling a thread that is in KVM_RUN (`pthread_cancel`): it comes out of that first, and is cancelled behind it.
//!
//! Where the C library cancels a thread it unwinds its stack. Within KVM_RUN that is this library's, with what it has locked. So
//! meanwhile the thread is not to be cancelled ([`hold`]), and `ioctl` allows it again when nothing of this library's is left on the
//! stack (`interpose::calls`): one that may be cancelled at any time is at once, another one at its next point for that, as the
//! call itself is none.
//!
//! To come out the vCPU is asked for by who cancels, `ask`. A thread that is about to run then finds that
//! it was: of the last ones that were cancelled it is known.
//!
//! See: pthreads(7), cancellation points; pthread_setcanceltype(3).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libc::{c_int, pthread_t};

use crate::descriptors::DESCRIPTORS;

/// Of how many it is known: more than are cancelled while one of them is on its way into KVM_RUN.
const KNOWN: usize = 64;

static THREADS: [AtomicU64; KNOWN] = [const { AtomicU64::new(0) }; KNOWN];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Has a thread that was cancelled come out of KVM_RUN, or not stay in it if it goes there now.
pub(crate) fn ask(thread: pthread_t) {
    let place = COUNT.fetch_add(1, Ordering::Relaxed) % KNOWN;
    // Sequentially consistent, as what says which thread runs a vCPU: either that is seen here, or this there.
    THREADS[place].store(thread, Ordering::SeqCst);
    DESCRIPTORS.each(|object| object.end_run_of(thread));
}

/// Whether a thread is one that was cancelled, which is forgotten then.
pub(crate) fn was_asked(thread: pthread_t) -> bool {
    if COUNT.load(Ordering::SeqCst) == 0 {
        return false;
    }
    let forget =
        |known: &AtomicU64| known.compare_exchange(thread, 0, Ordering::SeqCst, Ordering::Relaxed);
    THREADS.iter().any(|known| forget(known).is_ok())
}

/// As pthread.h has them.
const DISABLE: c_int = 1;
const DEFERRED: c_int = 0;
const ASYNCHRONOUS: c_int = 1;

unsafe extern "C" {
    pub(crate) fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
    pub(crate) fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int;
    pub(crate) fn pthread_testcancel();
}

/// What is to be allowed again: a thread may be cancelled.
pub(crate) const ALLOWED: u64 = 1 << 0;
/// What is to be allowed again: at any time.
pub(crate) const ANY_TIME: u64 = 1 << 1;

/// What this thread allowed before it is not to be cancelled any more: [`ALLOWED`], [`ANY_TIME`].
pub(crate) fn hold() -> u64 {
    let (mut state, mut kind) = (0, 0);
    // SAFETY: both write where they are told, of this thread's own. Neither cancels it, as it is not allowed afterwards.
    unsafe {
        pthread_setcancelstate(DISABLE, &raw mut state);
        pthread_setcanceltype(DEFERRED, &raw mut kind);
    }
    let allowed = if state == DISABLE { 0 } else { ALLOWED };
    allowed | if kind == ASYNCHRONOUS { ANY_TIME } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{KNOWN, ask, was_asked};

    #[test]
    fn a_cancelled_thread_is_known_until_it_asks() {
        assert!(!was_asked(7));
        ask(7);
        ask(8);
        assert!(was_asked(7) && !was_asked(7));
        // Too many are forgotten, the first of them first.
        (0..KNOWN as u64).for_each(|n| ask(100 + n));
        assert!(!was_asked(8) && was_asked(100) && was_asked(99 + KNOWN as u64));
    }
}
