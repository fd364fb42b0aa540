//! What the kernel's scheduler is told of a thread. Its neighbour is [`timer`](crate::timer), whose thread has to run while
//! vCPUs' threads hold all processors.

use std::io;

/// The shortest slice that Linux takes; a vCPU's is some milliseconds.
const SHORT_SLICE_NS: u64 = 100_000;

/// Asks for short slices for this thread, and so to be run soon after it wakes: without, it waits until the slices of those
/// who compute are over.
///
/// Needs no privilege. Linux before 6.12 gives all threads the same slices and ignores the wish.
///
/// See: Linux, Documentation/scheduler/sched-eevdf.rst; sched_setattr(2).
///
/// # Errors
/// The kernel's, if it refuses. Nothing is lost then but time.
pub fn ask_for_short_slices() -> io::Result<()> {
    let mut attributes = attributes()?;
    let fair = [libc::SCHED_OTHER, libc::SCHED_BATCH].map(|policy| policy as u32);
    // Somebody gave the process a policy, which is not ours to change.
    if !fair.contains(&attributes.sched_policy) {
        return Ok(());
    }
    attributes.sched_runtime = SHORT_SLICE_NS;
    // SAFETY: the kernel reads as many bytes of the structure as its field `size` says, which is all of it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// This thread's policy, its niceness and its slice, which is 0 where Linux has none of a thread's own.
fn attributes() -> io::Result<libc::sched_attr> {
    let mut attributes = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let size = size_of_val(&attributes);
    // SAFETY: the kernel writes at most the bytes of the structure that it is told of.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if result == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_asks_keeps_all_but_its_slices() {
        let (before, after) = std::thread::spawn(|| {
            let before = attributes().expect("every Linux since 3.14 says");
            ask_for_short_slices().expect("a thread may");
            (before, attributes().expect("as before"))
        })
        .join()
        .expect("it ends");
        assert_eq!(
            (after.sched_policy, after.sched_nice),
            (before.sched_policy, before.sched_nice)
        );
        // Where threads have slices of their own, they are told.
        let expected = if before.sched_runtime == 0 { 0 } else { SHORT_SLICE_NS };
        assert_eq!(after.sched_runtime, expected);
    }
}
