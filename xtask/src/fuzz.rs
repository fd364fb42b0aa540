//! `cargo xtask fuzz`: the fuzz targets (`fuzz/`), for a minute or as long as it is said.
//!
//! They are built and run by cargo-fuzz, which passes flags that a compiler takes from nightly ones only, unless it is told: it is told
//! here. All that comes of it is in cargo's target folder, under `fuzz`: the build, the inputs that have reached something new
//! (`corpus`), which later runs begin with, and those that have failed (`artifacts`). `--input` makes one of these again.
//! The inputs in the tree (`fuzz/corpus`) are a few to begin with, and are only read.
//!
//! The same program makes its calls of a device in the kernel if it is told which, and does so in the nest
//! (`xtask/src/nest/own_module.rs`): [`build`].
//!
//! There is no sanitizer: guests' memory is accessed by instructions of the project's own, which none knows, and what goes
//! wrong with it shows in the guards beside it. libFuzzer looks at whether code was reached; it is linked statically, and needs a C++
//! compiler.

use crate::{Command, process, tree};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The command.
pub const COMMAND: Command = Command {
    name: "fuzz",
    about: "ioctls that nobody would make, images that nobody would write, virtio and PCI under bad drivers [TARGET] [--seconds N | --input FILE]",
    run,
};

/// The targets' own workspace.
pub const MANIFEST: &str = "fuzz/Cargo.toml";
/// Its targets, and for how many seconds the gate has each: that of registers alone has soon seen all that there is.
const TARGETS: &[(&str, u32)] = &[
    ("ioctls", 60),
    ("disk_image", 60),
    ("virtio_devices", 60),
    ("pci_config", 15),
    ("network", 60),
];
/// Where in the tree a target's first inputs are.
const CORPUS: &str = "fuzz/corpus";
/// What cargo-fuzz builds for.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What says how long an input is at most.
pub const MAX_LEN: &str = "-max_len=2048";
/// How long each takes, in seconds, unless it is said.
const SECONDS: u32 = 60;

/// What is typed.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    /// One of [`TARGETS`]; all, if none is named.
    target: Option<String>,
    seconds: u32,
    input: Option<PathBuf>,
}

fn run(arguments: &[String]) -> Result<()> {
    let options = parse(arguments)?;
    let named = |target: &&str| options.target.as_deref().is_none_or(|name| name == *target);
    for target in names().filter(named) {
        match &options.input {
            Some(input) => again(target, input)?,
            None => fuzz(target, options.seconds)?,
        }
    }
    Ok(())
}

/// The gate's step.
pub fn check() -> Result<()> {
    TARGETS.iter().try_for_each(|(target, seconds)| fuzz(target, *seconds))
}

/// The targets' names.
fn names() -> impl Iterator<Item = &'static str> {
    TARGETS.iter().map(|(name, _)| *name)
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options { target: None, seconds: SECONDS, input: None };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value =
            || words.next().with_context(|| format!("'{word}' of what?\n\n{}", usage()));
        match word.as_str() {
            "--seconds" => {
                let text = value()?;
                options.seconds =
                    text.parse().with_context(|| format!("'{text}' is no number of seconds"))?;
            }
            "--input" => options.input = Some(value()?.into()),
            name if names().any(|one| one == name) && options.target.is_none() => {
                options.target = Some(name.to_owned());
            }
            _ => bail!("what is '{word}'?\n\n{}", usage()),
        }
    }
    Ok(options)
}

fn usage() -> String {
    let targets = names().collect::<Vec<_>>().join(", ");
    format!(
        "Usage: cargo xtask fuzz [TARGET] [--seconds N | --input FILE]\n\nTargets: {targets}. \
         {SECONDS} seconds, unless it is said."
    )
}

/// Has a target try inputs for some time; those that it has found to be worth it before come first.
fn fuzz(target: &str, seconds: u32) -> Result<()> {
    let found = folder("corpus", target)?;
    let failed = folder("artifacts", target)?;
    let mut command = cargo_fuzz("run", target);
    command.arg(found).arg(tree::root().join(CORPUS).join(target)).arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/", failed.display()));
    // A case takes milliseconds.
    command.args(["-timeout=20", "-rss_limit_mb=4096", MAX_LEN]);
    command.args(["-verbosity=0", "-print_final_stats=1"]);
    process::run(&mut command)
}

/// Makes a case again.
fn again(target: &str, input: &Path) -> Result<()> {
    let input = input.canonicalize().with_context(|| format!("no '{}'", input.display()))?;
    process::run(cargo_fuzz("run", target).arg(input))
}

/// Builds a target, and gives its program and the inputs in the tree.
pub fn build(target: &str) -> Result<(PathBuf, Vec<PathBuf>)> {
    process::run(&mut cargo_fuzz("build", target))?;
    let program = tree::target().join("fuzz").join(TRIPLE).join("release").join(target);
    let corpus = tree::root().join(CORPUS).join(target);
    let cannot_read = || format!("cannot read '{}'", corpus.display());
    let inputs = fs::read_dir(&corpus).with_context(cannot_read)?;
    let inputs = inputs.map(|entry| entry.map(|entry| entry.path()));
    let inputs = inputs.collect::<Result<_, _>>().with_context(cannot_read)?;
    Ok((program, inputs))
}

/// `cargo fuzz VERB TARGET`.
fn cargo_fuzz(verb: &str, target: &str) -> std::process::Command {
    let mut command = process::cargo();
    command.current_dir(tree::root());
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_NET_OFFLINE", "true");
    command.args(["fuzz", verb, "--fuzz-dir", "fuzz", "--sanitizer", "none"]);
    command.args(["--codegen-units", "16", "--target", TRIPLE]);
    command.arg("--target-dir").arg(tree::target().join("fuzz")).arg(target);
    command
}

/// A folder of a target's, in cargo's target folder.
fn folder(kind: &str, target: &str) -> Result<PathBuf> {
    let folder = tree::target().join("fuzz").join(kind).join(target);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make '{}'", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::{Options, parse};

    fn parsed(line: &str) -> Option<Options> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).ok()
    }

    #[test]
    fn what_is_typed_is_understood() {
        let all = Options { target: None, seconds: 60, input: None };
        assert_eq!(parsed(""), Some(all));
        let named = Options { target: Some("ioctls".into()), seconds: 3600, input: None };
        assert_eq!(parsed("ioctls --seconds 3600"), Some(named));
        let one = Options { target: None, seconds: 60, input: Some("a/b".into()) };
        assert_eq!(parsed("--input a/b"), Some(one));
        for wrong in ["nothing", "ioctls ioctls", "--seconds", "--seconds x", "--input", "--help"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
