//! The project's own module under stress, in the nest: a part of the gate, [`GATE`], and its long form, [`SOAK`].
//!
//! The kernel looks for mistakes in its heap (`slub_debug`), and a warning is its end. `stress.sh` has a guest look at its memory while
//! that is swapped out, dropped, mapped anew, protected, moved, copied on write, merged, put into huge pages and taken out of them, and
//! migrated to another node, and while threads are moved between the processors (`tests/userland/programs/pressure`). Then it kills
//! processes with guests at times that a seed gives, removes the module, and looks for what is lost and what the kernel has to say.

use super::options::{Extra, Options};
use super::whole;
use crate::{Command, process};
use anyhow::{Context, Result, bail, ensure};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use userland::{Shelf, pressure};

/// The command, which is this part of the gate alone.
pub const COMMAND: Command = Command {
    name: "stress",
    about: "the module under stress: [SECONDS of each case, and KILLS of processes]",
    run: start,
};

/// What the nest runs.
const SCRIPT: &str = include_str!("stress.sh");

/// What the kernel is told: to have each slab checked, poisoned, with zones around what is in it and with its users' names.
const PARAMETERS: &str = "slub_debug=FZPU panic_on_warn=1";

/// How long the long form may take.
const LIMIT: Duration = Duration::from_secs(7200);

/// Repeats a run: a number.
const SEED: &str = "UNIBODY_SEED";

/// How much of it there is.
pub struct Extent {
    /// Of each case.
    seconds: u32,
    kills: u32,
    timeout: Duration,
}

/// Some seconds, and three that are killed.
pub const GATE: Extent = Extent { seconds: 1, kills: 3, timeout: Duration::from_secs(600) };

/// Minutes, and a hundred.
pub const SOAK: Extent = Extent { seconds: 30, kills: 100, timeout: LIMIT };

fn start(arguments: &[String]) -> Result<()> {
    let number = |text: &String| text.parse().ok().filter(|number| *number > 0);
    let extent = match arguments {
        [] => GATE,
        [seconds, kills] => match (number(seconds), number(kills)) {
            (Some(seconds), Some(kills)) => Extent { seconds, kills, timeout: LIMIT },
            _ => bail!("'{seconds}' and '{kills}' are to be numbers above 0"),
        },
        _ => bail!("{} takes two numbers, or nothing", COMMAND.name),
    };
    let outcome = super::boot(&options(&extent)?)?;
    ensure!(outcome.status == 0, "the module's stress ended with status {}", outcome.status);
    Ok(())
}

/// What is to be booted. The guests have one vCPU each: see `own_module.rs`.
pub fn options(extent: &Extent) -> Result<Options> {
    let shelf = Shelf::new(&userland::shelf::folder()?.join("built"))?;
    let setpriv = process::find("setpriv").context("there is no setpriv on this host")?;
    let files = vec![
        Extra { from: setpriv, to: "bin/setpriv".to_owned() },
        Extra { from: pressure::build(&shelf)?, to: "bin/pressure".to_owned() },
    ];
    let mut command = whole::command(SCRIPT, "stress.sh");
    command.extend([extent.seconds, extent.kills, seed()?].map(|number| number.to_string()));
    Ok(Options {
        module: true,
        cpus: 2,
        nodes: 2,
        disk: Some("1G".to_owned()),
        append: PARAMETERS.to_owned(),
        timeout: extent.timeout,
        files,
        command,
        console: "console-stress.log",
        ..Options::default()
    })
}

/// What was set, or another one each time. The script's arithmetic has to hold it.
fn seed() -> Result<u32> {
    match std::env::var(SEED) {
        Ok(text) => text.parse().with_context(|| format!("{SEED}: '{text}' is no number")),
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(u32::try_from(now.as_secs() % 1_000_000_000).unwrap_or_default())
        }
    }
}
