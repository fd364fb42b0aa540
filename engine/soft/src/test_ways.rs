//! The ways in which the software CPU executes code.

use engine_soft::Options;

/// All code is interpreted.
pub fn interpreter() -> Options {
    Options { translated: 0, ..Options::default() }
}

/// Code is translated before it is executed for the first time, and counts instructions.
pub fn jit() -> Options {
    Options { counted: true, ..uncounted() }
}

/// The same without counting, which lets loops be translated in a way of their own.
pub fn uncounted() -> Options {
    Options { patience: 0, ..Options::default() }
}

/// Code is interpreted once before it is translated, so that blocks that follow each other are translated together.
pub fn traced() -> Options {
    Options { patience: 1, ..Options::default() }
}

/// Translated at once, and the interpreter checks it. (With one vCPU.)
pub fn lockstep() -> Options {
    Options { lockstep: true, ..jit() }
}

/// Makes a test of each body for the ways that several vCPUs can go: `fn name(options: Options) { … }`. Once in a
/// module.
macro_rules! in_both_ways {
    ($($name:ident),* $(,)?) => {
        mod interpreter {
            $(#[test] fn $name() { super::$name($crate::test_ways::interpreter()) })*
        }

        mod jit {
            $(#[test] fn $name() { super::$name($crate::test_ways::jit()) })*
        }

        mod uncounted {
            $(#[test] fn $name() { super::$name($crate::test_ways::uncounted()) })*
        }

        mod traced {
            $(#[test] fn $name() { super::$name($crate::test_ways::traced()) })*
        }
    };
}
pub(crate) use in_both_ways;

/// The same for each way.
macro_rules! in_every_way {
    ($($name:ident),* $(,)?) => {
        $crate::test_ways::in_both_ways! { $($name),* }

        mod lockstep {
            $(#[test] fn $name() { super::$name($crate::test_ways::lockstep()) })*
        }
    };
}
pub(crate) use in_every_way;
