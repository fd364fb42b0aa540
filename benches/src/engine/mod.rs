//! `benches UNIBODY engine`: the software CPU beside QEMU's TCG and beside the host itself.
//!
//! One static program ([`program`]) is run on the host and in a guest under both monitors, in turns
//! ([`place`]); it times its workloads itself and prints a line each ([`lines`]). [`table`] has what was asked for and
//! prints the ratios. With it: the time to boot, and what a second vCPU is worth.

mod lines;
mod place;
mod program;
mod table;

use std::path::Path;

use anyhow::ensure;

use crate::guest::{Monitor, Pulled};
use crate::{boot, median};
use place::{PLACES, Places};
use table::{ASKED, Row, Table};

/// Boot, as a part of TCG's time: at most that.
const ASKED_BOOT: f64 = 0.4;
/// Two processes on two vCPUs, against one: at least that.
const ASKED_SPEEDUP: f64 = 1.8;

/// Prints the table. If workloads are named, there are only those, and neither boot nor the second vCPU.
pub fn measure(unibody: &Path, rounds: usize, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let known = ASKED.iter().any(|(known, _)| known == name);
        ensure!(known, "no such workload: '{name}' (there are {})", table::names());
    }
    let all = names.is_empty();
    let program = program::build()?;
    let pulled = Pulled::find(unibody)?;
    let places = Places::new(unibody, &program, &pulled, names)?;
    let guest = boot::guest(&pulled)?;

    let mut times = Vec::new();
    let mut speedups: [Vec<f64>; PLACES.len()] = Default::default();
    let (mut ours, mut qemus) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for (at, place) in PLACES.into_iter().enumerate() {
            eprintln!("round {round} of {rounds}: {}", place.name());
            times.extend(places.times(place)?.into_iter().map(|(name, time)| (at, name, time)));
            if all {
                speedups[at].extend(places.speedup(place)?);
            }
        }
        if all {
            eprintln!("round {round} of {rounds}: boot");
            ours.push(boot::first_line(Monitor::Unibody(unibody), &guest)?);
            qemus.push(boot::first_line(Monitor::Qemu, &guest)?);
        }
    }

    let rows = ASKED.iter().filter(|(name, _)| all || names.iter().any(|wanted| wanted == name));
    let rows = rows.map(|&(name, asked)| {
        let of = |place: usize| {
            let of = times.iter().filter(|(at, of, _)| *at == place && of == name);
            table::median_of(of.map(|(_, _, time)| *time).collect())
        };
        Row { name, asked, host: of(0), unibody: of(1), qemu: of(2) }
    });
    print!("{}", Table { rows: rows.collect() });
    if all {
        let (ours, qemus) = (median(ours), median(qemus));
        println!(
            "boot to init: unibody {ours:.2} s, qemu {qemus:.2} s: {:.2} of TCG's time (asked: at most {ASKED_BOOT})",
            ours / qemus
        );
        let [host, ours, qemus] = speedups.map(|of| table::number(table::median_of(of), 2));
        println!(
            "two vCPUs: {ours} times one (asked: at least {ASKED_SPEEDUP}); qemu {qemus}, the host's own CPUs {host}"
        );
    }
    println!("medians of {rounds} rounds");
    Ok(())
}
