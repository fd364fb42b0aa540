//! ACPI's fixed hardware: the power management event and control blocks, by which the guest
//! switches itself off, and the reset register.
//!
//! See: ACPI 6.5, 4.8.3 (registers), 4.8.3.6 (reset register).
//! Not implemented: the power management timer, wake-up, and power buttons (no event is ever raised).

use std::sync::Mutex;

use super::{PowerRequest, Switch};
use crate::bus::Device;

/// First port of the block: the event registers (4 bytes), then control (2 bytes).
pub const FIRST_PORT: u16 = 0x600;
/// Last port of the block.
pub const LAST_PORT: u16 = 0x605;
/// Offset of the control register in the block.
pub const CONTROL: u16 = 4;
/// The reset register: one port.
pub const RESET_PORT: u16 = 0xcf9;
/// What is written there to reset.
pub const RESET_VALUE: u8 = 0x06;
/// The sleep type of S5, which the DSDT's `\_S5` names.
pub const SLEEP_TYPE_OFF: u16 = 5;

/// Bit 0 of the control register: ACPI mode is on, always.
const SCI_ENABLED: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;

/// The event and control blocks.
pub struct PowerBlock {
    switch: Switch,
    enabled_events: Mutex<u16>,
}

impl PowerBlock {
    /// A block that switches off through `switch`.
    pub fn new(switch: Switch) -> Self {
        Self { switch, enabled_events: Mutex::new(0) }
    }

    fn events(&self) -> std::sync::MutexGuard<'_, u16> {
        self.enabled_events.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Device for PowerBlock {
    fn read(&self, offset: u16, data: &mut [u8]) {
        // Status (no event ever), enable, control.
        let words = [0, *self.events(), SCI_ENABLED];
        let bytes: Vec<u8> = words.into_iter().flat_map(u16::to_le_bytes).collect();
        for (byte, value) in data.iter_mut().zip(bytes.iter().skip(offset.into()).chain([&0; 4])) {
            *byte = *value;
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        match (offset, data) {
            (2, [low, high]) => *self.events() = u16::from_le_bytes([*low, *high]),
            (CONTROL, [low, high]) => {
                let value = u16::from_le_bytes([*low, *high]);
                let off = value >> SLEEP_TYPE_SHIFT & 7 == SLEEP_TYPE_OFF;
                if value & SLEEP_ENABLE != 0 && off {
                    (self.switch)(PowerRequest::Off);
                }
            }
            _ => {}
        }
    }
}

/// The reset register.
pub struct ResetRegister(Switch);

impl ResetRegister {
    /// A register that resets through `switch`.
    pub fn new(switch: Switch) -> Self {
        Self(switch)
    }
}

impl Device for ResetRegister {
    fn read(&self, _: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _: u16, data: &[u8]) {
        if data == [RESET_VALUE] {
            (self.0)(PowerRequest::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn switch() -> (Switch, Receiver<PowerRequest>) {
        let (sender, receiver) = channel();
        let sender = Mutex::new(sender);
        (Arc::new(move |request| sender.lock().unwrap().send(request).unwrap()), receiver)
    }

    #[test]
    fn only_s5_switches_off() {
        let (switch, receiver) = switch();
        let block = PowerBlock::new(switch);
        block.write(CONTROL, &(SLEEP_ENABLE | 1 << SLEEP_TYPE_SHIFT).to_le_bytes());
        block.write(CONTROL, &(SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT).to_le_bytes());
        assert!(receiver.try_recv().is_err());
        block.write(CONTROL, &(SLEEP_ENABLE | SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT).to_le_bytes());
        assert_eq!(receiver.try_recv(), Ok(PowerRequest::Off));
    }

    #[test]
    fn acpi_mode_is_on_and_the_enabled_events_are_kept() {
        let block = PowerBlock::new(switch().0);
        block.write(2, &0x0120_u16.to_le_bytes());
        let mut all = [0xaa; 6];
        block.read(0, &mut all);
        assert_eq!(all, [0, 0, 0x20, 1, 1, 0]);
    }

    #[test]
    fn the_reset_register_takes_its_value_alone() {
        let (switch, receiver) = switch();
        let register = ResetRegister::new(switch);
        register.write(0, &[2]);
        assert!(receiver.try_recv().is_err());
        register.write(0, &[RESET_VALUE]);
        assert_eq!(receiver.try_recv(), Ok(PowerRequest::Reset));
    }
}
