//! What Unibody is measured by. Run by `cargo xtask bench`, which builds what it needs.
//!
//! - [`loops`]: guest instructions a second on small loops;
//! - [`boot`]: a stock kernel to the first line of a command, beside QEMU's TCG, in turns;
//! - [`start`]: from the program's start to the guest's;
//! - [`memory`]: what a running machine costs besides the guest's own memory;
//! - [`engine`]: workloads on the software CPU, beside QEMU's TCG and the host, in turns;
//! - [`kvm`]: exits, start and memory on Linux's KVM, beside QEMU's use of it and a bare loop;
//! - [`devices`]: disks and a console, beside QEMU's, in turns;
//! - [`freed`]: how soon memory that a guest has freed is back;
//! - [`with_kvm`]: QEMU on `unibody with-kvm`, beside its own TCG, in turns;
//! - [`guest`], [`compile`] and [`transcript`]: what is booted for that, the programs in it, and reading what they print.
//!
//! Usage: `benches UNIBODY [ROUNDS]`, `benches UNIBODY engine [ROUNDS] [WORKLOAD...]`, `benches UNIBODY devices [ROUNDS]`,
//! `benches UNIBODY devices-on-kvm PROGRAMS FOLDER`, `benches UNIBODY with-kvm [ROUNDS]` or `benches UNIBODY kvm BARE FOLDER`, with the path of the program to be measured.
#![forbid(unsafe_code)]

mod boot;
mod compile;
mod devices;
mod engine;
mod freed;
mod guest;
mod kvm;
mod loops;
mod memory;
mod start;
mod transcript;
mod with_kvm;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

const USAGE: &str = "usage: benches UNIBODY ([engine] [ROUNDS] [WORKLOAD...] | devices [ROUNDS] | devices-on-kvm PROGRAMS FOLDER | with-kvm [ROUNDS] | kvm BARE FOLDER)";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let unibody: PathBuf = arguments.next().context(USAGE)?.into();
    let words: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
    match words.split_first() {
        Some((first, rest)) if first == "engine" => {
            let (rounds, names) = rounds(rest, 3)?;
            engine::measure(&unibody, rounds, names)
        }
        Some((first, rest)) if first == "devices" => {
            let (rounds, rest) = rounds(rest, 3)?;
            ensure!(rest.is_empty(), USAGE);
            devices::measure(&unibody, rounds)?;
            freed::measure(&unibody)
        }
        Some((first, rest)) if first == "devices-on-kvm" => {
            let [programs, folder] = rest else { anyhow::bail!(USAGE) };
            devices::measure_on_kvm(&unibody, Path::new(programs), Path::new(folder))
        }
        Some((first, rest)) if first == "with-kvm" => {
            let (rounds, rest) = rounds(rest, 5)?;
            ensure!(rest.is_empty(), USAGE);
            with_kvm::measure(&unibody, rounds)
        }
        Some((first, rest)) if first == "kvm" => {
            let [bare, folder] = rest else { anyhow::bail!(USAGE) };
            kvm::measure(&unibody, Path::new(bare), Path::new(folder))
        }
        _ => {
            let (rounds, rest) = rounds(&words, 5)?;
            ensure!(rest.is_empty(), USAGE);
            everything_else(&unibody, rounds)
        }
    }
}

fn everything_else(unibody: &Path, rounds: usize) -> anyhow::Result<()> {
    loops::measure(rounds)?;
    let guest = boot::guest(&guest::Pulled::find(unibody)?)?;
    boot::measure(unibody, &guest, rounds)?;
    start::measure(unibody)?;
    memory::measure(unibody)
}

/// The number of rounds, if the first word is one, and the words after it.
fn rounds(words: &[String], otherwise: usize) -> anyhow::Result<(usize, &[String])> {
    let Some((first, rest)) = words.split_first() else { return Ok((otherwise, words)) };
    match first.parse() {
        Ok(0) => anyhow::bail!("there is nothing to see in 0 rounds"),
        Ok(rounds) => Ok((rounds, rest)),
        Err(_) => Ok((otherwise, words)),
    }
}

/// The median of some measurements; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::rounds;

    #[test]
    fn a_number_of_rounds_may_come_before_the_rest() {
        let words = ["7".to_owned(), "qsort".to_owned()];
        assert_eq!(rounds(&words, 3).expect("a number"), (7, &words[1..]));
        assert_eq!(rounds(&words[1..], 3).expect("none"), (3, &words[1..]));
        assert_eq!(rounds(&[], 3).expect("none"), (3, &[][..]));
        assert!(rounds(&["0".to_owned()], 3).is_err());
    }
}
