//! Machines of QEMU's software CPU that boot a stock kernel: [`machine`] describes one, [`run`] waits
//! for its end.

use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a machine is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// A machine without any device that is not asked for. It ends when it would reboot.
pub fn machine(kernel: &Path, initramfs: &Path, parameters: &str) -> Command {
    // Whoever ends this program ends the machine: nobody else would.
    let mut machine = Command::new("setpriv");
    machine.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg"]);
    machine.args(["-nodefaults", "-no-reboot", "-display", "none", "-append", parameters]);
    machine.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs).stdin(Stdio::null());
    machine
}

/// Runs a machine until it ends, and does something else meanwhile, again and again.
/// `None`: its time was up, and it was ended.
pub fn run(
    machine: &mut Command,
    patience: Duration,
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<Option<ExitStatus>> {
    let mut machine =
        machine.spawn().context("cannot start 'qemu-system-x86_64' by way of 'setpriv'")?;
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = machine.try_wait().context("cannot wait for QEMU")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            end(&mut machine)?;
            return Ok(None);
        }
        if let Err(error) = meanwhile() {
            end(&mut machine)?;
            return Err(error);
        }
        std::thread::sleep(INTERVAL);
    }
}

fn end(machine: &mut Child) -> Result<()> {
    machine.kill().context("cannot end QEMU")?;
    machine.wait().context("cannot wait for QEMU")?;
    Ok(())
}
