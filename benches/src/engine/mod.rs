//! `benches UNIBODY engine`: the software CPU beside QEMU's TCG and beside the host itself.
//!
//! One static program is run on the host and in a guest under both monitors, in turns
//! ([`place`]); it times its workloads itself and prints a line each ([`lines`]). [`table`] has what was asked for and
//! prints the ratios. With it: the time to boot and what translating code has of it, and what a
//! second vCPU is worth.

mod lines;
mod place;
mod table;

use std::ops::Range;
use std::path::Path;

use anyhow::ensure;

use crate::boot::Translation;
use crate::guest::{Monitor, Pulled};
use crate::{boot, compile, median};
use place::{PLACES, Places};
use table::{ASKED, Row, Table};

/// The program's sources.
const SOURCES: [&str; 5] = ["main.c", "integer.c", "sha256.c", "vector.c", "kernel.c"];

/// Boot, as a part of TCG's time: at most that.
const ASKED_BOOT: f64 = 0.4;
/// Two processes on two vCPUs, against one: at least that.
const ASKED_SPEEDUP: f64 = 1.8;
/// Rounds that are added for workloads whose times nothing confirms.
const ADDED: usize = 40;

/// Those of [`PLACES`] whose ratio is asked for: the host, and here.
const COMPARED: Range<usize> = 0..2;

/// A time of a workload, in nanoseconds an operation: at which of [`PLACES`], which, how long.
type Time = (usize, String, f64);

/// Prints the table. If workloads are named, there are only those, and neither boot nor the second vCPU.
pub fn measure(unibody: &Path, rounds: usize, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let known = ASKED.iter().any(|(known, _)| known == name);
        ensure!(known, "no such workload: '{name}' (there are {})", table::names());
    }
    let all = names.is_empty();
    let program = compile::static_program("workloads", "workloads", &SOURCES)?;
    let pulled = Pulled::find(unibody)?;
    let places = Places::new(unibody, &program, &pulled, names)?;
    let guest = boot::guest(&pulled)?;

    let mut times: Vec<Time> = Vec::new();
    let mut speedups: [Vec<f64>; PLACES.len()] = Default::default();
    let (mut ours, mut qemus) = (Vec::new(), Vec::new());
    let mut translations = Vec::new();
    for round in 1..=rounds {
        for (at, place) in PLACES.into_iter().enumerate() {
            eprintln!("round {round} of {rounds}: {}", place.name());
            times.extend(timed(&places, at)?);
            if all {
                speedups[at].extend(places.speedup(place)?);
            }
        }
        if all {
            eprintln!("round {round} of {rounds}: boot");
            ours.push(boot::first_line(Monitor::Unibody(unibody), &guest)?);
            qemus.push(boot::first_line(Monitor::Qemu, &guest)?);
            translations.extend(boot::translation(unibody, &guest)?);
        }
    }

    let rows = ASKED.iter().filter(|(name, _)| all || names.iter().any(|wanted| wanted == name));
    let wanted: Vec<&str> = rows.clone().map(|(name, _)| *name).collect();
    let added = confirm(&mut times, &wanted, |unconfirmed| {
        Places::new(unibody, &program, &pulled, unconfirmed)
    })?;
    let rows = rows.map(|&(name, asked)| {
        let of = |place: usize| table::best_of(times_of(&times, place, name));
        Row { name, asked, host: of(0), unibody: of(1), qemu: of(2) }
    });
    print!("{}", Table { rows: rows.collect() });
    if all {
        let (ours, qemus) = (median(ours), median(qemus));
        println!(
            "boot to init: unibody {ours:.2} s, qemu {qemus:.2} s: {:.2} of TCG's time (asked: at most {ASKED_BOOT})",
            ours / qemus
        );
        println!("{}", translation(&translations));
        let [host, ours, qemus] = speedups.map(|of| table::number(table::median_of(of), 2));
        println!(
            "two vCPUs: {ours} times one (asked: at least {ASKED_SPEEDUP}); qemu {qemus}, the host's own CPUs {host}"
        );
    }
    println!(
        "workloads: the best of {rounds} rounds, and of up to {added} more on the host and here, until two others were within a twentieth of it; \
         all else: medians"
    );
    Ok(())
}

/// Adds times, on the host and here, of the workloads whose shortest one there is not confirmed. Gives how many rounds that took.
fn confirm<'a>(
    times: &mut Vec<Time>,
    names: &[&str],
    places_of: impl Fn(&[String]) -> anyhow::Result<Places<'a>>,
) -> anyhow::Result<usize> {
    for round in 0..ADDED {
        let open = |name: &&&str| {
            !COMPARED.into_iter().all(|at| table::is_confirmed(times_of(times, at, name)))
        };
        let open: Vec<String> = names.iter().filter(open).map(|&name| name.to_owned()).collect();
        if open.is_empty() {
            return Ok(round);
        }
        eprintln!("round {} of at most {ADDED} more: {}", round + 1, open.join(", "));
        let places = places_of(&open)?;
        for at in COMPARED {
            times.extend(timed(&places, at)?);
        }
    }
    Ok(ADDED)
}

/// The times that the workloads take at one of [`PLACES`].
fn timed(places: &Places<'_>, at: usize) -> anyhow::Result<Vec<Time>> {
    let times = places.times(PLACES[at])?;
    Ok(times.into_iter().map(|(name, time)| (at, name, time)).collect())
}

/// Those of them that a workload took there.
fn times_of<'a>(
    times: &'a [Time],
    place: usize,
    name: &'a str,
) -> impl Iterator<Item = f64> + use<'a> {
    let of = times.iter().filter(move |(at, of, _)| *at == place && of == name);
    of.map(|(_, _, time)| *time)
}

/// What translating code costs in a boot, in a line: the medians.
fn translation(all: &[Translation]) -> String {
    let of = |part: fn(&Translation) -> f64, digits| {
        table::number(table::median_of(all.iter().map(part).collect()), digits)
    };
    format!(
        "translation in a boot that counts: {} % of the time to init, {} ns an instruction of {}; \
         {} KiB of code, {} bytes an instruction",
        of(|boot| boot.share * 100.0, 1),
        of(|boot| boot.seconds / boot.instructions * 1e9, 0),
        of(|boot| boot.instructions, 0),
        of(|boot| boot.bytes / 1024.0, 0),
        of(|boot| boot.bytes / boot.instructions, 1),
    )
}

#[cfg(test)]
mod tests {
    use super::translation;
    use crate::boot::Translation;

    #[test]
    fn what_translation_costs_is_a_line() {
        let boot = Translation { instructions: 2e5, seconds: 0.1, bytes: 2.048e6, share: 0.05 };
        let line = translation(&[boot]);
        assert!(line.contains(": 5.0 % of the time to init, 500 ns an instruction of 200000; "));
        assert!(line.ends_with("2000 KiB of code, 10.2 bytes an instruction"), "{line}");
        assert!(translation(&[]).contains("- % of"));
    }
}
