//! What virtiofsd has to say of failures, for people.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Has errors told on stderr from now on.
pub(crate) fn to_stderr() {
    // There is one already: a test's.
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(LevelFilter::Error);
    }
}

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // Who reads nothing of it is not served worse.
            let _ =
                writeln!(std::io::stderr(), "unibody: a share's server says: {}", record.args());
        }
    }

    fn flush(&self) {}
}
