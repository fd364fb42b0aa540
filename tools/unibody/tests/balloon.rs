//! Memory that the guest has freed goes back to the host, and is memory again when it is used.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use support::shell;

/// How long it may take until it is there, on whatever engine and however busy a machine. The guest's kernel reports what is free after two seconds,
/// and what it did not come to after two more: `cargo xtask bench devices` says how long it takes on a machine that does nothing else.
const LIMIT: Duration = Duration::from_secs(60);

/// A guest whose script is led line by line.
struct Guest {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Guest {
    fn start(script: &str) -> Guest {
        let mut command = shell(script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Guest { child, input, output }
    }

    fn line(&mut self) -> String {
        self.output.next().expect("it says something").expect("readable")
    }

    fn go_on(&mut self) {
        writeln!(self.input).expect("it listens");
    }

    /// How much memory of the host's its process has, in MiB. See: Linux, Documentation/filesystems/proc.rst, status.
    fn resident(&self) -> i64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("it runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has some");
        line.trim().trim_end_matches(" kB").parse::<i64>().expect("a number") >> 10
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn freed_memory_goes_back_to_the_host_and_can_be_used_again() {
    let script = "
        mount -o remount,size=450m /tmp
        yes kept | head -c 1000000 >/tmp/part
        for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do cat /tmp/part; done >/tmp/kept
        dd if=/dev/zero of=/tmp/large bs=1M count=400 2>/dev/null
        echo full; read go
        rm /tmp/large
        echo freed; read go
        cat /tmp/kept /tmp/kept >/tmp/large
        md5sum </tmp/kept; md5sum </tmp/large";
    let mut guest = Guest::start(script);
    assert_eq!(guest.line(), "full");
    let full = guest.resident();
    assert!(full > 400, "{full} MiB");
    guest.go_on();
    assert_eq!(guest.line(), "freed");
    let freed = Instant::now();
    while full - guest.resident() < 350 {
        let now = guest.resident();
        assert!(freed.elapsed() < LIMIT, "of {full} MiB it still has {now}");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("350 MiB were back after {:.1} seconds", freed.elapsed().as_secs_f64());
    guest.go_on();
    // As md5sum has them on the host.
    assert_eq!(guest.line(), "4fc14e1ef5000a6b3d67495949294f37  -");
    assert_eq!(guest.line(), "dbcff941c69bb728a8699bb6d97e98d9  -");
    assert!(guest.child.wait().expect("it is ours").success());
}
