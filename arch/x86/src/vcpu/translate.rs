//! From a linear address to a guest-physical one, for a debugger: [`Vcpu::translate`].

use virt::host::Host;
use virt::memory::View;

use super::Vcpu;
use super::access::Tables;
use crate::emulate::operand::canonical;
use crate::engine::Engine;
use crate::mmu::{self, NoMemory, Paging, PhysMemory, Query, Translation};
use crate::regs::Regs;

/// The guest's page tables, which stay as they are: no accessed bit tells that somebody looked.
struct Untouched<'a, H>(Tables<'a, H>);

impl<H: Host> PhysMemory for Untouched<'_, H> {
    fn read_u32(&mut self, gpa: u64) -> Result<u32, NoMemory> {
        self.0.read_u32(gpa)
    }
    fn read_u64(&mut self, gpa: u64) -> Result<u64, NoMemory> {
        self.0.read_u64(gpa)
    }
    fn compare_exchange_u32(&mut self, _: u64, _: u32, _: u32) -> Result<bool, NoMemory> {
        Ok(true)
    }
    fn compare_exchange_u64(&mut self, _: u64, _: u64, _: u64) -> Result<bool, NoMemory> {
        Ok(true)
    }
}

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// What a linear address is mapped to, for a supervisor who may read all that is mapped; nothing if it is not.
    pub fn translate(&mut self, linear: u64) -> Option<Translation> {
        if self.engine.long_mode() && !canonical(&self.engine, linear) {
            return None;
        }
        let paging = Paging::of(&self.engine, self.cpuid.limits());
        // AC lifts SMAP.
        let query = Query { linear, ac: true, ..Query::default() };
        let walk = |view: &View, host: &H| {
            mmu::walk(&paging, query, &mut Untouched(Tables { view, host })).ok()
        };
        self.with_memory(walk)
    }
}
