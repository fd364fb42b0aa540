//! A program that is stopped and goes on again, as by `kill -STOP`, or by a shell's job control with SIGTSTP.

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use support::{limit, unibody};

/// Counts, with the guest's clock, until a line comes; then tells what has alarmed the guest's kernel.
const SCRIPT: &str = "\
    exec 3<&0\n\
    (read line <&3; : >/tmp/enough) &\n\
    n=0\n\
    while ! [ -e /tmp/enough ]; do read up idle </proc/uptime; echo $n $up; n=$((n + 1)); done\n\
    dmesg | grep -i -E 'lockup|stall|hung task|as unstable' | sed 's/^/alarm: /'\n\
    exit 7\n";

/// How long it stays stopped.
const STOPPED: Duration = Duration::from_secs(2);

/// What the program writes, as far as it has.
struct Output {
    pipe: ChildStdout,
    bytes: Vec<u8>,
    over: bool,
}

impl Output {
    fn new(pipe: ChildStdout) -> Self {
        let flags = fcntl_getfl(&pipe).expect("a pipe has flags");
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK).expect("it is ours");
        Self { pipe, bytes: Vec::new(), over: false }
    }

    /// Takes what is there. Gives how many lines there are by now.
    fn take(&mut self) -> usize {
        match self.pipe.read_to_end(&mut self.bytes) {
            Ok(_) => self.over = true,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        self.bytes.iter().filter(|byte| **byte == b'\n').count()
    }

    fn wait_for_lines(&mut self, count: usize) {
        wait_until("there is more output", || self.take() >= count);
    }

    /// The numbers, with the guest's clock in seconds, and the lines behind them.
    fn lines(&self) -> (Vec<(usize, f64)>, Vec<String>) {
        let text = support::text(&self.bytes);
        // The last one may be on its way.
        let text = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let (numbers, rest): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| !line.starts_with("alarm: "));
        let number = |line: &str| {
            let (n, up) = line.split_once(' ').expect("two words");
            (n.parse().expect("a number"), up.parse().expect("a time"))
        };
        let numbers = numbers.into_iter().map(number).collect();
        (numbers, rest.into_iter().map(str::to_string).collect())
    }
}

/// The times between one number and the next, by the guest's clock.
fn gaps(numbers: &[(usize, f64)]) -> Vec<f64> {
    numbers.windows(2).map(|pair| pair[1].1 - pair[0].1).collect()
}

/// In how many of them the program may have been stopped; where much else runs, in some it was not. They are told in hundredths of a
/// second.
fn stops(gaps: &[f64]) -> usize {
    gaps.iter().filter(|gap| **gap >= STOPPED.as_secs_f64() - 0.02).count()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit(), "not so in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(signal: &str, process: u32) {
    let status = Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(status.expect("it runs").success());
}

/// Whether each thread of a process is stopped. See: proc(5), /proc/pid/stat.
fn is_stopped(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it is there").flatten();
    threads.map(|thread| fs::read_to_string(thread.path().join("stat"))).all(|stat| {
        let stat = stat.unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    })
}

#[test]
fn a_program_that_was_stopped_goes_on_where_it_was() {
    let mut program = unibody();
    program.args(support::run()).args(["--", "sh", "-c", SCRIPT]);
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = program.spawn().expect("it starts");
    let mut output = Output::new(child.stdout.take().expect("piped"));
    for (n, signal) in ["-STOP", "-TSTP"].into_iter().enumerate() {
        let before = output.take();
        output.wait_for_lines(before + 20);
        send(signal, child.id());
        wait_until("it is stopped", || is_stopped(child.id()));
        // What it had written by then is all.
        output.take();
        let size = output.bytes.len();
        std::thread::sleep(STOPPED);
        output.take();
        assert!(output.bytes.len() == size && is_stopped(child.id()), "it does something");
        send("-CONT", child.id());
        // What comes at first was on its way.
        wait_until("the guest's time has gone on", || {
            output.take();
            stops(&gaps(&output.lines().0)) > n
        });
    }
    let lines = output.take();
    output.wait_for_lines(lines + 20);
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"enough\n").expect("it reads");
    wait_until("the output ends", || {
        output.take();
        output.over
    });
    let elapsed = start.elapsed().as_secs_f64();
    let status = support::wait(&mut child, &program);
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
    let (numbers, rest) = output.lines();
    assert_eq!((rest, stderr.as_str(), status.code()), (Vec::new(), "", Some(7)));

    assert!(numbers.iter().enumerate().all(|(n, (number, _))| n == *number), "not one by one");
    // It has gone on while the guest did not, as was seen, and no faster than the host's.
    let gaps = gaps(&numbers);
    assert!(gaps.iter().all(|gap| *gap >= 0.0), "time goes back");
    let all: f64 = gaps.iter().sum();
    assert!(all <= elapsed, "{all} s of {elapsed} s");
}
