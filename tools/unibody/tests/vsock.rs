//! Sockets between programs in the guest and on the host: who connects to whom, megabytes either way, many at once, and the socket's file.

mod support;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use support::running::Running;
use support::{finish, limit, outcome, own_folder, pulled, run, shelf, text, unibody};
use userland::own;

/// As much as goes through a connection, in either direction.
const MUCH: usize = 1 << 20;

/// A socket's path that nobody has used, in a folder that the program may write to.
fn socket(name: &str) -> PathBuf {
    let path = own_folder("vsock").join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

fn word(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A guest with sockets, and the program that uses them.
fn guest(socket: &Path, script: &str) -> Command {
    let programs = own::build(&shelf(), &pulled().join("bin/busybox")).expect("it can be built");
    let mut command = unibody();
    command.args(run()).args(["--vsock", word(socket), "--initrd"]).arg(programs.archive);
    command.args(["--", "/bin/sh", "-c", script]);
    command
}

/// What a script prints, which has to succeed and leave stderr alone.
fn prints(socket: &Path, script: &str) -> String {
    let output = finish(guest(socket, script), b"");
    let told = (output.status.code(), text(&output.stderr));
    assert_eq!(told, (Some(0), String::new()), "{}", text(&output.stdout));
    text(&output.stdout)
}

/// A program on the host that the guest can connect to, which does this with each of so many connections.
fn listen(
    socket: &Path,
    port: u32,
    count: usize,
    serve: impl Fn(UnixStream) + Send + 'static,
) -> JoinHandle<()> {
    let path = format!("{}_{port}", word(socket));
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("it can be made");
    fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("it is ours");
    std::thread::spawn(move || {
        for stream in listener.incoming().take(count) {
            let stream = stream.expect("it can be accepted");
            stream.set_read_timeout(Some(limit())).expect("it is a socket");
            serve(stream);
        }
    })
}

/// Connects to a port of the guest's. What it hears: `OK` and a number, or nothing.
fn call(socket: &Path, port: u32) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(socket).expect("somebody listens");
    stream.set_read_timeout(Some(limit())).expect("it is a socket");
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).expect("it listens");
    let (mut line, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte).expect("readable") == 1 {
        line.extend(byte);
        if byte == *b"\n" {
            break;
        }
    }
    (stream, text(&line))
}

/// Bytes that are not the same anywhere soon.
fn bytes() -> Vec<u8> {
    (0..MUCH as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[test]
fn a_megabyte_goes_to_the_host_and_comes_back() {
    let socket = socket("out");
    let host = listen(&socket, 80, 1, |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("readable");
        assert_eq!(all.len(), MUCH);
        stream.write_all(&all).expect("it reads");
    });
    let script = "head -c 1048576 /dev/urandom >/tmp/sent && vsock send 80 </tmp/sent >/tmp/back && \
                  cmp /tmp/sent /tmp/back && echo same";
    assert_eq!(prints(&socket, script), "same\n");
    host.join().expect("it has asserted nothing else");
    assert!(!socket.exists(), "it is removed at the end");
}

#[test]
fn the_host_connects_and_a_megabyte_goes_round() {
    let socket = socket("in");
    let mut guest = Running::start(guest(&socket, "vsock serve 1024 3"));
    assert_eq!(guest.line(), "listening\n");
    for _ in 0..2 {
        let (stream, heard) = call(&socket, 1024);
        assert!(heard.starts_with("OK "), "{heard:?}");
        let mut sender = stream.try_clone().expect("there are descriptors");
        let sending = std::thread::spawn(move || {
            sender.write_all(&bytes()).expect("it reads");
            sender.shutdown(std::net::Shutdown::Write).expect("it is open");
        });
        let mut back = Vec::new();
        { &stream }.read_to_end(&mut back).expect("readable");
        sending.join().expect("it has sent all");
        assert!(back == bytes(), "{} bytes", back.len());
    }
    let (_, heard) = call(&socket, 1025);
    assert_eq!(heard, "", "nobody listens there");
    // One that is gone before anything comes back.
    let (mut stream, _) = call(&socket, 1024);
    stream.write_all(b"unheard").expect("it reads");
    drop(stream);
    assert_eq!(guest.line(), "served\n");
    assert!(guest.child.wait().expect("it is ours").success());
}

#[test]
fn who_connects_before_the_guest_is_there_waits_for_it() {
    let socket = socket("early");
    let script = "echo up; read go; vsock serve 7 1";
    let mut command = guest(&socket, script);
    command.stdin(Stdio::piped());
    let mut guest = Running::start(command);
    while !socket.exists() {
        assert!(guest.child.try_wait().expect("it is ours").is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    // The driver is there before the program, which nobody waits for.
    let (_, heard) = call(&socket, 7);
    assert_eq!(heard, "");
    assert_eq!(guest.line(), "up\n");
    writeln!(guest.child.stdin.as_mut().expect("piped")).expect("it listens");
    assert_eq!(guest.line(), "listening\n");
    let (mut stream, heard) = call(&socket, 7);
    assert!(heard.starts_with("OK "));
    stream.write_all(b"hello").expect("it reads");
    let mut back = [0; 5];
    stream.read_exact(&mut back).expect("it comes back");
    assert_eq!(&back, b"hello");
}

#[test]
fn a_hundred_connections_are_open_at_once() {
    let socket = socket("many");
    let host = listen(&socket, 9, 100, |mut stream| {
        std::thread::spawn(move || {
            let mut number = [0; 4];
            stream.read_exact(&mut number).expect("it says one");
            stream.write_all(&number).expect("it reads");
        });
    });
    assert_eq!(prints(&socket, "vsock many 9 100"), "all\n");
    host.join().expect("it has accepted all");
}

#[test]
fn a_port_without_a_program_is_refused() {
    let socket = socket("refused");
    let (status, stdout, stderr) = outcome(guest(&socket, "vsock send 4242 </dev/null"));
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("connect: "), "{stderr}");
}

#[test]
fn a_path_that_is_in_use_is_refused_and_a_dead_socket_replaced() {
    let socket = socket("used");
    let mut first = Running::start(guest(&socket, "echo up; sleep 1000"));
    assert_eq!(first.line(), "up\n");
    let (status, _, stderr) = outcome(guest(&socket, "true"));
    assert!(status == Some(125) && stderr.contains("another program listens there"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    drop(first);
    assert!(socket.exists(), "who is killed removes nothing");
    assert_eq!(prints(&socket, "echo again"), "again\n");
    assert!(!socket.exists());
    fs::write(&socket, b"mine").expect("it is ours");
    let (status, _, stderr) = outcome(guest(&socket, "true"));
    assert!(status == Some(125) && stderr.contains("a file of another kind"), "{stderr}");
    assert_eq!(fs::read(&socket).expect("readable"), b"mine");
    let (status, _, stderr) = outcome(guest(Path::new("/no/such/folder/s"), "true"));
    assert!(status == Some(125) && stderr.contains("folder that you may write to"), "{stderr}");
}
