//! [`Coverage`]: which of the instructions that programs may use are tested, and which are not, and why.
//!
//! The measure are the forms that the decoder knows of the extensions up to x86-64-v3, and of some beside
//! them, in 64-bit mode, without those for privilege level 0; and of those that not all processors have, such
//! as the processor at hand has.

use std::collections::BTreeMap;
use std::fmt;

use iced_x86::{Code, CpuidFeature, EncodingKind};

use crate::forms::{Permits, excluded, executed_by};
use crate::vendor::Vendor;

/// Whether the extension is among those that are meant.
fn is_meant(feature: CpuidFeature) -> bool {
    use CpuidFeature::*;
    matches!(
        feature,
        INTEL8086 | INTEL186 | INTEL286 | INTEL386 | INTEL486 | CPUID | X64 | TSC | MSR | CX8 | CMOV
            | FPU | FPU287 | FPU387 | MMX | FXSR | SSE | SSE2 | SYSCALL | SEP | MULTIBYTENOP | PAUSE
            | CLFSH
            // x86-64-v2.
            | SSE3 | SSSE3 | SSE4_1 | SSE4_2 | CMPXCHG16B | POPCNT
            // x86-64-v3.
            | AVX | AVX2 | FMA | F16C | BMI1 | BMI2 | LZCNT | MOVBE | XSAVE | XSAVEOPT | XSAVEC
            // Beside them.
            | AES | PCLMULQDQ | SHA | VAES | VPCLMULQDQ | ADX | PREFETCHW | FSGSBASE | RDTSCP
            | RDPID | RDRAND | RDSEED | CLFLUSHOPT | CLWB | SERIALIZE | MONITOR
    )
}

/// Whether `code` is one of the forms that are meant.
fn is_for_users(code: Code) -> bool {
    let op_code = code.op_code();
    op_code.is_instruction()
        && op_code.mode64()
        && op_code.cpl3()
        && op_code.decoder_option() == 0
        && matches!(op_code.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && code.cpuid_features().iter().all(|feature| is_meant(*feature))
}

/// What is tested of an extension.
#[derive(Default)]
struct Row {
    all: usize,
    tested: usize,
}

/// What is tested.
pub struct Coverage {
    vendor: Vendor,
    rows: BTreeMap<String, Row>,
    /// The forms that are not tested on purpose, by the reason.
    pub excluded: BTreeMap<&'static str, Vec<Code>>,
    /// The forms that the engine does not execute.
    pub not_executed: Vec<Code>,
    /// The forms that only another vendor's processors have: they do not count.
    pub not_this_vendors: Vec<Code>,
}

impl Coverage {
    /// Looks at all forms that a vendor's processors have.
    #[must_use]
    pub fn new(vendor: Vendor, permits: Permits) -> Self {
        let mut coverage = Self {
            vendor,
            rows: BTreeMap::new(),
            excluded: BTreeMap::new(),
            not_executed: Vec::new(),
            not_this_vendors: Vec::new(),
        };
        for code in Code::values().filter(|code| is_for_users(*code)) {
            if !vendor.has(code) {
                coverage.not_this_vendors.push(code);
                continue;
            }
            let executed = executed_by(code);
            let row = coverage.rows.entry(family(code)).or_default();
            row.all += 1;
            if let Some(reason) = excluded(code, permits) {
                coverage.excluded.entry(reason).or_default().push(code);
            } else if executed.is_none() {
                coverage.not_executed.push(code);
            } else {
                row.tested += 1;
            }
        }
        coverage
    }

    /// How many forms are tested, and how many there are.
    #[must_use]
    pub fn figure(&self) -> (usize, usize) {
        self.rows.values().fold((0, 0), |(tested, all), row| (tested + row.tested, all + row.all))
    }
}

/// The row of the table in which a form is: x87, the newest extension with vectors, or the rest.
fn family(code: Code) -> String {
    use CpuidFeature::*;
    let features = code.cpuid_features();
    if features.iter().any(|feature| matches!(feature, FPU | FPU287 | FPU387)) {
        return "x87".into();
    }
    let vectors = [
        MMX, FXSR, SSE, SSE2, SSE3, SSSE3, SSE4_1, SSE4_2, AVX, AVX2, FMA, F16C, XSAVE, XSAVEOPT,
        XSAVEC, AES, PCLMULQDQ, SHA, VAES, VPCLMULQDQ,
    ];
    let newest = features.iter().rev().find(|feature| vectors.contains(feature));
    newest.map_or_else(|| "integer".into(), |feature| format!("{feature:?}"))
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tested, all) = self.figure();
        let share = percent(tested, all);
        writeln!(
            f,
            "{tested} of {all} forms for users on {}'s processors, {share:.1} %",
            self.vendor
        )?;
        for (name, row) in &self.rows {
            let share = percent(row.tested, row.all);
            writeln!(f, "  {name:<12} {:>4} of {:>4}  {share:>5.1} %", row.tested, row.all)?;
        }
        for (reason, codes) in &self.excluded {
            writeln!(f, "not tested, {reason}: {codes:?}")?;
        }
        writeln!(f, "not executed by the engine: {:?}", self.not_executed)?;
        let (count, others) = (self.not_this_vendors.len(), &self.not_this_vendors);
        writeln!(f, "{count} more that only other vendors' processors have: {others:?}")
    }
}

fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}
