//! A small machine for tests and examples: RAM, identity page tables, GDT, IDT and a TSS, with
//! vCPUs that start in 64-bit mode.
//!
//! Only the crate's public interface is used: `examples/mips.rs` includes this file.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use arch_x86::emulate::Feature;
use arch_x86::engine::{Engine, EngineVcpu, Entry, Features, Intercept};
use arch_x86::regs::{Attr, Regs, Seg, Segment, State, Table, cr0, cr4, efer, gpr, rflags};
use engine_soft::{Options, SoftEngine, SoftVcpu};
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use rustix::fs::{MemfdFlags, memfd_create};
use virt::Memory;
use virt::memory::Slot;

/// Where things lie in the machine. The first 2 MiB are mapped by pages of 4 KiB.
#[allow(dead_code, reason = "the example uses only some")]
pub mod at {
    pub const PML4: u64 = 0x1000;
    pub const PDPT: u64 = 0x2000;
    pub const PD: u64 = 0x3000;
    pub const PT: u64 = 0x4000;
    pub const GDT: u64 = 0x6000;
    pub const IDT: u64 = 0x7000;
    pub const TSS: u64 = 0x8000;
    /// The program of [`super::Machine::new`].
    pub const CODE: u64 = 0x1_0000;
    /// A program for user mode.
    pub const USER_CODE: u64 = 0x2_0000;
    /// Handlers of exceptions, 256 bytes each.
    pub const HANDLERS: u64 = 0x3_0000;
    /// Nothing.
    pub const DATA: u64 = 0x5_0000;
    /// Top of the stack.
    pub const STACK: u64 = 0x8_0000;
    /// Top of the stack that the TSS names for CPL 0.
    pub const STACK0: u64 = 0x9_0000;
    /// Upper half alias of address 0: a kernel's.
    pub const UPPER: u64 = 0xffff_ff80_0000_0000;
    /// A range with pages of 2 MiB.
    pub const LARGE: u64 = 0x40_0000;
}

/// Selectors in the GDT.
#[allow(dead_code, reason = "the example uses only some")]
pub mod selector {
    pub const CODE: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const USER_DATA: u16 = 0x1b;
    pub const USER_CODE: u16 = 0x23;
    pub const TSS: u16 = 0x28;
}

/// Bits of page-table entries.
#[allow(dead_code, reason = "the example uses only some")]
pub mod pte {
    pub const PRESENT: u64 = 1;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const DIRTY: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const GLOBAL: u64 = 1 << 8;
    pub const RIGHTS: u64 = PRESENT | WRITABLE | USER;
}

/// Size of RAM.
pub const RAM: u64 = 32 << 20;

/// RAM and an engine over it.
pub struct Machine {
    pub engine: SoftEngine,
    pub memory: Arc<Memory<spin::Mutex<()>>>,
    hva: u64,
}

#[allow(dead_code, reason = "the example uses only some")]
impl Machine {
    /// A machine with `code` at [`at::CODE`].
    pub fn new(code: &[u8]) -> Self {
        Self::with(Options::default(), code)
    }

    /// The same, with an engine of some options.
    pub fn with(options: Options, code: &[u8]) -> Self {
        Self::over(map_ram(None), options, code)
    }

    /// The same, whose RAM is a file in memory, for others to write.
    pub fn with_file(options: Options, code: &[u8]) -> (Self, File) {
        let file = memfd_create("ram", MemfdFlags::CLOEXEC).expect("a file in memory");
        let file = File::from(file);
        file.set_len(RAM).expect("room in memory");
        (Self::over(map_ram(Some(&file)), options, code), file)
    }

    /// `hva`: of RAM, which stays mapped.
    fn over(hva: u64, options: Options, code: &[u8]) -> Self {
        let memory = Arc::new(Memory::default());
        let slot = Slot { id: 0, gpa: 0, size: RAM, hva, ..Slot::default() };
        memory.insert(slot).expect("the first slot");
        // SAFETY: RAM is never unmapped, and no reference to it is made.
        let engine = unsafe { SoftEngine::new(Arc::clone(&memory), options) };
        let machine = Self { engine, memory, hva };
        machine.write_tables();
        machine.write(at::CODE, code);
        machine
    }

    fn write_tables(&self) {
        self.write_u64(at::PML4, at::PDPT | pte::RIGHTS);
        self.write_u64(at::PML4 + 511 * 8, at::PDPT | pte::RIGHTS);
        self.write_u64(at::PDPT, at::PD | pte::RIGHTS);
        self.write_u64(at::PD, at::PT | pte::RIGHTS);
        for n in 1..RAM >> 21 {
            self.write_u64(at::PD + n * 8, n << 21 | pte::RIGHTS | pte::LARGE);
        }
        for n in 0..512 {
            self.write_u64(at::PT + n * 8, n << 12 | pte::RIGHTS);
        }
        let gdt = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x0000_8b00_0000_0067 | at::TSS << 16,
            0,
        ];
        for (n, descriptor) in (0..).zip(gdt) {
            self.write_u64(at::GDT + n * 8, descriptor);
        }
        self.write_u64(at::TSS + 4, at::STACK0);
    }

    /// Makes `code` the handler of `vector`.
    pub fn handle(&self, vector: u8, code: &[u8]) {
        let handler = at::HANDLERS + u64::from(vector) * 256;
        self.write(handler, code);
        // An interrupt gate, DPL 3.
        let gate = at::IDT + u64::from(vector) * 16;
        let selector = u64::from(selector::CODE) << 16;
        self.write_u64(gate, handler & 0xffff | selector | 0xee00 << 32 | (handler >> 16) << 48);
        self.write_u64(gate + 8, 0);
    }

    /// Writes to RAM.
    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        for (n, byte) in (0..).zip(bytes) {
            assert!(gpa + n < RAM);
            let at = std::ptr::with_exposed_provenance_mut::<u8>((self.hva + gpa + n) as usize);
            // SAFETY: within the mapping; only ever accessed through raw pointers.
            unsafe { at.write_volatile(*byte) };
        }
    }

    /// Writes an integer to RAM.
    pub fn write_u64(&self, gpa: u64, value: u64) {
        self.write(gpa, &value.to_le_bytes());
    }

    /// Writes an aligned integer to RAM, so that nobody sees a part of it.
    pub fn write_at_once(&self, gpa: u64, value: u64) {
        assert!(gpa.is_multiple_of(8) && gpa < RAM);
        let at = std::ptr::with_exposed_provenance_mut::<u64>((self.hva + gpa) as usize);
        // SAFETY: within the mapping, and aligned; only ever accessed through raw pointers.
        unsafe { at.write_volatile(value) };
    }

    /// Reads an integer from RAM.
    pub fn read_u64(&self, gpa: u64) -> u64 {
        let bytes = [0, 1, 2, 3, 4, 5, 6, 7].map(|n| {
            assert!(gpa + n < RAM);
            let at = std::ptr::with_exposed_provenance::<u8>((self.hva + gpa + n) as usize);
            // SAFETY: within the mapping; only ever accessed through raw pointers.
            unsafe { at.read_volatile() }
        });
        u64::from_le_bytes(bytes)
    }

    /// Gives back what RAM takes of the host's, and all that is in it: for tests that make thousands of machines.
    pub fn clear(&self) {
        let ram = std::ptr::with_exposed_provenance_mut(self.hva as usize);
        // SAFETY: the mapping stays, and nothing refers to its bytes.
        let result = unsafe { libc::madvise(ram, RAM as usize, libc::MADV_DONTNEED) };
        assert_eq!(result, 0);
    }

    /// The address of RAM in this process.
    pub fn hva(&self) -> u64 {
        self.hva
    }

    /// A vCPU at [`at::CODE`], CPL 0, in 64-bit mode.
    pub fn vcpu(&self) -> SoftVcpu {
        Self::start(&self.engine)
    }

    /// The same, of an engine of its own.
    pub fn vcpu_with(&self, options: Options) -> SoftVcpu {
        // SAFETY: as in `new`.
        Self::start(&unsafe { SoftEngine::new(Arc::clone(&self.memory), options) })
    }

    fn start(engine: &SoftEngine) -> SoftVcpu {
        let mut vcpu = engine.create_vcpu(0).expect("a vCPU");
        let flat = |selector, attr| Segment { base: 0, limit: !0, selector, attr: Attr(attr) };
        let mut state = State::at_reset();
        state.rip = at::CODE;
        state.gprs[usize::from(gpr::RSP)] = at::STACK;
        state.rflags = rflags::FIXED;
        state.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::NE | cr0::ET | cr0::MP;
        state.cr3 = at::PML4;
        state.cr4 = cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        state.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        for seg in [Seg::Es, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
            state.segments[seg as usize] = flat(selector::DATA, 0xc93);
        }
        state.segments[Seg::Cs as usize] = flat(selector::CODE, 0xa9b);
        state.segments[Seg::Tr as usize] =
            Segment { base: at::TSS, limit: 0x67, selector: selector::TSS, attr: Attr(0x8b) };
        state.gdtr = Table { base: at::GDT, limit: 7 * 8 - 1 };
        state.idtr = Table { base: at::IDT, limit: 0xfff };
        state.write(&mut vcpu);
        let features = [
            Feature::Cmpxchg16b,
            Feature::Popcnt,
            Feature::Invpcid,
            Feature::Smap,
            Feature::Smep,
            Feature::Pcid,
            Feature::La57,
        ];
        let set = |all: Features, feature: Feature| all.with(feature, true);
        vcpu.set_features(features.into_iter().fold(Features::default(), set));
        vcpu.prepare().expect("a code cache");
        vcpu
    }
}

/// Maps RAM for good, as pages of its own or those of a file, and gives its address.
fn map_ram(file: Option<&File>) -> u64 {
    let (sharing, descriptor) = match file {
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
    let ram = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            RAM as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            sharing | libc::MAP_NORESERVE,
            descriptor,
            0,
        )
    };
    assert_ne!(ram, libc::MAP_FAILED);
    ram.expose_provenance() as u64
}

/// The bytes of a 64-bit program at `address`.
pub fn assemble(
    address: u64,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).expect("64-bit");
    program(&mut assembler).expect("valid instructions");
    assembler.assemble(address).expect("encodable")
}

/// A machine with a program at [`at::CODE`], and an engine of some options.
#[allow(dead_code, reason = "the example uses only some")]
pub fn machine(
    options: Options,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Machine {
    Machine::with(options, &assemble(at::CODE, program))
}

/// Runs until something else than nothing happens.
#[allow(dead_code, reason = "the example uses only some")]
pub fn run(vcpu: &mut SoftVcpu) -> Intercept {
    vcpu.enter(&Entry { fresh: true, ..Entry::default() }, &AtomicU32::new(0))
}

/// Runs until HLT, and steps over it.
#[allow(dead_code, reason = "the example uses only some")]
pub fn run_to_halt(vcpu: &mut SoftVcpu) {
    assert_eq!(run(vcpu), Intercept::Halt { len: 1 }, "at {:#x}", vcpu.rip());
    vcpu.set_rip(vcpu.rip() + 1);
    vcpu.set_interrupt_shadow(false);
}
