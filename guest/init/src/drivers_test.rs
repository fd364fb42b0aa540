//! Tests of what is said of devices without a driver, on a folder that looks like `/sys/bus`.

use std::fs;
use std::path::{Path, PathBuf};

use guest_protocol::MAX_WARNING;

use crate::drivers::missing;

/// Removed at the end.
struct Bus(PathBuf);

impl Bus {
    fn new(name: &str) -> Bus {
        let folder = format!("unibody-init-{}-{name}", std::process::id());
        Bus(std::env::temp_dir().join(folder))
    }

    fn device(&self, path: &str, files: &[(&str, &str)], driver: bool) {
        let device = self.0.join(path);
        fs::create_dir_all(&device).unwrap();
        for (name, text) in files {
            fs::write(device.join(name), text).unwrap();
        }
        if driver {
            std::os::unix::fs::symlink("/nowhere", device.join("driver")).unwrap();
        }
    }

    fn virtio(&self, name: &str, id: &str, driver: bool) {
        self.device(&format!("virtio/devices/{name}"), &[("device", id)], driver);
    }

    fn pci(&self, name: &str, vendor: &str, id: &str, driver: bool) {
        let files = [("vendor", vendor), ("device", id)];
        self.device(&format!("pci/devices/{name}"), &files, driver);
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn no_device_lacks_nothing() {
    assert!(missing(Path::new("/nowhere")).is_empty());
    let bus = Bus::new("served");
    bus.pci("0000:00:01.0", "0x1af4\n", "0x1042\n", true);
    bus.virtio("virtio0", "0x0002\n", true);
    // Of others, or what nobody has a driver for: ivshmem, a host bridge.
    bus.pci("0000:00:00.0", "0x8086\n", "0x0d57\n", false);
    bus.pci("0000:00:02.0", "0x1af4\n", "0x1110\n", false);
    bus.virtio("virtio1", "0x00ff\n", false);
    // Console and entropy, without which a guest does.
    bus.pci("0000:00:03.0", "0x1af4\n", "0x1043\n", false);
    bus.pci("0000:00:04.0", "0x1af4\n", "0x1044\n", false);
    bus.virtio("virtio3", "0x0003\n", false);
    bus.virtio("virtio4", "0x0004\n", false);
    bus.virtio("virtio2", "nonsense\n", false);
    // Or that nobody has asked for.
    for (index, id) in [4, 5].iter().enumerate() {
        bus.pci(&format!("0000:01:0{index}.0"), "0x1af4\n", &format!("0x104{id}\n"), false);
        bus.virtio(&format!("virtio1{index}"), &format!("0x000{id}\n"), false);
    }
    assert_eq!(missing(&bus.0), Vec::<String>::new());
}

#[test]
fn each_kind_is_said_once_with_its_option() {
    let bus = Bus::new("lacking");
    bus.pci("0000:00:01.0", "0x1af4\n", "0x1042\n", false);
    bus.pci("0000:00:02.0", "0x1af4\n", "0x1042\n", false);
    let ids = [1, 2, 2, 3, 4, 5, 19, 26];
    for (index, id) in ids.iter().enumerate() {
        bus.virtio(&format!("virtio{index}"), &format!("0x{id:04x}\n"), false);
    }
    let warnings = missing(&bus.0);
    let options = [
        "CONFIG_VIRTIO_PCI,",
        "CONFIG_VIRTIO_NET,",
        "CONFIG_VIRTIO_BLK,",
        "CONFIG_VIRTIO_VSOCKETS,",
        "CONFIG_VIRTIO_FS,",
    ];
    assert_eq!(warnings.len(), options.len());
    for option in options {
        assert_eq!(warnings.iter().filter(|warning| warning.contains(option)).count(), 1);
    }
    assert!(warnings.iter().all(|warning| warning.len() <= MAX_WARNING));
}
