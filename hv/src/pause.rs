//! How a machine's vCPUs are brought to a halt, and go on.

use parking_lot::{Condvar, Mutex};

/// Where vCPUs' threads pass on their way into the guest, and are stopped.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    inside: usize,
    /// Grows with each request that all vCPUs return to the VMM.
    interrupts: u64,
}

/// One vCPU's way through the gate: remembers which request to return it has seen.
#[derive(Debug, Default)]
pub struct Pass {
    seen: u64,
}

impl Gate {
    /// Waits while the machine is paused, then goes in. Gives false, and does not go in, when the vCPU
    /// is to return to the VMM.
    pub fn enter(&self, pass: &mut Pass) -> bool {
        let mut state = self.state.lock();
        loop {
            if pass.seen != state.interrupts {
                pass.seen = state.interrupts;
                return false;
            }
            if !state.paused {
                state.inside += 1;
                return true;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Comes out.
    pub fn leave(&self) {
        let mut state = self.state.lock();
        state.inside -= 1;
        if state.paused && state.inside == 0 {
            self.changed.notify_all();
        }
    }

    /// Closes the gate, calls `kick` (which makes whoever is inside come out soon), and waits until
    /// all are out.
    pub fn pause(&self, kick: impl FnOnce()) {
        let mut state = self.state.lock();
        state.paused = true;
        kick();
        while state.inside > 0 {
            self.changed.wait(&mut state);
        }
    }

    /// Opens the gate.
    pub fn resume(&self) {
        self.state.lock().paused = false;
        self.changed.notify_all();
    }

    /// Makes each vCPU's next (or current) passage end with a return to the VMM.
    pub fn interrupt(&self, kick: impl FnOnce()) {
        self.state.lock().interrupts += 1;
        kick();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
                    let mut pass = Pass::default();
                    while !stop.load(Ordering::Acquire) {
                        if gate.enter(&mut pass) {
                            rounds.fetch_add(1, Ordering::AcqRel);
                            gate.leave();
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
    fn an_interrupt_returns_a_paused_vcpu_once() {
        let gate = Gate::default();
        let mut pass = Pass::default();
        gate.pause(|| {});
        gate.interrupt(|| {});
        assert!(!gate.enter(&mut pass));
        gate.resume();
        assert!(gate.enter(&mut pass));
        gate.leave();
    }
}
