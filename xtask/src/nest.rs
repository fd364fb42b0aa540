//! `cargo xtask nest`: a command on a machine with hardware virtualization, on any host.
//!
//! The nest is a machine of QEMU's software CPU, which has SVM with nested paging. It boots the stock
//! kernel that the module is tested in; so there is a real kvm_amd, one level down.
//! - [`options`]: what was typed;
//! - [`contents`]: its initramfs, in which is everything: [`modules`] of the kernel, [`unibody`],
//!   files of this host with their [`libraries`], the command ([`quoting`]), and `nest/init.sh`, its
//!   first process;
//! - [`gate`]: what the gate runs there, two machines at a time ([`together`]); [`own_module`], with the project's own module;
//!   [`stress`], with that and no peace; [`foreign`], another VMM; [`whole`], that their scripts came to their ends;
//! - [`machine`]: QEMU; [`output`]: what the command prints; [`outcome`]: how it went.
//!
//! Of TCG's SVM in QEMU 7.2 there is nested paging and a virtual GIF, and no NRIPS, decode assists,
//! flush by ASID, clean bits, TSC scaling or pause filter.
//!
//! Built and fetched files are kept below `target/nest/` and `target/module/kernel/`. The initramfs is put
//! together anew for each run, which takes a fraction of a second.

mod contents;
mod foreign;
mod gate;
mod libraries;
mod machine;
mod modules;
mod options;
mod outcome;
mod output;
mod own_module;
mod quoting;
mod stress;
mod together;
mod unibody;
mod whole;

use crate::Command;
use crate::initramfs::busybox;
use crate::module;
use crate::module::kernel::Headers;
use crate::module::packages;
use anyhow::{Context, Result};
use contents::Contents;
pub use foreign::qemu;
pub use gate::{check, soak, soak_module};
pub use options::{Extra, Options};
use outcome::Outcome;
use std::io::{self, Write};
use std::path::PathBuf;
pub use stress::COMMAND as STRESS;
pub use unibody::build;

/// The command.
pub const COMMAND: Command = Command {
    name: "nest",
    about: "a command where there is hardware virtualization: [OPTION…] -- COMMAND…",
    run,
};

/// The first process.
const INIT: &str = include_str!("nest/init.sh");

/// Directories that are mounted on, or that have BusyBox's names in them.
const DIRECTORIES: [&str; 10] =
    ["bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp", "usr/bin", "usr/sbin"];

fn run(arguments: &[String]) -> Result<()> {
    let Some(options) = options::parse(arguments)? else {
        print!("{}", options::USAGE);
        return Ok(());
    };
    let outcome = boot(&options)?;
    if options.icount {
        eprintln!("nest: nanoseconds={}", outcome.nanoseconds);
    }
    // The command's exit status is this program's, whatever it means.
    std::process::exit(outcome.status.into());
}

/// Boots the nest, and runs what was asked for in it. What that prints is printed.
pub fn boot(options: &Options) -> Result<Outcome> {
    Nest::prepare(options)?.boot(io::stdout(), io::stderr())
}

/// What is to be booted.
struct Nest<'a> {
    options: &'a Options,
    kernel: PathBuf,
    initramfs: Vec<u8>,
}

impl<'a> Nest<'a> {
    /// Builds and fetches what is not there yet.
    fn prepare(options: &'a Options) -> Result<Self> {
        packages::check_machine()?;
        let kernel = Headers::find(options.headers.clone())?;
        let initramfs = fill(&kernel, options)?.archive();
        Ok(Self { options, kernel: kernel.image()?, initramfs })
    }

    /// Boots it. What the command prints goes to `stdout` and `stderr`.
    fn boot(&self, stdout: impl Write, stderr: impl Write) -> Result<Outcome> {
        machine::run(&self.kernel, &self.initramfs, self.options, stdout, stderr)
    }
}

/// Puts together all that is in the nest.
fn fill(kernel: &Headers, options: &Options) -> Result<Contents> {
    let mut contents = Contents::default();
    for directory in DIRECTORIES {
        contents.directory(directory);
    }
    let busybox = busybox().context("no static busybox: apt-get install busybox-static")?;
    contents.copy(&busybox, "bin/busybox")?;
    contents.file("init", 0o755, INIT.into());
    contents.file("nest/command", 0o644, quoting::script(&options.command).into_bytes());
    modules::add(&mut contents, &kernel.modules()?)?;
    if options.module {
        let module = module::build::build(kernel, module::build::Flavour::Product)?;
        contents.copy(&module.file, "nest/unibody.ko")?;
    }
    unibody::add(&mut contents)?;
    for file in &options.files {
        contents.copy(&file.from, &file.to)?;
        libraries::add(&mut contents, &file.from)?;
    }
    Ok(contents)
}
