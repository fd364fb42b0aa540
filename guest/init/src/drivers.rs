//! Which devices that the host has put into the machine have no driver here: [`missing`].
//!
//! See: Virtual I/O Device 1.2, 5 "Device Types", and 4.1.2 "PCI Device Discovery".

use std::fs;
use std::path::Path;

/// The vendor of virtio's devices on PCI, and which of its devices are such.
const VENDOR: u32 = 0x1af4;
const DEVICES: std::ops::RangeInclusive<u32> = 0x1000..=0x107f;

/// The numbers of devices that a guest has without being asked: console, entropy and balloon. It does without them, and nobody need hear of it.
const UNASKED: [u32; 3] = [3, 4, 5];

/// The number on PCI of the virtio device 0, if there were one.
const MODERN: u32 = 0x1040;

/// More devices than these are not told of one by one.
const MOST: usize = 32;

/// Says of each device without a driver which option of the kernel's configuration it takes. `bus` is `/sys/bus`.
pub(crate) fn missing(bus: &Path) -> Vec<String> {
    let mut options = Vec::new();
    each_without_driver(&bus.join("pci/devices"), |device| {
        let ours = number(device, "vendor") == Some(VENDOR)
            && number(device, "device").is_some_and(|id| {
                DEVICES.contains(&id) && !UNASKED.contains(&id.wrapping_sub(MODERN))
            });
        options.extend(ours.then_some(("PCI", "CONFIG_VIRTIO_PCI")));
    });
    each_without_driver(&bus.join("virtio/devices"), |device| {
        let id = number(device, "device").filter(|id| !UNASKED.contains(id));
        options.extend(id.and_then(option));
    });
    options.sort_unstable();
    options.dedup();
    options.into_iter().map(|(kind, option)| warning(kind, option)).collect()
}

fn warning(kind: &str, option: &str) -> String {
    format!(
        "the guest's kernel has no driver for virtio's {kind} device: it takes {option}, \
         and if that is a module, --modules"
    )
}

/// What a virtio device is, and the option, by its number.
fn option(id: u32) -> Option<(&'static str, &'static str)> {
    Some(match id {
        1 => ("network", "CONFIG_VIRTIO_NET"),
        2 => ("block", "CONFIG_VIRTIO_BLK"),
        19 => ("socket", "CONFIG_VIRTIO_VSOCKETS"),
        26 => ("file system", "CONFIG_VIRTIO_FS"),
        _ => return None,
    })
}

/// Calls `found` with each device that has no driver. A bus that isn't there has none.
fn each_without_driver(devices: &Path, mut found: impl FnMut(&Path)) {
    let entries = fs::read_dir(devices).into_iter().flatten().flatten();
    for device in entries.take(MOST).map(|entry| entry.path()) {
        if fs::symlink_metadata(device.join("driver")).is_err() {
            found(&device);
        }
    }
}

/// A number in one of a device's files, such as `0x1af4`.
fn number(device: &Path, file: &str) -> Option<u32> {
    let text = fs::read_to_string(device.join(file)).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}
