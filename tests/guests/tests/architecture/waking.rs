//! A guest that halts again and again, and a device on another thread that wakes it each time.

use std::time::{Duration, Instant};

use guests::programs::{end, report};
use guests::{Guest, Hypervisor, IcedError, at, code_asm::*};

/// How often. They would not all fit into a guest's time if it took a quarter of a second until one is noticed.
pub const ROUNDS: u32 = 150;

/// Longer than a guest lives.
const LIMIT: Duration = Duration::from_secs(60);

/// Says which round it is, and halts; at the end reports how often it was woken. Changes R12.
pub fn halt_each_round(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.xor(r12d, r12d)?;
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    a.inc(r12d)?;
    a.mov(dword_ptr(at::DATA), r12d)?;
    a.sti()?;
    a.hlt()?;
    a.cli()?;
    a.cmp(r12d, ROUNDS)?;
    a.jne(top)?;
    a.mov(eax, dword_ptr(at::DATA + 8))?;
    report(a)?;
    end(a)
}

/// What the interrupt's handler does first.
pub fn count(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.inc(dword_ptr(at::DATA + 8))
}

/// Runs the guest, and calls `wake` in each round, when it is about to halt or does.
pub fn run<H: Hypervisor>(
    guest: &mut Guest<H>,
    mut wake: impl FnMut() + Send + 'static,
) -> Vec<u32> {
    let memory = guest.memory.clone();
    let device = std::thread::spawn(move || {
        let start = Instant::now();
        for round in 1..=ROUNDS {
            while memory.read_u32(at::DATA) != round {
                if start.elapsed() > LIMIT {
                    return;
                }
                std::thread::yield_now();
            }
            wake();
        }
    });
    let values = guest.run().values;
    device.join().expect("no panic");
    values
}
