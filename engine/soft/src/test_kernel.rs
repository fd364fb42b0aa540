//! A kernel for tests of ranges: its large pages, and programs that read.

use arch_x86::emulate::Feature;
use arch_x86::engine::{EngineVcpu, Features, Intercept};
use arch_x86::exception;
use arch_x86::regs::{Regs, SysReg, cr4, gpr};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::run_test::handler;
use crate::test_machine::{Machine, RAM, assemble, at, pte, run};
use crate::vector::Extension;
use crate::{Options, SoftVcpu};

pub type Assembled = Result<(), IcedError>;

/// A kernel's map of all RAM, two more regions, another one for which there is no range left, its image, and the same
/// in the lower half. All by one directory.
pub const DIRECT: u64 = 0xffff_8880_0000_0000;
pub const PAGES: u64 = 0xffff_ea00_0000_0000;
pub const MORE: u64 = 0xffff_c900_0000_0000;
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;
pub const LOWER: u64 = 0x0000_7000_0000_0000;
pub const REGIONS: [u64; 5] = [DIRECT, IMAGE, PAGES, MORE, LOWER];
/// Pages of 1 GiB.
pub const HUGE: u64 = DIRECT + (1 << 30);

pub const PDPT: u64 = 0xa_0000;
pub const PD: u64 = 0xa_1000;
/// 2 MiB.
pub const SIZE: u64 = 2 << 20;
pub const ACCESSED: u64 = 1 << 5;
/// What a kernel's large pages are.
pub const KERNEL: u64 = pte::PRESENT | pte::WRITABLE | pte::LARGE | pte::GLOBAL | ACCESSED;

/// Programs that read: some for each region, so that what an instruction reads first is in the range that it always
/// reads.
const READERS: u64 = at::USER_CODE;
const PROGRAM: u64 = at::CODE;
/// Where what was read is.
pub const RESULT: u64 = at::DATA;

/// What an access came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Value(u64),
    /// CR2, and the error code.
    Fault(u64, u64),
    /// The address in the guest's memory.
    Outside(u64),
}
pub use Read::{Fault, Outside, Value};

/// A kernel.
pub struct Guest {
    pub machine: Machine,
    pub vcpu: SoftVcpu,
}

impl Guest {
    pub fn new(options: Options) -> Self {
        let machine = Machine::with(options, &[]);
        for region in [DIRECT, PAGES, MORE, LOWER] {
            machine.write_u64(at::PML4 + (region >> 39 & 511) * 8, PDPT | pte::RIGHTS);
        }
        machine.write_u64(PDPT, PD | pte::RIGHTS);
        machine.write_u64(PDPT + 8, KERNEL);
        machine.write_u64(at::PDPT + 510 * 8, PD | pte::RIGHTS);
        for n in 0..RAM / SIZE {
            machine.write_u64(PD + n * 8, large(n));
        }
        // The first page has the tables.
        for n in (SIZE..RAM).step_by(8) {
            machine.write_at_once(n, n * 0x1_0000_0001);
        }
        for (region, size) in
            REGIONS.into_iter().flat_map(|region| (0..6).map(move |n| (region, n)))
        {
            let reader = reader(region, size);
            machine.write(reader, &assemble(reader, |a| read(a, size)));
        }
        handler(&machine, exception::PF, |a| {
            a.mov(rdx, cr2)?;
            a.pop(rcx)?;
            a.hlt()
        });
        let mut vcpu = machine.vcpu();
        if Extension::Avx.host_has() {
            let all =
                [Feature::Avx, Feature::Xsave, Feature::Invpcid, Feature::Smap, Feature::Pcid];
            let all = all.into_iter().fold(Features::default(), |all, one| all.with(one, true));
            vcpu.set_features(all);
            vcpu.set_cr4(vcpu.cr4() | cr4::OSXSAVE);
            vcpu.set_sysreg(SysReg::Xcr0, 7);
        }
        Self { machine, vcpu }
    }

    /// Maps the `n`th large page of each region.
    pub fn map(&self, n: u64, entry: u64) {
        self.machine.write_u64(PD + n * 8, entry);
    }

    /// Reads `1 << size` bytes, once.
    pub fn read_once(&mut self, size: u64, address: u64) -> Read {
        self.machine.write_u64(RESULT, 0);
        self.vcpu.set_rip(reader(address, size));
        self.vcpu.set_gpr(gpr::RBX, address);
        self.vcpu.set_gpr(gpr::RSP, at::STACK);
        match run(&mut self.vcpu) {
            Intercept::Halt { .. } if self.vcpu.rip() < at::HANDLERS => {
                Value(self.machine.read_u64(RESULT))
            }
            Intercept::Halt { .. } => Fault(self.vcpu.gpr(gpr::RDX), self.vcpu.gpr(gpr::RCX)),
            Intercept::NestedFault { gpa, write: false } => Outside(gpa),
            other => panic!("{other:?}"),
        }
    }

    /// Reads so often that it is translated, and looks into what was read before: always the same.
    pub fn read_sized(&mut self, size: u64, address: u64) -> Read {
        let all = [(); 3].map(|()| self.read_once(size, address));
        assert_eq!(all, [all[0]; 3], "{address:#x}");
        all[0]
    }

    /// The same, eight bytes.
    pub fn read(&mut self, address: u64) -> Read {
        self.read_sized(3, address)
    }

    /// Executes something with RBX, and halts.
    pub fn execute(&mut self, address: u64, program: impl FnOnce(&mut CodeAssembler) -> Assembled) {
        self.machine.write(
            PROGRAM,
            &assemble(PROGRAM, |a| {
                program(a)?;
                a.hlt()
            }),
        );
        self.vcpu.set_rip(PROGRAM);
        self.vcpu.set_gpr(gpr::RBX, address);
        self.vcpu.set_gpr(gpr::RSP, at::STACK);
        assert_eq!(run(&mut self.vcpu), Intercept::Halt { len: 1 });
        assert!(self.vcpu.rip() < at::HANDLERS);
    }

    pub fn invlpg(&mut self, address: u64) {
        self.execute(address, |a| a.invlpg(byte_ptr(rbx)));
    }

    /// Reads all pages but the first, so that ranges are as long as they may be.
    pub fn read_all(&mut self, region: u64) {
        for page in (SIZE..RAM).step_by(SIZE as usize) {
            assert_eq!(self.read(region + page + 8), Value(number(page + 8)));
        }
    }
}

/// Reads `1 << size` bytes at RBX.
fn read(a: &mut CodeAssembler, size: u64) -> Assembled {
    match size {
        0 => {
            a.mov(al, byte_ptr(rbx))?;
            a.mov(byte_ptr(RESULT), al)?;
        }
        1 => {
            a.mov(ax, word_ptr(rbx))?;
            a.mov(word_ptr(RESULT), ax)?;
        }
        2 => {
            a.mov(eax, dword_ptr(rbx))?;
            a.mov(dword_ptr(RESULT), eax)?;
        }
        3 => {
            a.mov(rax, qword_ptr(rbx))?;
            a.mov(qword_ptr(RESULT), rax)?;
        }
        4 => {
            a.movdqu(xmm0, xmmword_ptr(rbx))?;
            a.movdqu(xmmword_ptr(RESULT), xmm0)?;
        }
        _ => {
            a.vmovdqu(ymm0, ymmword_ptr(rbx))?;
            a.vmovdqu(ymmword_ptr(RESULT), ymm0)?;
        }
    }
    a.hlt()
}

/// The program that reads `1 << size` bytes at an address.
fn reader(address: u64, size: u64) -> u64 {
    let n = REGIONS.iter().position(|region| address >> 40 == region >> 40).unwrap_or(0);
    READERS + n as u64 * 0x200 + size * 64
}

/// The entry that maps the `n`th large page of RAM.
pub const fn large(n: u64) -> u64 {
    (n * SIZE) | KERNEL
}

/// What is at an aligned address of RAM.
pub const fn number(gpa: u64) -> u64 {
    gpa * 0x1_0000_0001
}
