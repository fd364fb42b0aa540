//! Where a halted vCPU's thread waits.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::futex;
use virt::host::Parker;

/// How long to look for the wake-up before the thread sleeps: a sleep and a wake-up
/// across processors cost more than this.
const SPIN: Duration = Duration::from_micros(20);

/// A wait that any thread can end; a wake-up before the wait counts.
///
/// There is no lock, so that a signal's handler may wake the thread that it interrupts.
#[derive(Debug, Default)]
pub struct ThreadParker {
    /// 1: there was a wake-up since the last wait.
    woken: AtomicU32,
}

impl Parker for ThreadParker {
    fn park(&self, ready: &mut dyn FnMut() -> bool) {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        // `unpark` comes after the reason is there: so either the reason is seen here, or the word has changed.
        while !ready() && self.woken.swap(0, Ordering::SeqCst) == 0 {
            // Whatever ended it, also a signal: it is looked at again.
            let _ = futex::wait(&self.woken, futex::Flags::PRIVATE, 0, None);
        }
    }

    fn unpark(&self) {
        // Who set it before wakes, or has.
        if self.woken.swap(1, Ordering::SeqCst) == 0 {
            let _ = futex::wake(&self.woken, futex::Flags::PRIVATE, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_wake_up_before_the_wait_counts() {
        let parker = ThreadParker::default();
        parker.unpark();
        parker.park(&mut || false);
    }

    #[test]
    fn another_thread_ends_the_wait() {
        let parker = Arc::new(ThreadParker::default());
        for _ in 0..200 {
            let ready = Arc::new(AtomicBool::new(false));
            let waker = {
                let (parker, ready) = (Arc::clone(&parker), Arc::clone(&ready));
                std::thread::spawn(move || {
                    ready.store(true, Ordering::Release);
                    parker.unpark();
                })
            };
            while !ready.load(Ordering::Acquire) {
                parker.park(&mut || ready.load(Ordering::Acquire));
            }
            waker.join().unwrap();
        }
    }

    #[test]
    fn each_of_many_waits_is_ended() {
        let pair = Arc::new([ThreadParker::default(), ThreadParker::default()]);
        let turns = Arc::new(AtomicU32::new(0));
        const LAST: u32 = 20_000;
        let play = |own: u32| {
            let (pair, turns) = (Arc::clone(&pair), Arc::clone(&turns));
            std::thread::spawn(move || {
                loop {
                    let mine = |turn: u32| turn % 2 == own || turn >= LAST;
                    while !mine(turns.load(Ordering::SeqCst)) {
                        pair[own as usize].park(&mut || mine(turns.load(Ordering::SeqCst)));
                    }
                    if turns.fetch_add(1, Ordering::SeqCst) >= LAST {
                        break;
                    }
                    pair[1 - own as usize].unpark();
                }
                pair[1 - own as usize].unpark();
            })
        };
        let (one, other) = (play(0), play(1));
        one.join().unwrap();
        other.join().unwrap();
        assert!(turns.load(Ordering::SeqCst) >= LAST);
    }
}
