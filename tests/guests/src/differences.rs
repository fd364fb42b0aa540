//! Where an engine that is not ours is known to deviate from what the bodies assert, and why: [`Difference`].
//!
//! A body that is named there is run like any other, and must fail as its entry says: when the engine changes, or the body no
//! longer shows the difference, the test fails. The tables, one or several of each engine, are [`crate::qemu::differences`] and [`crate::kvm`].

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// One way in which an engine deviates.
pub struct Difference {
    /// What it does.
    pub reason: &'static str,
    /// Which bodies fail for it, module and name, and a part of the message that each fails with.
    pub bodies: &'static [(&'static str, &'static str)],
}

/// What is known of one engine.
pub type Tables = &'static [&'static [Difference]];

/// Where the test of a body is: its module, and its name.
pub type Place<'a> = (&'a str, &'a str);

/// The difference that a body shows, and how.
fn known(tables: Tables, name: &str) -> Option<(&'static str, &'static str)> {
    tables.iter().copied().flatten().find_map(|known| {
        let (_, shows) = known.bodies.iter().find(|(body, _)| *body == name)?;
        Some((known.reason, *shows))
    })
}

/// Runs a body on an engine of which tables tell what is known. A body that is known to deviate must do so.
///
/// # Panics
/// As the body does, or because it does not.
pub fn run<E>(tables: Tables, place: Place<'_>, engine: &E, body: impl FnOnce(&E)) {
    let name = full_name(place);
    let Some((reason, shows)) = known(tables, &name) else {
        return body(engine);
    };
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(engine))) else {
        panic!("{name} no longer deviates: {reason}");
    };
    if !message(panic.as_ref()).contains(shows) {
        resume_unwind(panic);
    }
}

/// `architecture::debug::qemu` and `name` make `debug::name`.
fn full_name((module, name): Place<'_>) -> String {
    let file = module.rsplit("::").nth(1).unwrap_or(module);
    format!("{file}::{name}")
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default()
}

/// Names in the tables that none of `bodies` has.
#[must_use]
pub fn without_body(tables: Tables, bodies: &[(&str, &[&str])]) -> Vec<&'static str> {
    let all: Vec<String> = bodies
        .iter()
        .flat_map(|(module, names)| names.iter().map(|name| full_name((module, name))))
        .collect();
    let known = tables.iter().copied().flatten().flat_map(|known| known.bodies);
    known.map(|(body, _)| *body).filter(|body| !all.iter().any(|name| name == body)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Difference, Tables, run, without_body};

    const MODULE: &str = "architecture::debug::qemu";
    const BODY: &str = "a_body";
    const TABLE: Tables =
        &[&[], &[Difference { reason: "It can't.", bodies: &[("debug::a_body", "left: [1]")] }]];

    #[test]
    fn a_known_difference_is_expected() {
        run(TABLE, (MODULE, BODY), &(), |()| panic!("{}", "left: [1], right: []"));
    }

    #[test]
    #[should_panic(expected = "no longer deviates")]
    fn one_that_is_gone_is_told() {
        run(TABLE, (MODULE, BODY), &(), |()| ());
    }

    #[test]
    #[should_panic(expected = "something else")]
    fn another_failure_of_the_same_body_is_one() {
        run(TABLE, (MODULE, BODY), &(), |()| panic!("something else"));
    }

    #[test]
    #[should_panic(expected = "a difference")]
    fn a_difference_of_another_body_is_a_failure() {
        run(TABLE, (MODULE, "another"), &(), |()| panic!("a difference"));
    }

    #[test]
    fn what_has_no_body_is_found() {
        assert_eq!(without_body(TABLE, &[(MODULE, &[BODY])]), [""; 0]);
        assert_eq!(without_body(TABLE, &[(MODULE, &["another"])]), ["debug::a_body"]);
    }
}
