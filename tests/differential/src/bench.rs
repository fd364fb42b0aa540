//! [`Bench`]: the processors side by side; runs cases, and makes those that differ smaller.

use std::collections::BTreeMap;
use std::fmt::Write;

use iced_x86::{Formatter, IntelFormatter};

use crate::case::{Case, End, Outcome};
use crate::compare::{NAMES, differences};
use crate::forms::{Forms, Kind};
use crate::generate;
use crate::guest::Guest;
use crate::host::Host;
use crate::latitude::{Free, is_loose, is_the_process, other_fault_first, reads_less};
use crate::layout::IMAGE;
use crate::random::Random;
use crate::vector::{Vector, fsw};
use crate::vendor::Vendor;

/// What the cases did, in numbers.
#[derive(Default)]
pub struct Statistics {
    /// Cases compared.
    pub cases: u64,
    /// Cases without a result: loops without an end.
    pub discarded: u64,
    /// How they ended, by vector.
    pub vectors: BTreeMap<u8, u64>,
    /// Cases of one instruction in which undefined flags were different, by mnemonic: how
    /// many, the flags, and the seed of one.
    pub undefined: BTreeMap<String, (u64, u64, u64)>,
}

/// The software CPU in one of its ways.
struct Tested {
    name: &'static str,
    guest: Guest,
    outcome: Outcome,
}

impl Tested {
    fn new(name: &'static str, guest: Guest) -> Self {
        Self { name, guest, outcome: Outcome::default() }
    }
}

/// The host's processor, and the software CPU's interpreter and JIT.
pub struct Bench {
    host: Host,
    tested: [Tested; 2],
    forms: Forms,
    image: Vec<u8>,
    native: Outcome,
    /// What was done so far.
    pub statistics: Statistics,
}

impl Bench {
    /// Prepares all, for instructions of one kind.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let host = Host::new();
        let forms = Forms::new(kind, Vendor::host(), host.permits());
        let mut random = Random::new(1);
        let image = (0..IMAGE / 8).flat_map(|_| random.operand().to_le_bytes()).collect();
        Self {
            host,
            tested: [
                Tested::new("interpreter", Guest::interpreter()),
                Tested::new("jit", Guest::jit()),
            ],
            forms,
            image,
            native: Outcome::default(),
            statistics: Statistics::default(),
        }
    }

    /// How many forms of instructions are tested.
    #[must_use]
    pub fn forms(&self) -> &Forms {
        &self.forms
    }

    /// How many blocks of the cases were translated.
    #[must_use]
    pub fn translated(&self) -> u64 {
        self.tested.iter().map(|tested| tested.guest.translated()).sum()
    }

    /// Runs the case that `seed` stands for; gives a report if an outcome differs from the host's.
    pub fn check(&mut self, seed: u64) -> Option<String> {
        let case = generate::case(seed, &self.forms, self.host.has_bases());
        let differs = self.differences(&case);
        self.count(&case);
        differs?;
        Some(self.report(&case))
    }

    /// The case that `seed` stands for, and what came of it.
    pub fn describe(&mut self, seed: u64) -> String {
        let case = generate::case(seed, &self.forms, self.host.has_bases());
        let differs = self.differences(&case).unwrap_or_default();
        format!("{}{differs}{}", describe(&case), self.ends())
    }

    /// How the last case ended on all sides.
    fn ends(&self) -> String {
        let mut text = String::new();
        let tested = self.tested.iter().map(|tested| (tested.name, &tested.outcome));
        for (name, outcome) in std::iter::once(("native", &self.native)).chain(tested) {
            let (end, rip, rflags) = (outcome.end, outcome.rip, outcome.rflags);
            let _ = writeln!(text, "  {name:<11}  {end:x?} rip {rip:x} rflags {rflags:x}");
        }
        text
    }

    /// What differs from the host's outcome, and where; `None` if nothing does.
    fn differences(&mut self, case: &Case) -> Option<String> {
        self.host.run(case, &self.image, &mut self.native);
        if matches!(self.native.end, End::Hang | End::Astray) || is_loose(case) {
            return None;
        }
        let (native, free) = (&self.native, Free::of(case, &self.native));
        let mut text = String::new();
        for Tested { name, guest, outcome } in &mut self.tested {
            let panic = PanicReport(name, case);
            guest.run(case, &self.image, outcome);
            std::mem::forget(panic);
            if outcome.end == End::Hang
                || other_fault_first(native, outcome, case)
                || is_the_process(native, outcome)
                || reads_less(outcome, case)
            {
                continue;
            }
            let differs = differences(native, outcome, &free);
            if !differs.is_empty() {
                let _ = write!(text, " {name}:\n{differs}");
            }
        }
        (!text.is_empty()).then_some(text)
    }

    fn count(&mut self, case: &Case) {
        self.statistics.cases += 1;
        let End::Exception { vector, .. } = self.native.end else {
            self.statistics.discarded += 1;
            return;
        };
        *self.statistics.vectors.entry(vector).or_default() += 1;
        if case.code.len() == 1 && vector == 3 {
            let interpreted = &self.tested[0].outcome;
            let flags =
                (self.native.rflags ^ interpreted.rflags) & Free::of(case, &self.native).rflags;
            if flags != 0
                && let Some(instruction) = case.instructions().next()
            {
                let name = format!("{:?}", instruction.mnemonic());
                let entry = self.statistics.undefined.entry(name).or_default();
                entry.0 += 1;
                entry.1 |= flags;
                entry.2 = case.seed;
            }
        }
    }

    /// Makes the case smaller as long as an outcome still differs, and describes it.
    fn report(&mut self, case: &Case) -> String {
        let whole = describe(case);
        let small = self.shrink(case.clone());
        let Some(differs) = self.differences(&small) else {
            return format!("seed {:#x}: differs, but not again\n{whole}", case.seed);
        };
        let mut text =
            format!("seed {:#x}, made smaller:\n{}{differs}", case.seed, describe(&small));
        if small.code.len() > 1 || small.code != case.code {
            let _ = write!(text, "as it was:\n{}", disassembly(case));
        }
        text.push_str(&self.ends());
        text
    }

    fn shrink(&mut self, mut case: Case) -> Case {
        // From the end: what is behind the difference does not matter.
        for n in (0..case.code.len()).rev() {
            let mut smaller = case.clone();
            // The others stay where they are.
            smaller.code[n].fill(0x90);
            case = self.smaller(case, smaller);
        }
        let only_nops = |bytes: &Vec<u8>| bytes.iter().all(|byte| *byte == 0x90);
        while case.code.len() > 1 && case.code.last().is_some_and(only_nops) {
            let mut smaller = case.clone();
            smaller.code.pop();
            let length = smaller.code.len();
            case = self.smaller(case, smaller);
            if case.code.len() != length {
                break;
            }
        }
        for n in 0..case.gprs.len() {
            for value in [0, 1] {
                let mut smaller = case.clone();
                smaller.gprs[n] = value;
                case = self.smaller(case, smaller);
                if case.gprs[n] == value {
                    break;
                }
            }
        }
        let mut smaller = case.clone();
        smaller.rflags = 0x202;
        case = self.smaller(case, smaller);
        let mut smaller = case.clone();
        smaller.bases = [0; 2];
        case = self.smaller(case, smaller);
        for n in (0..case.patches.len()).rev() {
            let mut smaller = case.clone();
            smaller.patches.remove(n);
            case = self.smaller(case, smaller);
        }
        self.shrink_vector(case)
    }

    fn shrink_vector(&mut self, mut case: Case) -> Case {
        let initial = Vector::default();
        let mut change = |step: &dyn Fn(&mut Vector)| {
            let mut smaller = case.clone();
            step(&mut smaller.vector);
            if smaller.vector != case.vector && self.differences(&smaller).is_some() {
                case = smaller;
            }
        };
        for n in 0..16 {
            change(&|vector| vector.fx.set_xmm(n, 0));
            change(&|vector| vector.upper[usize::from(n)] = 0);
        }
        for n in 0..8 {
            change(&|vector| vector.set_st(n, 0));
        }
        change(&|vector| vector.fx.set_mxcsr(initial.fx.mxcsr()));
        // The masks are not to change alone: they belong to the status word.
        change(&|vector| vector.set_control(vector.fcw() & fsw::EXCEPTIONS | 0x340, vector.fsw()));
        change(&|vector| vector.set_control(vector.fcw(), vector.fsw() & fsw::TOP));
        change(&|vector| vector.set_control(initial.fcw(), vector.fsw() & fsw::TOP));
        change(&|vector| vector.set_control(initial.fcw(), 0));
        change(&|vector| vector.set_tags(0xff));
        change(&|vector| vector.set_tags(0));
        case
    }

    /// `smaller` if it still differs, else `case`.
    fn smaller(&mut self, case: Case, smaller: Case) -> Case {
        if self.differences(&smaller).is_some() { smaller } else { case }
    }
}

/// Tells which case it was if the engine panics.
struct PanicReport<'a>(&'static str, &'a Case);

impl Drop for PanicReport<'_> {
    fn drop(&mut self) {
        let Self(name, case) = self;
        eprintln!("the {name} panicked: seed {:#x}\n{}", case.seed, describe(case));
    }
}

fn disassembly(case: &Case) -> String {
    let mut text = String::new();
    let mut formatter = IntelFormatter::new();
    for (instruction, bytes) in case.instructions().zip(&case.code) {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        let bytes: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "  {:8x}  {bytes:<30}  {line}", instruction.ip());
    }
    text
}

/// Instructions and inputs.
fn describe(case: &Case) -> String {
    let mut text = disassembly(case);
    for (n, (name, value)) in NAMES.iter().zip(case.gprs).enumerate() {
        let end = if n % 4 == 3 { "\n" } else { "" };
        let _ = write!(text, "  {name:<3} {value:016x}{end}");
    }
    let [fs, gs] = case.bases;
    let _ = writeln!(text, "  rflags {:x}, bases of fs {fs:x}, gs {gs:x}", case.rflags);
    describe_vector(&mut text, &case.vector);
    if !case.patches.is_empty() {
        let _ = write!(text, "  memory");
        for (offset, bytes) in &case.patches {
            let _ = write!(text, " {:x}:{bytes:02x?}", crate::layout::image_address(*offset));
        }
        text.push('\n');
    }
    text
}

/// Vector and x87 registers that are not as they are at first anyway.
fn describe_vector(text: &mut String, vector: &Vector) {
    if *vector == Vector::default() {
        return;
    }
    let (fcw, fsw, tags, mxcsr) = (vector.fcw(), vector.fsw(), vector.tags(), vector.fx.mxcsr());
    let _ = writeln!(text, "  fcw {fcw:x} fsw {fsw:x} tags {tags:x} mxcsr {mxcsr:x}");
    for n in (0..8).filter(|n| vector.st(*n) != 0) {
        let _ = writeln!(text, "  st{n} {:020x}", vector.st(n));
    }
    for n in (0..16).filter(|n| vector.xmm(*n) != 0 || vector.upper[*n] != 0) {
        let _ = writeln!(text, "  ymm{n:<2} {:032x}_{:032x}", vector.upper[n], vector.xmm(n));
    }
}
