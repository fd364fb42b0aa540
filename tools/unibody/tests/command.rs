//! A command in a guest: its streams and its exit status are the program's.

mod support;

use std::process::Stdio;
use std::time::Instant;

use support::{finish, outcome, own_file, pulled, shell, text, unibody, wait};
use vmm::boot::cpio::Writer;

#[test]
fn the_guest_answers_uname() {
    let mut command = unibody();
    command.args(support::run()).args(["--", "uname", "-a"]);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.starts_with("Linux unibody "), "{stdout}");
    assert!(stdout.contains("x86_64"), "{stdout}");
}

#[test]
fn the_guest_has_what_was_asked_for() {
    let script =
        "nproc; sed -n 's/^vendor_id[^:]*: //p' /proc/cpuinfo | uniq; grep MemTotal /proc/meminfo";
    let mut command = unibody();
    command
        .args(support::run())
        .args(["--cpus", "2", "--memory", "256M", "--", "sh", "-c", script]);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    let lines: Vec<&str> = stdout.lines().collect();
    let [processors, vendor, memory] = lines[..] else { panic!("{stdout}") };
    assert_eq!(processors, "2");
    assert!(["GenuineIntel", "AuthenticAMD"].contains(&vendor), "{vendor}");
    // In KiB, of which the kernel and what it notes of each page take a part.
    let memory: u32 = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect(memory);
    assert!((192 << 10..256 << 10).contains(&memory), "{memory} KiB");
}

#[test]
fn the_exit_status_is_the_commands() {
    assert_eq!(outcome(shell("exit 7")).0, Some(7));
}

#[test]
fn a_command_that_a_signal_ends_has_a_shells_status_for_it() {
    assert_eq!(outcome(shell("kill -TERM $$")).0, Some(128 + 15));
}

#[test]
fn a_command_that_is_not_there_has_a_shells_status_for_it() {
    let mut command = unibody();
    command.args(support::run()).args(["--", "no-such-command"]);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!((status, stdout.as_str()), (Some(127), ""));
    assert!(stderr.contains("no-such-command"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn stdout_and_stderr_are_apart_and_raw() {
    let script = r"printf 'a\r\n\000\377\021\023b'; printf 'c\r\n\001\376' >&2";
    let output = finish(shell(script), b"");
    assert_eq!(output.stdout, b"a\r\n\x00\xff\x11\x13b");
    assert_eq!(output.stderr, b"c\r\n\x01\xfe");
}

#[test]
fn a_pipe_has_an_end() {
    let mut command = unibody();
    command.args(support::run()).args(["--", "cat"]);
    let output = finish(command, b"hi\n");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"hi\n".as_slice()));
    let output = finish(shell("wc -c"), &[b'x'; 12345]);
    assert_eq!(text(&output.stdout).trim(), "12345");
}

#[test]
fn a_command_need_not_read_its_stdin() {
    let output = finish(shell("head -c 3"), &[b'y'; 3_000_000]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"yyy".as_slice()));
}

fn random_bytes_come_back_equal(count: usize) {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_le_bytes()
    })
    .take(count / 8)
    .flatten()
    .collect();
    let mut command = unibody();
    command.args(support::run()).args(["--", "cat"]);
    let output = finish(command, &bytes);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
}

#[test]
fn random_bytes_come_back_equal_by_the_ten_thousand() {
    random_bytes_come_back_equal(50_000);
}

#[test]
fn random_bytes_come_back_equal_by_the_ten_million() {
    random_bytes_come_back_equal(10_000_000);
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let mut command = shell("yes");
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it can be started");
    let mut reader = child.stdout.take().expect("piped");
    let mut first = [0; 2];
    std::io::Read::read_exact(&mut reader, &mut first).expect("it says y");
    drop(reader);
    assert_eq!(wait(&mut child, &command).code(), Some(128 + 13));
}

/// Its console is the program's stdout, and not shown again among the messages.
#[test]
fn an_init_of_ones_own_has_the_console() {
    let busybox = std::fs::read(pulled().join("bin/busybox")).expect("it is pulled");
    let script = b"#!/bin/busybox sh\necho the first line\nexec /bin/busybox poweroff -f\n";
    let mut archive = Writer::new();
    let made = archive
        .directory("bin", 0o755)
        .and_then(|()| archive.directory("dev", 0o755))
        .and_then(|()| archive.character_device("dev/console", 0o600, 5, 1))
        .and_then(|()| archive.file("bin/busybox", 0o755, &busybox))
        .and_then(|()| archive.file("first", 0o755, script));
    made.expect("it can be packed");
    let initrd = own_file("own.cpio", &archive.finish());
    let mut command = unibody();
    command
        .args(support::run())
        .args(["--verbose", "--cmdline", "quiet rdinit=/first", "--initrd"])
        .arg(initrd);
    let output = finish(command, b"");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert_eq!(stdout.matches("the first line").count(), 1, "{stdout}");
    assert_eq!(stderr.matches("the first line").count(), 0, "{stderr}");
    let told = format!("unibody: engine {}, 1 processors, 512 MiB of memory\n", support::engine());
    assert!(stderr.contains(&told), "{stderr}");
}

#[test]
fn a_second_in_the_guest_is_a_second() {
    // The first number there is the time since the start, in seconds with two digits behind. (To `expr` a number
    // that starts with 0 is not an octal one.)
    let script = "up() { tr -d . < /proc/uptime | cut -d ' ' -f 1; }; \
                  a=$(up); sleep 1; b=$(up); expr \\( $b - $a \\) \\* 10";
    let start = Instant::now();
    let (status, stdout, _) = outcome(shell(script));
    let outside = start.elapsed().as_millis();
    assert_eq!(status, Some(0));
    let inside: u128 = stdout.trim().parse().expect("a number of milliseconds");
    assert!((1000..3000).contains(&inside), "{inside} ms in the guest");
    assert!(inside <= outside, "{inside} ms in the guest, {outside} ms on the host");
}

#[test]
fn the_guests_clock_shows_the_hosts_time() {
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.expect("after 1970").as_secs()
    };
    let before = now();
    let (_, stdout, _) = outcome(shell("date +%s"));
    let guest: u64 = stdout.trim().parse().expect("seconds");
    assert!((before..=now() + 1).contains(&guest), "{guest}, but started at {before}");
}

/// What is about the software CPU alone.
mod soft {
    use super::support::{SOFT, outcome, unibody};

    #[test]
    fn a_guest_runs_without_translated_code() {
        let mut command = unibody();
        command.args(SOFT).args(["--no-jit", "--", "uname", "-m"]);
        assert_eq!(outcome(command), (Some(0), "x86_64\n".to_owned(), String::new()));
    }

    #[test]
    fn how_much_was_translated_is_told_to_who_wants_to_know() {
        let mut command = unibody();
        command.args(SOFT).args(["--verbose", "--", "true"]);
        let (status, _, stderr) = outcome(command);
        assert_eq!(status, Some(0), "{stderr}");
        assert!(stderr.contains(" instructions were translated in "), "{stderr}");
    }

    /// They would cost a guest of a software CPU much, and protect nothing.
    #[test]
    fn the_guest_needs_no_work_arounds_for_leaks_of_processors() {
        let mut command = unibody();
        let script = "cd /sys/devices/system/cpu/vulnerabilities && grep . *";
        command.args(SOFT).args(["--", "sh", "-c", script]);
        let (_, told, _) = outcome(command);
        for safe in ["meltdown", "mds", "l1tf", "spec_store_bypass"] {
            assert!(told.contains(&format!("{safe}:Not affected")), "{told}");
        }
        for costly in ["Retpoline", "SW loop", "SW sequence", "return thunks"] {
            assert!(!told.contains(costly), "{told}");
        }
    }
}
