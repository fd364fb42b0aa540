//! Processors: staying on one, interrupts, and interrupting one.

use core::ffi::c_ulong;

// SAFETY: these are the glue's functions (glue/processor.c), with these types.
unsafe extern "C" {
    safe fn unibody_processors() -> u32;
    /// The thread stays on the processor whose number this gives, and does not sleep, until the next one is called, as often.
    safe fn unibody_stay() -> u32;
    safe fn unibody_stay_end();
    safe fn unibody_interrupts_off() -> c_ulong;
    /// Has interrupts be as they were.
    safe fn unibody_interrupts_restore(flags: c_ulong);
    /// For numbers below that of all processors.
    fn unibody_is_online(processor: u32) -> bool;
    fn unibody_interrupt(processor: u32);
    fn unibody_interrupt_and_wait(processor: u32);
}

/// One more than the highest number of a processor.
pub fn count() -> u32 {
    unibody_processors()
}

/// Does `work` on one processor. Any context.
pub fn stay<T>(work: impl FnOnce(u32) -> T) -> T {
    let processor = unibody_stay();
    let result = work(processor);
    unibody_stay_end();
    result
}

/// Does `work` with interrupts off. Any context.
pub fn without_interrupts<T>(work: impl FnOnce() -> T) -> T {
    let flags = unibody_interrupts_off();
    let result = work();
    unibody_interrupts_restore(flags);
    result
}

/// Interrupts a processor; one that is off takes none. Any context.
///
/// It may be this one: with interrupts off it takes the interrupt when they are on again, or at once from a guest that it
/// enters meanwhile, which so comes out.
pub fn interrupt(processor: u32) {
    stay(|_| {
        if is_online(processor) {
            // SAFETY: there is such a processor.
            unsafe { unibody_interrupt(processor) };
        }
    });
}

/// The same, and returns when it has taken it. Process context, with interrupts on.
pub fn interrupt_and_wait(processor: u32) {
    if is_online(processor) {
        // SAFETY: there is such a processor; if it goes off meanwhile, nobody is waited for.
        unsafe { unibody_interrupt_and_wait(processor) };
    }
}

fn is_online(processor: u32) -> bool {
    // SAFETY: the number is below that of all.
    processor < count() && unsafe { unibody_is_online(processor) }
}
