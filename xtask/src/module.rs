//! `cargo xtask module`: builds the kernel module, and tests it in a stock kernel.
//!
//! - [`packages`]: what must be installed;
//! - [`kernel`]: the kernel to build against and to boot;
//! - [`build`]: from the crates to `unibody.ko`;
//! - [`locks`], [`floats`], [`frames`]: what must hold of it: user space's dependencies,
//!   no floating point, small stack frames;
//! - [`lists`]: the lists of test bodies, as user space and as the kernel ran them;
//! - [`boot`]: a stock kernel under QEMU that loads the module.
//!
//! Everything is written below `target/module/`, nothing into the source tree.

mod boot;
pub mod build;
mod floats;
mod frames;
pub mod kernel;
mod lists;
mod locks;
pub mod packages;

use crate::Command;
use anyhow::{Result, bail};
use build::Flavour;
use kernel::Headers;
use std::path::PathBuf;
use std::time::Instant;

/// The command.
pub const COMMAND: Command = Command {
    name: "module",
    about: "build the kernel module; --test tries it in a stock kernel",
    run,
};

const USAGE: &str = "\
Usage: cargo xtask module [--selftest] [--test [--workspace]] [--headers DIR]

  --selftest     build the module with the core's test bodies, run when it is loaded
  --test         build that, run the same bodies in user space and in a stock kernel
                 under QEMU, and compare
  --workspace    with --test: use user space's test programs as the whole workspace's
                 tests have them; quicker if those are built already
  --headers DIR  the kernel to build against, as /lib/modules/VERSION/build;
                 default: the newest /usr/src/linux-headers-*-cloud-amd64
";

/// What was asked for.
#[derive(Default)]
struct Options {
    selftest: bool,
    test: bool,
    workspace: bool,
    headers: Option<PathBuf>,
}

fn run(arguments: &[String]) -> Result<()> {
    let Some(options) = parse(arguments)? else {
        print!("{USAGE}");
        return Ok(());
    };
    packages::check(options.test, options.headers.is_some())?;
    let headers = Headers::find(options.headers)?;
    let flavour =
        if options.selftest || options.test { Flavour::Selftest } else { Flavour::Product };
    let started = Instant::now();
    let module = build::build(&headers, flavour)?;
    println!(
        "{}: {} KiB of code and data for Linux {}, built in {:.1} s",
        module.file.display(),
        module.loaded_bytes.div_ceil(1024),
        headers.release,
        started.elapsed().as_secs_f32()
    );
    for frame in &module.large_frames {
        println!("warning: {} bytes of stack: {}", frame.bytes, frame.function);
    }
    if options.test {
        test(&headers, &module, options.workspace)?;
    }
    Ok(())
}

/// Runs the bodies in user space and in the kernel, and compares.
fn test(headers: &Headers, module: &build::Module, workspace: bool) -> Result<()> {
    let started = Instant::now();
    let user = lists::in_user_space(workspace)?;
    println!(
        "user space: {} run, 0 failed ({:.1} s)",
        user.bodies(),
        started.elapsed().as_secs_f32()
    );
    let started = Instant::now();
    let kernel = boot::boot(headers, &module.file)?;
    println!(
        "Linux {}: {} run and {} of its own, 0 failed ({:.1} s); {}",
        headers.release,
        kernel.lists.bodies() - kernel.lists.own(),
        kernel.lists.own(),
        started.elapsed().as_secs_f32(),
        kernel.stack
    );
    lists::compare(&user, &kernel.lists)
}

/// `None`: help was asked for.
fn parse(arguments: &[String]) -> Result<Option<Options>> {
    let mut options = Options::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--selftest" => options.selftest = true,
            "--test" => options.test = true,
            "--workspace" => options.workspace = true,
            "--headers" => match arguments.next() {
                Some(directory) => options.headers = Some(directory.into()),
                None => bail!("--headers wants a directory\n\n{USAGE}"),
            },
            "--help" | "-h" => return Ok(None),
            other => bail!("unexpected '{other}'\n\n{USAGE}"),
        }
    }
    Ok(Some(options))
}
