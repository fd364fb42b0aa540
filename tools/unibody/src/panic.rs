//! What a person sees of a mistake in Unibody itself: one line, the terminal as it was, status 125.

use std::panic::{self, PanicHookInfo};

use crate::error::{FAILURE, say};
use crate::terminal;

/// Replaces the standard message and backtrace. On whatever thread it happens, the process ends.
pub(crate) fn install() {
    panic::set_hook(Box::new(|info| {
        terminal::restore();
        say(&message(info));
        std::process::exit(FAILURE.into());
    }));
}

fn message(info: &PanicHookInfo<'_>) -> String {
    let what = info.payload_as_str().unwrap_or("unknown").lines().next().unwrap_or_default();
    let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
    format!(
        "unibody: internal error: {what}{}. This is a mistake in unibody {}: please report this line, \
         and how to come to it",
        place.unwrap_or_default(),
        env!("CARGO_PKG_VERSION"),
    )
}
