//! [`sweep`]: many random cases, one after the other.
//!
//! `UNIBODY_SEED` and `UNIBODY_CASES` choose others, or more; a case that differs is tried again by its
//! own seed and one case.

use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::forms::Kind;
use crate::random::Random;

/// As many reports as a reader reads.
const REPORTS: usize = 10;

/// How much is done unless the environment says otherwise.
pub struct Extent {
    /// The seed.
    pub seed: u64,
    /// How many cases.
    pub cases: u64,
    /// After this time no more; a slow machine does fewer.
    pub time: Duration,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// Runs random cases of instructions of one kind.
///
/// # Panics
/// If some end otherwise on the software CPU, interpreted or translated, than on the host; the message describes them.
pub fn sweep(kind: Kind, extent: &Extent) {
    let asked = number("UNIBODY_CASES");
    let seed = number("UNIBODY_SEED").unwrap_or(extent.seed);
    let reports_wanted = number("UNIBODY_REPORTS").map_or(REPORTS, |n| n as usize);
    let cases = asked.unwrap_or(extent.cases);
    let mut bench = Bench::new(kind);
    println!("UNIBODY_SEED={seed:#x} UNIBODY_CASES={cases}: {} forms", bench.forms().codes.len());
    let (start, mut random) = (Instant::now(), Random::new(seed));
    let mut reports = Vec::new();
    for n in 0..cases {
        // The seed of one case is the case's own.
        let case = if cases == 1 { seed } else { random.bits() };
        if cases == 1 {
            println!("{}", bench.describe(seed));
        }
        reports.extend(bench.check(case));
        let late = asked.is_none() && n % 1024 == 0 && start.elapsed() > extent.time;
        if reports.len() >= reports_wanted || late {
            break;
        }
    }
    let statistics = &bench.statistics;
    println!(
        "{} cases in {:.1} s, {} discarded, {} blocks translated; by vector: {:?}",
        statistics.cases,
        start.elapsed().as_secs_f32(),
        statistics.discarded,
        bench.translated(),
        statistics.vectors
    );
    println!("undefined flags that differ: {:x?}", statistics.undefined);
    assert!(reports.is_empty(), "{}", reports.join("\n"));
}
