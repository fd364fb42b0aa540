//! The kernel's trace events of the system `unibody`: what an engine tells of a vCPU.
//!
//! `echo 1 >/sys/kernel/tracing/events/unibody/enable` has them be in `/sys/kernel/tracing/trace`, and `perf` and `trace-cmd` know them.

use arch_x86::engine::Event;
use arch_x86::exception;
use arch_x86::hardware::Trace;

// SAFETY: these are the glue's functions (glue/trace.c), which take numbers and may be called anywhere.
unsafe extern "C" {
    safe fn unibody_trace_entry(vcpu: u32, rip: u64);
    safe fn unibody_trace_exit(vcpu: u32, rip: u64, reason: u64, info1: u64, info2: u64);
    /// `what`: one of the numbers below.
    safe fn unibody_trace_inject(vcpu: u32, what: u8, vector: u8, has_error: bool, error: u32);
}

/// What is injected, as `glue/trace.h` has words for it.
const INTERRUPT: u8 = 0;
const NMI: u8 = 1;
const EXCEPTION: u8 = 2;

/// Tells it to who asks for such. Any context.
#[inline]
pub fn trace(event: Trace) {
    match event {
        Trace::Entry { vcpu, rip } => unibody_trace_entry(vcpu, rip),
        Trace::Exit { vcpu, rip, reason, info1, info2 } => {
            unibody_trace_exit(vcpu, rip, reason, info1, info2);
        }
        Trace::Injection { vcpu, event } => {
            let (what, vector, error) = match event {
                Event::Interrupt { vector } => (INTERRUPT, vector, None),
                Event::Nmi => (NMI, exception::NMI, None),
                Event::Exception(raised) => (EXCEPTION, raised.vector, raised.error),
            };
            unibody_trace_inject(vcpu, what, vector, error.is_some(), error.unwrap_or(0));
        }
    }
}
