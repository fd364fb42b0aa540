//! QEMU's `pvpanic`: by it the guest's kernel says that it has given up, whether or not anybody can read its console.
//!
//! ACPI lists it ([`crate::acpi`]), and Linux's driver writes to it when the kernel has said why it panics. See: QEMU, docs/specs/pvpanic.rst.

use super::{PowerRequest, Switch};
use crate::bus::Device;

/// Its only port, where QEMU has it.
pub const PORT: u16 = 0x505;

/// The kernel has panicked and does no more.
const PANICKED: u8 = 1 << 0;
/// It has panicked, and another kernel, which was loaded for that, goes on: the machine has not come to its end.
const CRASH_LOADED: u8 = 1 << 1;

/// The device.
pub struct PvPanic(Switch);

impl PvPanic {
    /// A device that tells of a panic through `switch`.
    pub fn new(switch: Switch) -> Self {
        Self(switch)
    }
}

impl Device for PvPanic {
    /// Which events there are.
    fn read(&self, _: u16, data: &mut [u8]) {
        data.fill(0);
        if let [byte] = data {
            *byte = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&self, _: u16, data: &[u8]) {
        if let [byte] = data
            && byte & PANICKED != 0
        {
            (self.0)(PowerRequest::Panicked);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_panic_is_told_and_nothing_else() {
        let told = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&told);
        let device = PvPanic::new(Arc::new(move |request| {
            assert_eq!(request, PowerRequest::Panicked);
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let mut byte = [0xff];
        device.read(0, &mut byte);
        assert_eq!(byte, [3]);
        for (bytes, expected) in
            [(&[0][..], 0), (&[2], 0), (&[4], 0), (&[1, 0], 0), (&[1], 1), (&[3], 2)]
        {
            device.write(0, bytes);
            assert_eq!(told.load(Ordering::Relaxed), expected, "{bytes:?}");
        }
    }
}
