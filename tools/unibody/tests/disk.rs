//! Disks: what a guest writes is there afterwards, in each format and whatever ends the machine; and what can't be used is told.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{finish, is_root, outcome, own_folder, run, text, unibody};

/// The user that the program runs as.
const NOBODY: u32 = 65534;

/// Runs a program of the host's, which has to succeed.
fn host(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let told = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
    told
}

/// A new image in a format of qemu-img's, which the program may write to.
fn image(name: &str, format: &str, size: &str) -> PathBuf {
    let path = own_folder("disks").join(format!("{name}-{}.{format}", std::process::id()));
    let _ = fs::remove_file(&path);
    host("qemu-img", &["create", "-q", "-f", format, word(&path), size]);
    if is_root() {
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    path
}

fn word(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// `unibody run` with a disk, and a script of the guest's shell.
fn guest(disk: &str, script: &str) -> Command {
    let mut command = unibody();
    command.args(run()).args(["--disk", disk, "--", "sh", "-c", script]);
    command
}

/// What a script prints, which has to succeed and leave stderr alone.
fn prints(disk: &str, script: &str) -> String {
    let output = finish(guest(disk, script), b"");
    let told = (output.status.code(), text(&output.stderr));
    assert_eq!(told, (Some(0), String::new()), "{}", text(&output.stdout));
    text(&output.stdout)
}

/// The image as raw bytes in a file of its own, as qemu-img reads it.
fn raw_of(image: &Path) -> PathBuf {
    let raw = image.with_extension("as-raw");
    host("qemu-img", &["convert", "-O", "raw", word(image), word(&raw)]);
    raw
}

/// A file system that is filled in a guest is whole for the host, and the same in another guest, which has it in each format.
fn keeps_a_file_system(make: &str, check: &str, kind: &str, size: &str) {
    let image = image(kind, "raw", size);
    host(make, &["-q", word(&image)]);
    let fill = format!(
        "mount -t {kind} /dev/vda /mnt && mkdir /mnt/a && cd /mnt/a && \
         for n in 1 2 3 4 5 6 7 8; do head -c ${{n}}00000 /dev/urandom > $n; done && ln 1 one && \
         md5sum * && cd / && umount /mnt"
    );
    let sums = prints(word(&image), &fill);
    assert_eq!(sums.lines().count(), 9);
    host(check, &["-n", word(&image)]);
    let qcow2 = image.with_extension("qcow2");
    host("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", word(&image), word(&qcow2)]);
    let before = fs::read(&qcow2).expect("readable");
    for disk in [&image, &qcow2] {
        let again = format!("mount -t {kind} -o ro /dev/vda /mnt && cd /mnt/a && md5sum *");
        assert_eq!(prints(&format!("{},ro", word(disk)), &again), sums);
        let change =
            format!("mount -t {kind} /dev/vda /mnt && rm -r /mnt/a && umount /mnt && echo gone");
        assert_eq!(prints(&format!("{},ephemeral", word(disk)), &change), "gone\n");
        assert_eq!(prints(&format!("{},ro", word(disk)), &again), sums);
    }
    assert!(fs::read(&qcow2).expect("readable") == before);
}

#[test]
fn ext4_is_kept() {
    keeps_a_file_system("mkfs.ext4", "e2fsck", "ext4", "64M");
}

#[test]
fn xfs_is_kept() {
    keeps_a_file_system("mkfs.xfs", "xfs_repair", "xfs", "320M");
}

#[test]
fn a_qcow2_image_is_read_over_its_backing_file() {
    let base = image("base", "raw", "8M");
    fs::write(&base, vec![b'a'; 8 << 20]).expect("it is ours");
    let top = image("top", "qcow2", "8M");
    host("qemu-img", &["create", "-q", "-f", "qcow2", "-b", word(&base), "-F", "raw", word(&top)]);
    let write = ["-f", "qcow2", "-c", "write -P 0x62 3M 1M", word(&top)];
    host("qemu-io", &write);
    let sum = prints(&format!("{},ro", word(&top)), "md5sum < /dev/vda");
    assert_eq!(host("md5sum", &[word(&raw_of(&top))])[..32], sum[..32]);
    let script = "dd if=/dev/zero of=/dev/vda bs=1M seek=5 count=1 conv=fsync 2>/dev/null; \
        for at in 0 3 5; do dd if=/dev/vda bs=1M skip=$at count=1 2>/dev/null | tr '\\0' c | head -c 1; done";
    assert_eq!(prints(&format!("{},ephemeral", word(&top)), script), "abc");
    assert!(fs::read(base).expect("readable").iter().all(|byte| *byte == b'a'));
}

#[test]
fn what_is_ephemeral_is_gone_and_what_is_read_only_is_refused() {
    let image = image("fixed", "raw", "4M");
    let disk = word(&image);
    let write = "echo hello | dd of=/dev/vda conv=fsync 2>/dev/null && head -c 5 /dev/vda";
    assert_eq!(prints(&format!("{disk},ephemeral"), write), "hello");
    assert!(fs::read(&image).expect("readable").iter().all(|byte| *byte == 0));
    let (status, stdout, _) = outcome(guest(&format!("{disk},ro"), write));
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    assert_eq!(prints(disk, write), "hello");
    assert_eq!(fs::read(&image).expect("readable")[..5], *b"hello");
}

#[test]
fn several_disks_come_in_order() {
    let [first, second] = [image("first", "raw", "4M"), image("second", "qcow2", "9M")];
    let mut command = unibody();
    let second = format!("{},ephemeral", word(&second));
    command.args(run()).args(["--disk", word(&first), "--disk", &second, "--cpus", "2"]);
    command.args([
        "--",
        "cat",
        "/sys/block/vda/size",
        "/sys/block/vdb/size",
        "/sys/block/vdb/serial",
    ]);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, "8192\n18432\nunibody-1");
}

#[test]
fn a_disk_works_by_interrupt_lines_too() {
    let image = image("lines", "raw", "4M");
    let mut command = unibody();
    command.args(run()).args(["--disk", word(&image), "--cpus", "2", "--cmdline", "pci=nomsi"]);
    let script = "echo hello | dd of=/dev/vda conv=fsync 2>/dev/null && head -c 5 /dev/vda && \
        grep -c 'IO-APIC.*fasteoi.*virtio' /proc/interrupts";
    let (status, stdout, stderr) = outcome({
        command.args(["--", "sh", "-c", script]);
        command
    });
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (Some(0), "hello3\n", ""));
}

#[test]
fn a_guest_with_a_disk_has_entropy_from_the_host() {
    let image = image("entropy", "raw", "4M");
    let script = "cat /sys/class/misc/hw_random/rng_current; \
        for n in 1 2; do dd if=/dev/hwrng bs=64 count=1 2>/dev/null | md5sum; done";
    let printed = prints(word(&image), script);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "virtio_rng.0"));
    assert_ne!(lines[1], lines[2]);
}

/// A guest that says what it has written, and waits for it to be on the disk before.
fn recorder(image: &Path) -> Child {
    let script = "n=0; while :; do n=$((n + 1)); printf '%07d\\n' $n | \
         dd of=/dev/vda bs=512 seek=$n count=1 conv=fsync,sync 2>/dev/null && echo $n; done";
    let mut command = guest(word(image), script);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("it can be started")
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_the_program_is_killed() {
    for round in 0..5_u32 {
        let image = image("killed", "raw", "64M");
        let mut child = recorder(&image);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // The end is at another place each time, in the middle of whatever it does.
        let first = lines.next().expect("it says something").expect("readable");
        std::thread::sleep(Duration::from_millis(u64::from(40 * round + 7)));
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        let last = lines.map_while(Result::ok).last().unwrap_or(first);
        let acknowledged: usize = last.parse().expect("a number");
        let bytes = fs::read(&image).expect("readable");
        for number in 1..=acknowledged {
            let record = &bytes[number * 512..][..8];
            assert_eq!(text(record), format!("{number:07}\n"), "of {acknowledged}");
        }
    }
}

#[test]
fn an_image_that_is_in_use_is_refused_with_whose_it_is() {
    let image = image("used", "raw", "4M");
    let mut first =
        guest(word(&image), "echo up; sleep 1000").stdout(Stdio::piped()).spawn().expect("started");
    let mut line = String::new();
    BufReader::new(first.stdout.as_mut().expect("piped")).read_line(&mut line).expect("readable");
    assert_eq!(line, "up\n");
    let (status, stdout, stderr) = outcome(guest(word(&image), "true"));
    let whose = format!("process {} uses it", first.id());
    first.kill().expect("it runs");
    first.wait().expect("it is ours");
    assert_eq!((status, stdout.as_str()), (Some(125), ""));
    assert!(stderr.contains(&whose) && stderr.contains("used-"), "{stderr}");
}

#[test]
fn what_is_no_disk_is_told_in_a_line() {
    let (image, qcow2) = (image("odd", "raw", "4M"), image("even", "qcow2", "4M"));
    let disk = word(&image);
    fs::write(&image, b"QFI\xfb\0\0\0\x03").expect("it is ours");
    for (disk, said) in [
        ("/nowhere/disk", "no such file"),
        ("/", "is a directory"),
        ("/dev/null", "neither a file nor a block device"),
        (disk, "format=qcow2"),
        (&format!("{disk},format=raw"), "not a multiple of 512"),
        (&format!("{disk},format=qcow2,ro"), "as a qcow2 image"),
        (word(&qcow2), "ephemeral"),
    ] {
        let (status, stdout, stderr) = outcome(guest(disk, "true"));
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{disk}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.to_lowercase().contains(said), "{disk}: {stderr}");
    }
    let (status, _, stderr) = outcome(guest("disk,format=vmdk", "true"));
    assert!(status == Some(2) && stderr.contains("format=raw"), "{stderr}");
}
