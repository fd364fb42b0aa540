//! The devices on the port bus, a file each.
//!
//! - [`serial`]: a 16550 UART; [`stream`]: what is behind its line on the host's side;
//! - [`cmos`]: the real-time clock and its memory;
//! - [`i8042`]: of the keyboard controller, the line that resets the processor;
//! - [`power`]: ACPI's power management block and reset register;
//! - [`fw_cfg`], [`debug_exit`]: QEMU's, for firmware and test kernels;
//! - [`pvpanic`]: QEMU's as well, by which a kernel tells that it panics.
//!
//! A device that ends the machine's run says so through a [`Switch`].

pub mod cmos;
pub mod debug_exit;
pub mod fw_cfg;
pub mod i8042;
pub mod power;
pub mod pvpanic;
pub mod serial;
pub mod stream;

/// How the guest asks for the end of the machine's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// To be switched off.
    Off,
    /// To be reset.
    Reset,
    /// Its kernel has panicked, and does no more.
    Panicked,
    /// To end at once, with a value that says how it went: see [`debug_exit`].
    Exit {
        /// What was written.
        value: u32,
    },
}

/// Whom a device tells that the guest wants its run to end.
pub type Switch = std::sync::Arc<dyn Fn(PowerRequest) + Send + Sync>;

/// An interrupt line of a device: sets its level.
pub type Line = std::sync::Arc<dyn Fn(bool) + Send + Sync>;
