//! How a machine's vCPUs are brought to a halt, and go on.
//!
//! A [`Gate`] is passed with each entry into the guest and each exit: on that way nothing is locked, and no line of the cache is
//! written but the vCPU's own. Who closes it says so first and looks who is inside then; who goes in says so first and looks
//! whether it is closed then: one of them sees the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Where vCPUs' threads pass on their way into the guest, and are stopped.
#[derive(Debug, Default)]
pub struct Gate {
    /// The lowest bit: it is closed. Above it a number that grows with each request that all vCPUs return to the VMM. Changed
    /// under the lock.
    asked: AtomicU64,
    /// By vCPU: whether it is inside.
    inside: Mutex<Vec<Arc<AtomicBool>>>,
    changed: Condvar,
}

const CLOSED: u64 = 1;
const REQUEST: u64 = 2;

/// One vCPU's way through the gate: remembers which request to return it has seen.
#[derive(Debug)]
pub struct Pass {
    inside: Arc<AtomicBool>,
    /// What the gate's word is if there is nothing new.
    seen: u64,
}

impl Gate {
    /// The way of one more vCPU, which has seen all requests so far.
    pub fn pass(&self) -> Pass {
        let inside = Arc::new(AtomicBool::new(false));
        let mut all = self.inside.lock();
        all.push(Arc::clone(&inside));
        Pass { inside, seen: self.asked.load(Ordering::SeqCst) & !CLOSED }
    }

    /// Waits while the machine is paused, then goes in. Gives false, and does not go in, when the vCPU
    /// is to return to the VMM.
    #[inline]
    pub fn enter(&self, pass: &mut Pass) -> bool {
        pass.inside.store(true, Ordering::SeqCst);
        self.asked.load(Ordering::SeqCst) == pass.seen || self.enter_slowly(pass)
    }

    #[cold]
    fn enter_slowly(&self, pass: &mut Pass) -> bool {
        let mut lock = self.inside.lock();
        loop {
            let asked = self.asked.load(Ordering::SeqCst);
            if asked == pass.seen {
                pass.inside.store(true, Ordering::SeqCst);
                return true;
            }
            pass.inside.store(false, Ordering::SeqCst);
            self.changed.notify_all();
            if asked & !CLOSED != pass.seen {
                pass.seen = asked & !CLOSED;
                return false;
            }
            self.changed.wait(&mut lock);
        }
    }

    /// Comes out.
    #[inline]
    pub fn leave(&self, pass: &Pass) {
        pass.inside.store(false, Ordering::SeqCst);
        if self.asked.load(Ordering::SeqCst) & CLOSED != 0 {
            // Who waits for it has the lock until it does.
            drop(self.inside.lock());
            self.changed.notify_all();
        }
    }

    /// Closes the gate, calls `kick` (which makes whoever is inside come out soon), and waits until
    /// all are out.
    pub fn pause(&self, kick: impl FnOnce()) {
        let mut inside = self.inside.lock();
        self.asked.fetch_or(CLOSED, Ordering::SeqCst);
        kick();
        let any = |inside: &MutexGuard<'_, Vec<Arc<AtomicBool>>>| {
            inside.iter().any(|inside| inside.load(Ordering::SeqCst))
        };
        while any(&inside) {
            self.changed.wait(&mut inside);
        }
    }

    /// Opens the gate.
    pub fn resume(&self) {
        let lock = self.inside.lock();
        self.asked.fetch_and(!CLOSED, Ordering::SeqCst);
        drop(lock);
        self.changed.notify_all();
    }

    /// Makes each vCPU's next (or current) passage end with a return to the VMM.
    pub fn interrupt(&self, kick: impl FnOnce()) {
        let lock = self.inside.lock();
        self.asked.fetch_add(REQUEST, Ordering::SeqCst);
        kick();
        drop(lock);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_paused_nobody_is_inside() {
        let gate = Arc::new(Gate::default());
        let rounds = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (gate, rounds, stop) =
                    (Arc::clone(&gate), Arc::clone(&rounds), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let mut pass = gate.pass();
                    while !stop.load(Ordering::Acquire) {
                        if gate.enter(&mut pass) {
                            rounds.fetch_add(1, Ordering::AcqRel);
                            gate.leave(&pass);
                        }
                    }
                })
            })
            .collect();
        for _ in 0..50 {
            gate.pause(|| {});
            let before = rounds.load(Ordering::Acquire);
            std::thread::yield_now();
            assert_eq!(rounds.load(Ordering::Acquire), before);
            gate.resume();
            while rounds.load(Ordering::Acquire) == before {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Release);
        gate.interrupt(|| {});
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn no_request_is_overlooked_however_late_it_is() {
        let gate = Gate::default();
        let mut pass = gate.pass();
        for round in 0..500 {
            let kicked = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| gate.interrupt(|| kicked.store(true, Ordering::SeqCst)));
                let mut entered = 0;
                // What was kicked while it was inside comes out, and sees what for.
                while gate.enter(&mut pass) {
                    entered += 1;
                    while entered > round % 7 && !kicked.load(Ordering::SeqCst) {
                        std::hint::spin_loop();
                    }
                    gate.leave(&pass);
                }
            });
            assert!(gate.enter(&mut pass), "one return for each request");
            gate.leave(&pass);
        }
    }

    #[test]
    fn an_interrupt_returns_a_paused_vcpu_once() {
        let gate = Gate::default();
        let mut pass = gate.pass();
        gate.pause(|| {});
        gate.interrupt(|| {});
        assert!(!gate.enter(&mut pass));
        gate.resume();
        assert!(gate.enter(&mut pass));
        gate.leave(&pass);
    }
}
