//! Whose modules a guest of `unibody run` is given: [`choose`].

use std::path::Path;

use super::for_guest::ForGuest;
use super::table::Missing;
use super::wanted::Wanted;
use super::{beside_kernel, in_folder, of_release};
use crate::error::{Error, quoted, say};
use crate::pull::command::user_store;
use crate::pull::store::Guest;

/// What is `wanted` of the modules that the person has `told` of, or else of those that were `pulled` with the kernel, or that belong to the
/// person's own `kernel`. Nothing if nothing is wanted, or if it is not known where they are: a driver that its kernel lacks, the guest says.
pub(crate) fn choose(
    wanted: &Wanted,
    told: Option<&Path>,
    kernel: Option<&Path>,
    release: Option<&str>,
    pulled: Option<&Guest>,
) -> Result<Option<ForGuest>, Error> {
    if wanted.is_nothing() {
        return Ok(None);
    }
    let found = match (told, pulled) {
        (Some(told), _) => in_folder(told, release, wanted).map_err(|error| {
            let action = format!("cannot use the kernel's modules in {}", quoted(told));
            Error::new(action, error)
                .advise("Give the folder that make modules_install has put them in")
        }),
        (None, Some(guest)) => {
            // Where what is found out can't be kept, it is found out each time.
            let waiting = || say("unibody: waiting for another unibody that uses the cache");
            let kept = user_store().map(|store| store.describe_modules(guest, waiting));
            drop(kept);
            of_release(guest.modules(), &guest.manifest.release, wanted).map_err(|error| {
                Error::new("cannot use the kernel's modules", error)
                    .advise("Get them again with unibody pull")
            })
        }
        (None, None) => {
            let Some(kernel) = kernel else { return Ok(None) };
            match beside_kernel(kernel, release, wanted).transpose() {
                Some(found) => found.map_err(|error| {
                    Error::new("cannot use the modules that were built with the kernel", error)
                        .advise("Build them again, or name others with --modules")
                }),
                None => return Ok(None),
            }
        }
    }?;
    for Missing { name, for_module } in &found.missing {
        let for_module = for_module.as_deref().unwrap_or_default();
        say(&format!("unibody: there is no module {name}, which {for_module} depends on"));
    }
    Ok(Some(found))
}
