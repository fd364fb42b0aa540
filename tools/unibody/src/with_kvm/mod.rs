//! `unibody with-kvm`: runs a program that finds this hypervisor where it looks for `/dev/kvm`.
//!
//! | module | subject |
//! |---|---|
//! | [`program`] | which file it is, and whether a library can be loaded into it |
//! | [`library`] | the library, as a file that the dynamic loader finds |
//!
//! What it is told goes to the library by the environment; then this process becomes the program. Its children inherit the environment,
//! and so find the same: a script that starts a VMM, or a service that does, is meant to be run so. Who does not want that takes the
//! two variables away.

mod library;
mod program;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

use hv::interface::{Model, best_model, can_offer};

use self::program::{Obstacle, Program};
use crate::cli;
use crate::error::{Error, quoted, reason, say};

/// The exit statuses of a program that is not there, and of one that can't be executed, as other programs that run programs have them.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

const PRELOAD: &str = "LD_PRELOAD";

/// Carries the verb out: it returns only if it fails, with the exit status.
pub(crate) fn execute(options: &cli::WithKvm) -> Result<u8, Error> {
    let Some((name, arguments)) = options.command.split_first() else {
        return Err(Error::new("cannot run a program", "none is named"));
    };
    options.cpu.as_deref().map_or(Ok(()), check_cpu)?;
    let action = format!("cannot run '{}'", name.display());
    let program = match Program::find(name, std::env::var_os("PATH").as_deref()) {
        Ok(program) => program,
        Err(error) => {
            let not_found = error.kind() == std::io::ErrorKind::NotFound;
            say(&Error::new(action, reason(&error)).to_string());
            return Ok(if not_found { NOT_FOUND } else { NOT_EXECUTABLE });
        }
    };
    if let Some((file, obstacle)) = program.obstacle() {
        let action = format!("cannot give {} /dev/kvm", quoted(&file));
        return Err(explain(&obstacle, Error::new(action, &obstacle)));
    }
    let library = library::place()?;
    let mut command = Command::new(program.path());
    command.arg0(name).args(arguments);
    command.env(PRELOAD, preloaded(library.as_os_str(), std::env::var_os(PRELOAD)));
    command.env(preload_image::OPTIONS, words(options));
    let error = command.exec();
    say(&Error::new(action, reason(&error)).to_string());
    Ok(NOT_EXECUTABLE)
}

/// The libraries to be loaded: this one, before all that were to be.
fn preloaded(library: &OsStr, others: Option<OsString>) -> OsString {
    let mut all = library.to_owned();
    let others = others.unwrap_or_default();
    let is_new = |other: &&[u8]| !other.is_empty() && *other != library.as_encoded_bytes();
    let others = others.as_encoded_bytes().split(|byte| matches!(byte, b':' | b' '));
    for other in others.filter(is_new) {
        all.push(":");
        all.push(String::from_utf8_lossy(other).as_ref());
    }
    all
}

/// What the library is told.
fn words(options: &cli::WithKvm) -> String {
    let room = match (options.no_jit, options.jit_cache) {
        (true, _) => Some("no-jit".to_owned()),
        (false, size) => size.map(|size| format!("jit-cache={size}")),
    };
    let cpu = options.cpu.as_ref().map(|name| format!("cpu={name}"));
    room.into_iter().chain(cpu).collect::<Vec<_>>().join(",")
}

/// Refuses a processor that there is not, or that this host cannot be.
fn check_cpu(name: &str) -> Result<(), Error> {
    if name == "host" {
        return Ok(());
    }
    let action = format!("cannot offer guests the processor '{name}'");
    let all = Model::all().map(|model| model.name()).collect::<Vec<_>>().join(", ");
    match Model::named(name) {
        Some(model) if can_offer(&model) => Ok(()),
        Some(_) => Err(Error::new(action, "this host's lacks some of its instructions")
            .advise(format!("Leave --cpu out, or say '{}'", best_model().name()))),
        None => Err(Error::new(action, "there is no such model")
            .advise(format!("Use host or one of {all}"))),
    }
}

fn explain(obstacle: &Obstacle, error: Error) -> Error {
    match obstacle {
        Obstacle::Static | Obstacle::Loader(_) => {
            error.advise("Use a build of it that is linked with glibc dynamically")
        }
        Obstacle::Machine => error.advise("Use a build of it for x86-64"),
        Obstacle::Privileged(_) => error.advise("Run a copy of it that has none"),
        Obstacle::Unreadable(_) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_comes_first_and_once() {
        let all = |others: Option<&str>| preloaded(OsStr::new("/a/kvm.so"), others.map(Into::into));
        assert_eq!(all(None), "/a/kvm.so");
        assert_eq!(all(Some("")), "/a/kvm.so");
        assert_eq!(all(Some("/b.so /c.so")), "/a/kvm.so:/b.so:/c.so");
        assert_eq!(all(Some("/b.so::/a/kvm.so")), "/a/kvm.so:/b.so");
    }
}
