//! [`Outcome`]: what comes of a block, as far as it can be compared.

use arch_x86::emulate::{Status, Stop};
use arch_x86::engine::Intercept;
use arch_x86::exception::Exception;
use arch_x86::regs::{FxArea, Regs, Seg, Segment, SysReg, YmmHigh, rflags};

use super::Difference;
use crate::vcpu::{CodeWrite, SoftVcpu};

/// The registers that what is comparable can change.
#[derive(Clone)]
pub(super) struct Registers {
    gprs: [u64; 32],
    rip: u64,
    rflags: u64,
    /// The interrupt shadow.
    shadow: bool,
    cpl: u8,
    segments: [Segment; 8],
    sysregs: [u64; SysReg::COUNT],
    fx: FxArea,
    ymm_high: YmmHigh,
    /// How many instructions were executed.
    instructions: u64,
}

const NAMES: [&str; 16] = [
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13",
    "R14", "R15",
];

/// Where MXCSR and the XMM registers are in an FXSAVE area. See: AMD APM vol. 2, 11.4.4.
const MXCSR: core::ops::Range<usize> = 24..28;
const XMM: core::ops::Range<usize> = 160..416;

impl Registers {
    /// Those of now.
    pub fn of(cpu: &SoftVcpu) -> Self {
        Self {
            gprs: cpu.gprs,
            rip: cpu.rip,
            rflags: cpu.rflags(),
            shadow: cpu.shadow,
            cpl: cpu.cpl,
            segments: cpu.segments,
            sysregs: cpu.sysregs,
            fx: cpu.xsave.fx,
            ymm_high: cpu.ymm_high,
            instructions: cpu.statistics.instructions,
        }
    }

    /// Makes them those of now.
    pub fn restore(&self, cpu: &mut SoftVcpu) {
        cpu.gprs = self.gprs;
        cpu.rip = self.rip;
        cpu.status = Status::from_bits(self.rflags);
        cpu.flags = self.rflags & !rflags::STATUS;
        cpu.shadow = self.shadow;
        cpu.cpl = self.cpl;
        cpu.segments = self.segments;
        cpu.sysregs = self.sysregs;
        // What follows from them.
        cpu.update_mode();
        cpu.update_attention();
        cpu.xsave.fx = self.fx;
        cpu.ymm_high = self.ymm_high;
        cpu.statistics.instructions = self.instructions;
    }

    /// Adds where the JIT's registers differ from these.
    fn compare(&self, jit: &Self, undefined: impl FnOnce() -> u64, found: &mut Vec<Difference>) {
        let mut number = |what: &str, interpreter: u64, jit: u64| {
            if interpreter != jit {
                found.push(Difference::new(what, hex(interpreter), hex(jit)));
            }
        };
        number("RIP", self.rip, jit.rip);
        for (n, name) in NAMES.iter().enumerate() {
            number(name, self.gprs[n], jit.gprs[n]);
        }
        if self.rflags != jit.rflags {
            let defined = !undefined();
            number("RFLAGS (where they are defined)", self.rflags & defined, jit.rflags & defined);
        }
        number("the interrupt shadow", self.shadow.into(), jit.shadow.into());
        number("CPL", self.cpl.into(), jit.cpl.into());
        number("the count of instructions", self.instructions, jit.instructions);
        self.compare_segments(jit, found);
        if self.sysregs != jit.sysregs {
            let [own, other] = [self, jit].map(|side| format!("{:x?}", side.sysregs));
            found.push(Difference::new("system registers", own, other));
        }
        if self.fx != jit.fx || self.ymm_high != jit.ymm_high {
            self.compare_vectors(jit, found);
        }
    }

    fn compare_segments(&self, jit: &Self, found: &mut Vec<Difference>) {
        for seg in Seg::ALL {
            let [own, other] = [self, jit].map(|side| side.segments[seg as usize]);
            if own != other {
                let [own, other] = [own, other].map(|segment| format!("{segment:x?}"));
                found.push(Difference::new(format!("{seg:?}").to_uppercase(), own, other));
            }
        }
    }

    fn compare_vectors(&self, jit: &Self, found: &mut Vec<Difference>) {
        let mut bytes = |what: String, interpreter: &[u8], jit: &[u8]| {
            if interpreter != jit {
                found.push(Difference::new(what, all(interpreter), all(jit)));
            }
        };
        let (own, other) = (&self.fx.0, &jit.fx.0);
        bytes("x87 state".into(), &own[..MXCSR.start], &other[..MXCSR.start]);
        bytes("x87 registers".into(), &own[MXCSR.end..XMM.start], &other[MXCSR.end..XMM.start]);
        bytes("FXSAVE's reserved bytes".into(), &own[XMM.end..], &other[XMM.end..]);
        for n in 0..16 {
            let at = XMM.start + n * 16..XMM.start + n * 16 + 16;
            bytes(format!("XMM{n}"), &own[at.clone()], &other[at]);
            let [own, other] = [self, jit].map(|side| side.ymm_high.0[n].to_le_bytes());
            bytes(format!("upper half of YMM{n}"), &own, &other);
        }
        bytes("MXCSR".into(), &own[MXCSR], &other[MXCSR]);
    }
}

/// What came of a block by the interpreter.
pub(super) struct Outcome {
    registers: Registers,
    ended: Ended,
    code_writes: Vec<CodeWrite>,
}

/// How a block ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Fault(Exception),
    Intercept(Option<Intercept>),
}

impl Ended {
    fn of(cpu: &SoftVcpu, ended: Result<(), Stop>) -> Self {
        match ended {
            Ok(()) => Self::Done,
            Err(Stop::Fault) => Self::Fault(cpu.exception),
            Err(Stop::Intercept) => Self::Intercept(cpu.intercept),
        }
    }
}

impl Outcome {
    /// How many instructions were executed, when it was `before` at first.
    pub fn instructions(&self, before: &Registers) -> usize {
        self.registers.instructions.wrapping_sub(before.instructions) as usize
    }

    /// What has come of the block that `cpu` has just executed. Its writes to code are taken.
    pub fn take(cpu: &mut SoftVcpu, ended: Result<(), Stop>) -> Self {
        Self {
            registers: Registers::of(cpu),
            ended: Ended::of(cpu, ended),
            code_writes: std::mem::take(&mut cpu.code_writes),
        }
    }

    /// Where the JIT has come to something else. `undefined` gives the flags that do not count.
    pub fn differences(
        &self,
        cpu: &SoftVcpu,
        ended: Result<(), Stop>,
        undefined: impl FnOnce() -> u64,
    ) -> Vec<Difference> {
        let mut found = Vec::new();
        let ended = Ended::of(cpu, ended);
        if self.ended != ended {
            let [own, other] = [&self.ended, &ended].map(|ended| format!("{ended:x?}"));
            found.push(Difference::new("the block's end", own, other));
        }
        self.registers.compare(&Registers::of(cpu), undefined, &mut found);
        if let Some((offset, own, other)) = cpu.lockstep.journal.first_difference() {
            let what = format!("memory at offset {offset:#x} of its page");
            found.push(Difference::new(what, all(&own), all(&other)));
        }
        if self.code_writes != cpu.code_writes {
            let [own, other] =
                [&self.code_writes, &cpu.code_writes].map(|writes| format!("{writes:x?}"));
            found.push(Difference::new("writes to code", own, other));
        }
        found
    }
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}

/// Bytes in the order of memory.
fn all(bytes: &[u8]) -> String {
    super::divergence::spaced(bytes)
}
