//! What Unibody is measured by. Run by `cargo xtask bench`, which builds what it needs.
//!
//! - [`loops`]: guest instructions a second on small loops;
//! - [`boot`]: a stock kernel to the first line of a command, beside QEMU's TCG, in turns;
//! - [`memory`]: what a running machine costs besides the guest's own memory.
//!
//! Usage: `benches UNIBODY [ROUNDS]`, with the path of the program to be measured.
#![forbid(unsafe_code)]

mod boot;
mod loops;
mod memory;

use std::path::PathBuf;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let unibody: PathBuf = arguments.next().context("usage: benches UNIBODY [ROUNDS]")?.into();
    let rounds = match arguments.next() {
        Some(text) => text.to_string_lossy().parse().context("ROUNDS is a number")?,
        None => 5,
    };
    loops::measure(rounds)?;
    let guest = boot::Guest::pulled(&unibody)?;
    boot::measure(&unibody, &guest, rounds)?;
    memory::measure(&unibody)
}

/// The median of some measurements; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
