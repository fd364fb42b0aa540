//! A small processor for tests: registers in a [`State`], flat memory from
//! linear address 0, no paging.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Access, Cpu, Feature, Int, Mode, Status, Stop, decode};
use crate::engine::{Features, Intercept};
use crate::exception::{Exception, page_fault};
use crate::regs::{
    Attr, DEBUG_REGISTERS, FxArea, Regs, Seg, Segment, State, SysReg, Table, YmmHigh, cr0, cr4,
    efer, gpr, rflags,
};

/// The processor.
pub struct TestCpu {
    /// Registers; the arithmetic flags of `rflags` are in `status`.
    pub state: State,
    /// The arithmetic flags.
    pub status: Status,
    /// Memory, from linear address 0. What is not there faults as not present.
    pub memory: Vec<u8>,
    /// Memory that can only be read.
    pub read_only: Range<u64>,
    /// The exception that was raised last.
    pub exception: Option<Exception>,
    /// The intercept that was raised last.
    pub intercept: Option<Intercept>,
    /// DR6 bits of the traps that follow.
    pub trap: u64,
    /// What CPUID offers.
    pub features: Features,
    /// Successful bulk copies and fills, if they are to be offered at all.
    pub bulk: Option<usize>,
    /// The time stamp counter; counts its reads.
    pub tsc: u64,
    /// Whether there are random numbers just now.
    pub random: bool,
}

impl TestCpu {
    /// Where [`run`](Self::run) puts code.
    pub const CODE: u64 = 0x1000;
    /// The initial stack pointer.
    pub const STACK: u64 = 0x8000;
    /// Size of memory.
    pub const MEMORY: usize = 0x1_0000;

    /// A processor in 64-bit mode at CPL 0, RIP at [`CODE`](Self::CODE), RSP at
    /// [`STACK`](Self::STACK), all features on, and with Intel's encodings.
    #[must_use]
    pub fn long() -> Box<Self> {
        let mut cpu = Self::real();
        let state = &mut cpu.state;
        state.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::WP | cr0::ET;
        state.cr4 = cr4::PAE;
        state.efer = efer::LME | efer::LMA | efer::SCE;
        flat_segments(state, Attr(0xa9b));
        cpu
    }

    /// A processor in 32-bit protected mode with flat segments at CPL 0.
    #[must_use]
    pub fn protected() -> Box<Self> {
        let mut cpu = Self::real();
        cpu.state.cr0 = cr0::PE | cr0::NE | cr0::ET;
        flat_segments(&mut cpu.state, Attr(0xc9b));
        cpu
    }

    /// A processor in real mode, all segments at 0.
    #[must_use]
    pub fn real() -> Box<Self> {
        let mut cpu = Box::new(Self {
            state: State::at_reset(),
            status: Status::default(),
            memory: vec![0; Self::MEMORY],
            read_only: 0..0,
            exception: None,
            intercept: None,
            trap: 0,
            features: Features::default(),
            bulk: None,
            tsc: 0,
            random: true,
        });
        for feature in FEATURES {
            cpu.features = cpu.features.with(feature, true);
        }
        cpu.status = Status::from_bits(0);
        cpu.state.segments[Seg::Cs as usize].base = 0;
        cpu.state.segments[Seg::Cs as usize].selector = 0;
        cpu.state.rip = Self::CODE;
        cpu.state.gprs[usize::from(gpr::RSP)] = Self::STACK;
        cpu
    }

    /// Puts `code` at [`CODE`](Self::CODE), RIP there, and executes until RIP is behind it.
    ///
    /// # Errors
    /// Why an instruction did not complete; RIP is then at it.
    pub fn run(&mut self, code: &[u8]) -> Result<(), Stop> {
        let start = Self::CODE as usize;
        self.memory[start..start + code.len()].copy_from_slice(code);
        self.state.rip = Self::CODE;
        let end = Self::CODE + code.len() as u64;
        while (Self::CODE..end).contains(&self.state.rip) {
            self.step()?;
        }
        Ok(())
    }

    /// Executes one instruction.
    ///
    /// # Errors
    /// Why it did not complete; RIP is then at it.
    pub fn step(&mut self) -> Result<(), Stop> {
        let rip = self.state.rip;
        let mode = Mode::of(self);
        let base = if mode == Mode::Bits64 { 0 } else { self.segment_base(Seg::Cs) };
        let mut bytes = [0; 15];
        let start = usize::try_from(base.wrapping_add(rip)).unwrap_or(usize::MAX);
        let available = self.memory.get(start..).unwrap_or(&[]);
        let count = available.len().min(bytes.len());
        bytes[..count].copy_from_slice(&available[..count]);
        let Ok(decoded) = decode::<Self>(&bytes[..count], rip, mode, self.features) else {
            return Err(self.intercept(Intercept::Unsupported { bytes, len: count as u8 }));
        };
        self.state.rip = rip.wrapping_add(decoded.op.insn.len.into());
        let result = (decoded.op.exec)(self, &decoded.op.insn);
        if result.is_err() {
            self.state.rip = rip;
        }
        result
    }

    /// The bytes at `linear`.
    ///
    /// # Errors
    /// A page fault if they are not all there, or may not be written.
    fn range(&mut self, linear: u64, size: usize, write: bool) -> Result<Range<usize>, Stop> {
        let last = linear.wrapping_add(size as u64).wrapping_sub(1);
        if !super::operand::canonical(self, linear) || !super::operand::canonical(self, last) {
            return Err(self.fault(Exception::gp(0)));
        }
        let mut error = if write { page_fault::WRITE } else { 0 };
        if self.state.cpl == 3 {
            error |= page_fault::USER;
        }
        let end = linear.wrapping_add(size as u64);
        if end > self.memory.len() as u64 || end < linear {
            let absent = linear.max(self.memory.len() as u64);
            return Err(self.fault(Exception::pf(absent, error)));
        }
        if write && linear < self.read_only.end && end > self.read_only.start {
            error |= page_fault::PRESENT;
            return Err(self.fault(Exception::pf(linear.max(self.read_only.start), error)));
        }
        Ok(linear as usize..end as usize)
    }
}

/// Flat segments with `code` for CS.
fn flat_segments(state: &mut State, code: Attr) {
    let flat = Segment { base: 0, limit: u32::MAX, selector: 0x10, attr: Attr(0xc93) };
    for segment in &mut state.segments[..6] {
        *segment = flat;
    }
    state.segments[Seg::Cs as usize] = Segment { selector: 0x8, attr: code, ..flat };
}

/// All of [`Feature`], but [`Feature::AmdEncodings`].
const FEATURES: [Feature; 27] = [
    Feature::Cmpxchg16b,
    Feature::Popcnt,
    Feature::Movbe,
    Feature::Lzcnt,
    Feature::Bmi1,
    Feature::Bmi2,
    Feature::Adx,
    Feature::Rdrand,
    Feature::Rdseed,
    Feature::Fsgsbase,
    Feature::Invpcid,
    Feature::Rdtscp,
    Feature::Rdpid,
    Feature::Smap,
    Feature::Smep,
    Feature::Pcid,
    Feature::La57,
    Feature::Serialize,
    Feature::Clflushopt,
    Feature::Clwb,
    Feature::Sse42,
    Feature::Monitor,
    Feature::Xsave,
    Feature::Avx,
    Feature::Umip,
    Feature::LegacySyscall,
    Feature::LongSysenter,
];

impl Regs for TestCpu {
    fn gpr(&self, n: u8) -> u64 {
        self.state.gprs[usize::from(n & 15)]
    }
    fn set_gpr(&mut self, n: u8, value: u64) {
        self.state.gprs[usize::from(n & 15)] = value;
    }
    fn rip(&self) -> u64 {
        self.state.rip
    }
    fn set_rip(&mut self, value: u64) {
        self.state.rip = value;
    }
    fn rflags(&self) -> u64 {
        self.state.rflags & !rflags::STATUS | self.status.bits()
    }
    fn set_rflags(&mut self, value: u64) {
        self.state.rflags = value & !rflags::STATUS | rflags::FIXED;
        self.status = Status::from_bits(value);
    }
    fn status(&self) -> Status {
        self.status
    }
    fn set_status(&mut self, status: Status) {
        self.status = status;
    }
    fn segment(&self, seg: Seg) -> Segment {
        self.state.segments[seg as usize]
    }
    fn set_segment(&mut self, seg: Seg, value: Segment) {
        self.state.segments[seg as usize] = value;
    }
    fn cpl(&self) -> u8 {
        self.state.cpl
    }
    fn set_cpl(&mut self, cpl: u8) {
        self.state.cpl = cpl;
    }
    fn gdtr(&self) -> Table {
        self.state.gdtr
    }
    fn set_gdtr(&mut self, table: Table) {
        self.state.gdtr = table;
    }
    fn idtr(&self) -> Table {
        self.state.idtr
    }
    fn set_idtr(&mut self, table: Table) {
        self.state.idtr = table;
    }
    fn cr0(&self) -> u64 {
        self.state.cr0
    }
    fn set_cr0(&mut self, value: u64) {
        self.state.cr0 = value;
    }
    fn cr2(&self) -> u64 {
        self.state.cr2
    }
    fn set_cr2(&mut self, value: u64) {
        self.state.cr2 = value;
    }
    fn cr3(&self) -> u64 {
        self.state.cr3
    }
    fn set_cr3(&mut self, value: u64) {
        self.state.cr3 = value & !(1 << 63);
    }
    fn cr4(&self) -> u64 {
        self.state.cr4
    }
    fn set_cr4(&mut self, value: u64) {
        self.state.cr4 = value;
    }
    fn efer(&self) -> u64 {
        self.state.efer
    }
    fn set_efer(&mut self, value: u64) {
        self.state.efer = value;
    }
    fn dr(&self, n: u8) -> u64 {
        match DEBUG_REGISTERS.iter().position(|dr| *dr == n) {
            Some(at) => self.state.debug[at],
            None => 0,
        }
    }
    fn set_dr(&mut self, n: u8, value: u64) {
        if let Some(at) = DEBUG_REGISTERS.iter().position(|dr| *dr == n) {
            self.state.debug[at] = value;
        }
    }
    fn sysreg(&self, reg: SysReg) -> u64 {
        self.state.sysregs[reg as usize]
    }
    fn set_sysreg(&mut self, reg: SysReg, value: u64) {
        self.state.sysregs[reg as usize] = value;
    }
    fn interrupt_shadow(&self) -> bool {
        self.state.interrupt_shadow
    }
    fn set_interrupt_shadow(&mut self, on: bool) {
        self.state.interrupt_shadow = on;
    }
    fn nmi_blocked(&self) -> bool {
        self.state.nmi_blocked
    }
    fn set_nmi_blocked(&mut self, on: bool) {
        self.state.nmi_blocked = on;
    }
    fn fxsave(&self) -> &FxArea {
        &self.state.fx
    }
    fn ymm_high(&self) -> &YmmHigh {
        &self.state.ymm_high
    }
    fn ymm_high_mut(&mut self) -> &mut YmmHigh {
        &mut self.state.ymm_high
    }
    fn fxsave_mut(&mut self) -> &mut FxArea {
        &mut self.state.fx
    }
}

/// Little-endian bytes as an integer.
fn from_bytes<T: Int>(bytes: &[u8]) -> T {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    T::truncate(u64::from_le_bytes(all))
}

impl Cpu for TestCpu {
    fn load<T: Int>(&mut self, linear: u64, _: Access) -> Result<T, Stop> {
        let range = self.range(linear, T::SIZE.into(), false)?;
        Ok(from_bytes(&self.memory[range]))
    }
    fn store<T: Int>(&mut self, linear: u64, value: T, access: Access) -> Result<(), Stop> {
        let bytes = value.zero_extend().to_le_bytes();
        self.store_bytes(linear, &bytes[..T::SIZE.into()], access)
    }
    fn update<T: Int>(
        &mut self,
        linear: u64,
        _: bool,
        mut change: impl FnMut(T) -> T,
    ) -> Result<T, Stop> {
        let range = self.range(linear, T::SIZE.into(), true)?;
        let old = from_bytes(&self.memory[range.clone()]);
        let new = change(old).zero_extend().to_le_bytes();
        self.memory[range].copy_from_slice(&new[..T::SIZE.into()]);
        Ok(old)
    }
    fn compare_exchange_16(
        &mut self,
        linear: u64,
        _: bool,
        expected: u128,
        new: u128,
    ) -> Result<u128, Stop> {
        let range = self.range(linear, 16, true)?;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.memory[range.clone()]);
        let old = u128::from_le_bytes(bytes);
        if old == expected {
            self.memory[range].copy_from_slice(&new.to_le_bytes());
        }
        Ok(old)
    }
    fn load_bytes(&mut self, linear: u64, buffer: &mut [u8], _: Access) -> Result<(), Stop> {
        let range = self.range(linear, buffer.len(), false)?;
        buffer.copy_from_slice(&self.memory[range]);
        Ok(())
    }
    fn store_bytes(&mut self, linear: u64, bytes: &[u8], _: Access) -> Result<(), Stop> {
        let range = self.range(linear, bytes.len(), true)?;
        self.memory[range].copy_from_slice(bytes);
        Ok(())
    }
    fn probe_write(&mut self, linear: u64, size: usize, _: Access) -> Result<(), Stop> {
        self.range(linear, size, true).map(|_| ())
    }
    fn copy_within_pages(
        &mut self,
        from: u64,
        to: u64,
        bytes: usize,
        _size: u8,
    ) -> Result<usize, Stop> {
        let Some(count) = self.bulk else { return Ok(0) };
        let from = self.range(from, bytes, false)?;
        let to = self.range(to, bytes, true)?;
        self.memory.copy_within(from, to.start);
        self.bulk = Some(count + 1);
        Ok(bytes)
    }
    fn fill_within_page(
        &mut self,
        to: u64,
        bytes: usize,
        pattern: u64,
        size: u8,
    ) -> Result<usize, Stop> {
        let Some(count) = self.bulk else { return Ok(0) };
        let to = self.range(to, bytes, true)?;
        let pattern = pattern.to_le_bytes();
        for (n, byte) in self.memory[to].iter_mut().enumerate() {
            *byte = pattern[n % usize::from(size.clamp(1, 8))];
        }
        self.bulk = Some(count + 1);
        Ok(bytes)
    }
    fn fault(&mut self, exception: Exception) -> Stop {
        self.exception = Some(exception);
        Stop::Fault
    }
    fn last_fault(&self) -> Exception {
        self.exception.unwrap_or(Exception::ud())
    }
    fn trap_after(&mut self, dr6: u64) {
        self.trap |= dr6;
    }
    fn intercept(&mut self, intercept: Intercept) -> Stop {
        self.intercept = Some(intercept);
        Stop::Intercept
    }
    fn invalidate_page(&mut self, _: u64) {}
    fn invalidate_pcid(&mut self, _: u64, _: u64, _: u64) {}
    fn random(&mut self, seed: bool) -> Option<u64> {
        self.random.then_some(if seed { 0x5eed_5eed_5eed_5eed } else { !0 })
    }
    fn tsc(&mut self) -> u64 {
        self.tsc += 1;
        self.tsc
    }
    fn offers(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }
}
