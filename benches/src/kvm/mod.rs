//! `benches UNIBODY kvm BARE FOLDER`: what `unibody run` costs on Linux's KVM, beside QEMU, and beside a bare loop around
//! KVM_RUN, the program BARE (`benches/kvm/bare.c`). FOLDER is what `unibody pull` has made.
//!
//! - [`port_reads`]: an exit and the way back;
//! - [`mod@first_line`]: from the program's start to a kernel's first line, and to a program's;
//! - [`mod@first_entry`]: from there to the guest's first instruction;
//! - [`crate::memory`]: what a running machine costs besides the guest's memory;
//! - [`row`]: each beside what was asked for.
//!
//! `cargo xtask bench kvm` runs it in the nest, whose clock counts instructions, one a nanosecond: so a number is the same
//! the next time, however busy the host is. There an interrupt is lost now and then, and a guest stands still: what takes too
//! long is tried again ([`attempts`]).

mod first_entry;
mod first_line;
mod port_reads;
mod row;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::guest::{Monitor, Pulled};
use crate::memory;
use first_entry::first_entry;
use first_line::{KERNELS_LINE, PROGRAMS_LINE, first_line};
use row::{Asked, HEAD, Row};

/// Much on a clock that counts instructions; and on one that skips the time in which nothing happens, soon over.
const LIMIT: Duration = Duration::from_secs(30);

/// How often something is tried that may stand still.
const ATTEMPTS: usize = 4;

/// Prints the rows.
pub fn measure(unibody: &Path, bare: &Path, folder: &Path) -> anyhow::Result<()> {
    let (ours, qemus) = (Monitor::UnibodyKvm(unibody), Monitor::Microvm);
    println!("{HEAD}");

    let kernel = port_reads::Kernel::new()?;
    let small = |monitor: Monitor<'_>| monitor.small_kernel(kernel.file());
    let mut bare = Command::new(bare);
    bare.arg(kernel.file());
    let read = Row::new("a port read and the way back", "ns", port_reads::ticks(small(ours))?);
    println!("{}", read.beside("a bare loop", port_reads::ticks(bare)?).asked(Asked::Ratio(1.05)));
    println!("{}", read.beside("qemu", port_reads::ticks(small(qemus))?));

    let guest = first_line::guest(&Pulled::in_folder(folder)?)?;
    let ms = |what, line| {
        let [ours, qemus] =
            [ours, qemus].map(|monitor| attempts(|| first_line(monitor, &guest, line)));
        anyhow::Ok(Row::new(what, "ms", ours? * 1e3).beside("qemu", qemus? * 1e3))
    };
    println!("{}", ms("start to the kernel's first line", &KERNELS_LINE)?.asked(Asked::Ratio(0.7)));
    println!("{}", ms("start to a program's first line", &PROGRAMS_LINE)?);

    let linux = |monitor: Monitor<'_>| monitor.command(&guest, 1, "quiet");
    for (what, command) in [
        ("start to the first instruction, Linux", &linux as &dyn Fn(Monitor<'_>) -> _),
        ("start to the first instruction, small", &small),
    ] {
        let [ours, qemus] =
            [ours, qemus].map(|monitor| attempts(|| first_entry(&mut command(monitor))));
        let row = Row::new(what, "ms", ours? * 1e3).beside("qemu", qemus? * 1e3);
        println!("{}", row.asked(Asked::Value(15.0)));
    }

    let peak = attempts(|| memory::peak(unibody, "kvm", LIMIT))?;
    let row = Row::new("peak resident besides the guest's memory", "MiB", peak);
    println!("{}", row.asked(Asked::Value(8.0)));
    Ok(())
}

/// Does something until it succeeds, some times. Says on stderr what failed before.
fn attempts<T>(mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => eprintln!("once more: {error:#}"),
        }
    }
    attempt()
}
