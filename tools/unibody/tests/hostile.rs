//! A driver in the guest that does wrong what a driver can: each device asks for reset or ignores it, and works again; the guest goes on, the
//! host hears nothing of it, and a disk has what it had.
//!
//! The driver is `tests/userland/programs/hostile`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{engine, outcome, own_file, own_folder, pulled, run, shelf, unibody};
use userland::own;

/// Rounds of what is random. Each exit takes a while in the nest.
fn rounds() -> u32 {
    if engine() == "soft" { 10 } else { 2 }
}

/// A thread that makes requests and one that disturbs them are better at the same time; in the nest there is one processor.
fn cpus() -> &'static str {
    if engine() == "soft" { "2" } else { "1" }
}

/// What decides them: another one each time, unless the environment says which.
fn seed() -> String {
    let seed = std::env::var("UNIBODY_SEED").unwrap_or_else(|_| std::process::id().to_string());
    println!("UNIBODY_SEED={seed}");
    seed
}

/// An initial file system with the driver.
fn archive() -> PathBuf {
    own::build(&shelf(), &pulled().join("bin/busybox")).expect("it can be built").archive
}

/// A disk each sector of which has bytes of its own, and these bytes.
fn disk(name: &str) -> (PathBuf, Vec<u8>) {
    let bytes: Vec<u8> =
        (0..1 << 17_u32).flat_map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    (own_file(&format!("{name}-{}", std::process::id()), &bytes), bytes)
}

fn word(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// The lines that tell of a device, without what takes another time each time.
fn devices(told: &str) -> Vec<&str> {
    told.lines()
        .filter(|line| line.contains(" cases in "))
        .filter_map(|line| line.split(' ').next())
        .collect()
}

#[test]
fn devices_and_guest_survive_a_hostile_driver() {
    let (disk, before) = disk("hostile-disk");
    let socket = own_folder("vsock").join(format!("hostile-{}", std::process::id()));
    let mut command = unibody();
    command.args(run()).args(["--console", "serial", "--memory", "256M", "--cpus", cpus()]);
    command.args([
        "--disk",
        &format!("{},ro", word(&disk)),
        "--disk",
        &format!("{},ephemeral", word(&disk)),
    ]);
    command.args(["--vsock", word(&socket), "--initrd"]).arg(archive());
    command.args(["--", "hostile", &rounds().to_string(), &seed()]);
    let (status, told, stderr) = outcome(command);
    println!("{told}");
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{told}");
    assert_eq!(devices(&told), ["blk", "blk", "vsock", "rng", "balloon"]);
    assert_eq!(told.matches("the kernel reads what was there").count(), 2);
    assert!(fs::read(&disk).expect("readable") == before, "the disk has other bytes");
    assert!(!socket.exists(), "it is removed at the end");
    fs::remove_file(disk).expect("it is ours");
}

/// There the driver is the first process, for a session goes over the console.
#[test]
fn the_console_survives_it_too() {
    let mut command = unibody();
    command.args(run()).args(["--memory", "256M", "--initrd"]).arg(archive());
    command.arg("--cmdline").arg(format!(
        "quiet rdinit=/bin/hostile -- {} {} console",
        rounds(),
        seed()
    ));
    let (status, told, stderr) = outcome(command);
    println!("{told}");
    assert_eq!(status, Some(0), "{told}\n{stderr}");
    // The rest is what the driver has sent on a port. Of the host's program there is nothing.
    let is_said = |word| stderr.contains(word);
    assert!(!is_said("panicked") && !is_said("unibody"), "{stderr}");
    for line in ["1 devices, ", ", 0 wrong", "hostile: the end, with status 0"] {
        assert!(told.contains(line), "{told}");
    }
}
