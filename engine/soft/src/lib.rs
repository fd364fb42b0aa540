//! The software CPU: an [`arch_x86::engine::Engine`] that needs nothing of its host
//! but to be an x86-64 processor.
//!
//! An interpreter over decoded and cached blocks, and a JIT for those of 64-bit mode. Integer and system
//! instructions are `arch_x86::emulate`'s; [`vector`] has x87, MMX and SSE ones.
//!
//! - `engine`: one VM's engine, and what its vCPUs share;
//! - `vcpu`: one vCPU's state; `registers`: its accessors; `memory`: its accesses;
//! - `run`: the run loop; `fetch`, `blocks`, `code_pages`, `code_map`: decoded code and its coherence;
//! - `jit`: blocks translated to the host's code; `lockstep`: the check that both ways agree;
//! - `modes`: other ways to execute, for tests; `status_bits`: flags, as the decoder names them;
//! - `jump_cache`: of it, blocks by RIP; `page_marks`: which page of a kernel's code is where; `traces`: which blocks
//!   are translated together;
//! - `tlb`, `itlb`, `translate`: from linear addresses to host memory; `ranges`: for many pages at once;
//! - `address_spaces`, `invalidate`: of which PCIDs that is kept, and when it is dropped;
//! - `ram`: the bytes of guest memory. It, `host` and `vector::stub` are the unsafe parts.

mod address_spaces;
mod blocks;
mod code_map;
mod code_pages;
mod engine;
mod fetch;
mod host;
mod invalidate;
mod itlb;
mod jit;
mod jump_cache;
mod large_pages;
mod lockstep;
mod memory;
mod modes;
mod page_marks;
mod polled;
mod ram;
mod ranges;
mod registers;
mod run;
mod status_bits;
mod tlb;
mod traces;
mod translate;
mod vcpu;
pub mod vector;

#[cfg(test)]
extern crate self as engine_soft;
#[cfg(test)]
mod address_spaces_test;
#[cfg(test)]
mod bits_programs_test;
#[cfg(test)]
mod bits_test;
#[cfg(test)]
mod calls_random_test;
#[cfg(test)]
mod calls_test;
#[cfg(test)]
mod coherence_test;
#[cfg(test)]
mod control_test;
#[cfg(test)]
mod debug_test;
#[cfg(test)]
mod flags_at_ends_test;
#[cfg(test)]
mod foreign_writes_test;
#[cfg(test)]
mod jump_cache_test;
#[cfg(test)]
mod large_pages_test;
#[cfg(test)]
mod lockstep_test;
#[cfg(test)]
mod loops_test;
#[cfg(test)]
mod lost_flags_test;
#[cfg(test)]
mod mmx_test;
#[cfg(test)]
mod modes_test;
#[cfg(test)]
mod own_data_test;
#[cfg(test)]
mod page_marks_test;
#[cfg(test)]
mod patching_test;
#[cfg(test)]
mod pcid_test;
#[cfg(test)]
mod ranges_edges_test;
#[cfg(test)]
mod ranges_test;
#[cfg(test)]
mod returns_test;
#[cfg(test)]
mod run_test;
#[cfg(test)]
mod smp_test;
#[cfg(test)]
mod stack_windows_test;
#[cfg(test)]
mod stacks_test;
#[cfg(test)]
mod statistics_test;
#[cfg(test)]
mod strings_test;
#[cfg(test)]
mod targets_test;
#[cfg(test)]
mod test_bits;
#[cfg(test)]
mod test_code;
#[cfg(test)]
mod test_kernel;
#[cfg(test)]
mod test_machine;
#[cfg(test)]
mod test_ways;
#[cfg(test)]
mod traces_random_test;
#[cfg(test)]
mod traces_test;
#[cfg(test)]
mod translate_test;
#[cfg(test)]
mod window_test;
#[cfg(test)]
mod x87_memory_test;
#[cfg(test)]
mod x87_state_test;
#[cfg(test)]
mod x87_test;

pub use engine::{Kicker, Options, SoftEngine, instructions};
pub use jit::context::SignalPlace;
pub use lockstep::{Difference, Divergence};
pub use modes::Modes;
pub use ram::Probe;
pub use vcpu::{SoftVcpu, Statistics};
