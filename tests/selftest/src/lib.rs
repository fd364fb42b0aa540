//! Test bodies that run in user space and, unchanged, inside the kernel.
//!
//! A body is a plain function that returns an [`Outcome`]; it never panics on
//! a failed check, because a panic inside the kernel takes the machine down.
//! The [`cases!`] macro collects the bodies of one file into a list of
//! [`Case`]s, and makes an ordinary `#[test]` of each when the crate is tested
//! in user space. The kernel module walks the very same list.
//!
//! Bodies keep large fixtures on the heap: a kernel stack is 16 KiB.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::string::String;
use core::fmt;

/// What one test body found: nothing wrong, or the first check that failed.
pub type Outcome = Result<(), Failure>;

/// One test body under its full name.
#[derive(Clone, Copy)]
pub struct Case {
    /// Module path and function, as `arch_x86::irqchip::i8259_test::resets`.
    pub module: &'static str,
    /// The function's own name.
    pub name: &'static str,
    /// The body.
    pub body: fn() -> Outcome,
}

/// A check that did not hold.
#[derive(Debug)]
pub struct Failure {
    /// Source file of the check.
    pub file: &'static str,
    /// Line of the check.
    pub line: u32,
    /// What was expected and what was found.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// How a run over several lists of cases went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bodies that ran.
    pub run: usize,
    /// Bodies that failed.
    pub failed: usize,
}

impl Tally {
    /// Runs every case of `cases`, reporting each failure to `report`.
    pub fn add(&mut self, cases: &[Case], mut report: impl FnMut(&Case, &Failure)) {
        for case in cases {
            self.run += 1;
            if let Err(failure) = (case.body)() {
                self.failed += 1;
                report(case, &failure);
            }
        }
    }
}

/// For the macros of this crate.
#[doc(hidden)]
pub mod reexport {
    pub use alloc::format;
}

/// Declares test bodies: `cases! { fn name() { check!(…); } … }`.
///
/// Defines `pub const CASES: &[Case]` beside the functions. Within a body `?`
/// works on `Outcome`s, and the trailing `Ok(())` is supplied.
#[macro_export]
macro_rules! cases {
    ($($(#[$attr:meta])* fn $name:ident() $body:block)*) => {
        $(
            $(#[$attr])*
            fn $name() -> $crate::Outcome {
                $body
                #[allow(unreachable_code, reason = "a body may end in an early return")]
                Ok(())
            }
        )*
        /// The bodies of this file.
        pub const CASES: &[$crate::Case] = &[
            $($crate::Case { module: module_path!(), name: stringify!($name), body: $name }),*
        ];
        #[cfg(test)]
        mod in_user_space {
            $(
                #[test]
                fn $name() {
                    if let Err(failure) = super::$name() {
                        panic!("{failure}");
                    }
                }
            )*
        }
    };
}

/// Ends the body with a [`Failure`] unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr $(,)?) => {
        $crate::check!($condition, "{} does not hold", stringify!($condition))
    };
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::Failure {
                file: file!(),
                line: line!(),
                message: $crate::reexport::format!($($message)+),
            });
        }
    };
}

/// Ends the body with a [`Failure`] unless both values are equal.
#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr $(,)?) => {{
        let (left, right) = (&$left, &$right);
        $crate::check!(
            *left == *right,
            "{} is {:x?}, expected {:x?}",
            stringify!($left),
            left,
            right
        );
    }};
    ($left:expr, $right:expr, $($context:tt)+) => {{
        let (left, right) = (&$left, &$right);
        $crate::check!(
            *left == *right,
            "{} is {:x?}, expected {:x?} ({})",
            stringify!($left),
            left,
            right,
            $crate::reexport::format!($($context)+)
        );
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds() -> Outcome {
        check_eq!(2 + 2, 4);
        Ok(())
    }

    fn fails() -> Outcome {
        check_eq!(2 + 2, 5, "arithmetic");
        Ok(())
    }

    #[test]
    fn a_tally_counts_runs_and_reports_failures() {
        let cases = [
            Case { module: "m", name: "holds", body: holds },
            Case { module: "m", name: "fails", body: fails },
        ];
        let mut tally = Tally::default();
        let mut said = String::new();
        tally.add(&cases, |case, failure| {
            said.push_str(case.name);
            said.push_str(&failure.message);
        });
        assert_eq!(tally, Tally { run: 2, failed: 1 });
        assert_eq!(said, "fails2 + 2 is 4, expected 5 (arithmetic)");
    }
}
