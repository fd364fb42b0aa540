//! What runs the guest: what `--engine` says, or what was seen to be the fastest.
//!
//! | module | subject |
//! |---|---|
//! | [`remembered`] | what trying KVM and the module has found, until the next boot |
//! | [`words`] | how an engine's state is told to people |
//!
//! What there is, trying it and the choice are [`hv::host`]'s.

pub(crate) mod remembered;
pub(crate) mod words;

use hv::host::{Candidates, Device, Tried, choose};
use hv::kvm::Kvm;

use self::remembered::{Key, Place};
use crate::cli::{self, Engine};
use crate::error::{Error, say};

/// What runs the guest.
pub(crate) enum Selected {
    /// The software CPU.
    Soft,
    /// Linux's KVM, or the project's own module, by the same interface.
    Kvm(Kvm),
}

/// Takes what the person wants: a device or an error if that is one, and the fastest if that is all the same.
pub(crate) fn select(options: &cli::Run) -> Result<Selected, Error> {
    match options.engine {
        Engine::Soft => Ok(Selected::Soft),
        Engine::Kvm => open(Device::Kvm, "KVM").map(Selected::Kvm),
        Engine::Unibody => open(Device::Unibody, "Unibody's module").map(Selected::Kvm),
        // What only the software CPU can do is asked for.
        Engine::Auto if options.software_cpu_only().is_some() => Ok(Selected::Soft),
        Engine::Auto => Ok(fastest(options.quiet)),
    }
}

fn open(device: Device, name: &str) -> Result<Kvm, Error> {
    device.open().map_err(|readiness| {
        let error = Error::new(format!("cannot use {name}"), words::refusal(&readiness, device));
        match words::fix(&readiness, device) {
            Some(fix) => error.advise(format!("To use it: {fix}")),
            None => error.advise("Leave --engine out to use what works here"),
        }
    })
}

/// Takes the fastest that does all right. Says so if that is the software CPU although there is another.
fn fastest(quiet: bool) -> Selected {
    let mut candidates = Candidates::open();
    let tried =
        if candidates.is_any_device_ready() { try_once(&mut candidates) } else { Tried::default() };
    let engines = candidates.engines(tried);
    let choice = choose(&engines);
    let chosen =
        engines.iter().find(|engine| choice.as_ref().is_some_and(|c| c.engine == engine.name));
    let device = chosen.and_then(|engine| candidates.into_device(engine.device()?));
    if let (None, false) = (&device, quiet)
        && let Some(why) = engines.iter().find_map(words::fallback)
    {
        say(&format!("unibody: {why}: using the software CPU"));
    }
    device.map_or(Selected::Soft, Selected::Kvm)
}

/// Tries the candidates, unless it is remembered what came of it.
fn try_once(candidates: &mut Candidates) -> Tried {
    let (place, key) = (Place::of_this_user(), Key::of_this_host());
    let known = place.as_ref().zip(key.as_ref()).and_then(|(place, key)| place.recall(key));
    known.unwrap_or_else(|| {
        let tried = candidates.try_until_known();
        remember(place.as_ref(), key.as_ref(), &tried);
        tried
    })
}

/// Tries all candidates anew; what was remembered is replaced.
pub(crate) fn try_anew(candidates: &mut Candidates) -> Tried {
    let tried = candidates.try_all();
    if candidates.is_any_device_ready() {
        remember(Place::of_this_user().as_ref(), Key::of_this_host().as_ref(), &tried);
    }
    tried
}

fn remember(place: Option<&Place>, key: Option<&Key>, tried: &Tried) {
    if let (Some(place), Some(key), true) = (place, key, tried.is_lasting()) {
        // Who can't write tries again the next time.
        let _ = place.keep(key, tried);
    }
}
