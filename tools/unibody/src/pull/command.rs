//! `unibody pull`: brings the store up to date and prints what it has.

use std::io::Write;

use super::progress::Progress;
use super::store::{Guest, Store};
use super::{Pulled, pull};
use crate::cli;
use crate::error::{Error, say};

/// Carries the verb out.
pub(crate) fn execute(options: &cli::Pull) -> Result<(), Error> {
    let store = user_store()?;
    let progress = Progress::new(options.quiet);
    let pulled = pull(&store, &progress).map_err(|error| error.explain(Some(&store)))?;
    drop(progress);
    let (guest, state) = match &pulled {
        Pulled::New(guest) => (guest, "new"),
        Pulled::Unchanged { guest, unreached: None } => (guest, "up to date"),
        Pulled::Unchanged { guest, unreached: Some(source) } => {
            say(&format!("unibody: {source} could not be reached: there may be something newer"));
            (guest, "not checked")
        }
    };
    // Whoever closes stdout does not want to know.
    let _ = write!(std::io::stdout(), "{}", describe(guest, state));
    Ok(())
}

/// The store of the user who runs this.
pub(crate) fn user_store() -> Result<Store, Error> {
    let variable = |name: &str| std::env::var_os(name).map(Into::into);
    Store::of_user(variable).map_err(|error| super::Error::from(error).explain(None))
}

fn describe(guest: &Guest, state: &str) -> String {
    let mut text = format!("kernel    {} ({state})\n", guest.manifest.release);
    for package in &guest.manifest.packages {
        text.push_str(&format!("package   {} {}\n", package.name, package.version));
    }
    text.push_str(&format!("folder    {}\n", guest.folder().display()));
    text
}
