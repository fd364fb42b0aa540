//! `cargo xtask check`: the whole gate, a step at a time.
//!
//! - [`documents`]: files that the documents name and that are not there;
//! - [`unsafe_code`]: `unsafe` only where ARCHITECTURE.md says;
//! - [`rust_text`]: Rust without its comments and literals, for the above.
//!
//! A step that fails does not keep the others from running. Once `cargo xtask setup` has run, only tests
//! need the network, for what they take from the distribution's archive and keep. Known vulnerabilities of
//! dependencies (`cargo deny check advisories`), whose list must be fetched, are not part of the gate.

mod documents;
mod rust_text;
mod unsafe_code;

use crate::{Command, fuzz, layering, module, nest, process, tree};
use anyhow::{Result, bail};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The command.
pub const COMMAND: Command =
    Command { name: "check", about: "the whole gate, or the steps that are named", run };

/// One step of the gate.
struct Step {
    /// What is typed, and printed.
    name: &'static str,
    /// One line for the list of steps.
    about: &'static str,
    /// Does it.
    run: fn() -> Result<()>,
}

/// All steps: what is quick first, and what others build upon before them.
const STEPS: &[Step] = &[
    Step { name: "format", about: "rustfmt has nothing to change", run: format },
    Step { name: "layering", about: "crates use only what they may", run: layering::check },
    Step {
        name: "unsafe",
        about: "`unsafe` only where ARCHITECTURE.md says",
        run: unsafe_code::check,
    },
    Step { name: "documents", about: "the files that documents name exist", run: documents::check },
    Step { name: "dependencies", about: "their licences, bans and sources", run: dependencies },
    Step { name: "clippy", about: "no lint complains", run: clippy },
    Step { name: "rustdoc", about: "the documentation builds", run: rustdoc },
    Step { name: "tests", about: "all tests, guests included", run: tests },
    Step { name: "doctests", about: "the examples in the documentation", run: doctests },
    Step { name: "fuzz", about: "the fuzz targets, each for a minute at most", run: fuzz::check },
    Step {
        name: "module",
        about: "the kernel module, tested in a stock kernel",
        run: kernel_module,
    },
    Step { name: "nest", about: "guests on a stock kernel's KVM", run: nest::check },
];

/// The module's own workspace.
const KMOD: &str = "host/kmod/Cargo.toml";

fn run(arguments: &[String]) -> Result<()> {
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{}", usage());
        return Ok(());
    }
    let chosen = choose(arguments)?;
    let started = Instant::now();
    let mut results = Vec::new();
    for step in chosen {
        println!("\n== {}: {}", step.name, step.about);
        let _ = std::io::stdout().flush();
        let started = Instant::now();
        let outcome = (step.run)();
        let took = started.elapsed();
        match &outcome {
            Ok(()) => println!("== {}: passed ({})", step.name, seconds(took)),
            Err(error) => println!("== {}: FAILED ({}): {error:#}", step.name, seconds(took)),
        }
        results.push((step.name, outcome.is_ok(), took));
    }
    println!();
    for (name, passed, took) in &results {
        let outcome = if *passed { "passed" } else { "FAILED" };
        println!("{name:<13} {outcome} {:>9}", seconds(*took));
    }
    let failed = results.iter().filter(|(_, passed, _)| !passed).count();
    println!("{} steps, {failed} failed, {}", results.len(), seconds(started.elapsed()));
    if failed > 0 {
        bail!("{failed} of {} steps failed", results.len());
    }
    Ok(())
}

/// The steps that were named, in the gate's order; all if none was.
fn choose(names: &[String]) -> Result<Vec<&'static Step>> {
    for name in names {
        if !STEPS.iter().any(|step| step.name == name) {
            bail!("there is no step '{name}'\n\n{}", usage());
        }
    }
    let wanted = |step: &&Step| names.is_empty() || names.iter().any(|name| name == step.name);
    Ok(STEPS.iter().filter(wanted).collect())
}

fn usage() -> String {
    let mut text = String::from("Usage: cargo xtask check [STEP…]\n\nSteps:\n");
    for step in STEPS {
        text.push_str(&format!("  {:<13} {}\n", step.name, step.about));
    }
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f32())
}

/// A cargo at the top of the tree, with the first arguments given.
fn cargo(arguments: &[&str]) -> std::process::Command {
    let mut cargo = process::cargo();
    cargo.current_dir(tree::root()).args(arguments);
    cargo
}

fn format() -> Result<()> {
    process::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    for manifest in [KMOD, fuzz::MANIFEST] {
        process::run(&mut cargo(&["fmt", "--check", "--manifest-path", manifest]))?;
    }
    Ok(())
}

fn dependencies() -> Result<()> {
    let rules = tree::root().join("deny.toml");
    for manifest in ["Cargo.toml", KMOD, fuzz::MANIFEST] {
        let mut deny = cargo(&["deny", "--offline", "--locked", "--manifest-path", manifest]);
        deny.arg("--config").arg(&rules);
        deny.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
        process::run(&mut deny)?;
    }
    Ok(())
}

fn clippy() -> Result<()> {
    process::run(&mut cargo(&[
        "clippy",
        "--locked",
        "--keep-going",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    // The module's own crate, alone and with the test bodies. It does not build for
    // this machine, but it can be checked for it, where a panic must not unwind.
    let directory = tree::target().join("module").join("clippy");
    for features in ["", "selftest"] {
        process::run(
            cargo(&["clippy", "--locked", "--release", "--manifest-path", KMOD])
                .env("CARGO_TARGET_DIR", &directory)
                .args(["--features", features, "--", "-D", "warnings"]),
        )?;
    }
    process::run(
        cargo(&["clippy", "--locked", "--manifest-path", fuzz::MANIFEST, "--", "-D", "warnings"])
            .env("CARGO_TARGET_DIR", tree::target().join("fuzz").join("clippy")),
    )
}

fn rustdoc() -> Result<()> {
    process::run(
        cargo(&[
            "doc",
            "--locked",
            "--keep-going",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ])
        .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

fn tests() -> Result<()> {
    let mut nextest = cargo(&["nextest", "run", "--locked", "--workspace"]);
    if std::env::var_os("CI").is_some() || !std::io::stderr().is_terminal() {
        nextest.args(["--profile", "ci"]);
    }
    process::run(&mut nextest)
}

fn doctests() -> Result<()> {
    process::run(&mut cargo(&["test", "--quiet", "--locked", "--workspace", "--doc"]))
}

fn kernel_module() -> Result<()> {
    (module::COMMAND.run)(&["--test".to_owned(), "--workspace".to_owned()])
}

#[cfg(test)]
mod tests {
    use super::{STEPS, choose};

    #[test]
    fn all_steps_run_unless_some_are_named() {
        assert_eq!(choose(&[]).expect("all").len(), STEPS.len());
        let named = choose(&["clippy".into(), "format".into()]).expect("both exist");
        let names: Vec<&str> = named.iter().map(|step| step.name).collect();
        assert_eq!(names, ["format", "clippy"]);
        assert!(choose(&["no-such-step".into()]).is_err());
    }
}
