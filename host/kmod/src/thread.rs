//! What is wanted of this thread beside the guest: signals, other threads' turns, and what the kernel does on a thread's way to user space.
//!
//! The kernel has its KVM do all of it between two entries of the guest, and this is by the same function. See: Linux, kernel/entry/kvm.c.

// SAFETY: these are the glue's functions (glue/wait.c), which take nothing.
unsafe extern "C" {
    /// Whether anything is wanted. Any context.
    safe fn unibody_is_wanted() -> bool;
    /// Does it. Gives false if it is a signal, which is for user space. Process context.
    safe fn unibody_do_work() -> bool;
}

/// Whether anything is wanted of it. Any context.
pub fn is_wanted() -> bool {
    unibody_is_wanted()
}

/// Does what is wanted, and gives whether that takes a return to user space: a signal came in. Process context.
pub fn is_interrupted() -> bool {
    unibody_is_wanted() && !unibody_do_work()
}
