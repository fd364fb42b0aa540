//! A guest's network: what goes out and comes in, much of it and at once, names and echoes; servers that stop reading, guests that flood; and
//! what can't be had. All of it as an unprivileged user.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::running::Running;
use support::{finish, limit, outcome, run, text, unibody};

/// How much goes each way.
fn much() -> usize {
    if std::env::var_os("UNIBODY_LONG").is_some() { 200 << 20 } else { 8 << 20 }
}

/// A guest with these options that runs a script.
fn guest(options: &[&str], script: &str) -> Command {
    let mut command = unibody();
    command.args(run()).args(options).args(["--", "sh", "-c", script]);
    command
}

/// What a script prints, which has to succeed and leave stderr alone.
fn prints(options: &[&str], script: &str) -> String {
    let output = finish(guest(options, script), b"");
    let told = (output.status.code(), text(&output.stderr));
    assert_eq!(told, (Some(0), String::new()), "{}", text(&output.stdout));
    text(&output.stdout)
}

/// A server on the host's loopback, and its port.
fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are ports");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

/// Takes one connection, and does something with it.
fn serve<T: Send + 'static>(
    listener: TcpListener,
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> JoinHandle<T> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the guest connects");
        stream.set_read_timeout(Some(limit())).expect("it is a socket");
        stream.set_write_timeout(Some(limit())).expect("it is a socket");
        serve(stream)
    })
}

/// A port that nobody has just now.
fn free_port() -> u16 {
    listen().1
}

/// Bytes that are not the same anywhere soon, a megabyte of them.
fn megabyte() -> Vec<u8> {
    (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// The checksum that the host's `md5sum` gives.
fn md5sum(pieces: impl Iterator<Item = Vec<u8>>) -> String {
    let mut command = Command::new("md5sum");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it is part of every Debian");
    let mut stdin = child.stdin.take().expect("piped");
    pieces.for_each(|piece| stdin.write_all(&piece).expect("it reads"));
    drop(stdin);
    text(&child.wait_with_output().expect("it ends").stdout)
}

#[test]
fn a_guest_has_no_network_unless_asked() {
    let script = "ls /sys/class/net; ping -c 1 -W 5 127.0.0.1 >/dev/null && echo itself";
    assert_eq!(prints(&[], script), "lo\nitself\n");
    assert_eq!(prints(&["--net", "none"], script), "lo\nitself\n");
}

#[test]
fn addresses_routes_and_names_are_set_up() {
    let script = "cat /sys/class/net/eth0/mtu /etc/resolv.conf; ip -4 -o addr show dev eth0 | cut -d ' ' -f 7; ip route; \
                  ping -c 2 -W 10 10.0.2.2 >/dev/null && ping -c 1 -W 10 10.0.2.3 >/dev/null && echo echoes";
    let told = prints(&["--net", "user"], script);
    for part in [
        "65520\n",
        "nameserver 10.0.2.3\n",
        "10.0.2.15/24\n",
        "default via 10.0.2.2 dev eth0",
        "echoes\n",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn much_comes_from_the_host_and_goes_to_it_whole() {
    let count = much();
    let (listener, port) = listen();
    let server = serve(listener, move |mut stream| {
        let piece = megabyte();
        for _ in 0..count / piece.len() {
            stream.write_all(&piece).expect("the guest reads");
        }
        // What the guest has got comes back.
        let mut got = vec![0; piece.len()];
        for number in 0..count / piece.len() {
            stream.read_exact(&mut got).expect("the guest writes");
            assert!(got == piece, "megabyte {number}");
        }
        // It may end now: before, some would still be on its way.
        stream.write_all(b"all\n").expect("it reads");
    });
    let script = format!(
        "nc 10.0.2.2 {port} -e sh -c 'head -c {count} >/tmp/got; cat /tmp/got; read all' && md5sum </tmp/got"
    );
    let options = ["--net", "user", "--memory", "1G"];
    let sum = md5sum((0..count >> 20).map(|_| megabyte()));
    assert_eq!(prints(&options, &script), sum);
    server.join().expect("it has asserted nothing else");
}

#[test]
fn a_published_port_is_served_by_the_guest() {
    let port = free_port();
    let published = format!("{port}:80");
    let script = "mkdir /tmp/www; head -c 3000000 /dev/urandom >/tmp/www/file; md5sum </tmp/www/file; \
                  httpd -p 80 -h /tmp/www; echo up; sleep 1000";
    let mut guest = Running::start(guest(&["-p", &published], script));
    let sum = guest.line();
    assert_eq!(guest.line(), "up\n");
    for _ in 0..3 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it is published");
        stream.set_read_timeout(Some(limit())).expect("it is a socket");
        stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it ends");
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("it is HTTP") + 4;
        assert_eq!(answer.len() - body, 3_000_000);
        assert_eq!(md5sum(std::iter::once(answer[body..].to_vec())), sum);
    }
    // It is gone with the guest, and can be had again.
    drop(guest);
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("nobody has it");
}

#[test]
fn a_thousand_connections_are_open_at_once() {
    const COUNT: usize = 1000;
    let (listener, port) = listen();
    let server = std::thread::spawn(move || {
        // All of them are there before the first is answered.
        let streams: Vec<_> = listener.incoming().take(COUNT).collect();
        for stream in streams {
            stream.expect("it can be accepted").write_all(b"here\n").expect("it reads");
        }
    });
    let script = format!(
        "n=0; while [ $n -lt {COUNT} ]; do n=$((n + 1)); nc 10.0.2.2 {port} </dev/null >>/tmp/out & done; wait; \
         grep -c here /tmp/out"
    );
    assert_eq!(prints(&["--net", "user", "--memory", "1G"], &script), format!("{COUNT}\n"));
    server.join().expect("it has asserted nothing else");
}

#[test]
fn names_are_asked_of_the_resolver() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are ports");
    let address = server.local_addr().expect("it is bound");
    let is_over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&is_over);
    let answering = std::thread::spawn(move || {
        server.set_read_timeout(Some(Duration::from_millis(50))).expect("it is a socket");
        let mut question = [0; 512];
        while !stop.load(Ordering::Acquire) {
            let Ok((size, from)) = server.recv_from(&mut question) else { continue };
            let _ = server.send_to(&answer(&question[..size]), from);
        }
    });
    let net = format!("user,dns={address}");
    let told = prints(&["--net", &net], "nslookup guest.example");
    is_over.store(true, Ordering::Release);
    answering.join().expect("it has asserted nothing");
    assert!(told.contains("192.0.2.77"), "{told}");
}

/// The answer to a question for an address: it is always the same. See: RFC 1035, 4.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    // It is an answer, recursion is there, and there is one.
    (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
    // The question's name, an address of the Internet's, a minute, four bytes.
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77]);
    answer
}

#[test]
fn a_server_that_stops_reading_holds_the_guest_up_and_loses_nothing() {
    const COUNT: usize = 24 << 20;
    let (listener, port) = listen();
    let server = serve(listener, |mut stream| {
        // Until the guest has come to a stop: what has come does not grow any more.
        let (mut before, mut since) = (0, Instant::now());
        while since.elapsed() < Duration::from_secs(2) {
            let mut bytes = vec![0; 64 << 20];
            let waiting = stream.peek(&mut bytes).unwrap_or(0);
            if waiting != before {
                (before, since) = (waiting, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(before < COUNT, "{before}");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("it ends");
        all.len()
    });
    let script = format!("head -c {COUNT} /dev/zero | nc 10.0.2.2 {port} >/dev/null && echo sent");
    assert_eq!(prints(&["--net", "user"], &script), "sent\n");
    assert_eq!(server.join().expect("it has asserted nothing else"), COUNT);
}

#[test]
fn a_guest_that_floods_harms_nobody() {
    let (listener, port) = listen();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::AcqRel);
            drop(stream);
        }
    });
    // Connections and echoes as fast as it can; and the network still works.
    let script = format!(
        "n=0; while [ $n -lt 200 ]; do n=$((n + 1)); echo x | nc 10.0.2.2 {port} & done 2>/dev/null; \
         ping -A -q -s 60000 -c 300 10.0.2.2 >/dev/null; wait; ping -c 1 -W 20 10.0.2.2 >/dev/null && echo alive"
    );
    let output = finish(guest(&["--net", "user"], &script), b"");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "alive\n"));
    assert!(accepted.load(Ordering::Acquire) > 0);
}

#[test]
fn what_nobody_listens_at_is_refused() {
    let script = format!("nc 10.0.2.2 {} </dev/null; echo $?", free_port());
    let (status, stdout, stderr) = outcome(guest(&["--net", "user"], &script));
    assert_eq!((status, stdout.as_str()), (Some(0), "1\n"));
    assert!(stderr.contains("refused"), "{stderr}");
}

#[test]
fn what_cannot_be_had_is_told_before_the_guest_starts() {
    let (taken, _) = listen();
    let address: SocketAddr = taken.local_addr().expect("it is bound");
    let published = format!("{}:80", address.port());
    let cases: [(&[&str], &str); 4] = [
        (&["-p", &published], "cannot publish the guest's port 80 at 127.0.0.1:"),
        (&["-p", "1:80"], "Give a port from 1024 on"),
        (&["--net", "tap=no-such-tap"], "there is no such interface"),
        (&["--net", "tap=a-name-that-is-too-long"], "no name of an interface"),
    ];
    for (options, expected) in cases {
        let (status, stdout, stderr) = outcome(guest(options, "echo started"));
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{options:?}");
        assert!(stderr.contains(expected), "{options:?}: {stderr}");
    }
    let (status, _, stderr) = outcome(guest(&["--net", "none", "-p", "8080:80"], "true"));
    assert!(status == Some(2) && stderr.contains("--net user only"), "{stderr}");
}
