//! Of the keyboard controller, the output line that resets the processor. No keyboard, no mouse.

use vm_superio::{I8042Device, Trigger};

use super::{PowerRequest, Switch};
use crate::bus::Device;

/// First port.
pub const FIRST_PORT: u16 = 0x60;
/// Last port.
pub const LAST_PORT: u16 = 0x64;

struct ResetLine(Switch);

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        (self.0)(PowerRequest::Reset);
        Ok(())
    }
}

/// The controller.
pub struct I8042(std::sync::Mutex<I8042Device<ResetLine>>);

impl I8042 {
    /// A controller that resets through `switch`.
    pub fn new(switch: Switch) -> Self {
        Self(std::sync::Mutex::new(I8042Device::new(ResetLine(switch))))
    }
}

impl Device for I8042 {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let mut device = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = device.read(offset as u8);
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut device = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let [value] = *data {
            let Ok(()) = device.write(offset as u8, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_reset_command_resets_and_no_other_does() {
        let (sender, receiver) = channel();
        let sender = Mutex::new(sender);
        let i8042 = I8042::new(Arc::new(move |request| {
            sender.lock().unwrap().send(request).unwrap();
        }));
        i8042.write(4, &[0xd1]);
        i8042.write(0, &[0xfe]);
        assert!(receiver.try_recv().is_err());
        i8042.write(4, &[0xfe]);
        assert_eq!(receiver.try_recv(), Ok(PowerRequest::Reset));
    }
}
