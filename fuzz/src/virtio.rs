//! Virtio devices under a driver that keeps to nothing: [`run`].
//!
//! The bytes are a device and a sequence of steps: of a driver, on its rings, its memory and the device's registers, and of the host. Nothing
//! may come of it but answers and a request for reset: no panic, on no thread, and no step that does not end. Each device is behind the
//! transport, as a guest has it, and serves its queues where it is notified, where it can: what happens is in the bytes then.
//!
//! `driver` is what a step does in the guest.

mod driver;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmm::devices::stream::Ends;
use vmm::disk::{Disk, Format, Options};
use vmm::virtio::Device;
use vmm::virtio::blk::Blk;
use vmm::virtio::console::{Console, PortConfig};
use vmm::virtio::rng::Rng;

use self::driver::Driver;
use crate::input::Input;

/// Bytes of the disk.
const DISK_SIZE: u64 = 64 << 10;

/// How many steps an input has at most.
const MOST_STEPS: usize = 200;

/// The disk's image, in memory.
static IMAGE: LazyLock<OwnedFd> = LazyLock::new(|| {
    let image = memfd_create("disk", MemfdFlags::CLOEXEC).expect("the host has memory");
    ftruncate(&image, DISK_SIZE).expect("it is ours");
    image
});

/// What the host has of a device.
struct Host {
    console: Option<Arc<Console>>,
    ends: [Ends; 2],
}

/// Makes the steps that the bytes are.
///
/// # Panics
/// When something comes of it that may not.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut host = Host { console: None, ends: Default::default() };
    let device = match input.u8() % 3 {
        0 => host.console(),
        1 => Arc::new(Rng::new(Arc::new(fill)).expect("there are files left")) as Arc<dyn Device>,
        _ => Arc::new(disk()),
    };
    // Somebody takes what is written: a reset waits for that.
    std::thread::scope(|scope| {
        for ends in &host.ends {
            scope.spawn(|| while ends.output.serve(|_| {}) {});
        }
        drive(&host, device, &mut input);
        host.console.iter().for_each(|console| console.flush());
        host.ends.iter().for_each(|ends| ends.output.close());
    });
}

fn drive(host: &Host, device: Arc<dyn Device>, input: &mut Input<'_>) {
    let mut driver = Driver::new(device);
    driver.activate(u64::MAX);
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        match input.u8() % 9 {
            0 => driver.activate(input.u64()),
            1 => host.step(input),
            _ => driver.step(input),
        }
    }
}

fn fill(bytes: &mut [u8]) -> bool {
    bytes.fill(0x5a);
    true
}

/// A disk that forgets what is written to it.
fn disk() -> Blk {
    let path = PathBuf::from(format!("/proc/self/fd/{}", IMAGE.as_raw_fd()));
    let format = Some(Format::Raw);
    let options = Options { path, format, read_only: false, ephemeral: true, direct: false };
    let disk = Disk::open(&options).expect("nobody else has it");
    Blk::new(Arc::new(disk), "fuzz", 2, true).expect("there are files left")
}

impl Host {
    /// A console of two ports.
    fn console(&mut self) -> Arc<dyn Device> {
        let port = |(ends, name): (&Ends, &str)| PortConfig {
            name: name.into(),
            is_console: name == "first",
            ends: ends.clone(),
        };
        let ports = self.ends.iter().zip(["first", "second"]).map(port).collect();
        let console = Console::new(ports, Some(Default::default()), true);
        let console = Arc::new(console.expect("there are files left"));
        self.console = Some(Arc::clone(&console));
        console
    }

    /// Does what the host does to a console: gives bytes, takes some, resizes it.
    fn step(&self, input: &mut Input<'_>) {
        let ends = &self.ends[usize::from(input.u8() % 2)];
        match input.u8() % 3 {
            0 => drop(ends.input.offer(&vec![0x11; input.u16().into()])),
            1 => drop(ends.output.take(input.u32() as usize)),
            _ => {
                let size = guest_protocol::WindowSize { rows: input.u16(), cols: input.u16() };
                self.console.iter().for_each(|console| console.resize(size));
            }
        }
    }
}
