//! QEMU's `isa-debug-exit`: by a write to its port a test program ends the machine's run and says
//! how it went. There only if it was asked for: see [`crate::machine::Config::debug_exit`].
//!
//! See: QEMU, hw/misc/debugexit.c.

use super::{PowerRequest, Switch};
use crate::bus::Device;

/// First port, where test kernels expect the device: `-device isa-debug-exit,iobase=0xf4,iosize=4`.
pub const FIRST_PORT: u16 = 0xf4;
/// Last port.
pub const LAST_PORT: u16 = 0xf7;

/// The device.
pub struct DebugExit(Switch);

impl DebugExit {
    /// A device that ends the run through `switch`.
    pub fn new(switch: Switch) -> Self {
        Self(switch)
    }
}

impl Device for DebugExit {
    fn read(&self, _: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _: u16, data: &[u8]) {
        let value = data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        (self.0)(PowerRequest::Exit { value });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_write_of_each_width_ends_the_run_with_its_value() {
        let (sender, receiver) = channel();
        let sender = Mutex::new(sender);
        let device = DebugExit::new(Arc::new(move |request| {
            sender.lock().unwrap().send(request).unwrap();
        }));
        let mut byte = [0xaa];
        device.read(0, &mut byte);
        assert_eq!(byte, [0]);
        assert!(receiver.try_recv().is_err());
        for (bytes, value) in
            [(&[0x31][..], 0x31), (&[0x34, 0x12], 0x1234), (&[0x78, 0x56, 0x34, 0xf2], 0xf234_5678)]
        {
            device.write(0, bytes);
            assert_eq!(receiver.try_recv(), Ok(PowerRequest::Exit { value }));
        }
    }
}
