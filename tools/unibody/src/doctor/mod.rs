//! `unibody doctor`: what this machine can do, what Unibody would use, and why.
//!
//! | module | subject |
//! |---|---|
//! | [`report`] | what is found: the structure that `--json` prints |
//! | [`module`] | whether the project's own module can be used, and what to do |
//! | [`system`] | memory, processors and distribution, as Linux tells them |
//! | [`page`] | the same for people |
//! | [`interface`] | `--kvm`: what of KVM's interface programs get |
//!
//! It tries the engines with a guest of a few instructions, downloads nothing, and changes nothing but what is
//! remembered of such a try.

mod interface;
#[cfg(test)]
mod models_test;
mod module;
mod page;
mod report;
mod system;

use std::io::Write;

use self::report::Report;
use crate::cli;
use crate::error::{Error, FAILURE};

/// Carries the verb out and returns the exit status: a failure if nothing can run a guest.
pub(crate) fn execute(options: &cli::Doctor) -> Result<u8, Error> {
    if options.kvm {
        return interface::tell(options.json).map(|()| 0);
    }
    let report = Report::of_this_machine();
    let text = if options.json {
        let json = serde_json::to_string_pretty(&report);
        json.map_err(|error| Error::new("cannot make JSON of the report", error))? + "\n"
    } else {
        page::render(&report)
    };
    // Whoever closes stdout does not want to know.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if report.choice.is_some() { 0 } else { FAILURE })
}
