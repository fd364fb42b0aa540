//! What vCPUs execute, and in which mode: memory, code out of the input, and runs.

use abi::encoding::Encoded;
use abi::ioctl;
use abi::memory::{MEM_LOG_DIRTY_PAGES, UserspaceMemoryRegion};
use abi::regs::{Regs, Segment, Sregs};
use arch_x86::ioctl::offered::Descriptor;
use virt::ioctl::Mapping;

use crate::arena::{PAGE, RAM};
use crate::case::Case;
use crate::feedback;
use crate::objects::IMMEDIATE_EXIT;

/// Where code is.
const CODE: u64 = 0x1000;
/// Where page tables are that map the first 512 pages of 2 MiB onto themselves.
const TABLES: u64 = 0x8000;
/// In a vCPU's pages: why it has come out.
const EXIT_REASON: usize = 8;

impl Case<'_> {
    /// Makes all memory, or a part of it, a slot.
    pub(crate) fn make_memory(&mut self) {
        let (which, part) = (self.input.u8(), usize::from(self.input.u8()));
        let start = if which & 0x10 == 0 { 0 } else { part * PAGE % RAM };
        let region = UserspaceMemoryRegion {
            slot: u32::from(which >> 1 & 3),
            flags: if which & 0x20 == 0 { 0 } else { MEM_LOG_DIRTY_PAGES },
            guest_phys_addr: start as u64 + (u64::from(which >> 6) << 21),
            memory_size: if which & 8 != 0 && part % 4 == 0 { 0 } else { (RAM - start) as u64 },
            userspace_addr: self.world.arena.ram(start),
        };
        self.set(Descriptor::Vm, which, ioctl::SET_USER_MEMORY_REGION, &region);
    }

    /// Puts bytes of the input where code is, or anywhere.
    pub(crate) fn write_memory(&mut self) {
        let at = usize::from(self.input.u16());
        let len = usize::from(self.input.u8() % 64);
        let bytes = self.input.bytes(len);
        let at = if at & 1 == 0 { CODE as usize + at % 256 } else { at << 5 };
        self.world.arena.write_ram(at, bytes);
    }

    /// Has a vCPU begin at the code, in a mode that it can be in.
    pub(crate) fn start(&mut self) {
        let (which, how) = (self.input.u8(), self.input.u8());
        if how & 0x80 == 0 {
            // Nothing else is wrong with it: all that there is, is offered.
            self.world.arena.write_argument(0, &256_u64.to_le_bytes());
            let place = self.world.arena.argument(0);
            drop(self.call(Descriptor::Device, 0, ioctl::GET_SUPPORTED_CPUID, place));
            drop(self.call(Descriptor::Vcpu, which, ioctl::SET_CPUID2, place));
        }
        let place = self.world.arena.argument(0);
        if self.call(Descriptor::Vcpu, which, ioctl::GET_SREGS, place).is_none() {
            return;
        }
        let mut sregs = self.argument_as::<Sregs>();
        match how % 4 {
            0 => (sregs.cs.base, sregs.cs.selector) = (0, 0),
            1 => protected(&mut sregs),
            _ => {
                self.put_tables();
                long(&mut sregs, if how & 0x40 == 0 { 0 } else { 3 });
            }
        }
        self.set(Descriptor::Vcpu, which, ioctl::SET_SREGS, &sregs);
        let mut regs = Regs { rip: CODE, rsp: 0x7000, rflags: 2, ..Regs::default() };
        (regs.rax, regs.rcx) = (self.input.u64(), u64::from(self.input.u16()));
        (regs.rbx, regs.rdx) = (u64::from(self.input.u16()) << 4, u64::from(self.input.u16()));
        (regs.rsi, regs.rdi) = (regs.rbx.wrapping_add(0x100), regs.rbx);
        regs.rflags |= u64::from(how & 0x20) << 4;
        self.set(Descriptor::Vcpu, which, ioctl::SET_REGS, &regs);
    }

    fn put_tables(&self) {
        let arena = &self.world.arena;
        let entry = |table: u64, n: u64, value: u64| {
            arena.write_ram((table + 8 * n) as usize, &value.to_le_bytes());
        };
        entry(TABLES, 0, (TABLES + 0x1000) | 7);
        entry(TABLES + 0x1000, 0, (TABLES + 0x2000) | 7);
        for n in 0..512 {
            entry(TABLES + 0x2000, n, n << 21 | 0x87);
        }
    }

    /// Runs a vCPU some times, with what it is told of its last exit out of the input.
    pub(crate) fn run_some(&mut self) {
        let (which, how) = (self.input.u8(), self.input.u8());
        for _ in 0..1 + how % 3 {
            if self.runs == 0 || self.vcpus.is_empty() {
                return;
            }
            self.runs -= 1;
            let vcpu = &self.vcpus[usize::from(which) % self.vcpus.len()];
            vcpu.pages.store(0, &[how >> 7, how >> 6 & 1]);
            if how & 0x20 != 0 {
                let at = usize::from(self.input.u16()) % (3 * PAGE);
                vcpu.pages.store(at, self.input.bytes(16));
            }
            if how & 0x10 != 0 {
                vcpu.pages.store(IMMEDIATE_EXIT, &[1]);
            }
            let running = self.world.running.clone();
            let run = || self.call(Descriptor::Vcpu, which, ioctl::RUN, 0);
            if running.during(vcpu, run).is_some() && self.world.is_kernels() {
                let mut reason = [0; 4];
                vcpu.pages.load(EXIT_REASON, &mut reason);
                feedback::note_exit(u32::from_le_bytes(reason));
            }
        }
    }

    fn argument_as<T: Encoded>(&self) -> T {
        let words = (0..T::SIZE.div_ceil(8)).map(|n| self.world.arena.argument_word(8 * n));
        T::decode(&words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
    }

    fn set<T: Encoded>(&self, of: Descriptor, which: u8, number: u32, value: &T) {
        let mut bytes = vec![0; T::SIZE];
        value.encode(&mut bytes);
        self.world.arena.write_argument(0, &bytes);
        drop(self.call(of, which, number, self.world.arena.argument(0)));
    }
}

/// Flat segments of 32 bits.
fn protected(sregs: &mut Sregs) {
    let data = Segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 16,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..sregs.ds
    };
    sregs.cs = Segment { selector: 8, type_: 11, ..data };
    for seg in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *seg = data;
    }
    sregs.cr0 |= 1;
}

/// 64-bit mode, at a privilege level.
fn long(sregs: &mut Sregs, dpl: u8) {
    protected(sregs);
    (sregs.cs.l, sregs.cs.db) = (1, 0);
    for seg in [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
        (seg.dpl, seg.selector) = (dpl, seg.selector | u16::from(dpl));
    }
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8005_0033, TABLES, 0x4_0620, 0x501);
}
