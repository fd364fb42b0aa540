//! What is wanted of this thread beside the guest: signals, other threads' turns, and what the kernel does on a thread's way to user space.
//!
//! And the signals that are blocked meanwhile ([`with_signals`]).
//!
//! The kernel has its KVM do all of it between two entries of the guest, and this is by the same function. See: Linux, kernel/entry/kvm.c.

// SAFETY: these are the glue's functions (glue/wait.c, glue/sleep.c), which change this thread's signals at most.
unsafe extern "C" {
    /// Whether anything is wanted. Any context.
    safe fn unibody_is_wanted() -> bool;
    /// Does it. Gives false if it is a signal, which is for user space. Process context.
    safe fn unibody_do_work() -> bool;
    /// Has these signals be blocked, a bit each, until the next one is called.
    safe fn unibody_signals_block(mask: u64);
    safe fn unibody_signals_restore();
}

/// Whether anything is wanted of it. Any context.
pub fn is_wanted() -> bool {
    unibody_is_wanted()
}

/// Does what is wanted, and gives whether that takes a return to user space: a signal came in. Process context.
pub fn is_interrupted() -> bool {
    unibody_is_wanted() && !unibody_do_work()
}

/// Signals that cannot be blocked: SIGKILL and SIGSTOP.
const NEVER_BLOCKED: u64 = 1 << 8 | 1 << 18;

/// Does `work` with these signals blocked and no others, if it is said which. Process context.
pub fn with_signals<T>(mask: Option<u64>, work: impl FnOnce() -> T) -> T {
    let Some(mask) = mask else { return work() };
    unibody_signals_block(mask & !NEVER_BLOCKED);
    let result = work();
    unibody_signals_restore();
    result
}
