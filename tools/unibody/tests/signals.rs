//! Signals that reach a vCPU's thread while it executes guest code: their frames must lie where they harm nothing.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{text, unibody};

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
        .args(support::RUN)
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
