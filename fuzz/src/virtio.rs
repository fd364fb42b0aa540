//! Virtio devices under a driver that keeps to nothing: [`run`].
//!
//! The bytes are a device and a sequence of steps: of a driver, on its rings, its memory and the device's registers, and of the host. Nothing
//! may come of it but answers and a request for reset: no panic, on no thread, and no step that does not end. Each device is behind the
//! transport, as a guest has it, and serves its queues where it is notified, where it can: what happens is in the bytes then. For those
//! that are served by a thread alone the driver waits for a moment at the end.
//!
//! `driver` is what a step does in the guest, `host` what it does to the host's side of a device, and which devices there are.

mod driver;
mod host;

use self::driver::Driver;
use self::host::Host;
use crate::input::Input;

/// How many steps an input has at most.
const MOST_STEPS: usize = 200;

/// Makes the steps that the bytes are.
///
/// # Panics
/// When something comes of it that may not.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (host, device) = Host::with_device(input.u8());
    host.during(|| {
        let mut driver = Driver::new(device);
        driver.activate(u64::MAX);
        for _ in 0..MOST_STEPS {
            if input.is_empty() {
                break;
            }
            match input.u8() % 9 {
                0 => driver.activate(input.u64()),
                1 => host.step(&mut input),
                _ => driver.step(&mut input),
            }
        }
        driver.settle();
    });
}
