//! What carries a command's input and output: the virtio console, and serial ports where a guest has no driver for that.
//!
//! Nothing but speed is to tell one from the other: what a session does is tested on both here, and on the virtio console by all other
//! tests.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use support::{OnTerminal, finish, outcome, pulled, text, unibody, wait};

/// What there is to carry a session.
const BOTH: [&str; 2] = ["virtio", "serial"];

/// `unibody run` with these options, and a shell's script in the guest.
fn shell(options: &[&str], script: &str) -> Command {
    let mut command = unibody();
    command.args(support::run()).args(options).args(["--", "sh", "-c", script]);
    command
}

/// Prints the names of the ports that the guest's kernel knows.
const NAMES: &str = "cat /sys/class/virtio-ports/*/name 2>/dev/null; true";

#[test]
fn the_session_is_on_ports_with_names() {
    let (status, names, told) = outcome(shell(&[], NAMES));
    let ports =
        ["console", "data", "stderr", "control"].map(|name| format!("org.unibody.{name}\n"));
    assert_eq!((status, names, told), (Some(0), ports.concat(), String::new()));
    let nothing = (Some(0), String::new(), String::new());
    assert_eq!(outcome(shell(&["--console", "serial"], NAMES)), nothing);
}

#[test]
fn a_kernel_without_the_driver_has_serial_ports_and_nobody_hears_of_it() {
    let boot = fs::read_dir(pulled().join("boot")).expect("it is pulled");
    let kernel = boot.map(|entry| entry.expect("readable").path()).next().expect("there is one");
    let kernel = kernel.to_str().expect("a plain path");
    let script = format!("{NAMES}; cat; exit 4");
    let output = finish(shell(&["--kernel", kernel], &script), b"through");
    let told = (output.status.code(), text(&output.stdout), text(&output.stderr));
    assert_eq!(told, (Some(4), "through".into(), String::new()));
}

#[test]
fn streams_are_apart_and_whole_and_the_status_is_the_commands() {
    for console in BOTH {
        let script = "cat; echo told >&2; exit 7";
        let input: Vec<u8> = (0..300_000_u32).map(|n| (n % 256) as u8).collect();
        let output = finish(shell(&["--console", console], script), &input);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(7), "told\n".into()));
        assert!(output.stdout == input, "{console}: {} bytes", output.stdout.len());
    }
}

#[test]
fn ten_million_bytes_come_whole_and_in_order() {
    let script = "seq 1 1430000; seq 1 1000 >&2";
    let output = finish(shell(&[], script), b"");
    let lines = |count: u32| (1..=count).map(|n| format!("{n}\n")).collect::<String>();
    assert!(output.stdout == lines(1_430_000).as_bytes(), "{} bytes", output.stdout.len());
    assert!(output.stderr == lines(1000).as_bytes(), "{}", text(&output.stderr));
}

#[test]
fn what_a_guest_has_written_before_its_end_is_read_however_late() {
    // All of it fits between the guest and the reader, even in pieces of a page: the command ends before any of it is read.
    let mut command = shell(&[], "head -c 380000 /dev/zero; echo written >&2; exit 3");
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut told = BufReader::new(child.stderr.take().expect("piped")).lines();
    assert_eq!(told.next().expect("a line").expect("readable"), "written");
    let mut bytes = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut bytes).expect("readable");
    assert_eq!((bytes.len(), wait(&mut child, &command).code()), (380_000, Some(3)));
}

#[test]
fn a_reader_that_goes_ends_the_command() {
    for console in BOTH {
        let mut command = shell(&["--console", console], "yes; echo $? >&2");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut first = [0; 4];
        child.stdout.take().expect("piped").read_exact(&mut first).expect("readable");
        let status = wait(&mut child, &command).code();
        let told = std::io::read_to_string(child.stderr.take().expect("piped")).expect("readable");
        assert_eq!((&first, status, told.trim()), (b"y\ny\n", Some(0), "141"), "{console}");
    }
}

#[test]
fn the_kernels_terminal_on_the_console_is_its_serial_one_and_has_the_windows_size() {
    let mut terminal = OnTerminal::start("stty rows 33 cols 111; exec $RUN");
    terminal.wait_for("# ");
    terminal.type_keys("stty size < /dev/hvc0\r");
    terminal.wait_for("33 111");
    terminal.type_keys("exit\r");
    assert_eq!(terminal.end().0, Some(0));
    let (status, _, told) = outcome(shell(&["--verbose"], "echo said on hvc > /dev/hvc0"));
    assert_eq!(status, Some(0));
    assert!(told.contains("said on hvc"), "{told}");
}

#[test]
fn a_terminal_works_on_serial_ports_too() {
    let mut terminal = OnTerminal::start("stty rows 31 cols 101; exec $RUN --console serial");
    terminal.wait_for("# ");
    terminal.type_keys("stty size; ls /dev/vport* 2>/dev/null | wc -l; tty\r");
    terminal.wait_for("31 101\r\n0\r\n/dev/pts/");
    terminal.type_keys("exit 5\r");
    assert_eq!(terminal.end().0, Some(5));
}
