//! QEMU with `-accel kvm` under `unibody with-kvm`, beside the same QEMU with `-accel tcg`, in turns: a stock kernel to the first line of
//! a command.

use std::path::Path;
use std::time::Duration;

use crate::boot;
use crate::guest::{Guest, Monitor, Pulled};
use crate::median;

/// The machines, by QEMU's names: without firmware and with it.
const MACHINES: [&str; 2] = ["microvm,rtc=on", "q35"];

/// At most this part of TCG's time is asked.
const ASKED: f64 = 0.5;

/// A boot on TCG that takes longer than this has failed, and how many may.
const PATIENCE: Duration = Duration::from_secs(30);
const ATTEMPTS: usize = 5;

/// TCG's time. Its microvm has no clock but the 8254 to tell how fast the TSC is by; on a busy host that fails at times, and the kernel
/// goes no further.
fn tcg(machine: &str, guest: &Guest) -> anyhow::Result<f64> {
    let boot = || boot::first_line_within(PATIENCE, Monitor::QemuTcg(machine), guest);
    (1..ATTEMPTS).find_map(|_| boot().ok()).map_or_else(boot, Ok)
}

/// Prints the times of both, and their ratio, for each machine.
pub fn measure(unibody: &Path, rounds: usize) -> anyhow::Result<()> {
    let guest: Guest = boot::guest(&Pulled::find(unibody)?)?;
    println!(
        "machine | tcg s | with-kvm s | with-kvm/tcg (median of {rounds} pairs; asked: {ASKED})"
    );
    for machine in MACHINES {
        let (mut ours, mut tcgs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(boot::first_line(Monitor::QemuWithKvm(unibody, machine), &guest)?);
            tcgs.push(tcg(machine, &guest)?);
        }
        let ratios = ours.iter().zip(&tcgs).map(|(a, b)| a / b).collect();
        let [ours, tcgs, ratio] = [ours, tcgs, ratios].map(median);
        println!("{machine:<7} | {tcgs:>5.2} | {ours:>10.2} | {ratio:.2}");
    }
    Ok(())
}
