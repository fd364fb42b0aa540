//! The engine on AMD's SVM: an [`arch_x86::engine::Engine`] for the kernel, which runs guest code on the processor itself.
//!
//! It knows the kernel through [`arch_x86::hardware`] only, and the processor through `processor`: so all but the instructions
//! of that is tested in a process, where another processor plays the guest.
//!
//! - `virtualization`: SVM on all processors; `engine`: one machine's, and what its vCPUs share; `features`: what the processor has;
//! - `vcpu`: one vCPU; `regs`: its registers; `enter`: the way into guest code and out; `resolve`: pages that the guest reached;
//! - `vmcb`: the page that the processor keeps a guest in; `intercepts`: what comes out; `exits`: what that means; `events`: what is
//!   delivered, and what was not;
//! - `nested`: the nested page tables; `asid`, `presence`: when what was in them is forgotten;
//! - `permissions`: the maps of ports and model-specific registers.
//!
//! Not done: virtual NMIs, virtual APIC (AVIC), TSC scaling, nested virtualization, encrypted guests.
//!
//! See: AMD APM vol. 2, 15.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod asid;
mod engine;
mod enter;
mod events;
mod exits;
mod features;
mod intercepts;
mod nested;
mod permissions;
mod presence;
mod processor;
mod regs;
mod resolve;
mod vcpu;
mod virtualization;
mod vmcb;

#[cfg(test)]
mod asid_test;
#[cfg(test)]
mod enter_test;
#[cfg(test)]
mod events_test;
#[cfg(test)]
mod exits_test;
#[cfg(test)]
mod intercepts_test;
#[cfg(test)]
mod regs_test;
#[cfg(test)]
mod resolve_test;
#[cfg(test)]
mod run_test;
#[cfg(test)]
mod switch_test;
#[cfg(test)]
mod test_platform;
#[cfg(test)]
mod test_processor;
#[cfg(test)]
mod virtualization_test;

pub use engine::SvmEngine;
pub use processor::{Native, Processor};
pub use vcpu::SvmVcpu;
pub use virtualization::Svm;
