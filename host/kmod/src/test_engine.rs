//! A virtualization for tests: it runs a script, notes on which processors it is on, and what it was told of pages.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use arch_x86::cpuid::Instructions;
use arch_x86::engine::{Engine, Entry, Intercept};
use arch_x86::hardware::{HostPages, Unusable, Virtualization};
use arch_x86::regs::State;
use arch_x86::vcpu::scripted::{Scripted, ScriptedVcpu};
use virt::{Errno, Memory};

use crate::kernel::Kernel;
use crate::lock::SpinLock;

/// The processors that it is on, a bit each.
pub static ON: AtomicU64 = AtomicU64::new(0);
/// How often pages were about to change, how often they had, and the addresses of the last time.
pub static CHANGES: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// The signals that were blocked when it was entered last.
pub static BLOCKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: it is the glue's function (glue/selftest.c), which takes nothing.
unsafe extern "C" {
    /// The signals that this thread has blocked, a bit each.
    pub safe fn unibody_blocked_signals() -> u64;
}

/// The port that the script writes to, and the one that it reads.
pub const PORTS: [u16; 2] = [0x1080, 0x1090];

/// The virtualization.
pub struct TestVirtualization;

impl Virtualization<Kernel> for TestVirtualization {
    type Engine = TestEngine;

    fn new(_: Kernel) -> Result<Self, Unusable> {
        Ok(Self)
    }

    fn enable(&self, processor: u32) -> Result<(), Unusable> {
        let bit = 1 << (processor % 64);
        let before = ON.fetch_or(bit, Ordering::SeqCst);
        if before & bit == 0 { Ok(()) } else { Err(Unusable::InUse) }
    }

    fn disable(&self, processor: u32) {
        ON.fetch_and(!(1 << (processor % 64)), Ordering::SeqCst);
    }

    fn crash() {}

    fn engine(self: &Arc<Self>, _: Arc<Memory<SpinLock>>) -> Result<TestEngine, Errno> {
        Ok(TestEngine(Scripted::default()))
    }
}

/// An engine that runs a script.
pub struct TestEngine(Scripted);

impl Engine for TestEngine {
    type Vcpu = ScriptedVcpu;

    fn create_vcpu(&self, id: u32) -> Result<ScriptedVcpu, Errno> {
        let mut vcpu = self.0.create_vcpu(id)?;
        vcpu.then(|state, _| out(state, 0x5a));
        vcpu.then(|_, _| Intercept::In { port: PORTS[1], size: 1, len: 1 });
        // What was read, and one more.
        vcpu.then(|state, _| {
            let read = state.gprs[0] as u8;
            out(state, read.wrapping_add(1))
        });
        vcpu.then(|_, _: &Entry| Intercept::Halt { len: 1 });
        Ok(vcpu)
    }

    fn instructions(&self) -> Instructions {
        self.0.instructions()
    }

    fn invalidate(&self, start: u64, size: u64) {
        self.0.invalidate(start, size);
    }

    fn kick(&self, id: u32) {
        self.0.kick(id);
    }
}

fn out(state: &mut State, byte: u8) -> Intercept {
    BLOCKED.store(unibody_blocked_signals(), Ordering::SeqCst);
    state.gprs[0] = byte.into();
    Intercept::Out { port: PORTS[0], size: 1, len: 1 }
}

impl HostPages for TestEngine {
    fn change(&self, start: u64, end: u64) {
        CHANGES[0].fetch_add(1, Ordering::SeqCst);
        CHANGES[2].store(start, Ordering::SeqCst);
        CHANGES[3].store(end, Ordering::SeqCst);
    }

    fn changed(&self, _: u64, _: u64) {
        CHANGES[1].fetch_add(1, Ordering::SeqCst);
    }
}
