//! `unibody`: runs virtual machines on any Linux machine.
//!
//! | module | subject |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`run`] | `unibody run`: puts everything together |
//! | [`parts`] | what a guest is booted from |
//! | [`initramfs`] | what the guest finds in its file system |
//! | [`root`] | whose files are the guest's root, and who runs the command |
//! | [`modules`] | which of the kernel's modules it finds there |
//! | [`relay`], [`streams`] | bytes between the guest's serial lines and this process's streams |
//! | [`console`] | the kernel's last messages |
//! | [`ending`] | what a guest's end means to a person |
//! | [`terminal`], [`escape`] | raw mode, signals; the keys that are Unibody's own |
//! | [`pull`] | getting a kernel and a userland |
//! | [`engine`] | what runs the guest |
//! | [`doctor`] | `unibody doctor`: what this machine can do |
//! | [`with_kvm`] | `unibody with-kvm`: a program that finds the hypervisor at `/dev/kvm` |
//! | [`error`], [`mod@panic`] | how failures are told |

#![forbid(unsafe_code)]

mod cli;
mod console;
mod devices;
mod doctor;
mod ending;
mod engine;
mod error;
mod escape;
mod initramfs;
mod modules;
mod panic;
mod parts;
mod pull;
mod relay;
mod root;
mod run;
mod streams;
mod terminal;
mod verbose;
mod with_kvm;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Verb};
use crate::error::{FAILURE, say};

fn main() -> ExitCode {
    panic::install();
    let result = match Cli::parse().verb {
        Verb::Run(options) => run::execute(&options),
        Verb::Pull(options) => pull::command::execute(&options).map(|()| 0),
        Verb::WithKvm(options) => with_kvm::execute(&options),
        Verb::Doctor(options) => doctor::execute(&options),
        Verb::ShareServer(options) => devices::share::serve(&options),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(FAILURE)
        }
    }
}
