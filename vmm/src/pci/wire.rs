//! [`Wire`]: an interrupt line that functions share: it is up while one of them has it up.
//!
//! See: PCI Local Bus Specification 3.0, 2.2.6.

use std::sync::{Arc, Mutex, PoisonError};

use crate::devices::Line;

/// The line, and who has it up: a bit for each of them.
pub struct Wire {
    line: Line,
    up: Mutex<u32>,
}

impl Wire {
    /// One that is down.
    #[must_use]
    pub fn new(line: Line) -> Arc<Self> {
        Arc::new(Self { line, up: Mutex::new(0) })
    }

    /// The end of it that is a function's, of which there are at most 32.
    #[must_use]
    pub fn end(self: &Arc<Self>, number: u32) -> Line {
        let wire = Arc::clone(self);
        Arc::new(move |level| wire.set(number, level))
    }

    fn set(&self, number: u32, level: bool) {
        let bit = 1_u32.wrapping_shl(number);
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *up != 0;
        *up = if level { *up | bit } else { *up & !bit };
        // Under the lock, so that the last change is the last that is told.
        if before != (*up != 0) {
            (self.line)(!before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_up_while_somebody_has_it_up() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let wire = Wire::new(Arc::new(move |level| tell.lock().unwrap().push(level)));
        let [first, second] = [wire.end(1), wire.end(31)];
        for (end, level) in
            [(&first, false), (&first, true), (&second, true), (&first, false), (&first, false)]
        {
            end(level);
        }
        assert_eq!(*told.lock().unwrap(), [true]);
        second(false);
        assert_eq!(*told.lock().unwrap(), [true, false]);
    }
}
