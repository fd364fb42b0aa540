//! Disks: what a guest writes is there afterwards, in each format and whatever ends the machine; and what can't be used is told.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{as_user, cache, finish, is_root, outcome, own_folder, run, text, unibody, wait};

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

/// The C library's loader, which tells what a program is linked to.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// A disk with a program of the host's and its libraries, which runs in any guest by [`TOOL`]. `name` tells those of a program apart.
fn tool(program: &str, name: &str) -> PathBuf {
    let folder = own_folder("disks").join(format!("{program}-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("it is a new one");
    let find = format!("PATH=$PATH:/sbin:/usr/sbin command -v {program}");
    let found = host("sh", &["-c", &find]);
    fs::copy(found.trim(), folder.join(program)).expect("it is installed");
    let needs = host(LOADER, &["--list", found.trim()]);
    for library in needs.split_whitespace().filter(|word| word.starts_with('/')) {
        let name = Path::new(library).file_name().expect("a file");
        fs::copy(library, folder.join(name)).expect("readable");
    }
    let disk = image(&format!("{program}-{name}"), "raw", "64M");
    host("mkfs.ext4", &["-q", "-d", word(&folder), word(&disk)]);
    disk
}

/// What runs one of them.
const TOOL: &str = "/mnt/ld-linux-x86-64.so.2 --library-path /mnt /mnt/";

/// A file system that is made and filled in a guest is whole for the host, and the same in another guest. So it is with several queues.
fn keeps_a_file_system([make, check, kind, size]: [&str; 4], format: &str) {
    let tool = format!("{},ro", word(&tool(make, format)));
    let image = image(kind, format, size);
    let fill = format!(
        "mount -t ext4 -o ro /dev/vda /mnt && {TOOL}{make} -q /dev/vdb >&2 && mkdir /new && \
         mount -t {kind} /dev/vdb /new && mkdir /new/a && cd /new/a && \
         for n in 1 2 3 4 5 6 7 8; do head -c ${{n}}00000 /dev/urandom > $n & done; wait; ln 1 one && \
         md5sum * && cd / && umount /new"
    );
    let mut command = unibody();
    command.args(run()).args(["--cpus", "2", "--disk", &tool, "--disk", word(&image)]);
    command.args(["--", "sh", "-c", &fill]);
    let (status, sums, stderr) = outcome(command);
    assert_eq!((status, sums.lines().count()), (Some(0), 9), "{stderr}");
    let raw = raw_of(&image);
    host(check, &["-n", word(&raw)]);
    if format == "qcow2" {
        host("qemu-img", &["check", "-q", "-f", "qcow2", word(&image)]);
    }
    let before = fs::read(&image).expect("readable");
    let again = format!("mount -t {kind} -o ro /dev/vda /mnt && cd /mnt/a && md5sum *");
    assert_eq!(prints(&format!("{},ro", word(&image)), &again), sums);
    let change =
        format!("mount -t {kind} /dev/vda /mnt && rm -r /mnt/a && umount /mnt && echo gone");
    assert_eq!(prints(&format!("{},ephemeral", word(&image)), &change), "gone\n");
    assert!(fs::read(&image).expect("readable") == before);
    // And it is really gone when that is meant.
    assert_eq!(prints(word(&image), &change), "gone\n");
    let (status, _, _) = outcome(guest(&format!("{},ro", word(&image)), &again));
    assert!(status.is_some_and(|status| status != 0), "{status:?}");
}

/// What makes it, what checks it, its name, and a size that it can have.
const EXT4: [&str; 4] = ["mkfs.ext4", "e2fsck", "ext4", "64M"];
const XFS: [&str; 4] = ["mkfs.xfs", "xfs_repair", "xfs", "320M"];

#[test]
fn ext4_is_kept_in_a_raw_image() {
    keeps_a_file_system(EXT4, "raw");
}

#[test]
fn ext4_is_kept_in_a_qcow2_image() {
    keeps_a_file_system(EXT4, "qcow2");
}

#[test]
fn xfs_is_kept_in_a_raw_image() {
    keeps_a_file_system(XFS, "raw");
}

#[test]
fn xfs_is_kept_in_a_qcow2_image() {
    keeps_a_file_system(XFS, "qcow2");
}

#[test]
fn images_of_each_kind_have_their_file_system_and_take_another_file() {
    let plain = image("plain", "raw", "64M");
    host("mkfs.ext4", &["-q", word(&plain)]);
    for (number, options) in [
        "compat=0.10",
        "compat=1.1,cluster_size=512",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=2M",
        "preallocation=metadata",
    ]
    .into_iter()
    .enumerate()
    {
        let image = image(&format!("kind{number}"), "qcow2", "64M");
        let mut convert = vec!["convert", "-O", "qcow2", "-o", options];
        // Compressed clusters are read, and replaced.
        convert.extend((number < 3).then_some("-c"));
        host("qemu-img", &[&convert[..], &[word(&plain), word(&image)]].concat());
        let write = "mount -t ext4 /dev/vda /mnt && head -c 3000000 /dev/urandom > /mnt/new && \
            md5sum < /mnt/new && umount /mnt";
        let sum = prints(word(&image), write);
        host("qemu-img", &["check", "-q", "-f", "qcow2", word(&image)]);
        let read = "mount -t ext4 -o ro /dev/vda /mnt && md5sum < /mnt/new";
        assert_eq!(prints(&format!("{},ro", word(&image)), read), sum, "{options}");
        host("e2fsck", &["-fn", word(&raw_of(&image))]);
    }
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
    assert_eq!(prints(word(&top), script), "abc");
    host("qemu-img", &["check", "-q", "-f", "qcow2", word(&top)]);
    assert_eq!(
        host("md5sum", &[word(&raw_of(&top))])[..32],
        prints(word(&top), "md5sum < /dev/vda")[..32]
    );
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
        grep -c 'IO-APIC.*fasteoi.*virtio[01]$' /proc/interrupts";
    let (status, stdout, stderr) = outcome({
        command.args(["--", "sh", "-c", script]);
        command
    });
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (Some(0), "hello2\n", ""));
}

#[test]
fn a_guest_has_entropy_from_the_host() {
    let image = image("entropy", "raw", "4M");
    // The driver is loaded while the command runs.
    let script = "n=0; until grep -q virtio /sys/class/misc/hw_random/rng_current || [ $n = 600 ]; do n=$((n + 1)); sleep 0.1; done; \
        cat /sys/class/misc/hw_random/rng_current; \
        for n in 1 2; do dd if=/dev/hwrng bs=64 count=1 2>/dev/null | md5sum; done";
    let printed = prints(word(&image), script);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "virtio_rng.0"));
    assert_ne!(lines[1], lines[2]);
}

/// A guest that says what it has written, and waits for it to be on the disk before.
fn recorder(image: &Path) -> Child {
    let script = "n=0; while :; do n=$((n + 1)); printf '%07d\\n' $n | \
         dd of=/dev/vda bs=512 seek=$((n * 129)) count=1 conv=fsync,sync 2>/dev/null && echo $n; done";
    let mut command = guest(word(image), script);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("it can be started")
}

/// How often a guest is killed: `UNIBODY_KILLS` says it.
fn kills() -> u32 {
    let kills = std::env::var("UNIBODY_KILLS").map_or(Ok(5), |text| text.parse());
    kills.expect("UNIBODY_KILLS is a number")
}

/// Each record is in a place of its own, in qcow2 a cluster of its own.
fn keeps_what_was_acknowledged(format: &str) {
    for round in 0..kills() {
        let image = image("killed", format, "1G");
        let mut child = recorder(&image);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // The end is at another place each time, in the middle of whatever it does.
        let first = lines.next().expect("it says something").expect("readable");
        std::thread::sleep(Duration::from_millis(u64::from(40 * (round % 5) + 7 * round + 7)));
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        let last = lines.map_while(Result::ok).last().unwrap_or(first);
        let acknowledged: u64 = last.parse().expect("a number");
        if format == "qcow2" {
            // 3: there are clusters that nobody uses.
            let check = ["check", "-q", "-f", "qcow2", word(&image)];
            let status = Command::new("qemu-img").args(check).status().expect("it is installed");
            assert!(matches!(status.code(), Some(0 | 3)), "{status}");
        }
        let raw = fs::File::open(raw_of(&image)).expect("readable");
        for number in 1..=acknowledged {
            let mut record = [0; 8];
            raw.read_exact_at(&mut record, number * 129 * 512).expect("it is as long");
            assert_eq!(text(&record), format!("{number:07}\n"), "of {acknowledged}");
        }
        // The next guest has it, and goes on.
        let script = "dd if=/dev/vda bs=512 skip=129 count=1 2>/dev/null | head -c 8 && \
            echo more | dd of=/dev/vda bs=512 conv=fsync,sync 2>/dev/null";
        assert_eq!(prints(word(&image), script), "0000001\n");
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_the_program_is_killed() {
    keeps_what_was_acknowledged("raw");
}

#[test]
fn nothing_that_was_acknowledged_is_lost_from_a_qcow2_image() {
    keeps_what_was_acknowledged("qcow2");
}

/// A guest that runs a script, and stands still where that says `ready` until the host has done something: then it goes on by itself, when
/// it reads a line.
fn with_a_change(image: &Path, script: &str, change: impl FnOnce()) -> (String, String) {
    let mut command = guest(word(image), script);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("readable");
    assert_eq!(line, "ready\n");
    change();
    child.stdin.take().expect("piped").write_all(b"go\n").expect("it reads");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    let status = wait(&mut child, &command);
    let mut told = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut told).expect("text");
    assert!(status.success(), "{status}: {rest}{told}");
    (rest, told)
}

fn set_length(image: &Path, length: u64) {
    fs::File::options()
        .write(true)
        .open(image)
        .and_then(|file| file.set_len(length))
        .expect("ours");
}

#[test]
fn a_raw_image_that_grows_is_a_disk_that_grows() {
    let image = image("grown", "raw", "16M");
    // It is told by an interrupt: the guest looks for two minutes at most.
    let script = "echo ready; read line; n=0; \
        while [ $(cat /sys/block/vda/size) = 32768 ] && [ $n -lt 1200 ]; do n=$((n + 1)); sleep 0.1; done; \
        cat /sys/block/vda/size; echo end | dd of=/dev/vda bs=512 seek=163839 count=1 conv=fsync,sync 2>/dev/null";
    let (rest, told) = with_a_change(&image, script, || set_length(&image, 80 << 20));
    assert_eq!((rest.as_str(), told.as_str()), ("163840\n", ""));
    let bytes = fs::read(&image).expect("readable");
    assert_eq!((bytes.len(), &bytes[(80 << 20) - 512..][..4]), (80 << 20, &b"end\n"[..]));
}

#[test]
fn an_image_that_shrinks_is_an_error_in_the_guest_and_told() {
    let image = image("shrunk", "raw", "16M");
    let script = "echo kept | dd of=/dev/vda bs=512 conv=fsync,sync 2>/dev/null; echo ready; read line; \
        dd if=/dev/vda bs=512 skip=30000 count=1 2>/dev/null | wc -c; \
        dd if=/dev/zero of=/dev/vda bs=512 seek=30000 count=1 conv=fsync 2>/dev/null; echo $?";
    let (rest, told) = with_a_change(&image, script, || set_length(&image, 1 << 20));
    assert_eq!(rest, "0\n1\n");
    assert!(told.contains("shrunk-") && told.contains("has become shorter"), "{told}");
    let bytes = fs::read(&image).expect("readable");
    assert_eq!((bytes.len(), &bytes[..5]), (1 << 20, &b"kept\n"[..]));
}

/// Of an image that has room for some more megabytes.
fn is_told_of_a_host_without_room(format: &str) {
    let image = image("full", format, "1G");
    host("qemu-io", &["-f", format, "-c", "write 1M 170M", word(&image)]);
    let write = "echo kept | dd of=/dev/vda bs=512 conv=fsync,sync 2>/dev/null && \
        dd if=/dev/zero of=/dev/vda bs=1M seek=171 count=40 conv=fsync 2>/dev/null; echo $?; head -c 5 /dev/vda";
    // More than that no file may have: as if the host's disk were full.
    let limit = ["prlimit", "--fsize=201326592"];
    let mut command = as_user(&cache(), &limit);
    command.args(run()).args(["--memory", "128M", "--disk", word(&image)]);
    command.args(["--", "sh", "-c", write]);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!((status, stdout.as_str()), (Some(0), "1\nkept\n"), "{stderr}");
    if format == "qcow2" {
        host("qemu-img", &["check", "-q", "-f", "qcow2", word(&image)]);
    }
    // With room it goes on.
    let again = "head -c 5 /dev/vda; dd if=/dev/zero of=/dev/vda bs=1M seek=500 count=1 conv=fsync 2>/dev/null";
    assert_eq!(prints(word(&image), again), "kept\n");
}

#[test]
fn a_host_without_room_is_an_error_in_the_guest_and_loses_nothing() {
    is_told_of_a_host_without_room("raw");
}

#[test]
fn a_host_without_room_for_a_qcow2_image_is_an_error_in_the_guest_and_loses_nothing() {
    is_told_of_a_host_without_room("qcow2");
}

#[test]
fn an_image_whose_tables_are_a_loop_or_are_not_there_is_refused() {
    let image = image("loop", "qcow2", "64M");
    host("qemu-io", &["-f", "qcow2", "-c", "write 0 1M", word(&image)]);
    let whole = fs::read(&image).expect("readable");
    let l1 = u64::from_be_bytes(whole[40..48].try_into().expect("8 bytes"));
    let mut looped = whole.clone();
    looped[l1 as usize..][..8].copy_from_slice(&(l1 | 1 << 63).to_be_bytes());
    for (bytes, said) in [(&looped[..], "two of its tables"), (&whole[..0x3_0000], "shorter")] {
        fs::write(&image, bytes).expect("it is ours");
        let (status, stdout, stderr) = outcome(guest(word(&image), "true"));
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(said), "{stderr}");
        assert!(fs::read(&image).expect("readable") == bytes, "it is as it was");
    }
    // With its data cut off, but all its tables: what is not there is an error, and the rest is read.
    let shorter = whole.len() - 0x1_0000;
    fs::write(&image, &whole[..shorter]).expect("it is ours");
    let script = "dd if=/dev/vda bs=64k count=1 2>/dev/null | wc -c; dd if=/dev/vda bs=64k skip=15 count=1 2>/dev/null | wc -c";
    assert_eq!(prints(&format!("{},ro", word(&image)), script), "65536\n0\n");
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
    let image = image("odd", "raw", "4M");
    let disk = word(&image);
    fs::write(&image, b"QFI\xfb\0\0\0\x03").expect("it is ours");
    for (disk, said) in [
        ("/nowhere/disk", "no such file"),
        ("/", "is a directory"),
        ("/dev/null", "neither a file nor a block device"),
        (disk, "format=qcow2"),
        (&format!("{disk},format=raw"), "not a multiple of 512"),
        (&format!("{disk},format=qcow2,ro"), "as a qcow2 image"),
    ] {
        let (status, stdout, stderr) = outcome(guest(disk, "true"));
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{disk}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.to_lowercase().contains(said), "{disk}: {stderr}");
    }
    let (status, _, stderr) = outcome(guest("disk,format=vmdk", "true"));
    assert!(status == Some(2) && stderr.contains("format=raw"), "{stderr}");
}
