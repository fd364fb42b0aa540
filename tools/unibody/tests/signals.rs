//! Signals that reach a vCPU's thread while it executes guest code: their frames must lie where they harm nothing. And those
//! that are to end the program.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{limit, shell, text, unibody};

/// Computes for a while, with calls of functions and of the kernel, and says what it has come to.
const SCRIPT: &str = "\
    add() { sum=$(((sum * 31 + $1) & 0xffffff)); }\n\
    echo started\n\
    n=0 sum=1\n\
    while [ $n -lt 60000 ]; do add $n; n=$((n + 1)); done\n\
    echo $sum\n";

fn sum() -> u32 {
    (0..60_000).fold(1, |sum, n| (sum * 31 + n) & 0xff_ffff)
}

/// The threads of a process but its first one.
fn others(process: u32) -> Vec<String> {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    let tasks = tasks.read_dir().expect("it runs").flatten();
    let names = tasks.map(|task| task.file_name().to_string_lossy().into_owned());
    names.filter(|name| *name != process.to_string()).collect()
}

#[test]
fn signals_do_a_vcpu_no_harm() {
    let mut guest = unibody();
    guest
        .args(support::run())
        .args(["--", "sh", "-c", SCRIPT])
        .stdout(Stdio::piped())
        .stdin(Stdio::null());
    let mut guest = guest.spawn().expect("it starts");
    let mut output = BufReader::new(guest.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "started\n");

    // `kill` of a thread's number has that thread take the signal.
    let threads = others(guest.id()).join(" ");
    let script = format!("n=0; while kill -WINCH {threads}; do n=$((n + 1)); done; echo $n");
    let sender = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    let status = guest.wait().expect("it ends");
    let sent = sender.wait_with_output().expect("it ends with it");
    assert_eq!((rest, status.code()), (format!("{}\n", sum()), Some(0)));
    let sent: u32 = text(&sent.stdout).trim().parse().expect("a number");
    assert!(sent > 100, "{sent}");
}

/// The first is the command's, which does not heed it.
#[test]
fn a_second_signal_ends_the_program_at_once() {
    let mut guest = shell("trap '' TERM; echo up; while :; do sleep 1000; done");
    let mut child = guest.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "up\n");
    let pid = child.id().to_string();
    // It is not known when the first one was seen, and two that wait are one.
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break status;
        }
        assert!(start.elapsed() < limit(), "it goes on");
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("it runs").success());
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.signal(), Some(15), "{status}");
}
