use std::sync::atomic::AtomicUsize;

use guest_protocol::{Decoder, FromGuest, Line, Message, Start, ToGuest, WINDOW, Written};

use super::*;

/// A machine that counts how often it was reached.
#[derive(Clone, Default)]
struct Fake(Arc<[AtomicUsize; 5]>);

const STOPS: usize = 4;

impl Fake {
    fn count(&self, line: usize) -> usize {
        self.0[line].load(Ordering::Relaxed)
    }
}

impl Reach for Fake {
    fn receive(&self, line: usize) {
        self.0[line].fetch_add(1, Ordering::Relaxed);
    }

    fn stop(&self) {
        self.0[STOPS].fetch_add(1, Ordering::Relaxed);
    }
}

struct Guest {
    relay: Arc<Relay>,
    machine: Fake,
    decoder: Decoder<ToGuest>,
}

impl Guest {
    fn new(interactive: bool) -> Guest {
        let start = Start { argv: vec![b"cat".to_vec()], ..Start::default() };
        Guest::with(Some(Session::new(start).unwrap()), interactive)
    }

    fn with(session: Option<Session>, interactive: bool) -> Guest {
        let machine = Fake::default();
        let manner = Manner { interactive, verbose: false, booted: Box::new(|| ()) };
        let relay = Relay::new(Lines::default(), machine.clone(), session, manner);
        Guest { relay: Arc::new(relay), machine, decoder: Decoder::default() }
    }

    fn say(&self, message: &FromGuest) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        self.relay.control(&bytes);
    }

    /// What the host has said since the last time.
    fn heard(&mut self) -> Vec<ToGuest> {
        let bytes = self.relay.lines.0[CONTROL].input.take(usize::MAX);
        let mut rest = bytes.as_slice();
        let mut messages = Vec::new();
        while let Some(message) = self.decoder.decode(&mut rest).unwrap() {
            messages.push(message);
        }
        messages
    }

    fn started(interactive: bool) -> Guest {
        let mut guest = Guest::new(interactive);
        guest.say(&FromGuest::Ready);
        guest.say(&FromGuest::Started);
        assert!(matches!(guest.heard().as_slice(), [ToGuest::Start(_)]));
        guest
    }

    fn data(&self) -> Vec<u8> {
        self.relay.lines.0[DATA].input.take(usize::MAX)
    }
}

#[test]
fn input_waits_for_the_command_and_for_the_window() {
    let mut guest = Guest::new(false);
    guest.relay.input(b"early");
    assert!(guest.data().is_empty() && guest.heard().is_empty());
    guest.say(&FromGuest::Ready);
    assert!(guest.data().is_empty());
    guest.say(&FromGuest::Started);
    assert_eq!(guest.data(), b"early");
    assert!(guest.machine.count(DATA) == 1 && guest.machine.count(CONTROL) >= 1);

    let room = guest.relay.wait_for_room().unwrap();
    assert_eq!(room as u64, WINDOW - 5);
    guest.relay.input(&vec![7; room + 10]);
    assert_eq!(guest.data().len(), room);
    guest.say(&FromGuest::Received { line: Line::Stdin, total: 5 });
    assert_eq!(guest.data(), [7; 5]);
}

#[test]
fn the_end_of_input_is_said_after_the_last_byte() {
    let mut guest = Guest::started(false);
    let total = WINDOW + 100;
    guest.relay.input(&vec![1; total as usize]);
    guest.relay.end_input();
    assert!(guest.heard().is_empty());
    guest.say(&FromGuest::Received { line: Line::Stdin, total: 1000 });
    assert_eq!(guest.data().len() as u64, total);
    assert_eq!(guest.heard(), [ToGuest::StdinEnd { total }]);
}

#[test]
fn a_warning_is_one_line_of_text() {
    assert_eq!(warning("a driver is missing", false), "unibody: a driver is missing");
    assert_eq!(warning("a\n\x1b[2Jb\tc\u{9b}d", false), "unibody: a[2Jbcd");
    assert_eq!(warning("x", true), "unibody: x\r", "a terminal in raw mode is told to go back");
    let guest = Guest::new(false);
    guest.say(&FromGuest::Warning { message: "for a test".into() });
    assert!(guest.relay.stopped().is_none());
}

#[test]
fn who_waits_for_room_is_released_by_every_end() {
    let ends: [fn(&Guest); 3] = [
        |guest| guest.say(&FromGuest::StdinClosed),
        |guest| guest.say(&FromGuest::Exited { status: 0, written: Written::default() }),
        |guest| guest.relay.stop(Stop::Quit),
    ];
    for end in ends {
        let guest = Guest::started(false);
        guest.relay.input(&vec![0; WINDOW as usize]);
        let relay = Arc::clone(&guest.relay);
        let waiter = std::thread::spawn(move || relay.wait_for_room());
        end(&guest);
        assert_eq!(waiter.join().unwrap(), None);
    }
}

#[test]
fn a_signal_goes_to_a_running_command_and_ends_anything_else() {
    let mut guest = Guest::started(false);
    guest.relay.signal(2);
    assert_eq!(guest.heard(), [ToGuest::Signal(2)]);
    assert!(guest.relay.stopped().is_none());

    for guest in [Guest::new(false), Guest::started(true), Guest::with(None, false)] {
        guest.relay.signal(15);
        assert!(matches!(guest.relay.stopped(), Some(Stop::Signal(15))));
        assert_eq!(guest.machine.count(STOPS), 1);
    }
}

#[test]
fn closed_output_is_passed_on_and_a_full_disk_ends_the_machine() {
    let mut guest = Guest::started(false);
    guest.relay.output_failed(OutputStream::Stdout, io::ErrorKind::BrokenPipe.into());
    assert_eq!(guest.heard(), [ToGuest::OutputClosed(OutputStream::Stdout)]);
    assert!(guest.relay.stopped().is_none());
    guest.relay.output_failed(OutputStream::Stderr, io::ErrorKind::StorageFull.into());
    assert!(matches!(guest.relay.stopped(), Some(Stop::Output(_))));
}

#[test]
fn a_vcpu_that_waits_for_stdout_is_released_by_a_stop() {
    let guest = Guest::started(false);
    let output = Arc::clone(&guest.relay.lines.0[DATA].output);
    let vcpu = std::thread::spawn(move || {
        // Nobody takes any of it.
        (0..600 << 10).for_each(|_| output.push(b"x"));
    });
    guest.relay.stop(Stop::Signal(15));
    vcpu.join().unwrap();
}

#[test]
fn nonsense_from_the_guest_ends_the_machine() {
    let guest = Guest::new(false);
    guest.relay.control(&[0xff; 64]);
    assert!(matches!(guest.relay.stopped(), Some(Stop::Protocol(_))));
}

#[test]
fn a_dead_kernel_ends_the_machine() {
    let guest = Guest::new(false);
    guest.relay.kernel_message(b"[ 1.0] Kernel panic - not syncing: x\n");
    assert!(guest.relay.stopped().is_none());
    guest.relay.kernel_message(b"[ 1.1] ---[ end Kernel panic - not syncing: x ]---\n");
    assert!(matches!(guest.relay.stopped(), Some(Stop::KernelDead)));
}

#[test]
fn without_a_session_input_is_the_console_s() {
    let guest = Guest::with(None, false);
    assert!(guest.relay.is_console());
    guest.relay.input(b"ls\n");
    assert_eq!(guest.relay.lines.0[CONSOLE].input.take(usize::MAX), b"ls\n");
    assert_eq!(guest.machine.count(CONSOLE), 1);
}

#[test]
fn keys_that_nobody_takes_are_bounded() {
    let guest = Guest::new(true);
    for _ in 0..100 {
        guest.relay.input(&[b'k'; 1000]);
    }
    assert!(guest.relay.lock().input.len() <= MAX_KEYS);
}
