//! The devices on the port bus, a file each.
//!
//! - [`serial`]: a 16550 UART; [`stream`]: what is behind its line on the host's side;
//! - [`cmos`]: the real-time clock and its memory;
//! - [`i8042`]: of the keyboard controller, the line that resets the processor;
//! - [`power`]: ACPI's power management block and reset register.
//!
//! A device that ends the machine's run says so through a [`Switch`].

pub mod cmos;
pub mod i8042;
pub mod power;
pub mod serial;
pub mod stream;

/// What the guest asked of its power supply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// To be switched off.
    Off,
    /// To be reset.
    Reset,
}

/// Whom a device tells that the guest switches itself off, or resets.
pub type Switch = std::sync::Arc<dyn Fn(PowerRequest) + Send + Sync>;

/// An interrupt line of a device: sets its level.
pub type Line = std::sync::Arc<dyn Fn(bool) + Send + Sync>;
