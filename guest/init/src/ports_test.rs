use std::fs;
use std::path::PathBuf;

use guest_protocol::{CONSOLE_PORT, CONTROL_PORT, DATA_PORT, STDERR_PORT};

use crate::ports::{has_console, named};

#[test]
fn ports_are_found_by_name_when_all_have_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let add = |device: &str, name: Option<&str>| {
        fs::create_dir_all(folder.path().join(device)).unwrap();
        if let Some(name) = name {
            fs::write(folder.path().join(device).join("name"), format!("{name}\n")).unwrap();
        }
    };
    assert_eq!(named(&folder.path().join("absent")), None);
    add("vport0p0", Some(CONSOLE_PORT));
    add("vport0p7", Some(CONTROL_PORT));
    add("vport1p1", Some(DATA_PORT));
    add("vport0p2", None);
    assert_eq!(named(folder.path()), None, "one has not been told its name");
    add("vport0p2", Some(STDERR_PORT));
    let devices = ["/dev/vport1p1", "/dev/vport0p2", "/dev/vport0p7"].map(PathBuf::from);
    assert_eq!(named(folder.path()), Some(devices));
}

#[test]
fn a_driver_has_a_console_if_a_device_is_linked_there() {
    let driver = tempfile::tempdir().unwrap();
    assert!(!has_console(&driver.path().join("absent")));
    fs::write(driver.path().join("bind"), "").unwrap();
    assert!(!has_console(driver.path()));
    fs::create_dir(driver.path().join("virtio3")).unwrap();
    assert!(has_console(driver.path()));
}
