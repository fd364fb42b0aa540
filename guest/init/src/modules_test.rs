//! Tests of loading: the order, what is told of a failure, and links to folders.

use std::fs;
use std::io;

use crate::modules::{load, offer};

#[test]
fn modules_are_loaded_in_order_and_a_failure_stops_nobody() {
    let list = "/m/virtio.ko\n/m/old.ko\n/m/odd.ko\n/m/virtio_blk.ko\n";
    let mut loaded = Vec::new();
    let warnings = load(list, |path| {
        loaded.push(path.to_string());
        match path {
            "/m/old.ko" => Err(io::Error::from_raw_os_error(libc::EEXIST)),
            "/m/odd.ko" => Err(io::Error::from_raw_os_error(libc::ENOEXEC)),
            _ => Ok(()),
        }
    });
    assert_eq!(loaded, list.lines().collect::<Vec<_>>());
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.starts_with("the guest cannot load the module odd: "), "{warning}");
    assert!(warning.contains("os error 8"), "{warning}");
}

#[test]
fn modules_are_found_in_the_usual_place_unless_there_are_others() {
    let root = std::env::temp_dir().join(format!("unibody-init-{}-modules", std::process::id()));
    let (ours, usual) = (root.join("ours"), root.join("lib/modules"));
    for folder in [ours.join("6.1"), ours.join("6.2"), usual.join("6.2")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(ours.join("6.1/modules.dep"), "").unwrap();
    offer(&ours, &usual).unwrap();
    assert!(usual.join("6.1/modules.dep").exists());
    assert!(!usual.join("6.2").is_symlink());
    fs::remove_dir_all(root).unwrap();
}
