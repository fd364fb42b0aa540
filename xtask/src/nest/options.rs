//! What was typed after `cargo xtask nest`.

use super::machine::CONSOLE;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How it is used.
pub const USAGE: &str = "\
Usage: cargo xtask nest [OPTION…] -- COMMAND [ARGUMENT…]

Runs a command on a machine with hardware virtualization (SVM with nested paging), which QEMU's
software CPU makes: a stock kernel with kvm_amd loaded, BusyBox, and `unibody` with what it has
pulled. Its stdout, stderr and exit status are the command's.

  --module            with the project's own module loaded, in kvm_amd's place: /dev/unibody. It is
                      /nest/unibody.ko there, and kvm_amd, with what it needs, in /nest/modules
  --headers DIR       the kernel to boot, and to build that module for, by its headers; default: as
                      of `cargo xtask module`
  --file PATH[:NAME]  put a file of this host there, with the libraries it is linked to;
                      NAME is a name in /bin, or a path; default: its own name, in /bin
  --cpus N            processors; default: 1
  --memory SIZE       as 512M or 4G; default: 2G
  --nodes N           NUMA nodes, which have equal parts of that; default: 1
  --disk SIZE         a disk, /dev/nvme0n1, that is empty; default: none
  --append WORDS      more of the kernel's command line
  --timeout SECONDS   how long it may take; default: 600
  --icount            let its clock count instructions, one a nanosecond; says on stderr, as
                      `nest: nanoseconds=N`, how many passed from the command's start to its end
";

/// A file to put into the nest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Where it is.
    pub from: PathBuf,
    /// Where it goes: a path without the slash at its start.
    pub to: String,
}

/// What was asked for.
#[derive(Debug)]
pub struct Options {
    /// The clock counts instructions.
    pub icount: bool,
    /// The project's own module is loaded instead of kvm_amd.
    pub module: bool,
    /// The headers of the kernel, if it is not the default one.
    pub headers: Option<PathBuf>,
    /// Processors.
    pub cpus: u32,
    /// Memory, in QEMU's words.
    pub memory: String,
    /// NUMA nodes.
    pub nodes: u32,
    /// The size of an empty disk, in QEMU's words.
    pub disk: Option<String>,
    /// More of the kernel's command line.
    pub append: String,
    /// How long the machine may run.
    pub timeout: Duration,
    /// Files.
    pub files: Vec<Extra>,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// The name of the file, in `target/nest`, that the console's log is kept in.
    pub console: &'static str,
}

impl Default for Options {
    /// What nothing is said about; and no command.
    fn default() -> Self {
        Self {
            icount: false,
            module: false,
            headers: None,
            cpus: 1,
            memory: "2G".to_owned(),
            nodes: 1,
            disk: None,
            append: String::new(),
            timeout: Duration::from_secs(600),
            files: Vec::new(),
            command: Vec::new(),
            console: CONSOLE,
        }
    }
}

/// `None`: help was asked for.
pub fn parse(arguments: &[String]) -> Result<Option<Options>> {
    let mut options = Options::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().with_context(|| format!("{argument} wants a value\n\n{USAGE}"));
        match argument.as_str() {
            "--icount" => options.icount = true,
            "--module" => options.module = true,
            "--headers" => options.headers = Some(value()?.into()),
            "--cpus" => options.cpus = number(argument, value()?)?,
            "--memory" => options.memory = value().and_then(|text| size(argument, text))?,
            "--nodes" => options.nodes = number(argument, value()?)?,
            "--disk" => options.disk = Some(value().and_then(|text| size(argument, text))?),
            "--append" => options.append.clone_from(value()?),
            "--timeout" => {
                options.timeout = Duration::from_secs(number(argument, value()?)?.into())
            }
            "--file" => options.files.push(file(value()?)?),
            "--help" | "-h" => return Ok(None),
            "--" => break,
            other => bail!("unexpected '{other}'\n\n{USAGE}"),
        }
    }
    options.command = arguments.cloned().collect();
    ensure!(!options.command.is_empty(), "no command: give one after --\n\n{USAGE}");
    ensure!(
        !options.icount || options.cpus == 1,
        "with --icount there is one processor: what several do is in no order that repeats"
    );
    Ok(Some(options))
}

fn number(option: &str, text: &str) -> Result<u32> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => bail!("{option} wants a number above 0, not '{text}'"),
    }
}

fn size(option: &str, text: &str) -> Result<String> {
    let digits = text.strip_suffix(['M', 'G']).unwrap_or_default();
    match digits.parse::<u32>() {
        Ok(size) if size > 0 => Ok(text.to_owned()),
        _ => bail!("{option} wants a size as 512M or 4G, not '{text}'"),
    }
}

fn file(text: &str) -> Result<Extra> {
    // A colon may be part of a path.
    let named = if Path::new(text).exists() { None } else { text.rsplit_once(':') };
    let (from, name) = match named {
        Some((from, name)) => (from, name.to_owned()),
        None => {
            let name = Path::new(text).file_name().unwrap_or_default();
            (text, name.to_string_lossy().into_owned())
        }
    };
    let to = match name.strip_prefix('/') {
        Some(path) => path.to_owned(),
        None => format!("bin/{name}"),
    };
    let is_plain = |part: &str| !matches!(part, "" | "." | "..");
    ensure!(to.split('/').all(is_plain), "--file '{text}' does not say where it goes");
    Ok(Extra { from: from.into(), to })
}

#[cfg(test)]
mod tests {
    use super::{Extra, file, parse};

    fn strings(arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(|argument| (*argument).to_owned()).collect()
    }

    #[test]
    fn all_after_the_dashes_is_the_command() {
        let typed = ["--icount", "--memory", "512M", "--", "sh", "--", "--cpus"];
        let options = parse(&strings(&typed)).expect("it is right").expect("no help");
        assert!(options.icount);
        assert_eq!(options.memory, "512M");
        assert_eq!(options.command, ["sh", "--", "--cpus"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for typed in [
            &["--icount", "--"] as &[&str],
            &["--cpus", "0", "--", "true"],
            &["--icount", "--cpus", "2", "--", "true"],
            &["--memory", "much", "--", "true"],
            &["--memory", "12", "--", "true"],
            &["--disk", "0M", "--", "true"],
            &["--nodes", "0", "--", "true"],
            &["--file"],
            &["true"],
        ] {
            assert!(parse(&strings(typed)).is_err(), "{typed:?}");
        }
        assert!(parse(&strings(&["--help"])).is_ok_and(|options| options.is_none()));
    }

    #[test]
    fn files_go_where_they_are_told_to() {
        let goes = |text| file(text).map(|Extra { from, to }| (from.display().to_string(), to));
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(goes("/x/tests-1f").ok(), Some(pair("/x/tests-1f", "bin/tests-1f")));
        assert_eq!(goes("/x/tests-1f:tests").ok(), Some(pair("/x/tests-1f", "bin/tests")));
        assert_eq!(goes("/x/data:/srv/data").ok(), Some(pair("/x/data", "srv/data")));
        assert!(goes("/x/data:").is_err());
        assert!(goes("/x/data:/").is_err());
        assert!(goes("/x/data:../data").is_err());
    }
}
