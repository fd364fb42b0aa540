//! The project's own build and test commands: `cargo xtask <command>`.
//!
//! A command is a file with a [`Command`] in it, and a line in [`COMMANDS`].
//! - [`setup`]: installs what the gate needs;
//! - [`check`]: the gate; [`layering`]: which crate may use which, one of its steps;
//! - [`module`]: the kernel module, and its test in a stock kernel;
//! - [`fuzz`]: the fuzz targets;
//! - [`nest`]: a command on a machine with hardware virtualization; the module under stress there;
//! - [`qemu`], [`initramfs`]: machines that boot a stock kernel, and what they start with;
//! - [`mod@bench`]: the numbers; [`soak`]: the long forms of tests;
//! - [`tree`]: where things are; [`process`]: running other programs.

#![forbid(unsafe_code)]

mod bench;
mod check;
mod fuzz;
mod initramfs;
mod layering;
mod module;
mod nest;
mod process;
mod qemu;
mod setup;
mod soak;
mod tree;

use std::process::ExitCode;

/// A command of `cargo xtask`.
struct Command {
    /// What is typed.
    name: &'static str,
    /// One line for the list of commands.
    about: &'static str,
    /// Does it, given what was typed after the name.
    run: fn(&[String]) -> anyhow::Result<()>,
}

/// All commands.
const COMMANDS: &[Command] = &[
    setup::COMMAND,
    check::COMMAND,
    layering::COMMAND,
    module::COMMAND,
    fuzz::COMMAND,
    nest::COMMAND,
    nest::STRESS,
    bench::COMMAND,
    soak::COMMAND,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        eprint!("{}", usage());
        return ExitCode::from(2);
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        eprint!("no such command: '{name}'\n\n{}", usage());
        return ExitCode::from(2);
    };
    match (command.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The list of commands.
fn usage() -> String {
    let mut text = String::from("Usage: cargo xtask <command> [options]\n\nCommands:\n");
    for command in COMMANDS {
        text.push_str(&format!("  {:<10} {}\n", command.name, command.about));
    }
    text
}
