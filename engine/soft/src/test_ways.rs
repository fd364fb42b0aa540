//! Both ways in which the software CPU executes code.

use engine_soft::Options;

/// All code is interpreted.
pub fn interpreter() -> Options {
    Options { translated: 0, ..Options::default() }
}

/// Code is translated before it is executed for the first time.
pub fn jit() -> Options {
    Options { patience: 0, ..Options::default() }
}

/// Makes a test of each body for each way: `fn name(options: Options) { … }`. Once in a module.
macro_rules! in_both_ways {
    ($($name:ident),* $(,)?) => {
        mod interpreter {
            $(#[test] fn $name() { super::$name($crate::test_ways::interpreter()) })*
        }

        mod jit {
            $(#[test] fn $name() { super::$name($crate::test_ways::jit()) })*
        }
    };
}
pub(crate) use in_both_ways;
