//! Tests of the session: order, flow control in both directions' terms, endings.

use guest_protocol::{ACKNOWLEDGE_AFTER, Terminal};
use proptest::prelude::*;

use super::*;

fn session(argument: usize) -> Session {
    Session::new(Start { argv: vec![vec![b'a'; argument]], ..Start::default() }).unwrap()
}

fn say(session: &mut Session, message: FromGuest) -> Result<Vec<Event>, ControlError> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).unwrap();
    session.receive(&bytes)
}

fn running() -> Session {
    let mut session = session(1);
    say(&mut session, FromGuest::Ready).unwrap();
    session.take_outgoing();
    say(&mut session, FromGuest::Started).unwrap();
    session
}

fn decode(mut bytes: &[u8]) -> Vec<ToGuest> {
    let mut decoder = Decoder::default();
    std::iter::from_fn(|| decoder.decode(&mut bytes).unwrap()).collect()
}

#[test]
fn nothing_is_said_before_the_guest_is_ready_and_then_the_start_comes_first() {
    let terminal = Terminal { size: WindowSize { rows: 1, cols: 1 }, stderr_apart: false };
    let start = Start { terminal: Some(terminal), ..Start::default() };
    let mut session = Session::new(start).unwrap();
    let size = WindowSize { rows: 50, cols: 100 };
    session.resize(size);
    session.signal(15);
    session.end_stdin();
    assert!(session.take_outgoing().is_empty());
    assert_eq!(session.stdin_allowance(), 0);

    assert_eq!(say(&mut session, FromGuest::Ready).unwrap(), [Event::Ready]);
    let messages = decode(&session.take_outgoing());
    let [ToGuest::Start(start), ToGuest::Signal(15), ToGuest::StdinEnd { total: 0 }] =
        &messages[..]
    else {
        panic!("{messages:?}");
    };
    assert_eq!(start.terminal.unwrap().size, size, "the size that the window has by now");
    assert!(session.take_outgoing().is_empty(), "said once");
}

#[test]
fn a_warning_changes_nothing_else() {
    let mut session = session(1);
    let warning = || FromGuest::Warning { message: "beware".into() };
    let heard = [Event::Warning("beware".into())];
    assert_eq!(say(&mut session, warning()).unwrap(), heard);
    assert!(session.take_outgoing().is_empty(), "it is not ready by that");
    say(&mut session, FromGuest::Ready).unwrap();
    assert_eq!(say(&mut session, warning()).unwrap(), heard);
    assert_eq!(say(&mut session, FromGuest::Started).unwrap(), [Event::Started]);
    assert_eq!(say(&mut session, warning()).unwrap(), heard);
}

#[test]
fn a_command_that_cannot_be_passed_is_refused_before_the_boot() {
    let start = |argument| Start { argv: vec![argument], ..Start::default() };
    let long = Session::new(start(vec![b'a'; 2 << 20]));
    assert!(matches!(long, Err(ControlError::Command(EncodeError::TooLong { .. }))));
    let nul = Session::new(start(b"a\0".to_vec()));
    assert!(matches!(nul, Err(ControlError::Command(EncodeError::Field(_)))));
}

#[test]
fn stdin_flows_from_the_start_to_its_end_within_the_window() {
    let mut session = session(1);
    say(&mut session, FromGuest::Ready).unwrap();
    assert_eq!(session.stdin_allowance(), 0);
    assert_eq!(say(&mut session, FromGuest::Started).unwrap(), [Event::Started]);
    session.take_outgoing();
    let window = session.stdin_allowance();
    assert_eq!(window as u64, WINDOW);
    session.stdin_sent(window);
    assert_eq!(session.stdin_allowance(), 0);
    say(&mut session, FromGuest::Received { line: Line::Stdin, total: 1000 }).unwrap();
    assert_eq!(session.stdin_allowance(), 1000);
    session.end_stdin();
    session.end_stdin();
    assert_eq!(session.stdin_allowance(), 0);
    assert_eq!(decode(&session.take_outgoing()), [ToGuest::StdinEnd { total: WINDOW }]);
}

#[test]
fn a_false_acknowledgement_is_an_error() {
    let mut session = running();
    session.stdin_sent(10);
    say(&mut session, FromGuest::Received { line: Line::Stdin, total: 5 }).unwrap();
    for total in [4, 11, u64::MAX] {
        let result = say(&mut session, FromGuest::Received { line: Line::Stdin, total });
        assert!(matches!(result, Err(ControlError::Acknowledged { sent: 10, .. })));
    }
}

#[test]
fn a_closed_stdin_stops_the_flow_and_needs_no_end() {
    let mut session = running();
    assert_eq!(say(&mut session, FromGuest::StdinClosed).unwrap(), [Event::StdinClosed]);
    assert_eq!(session.stdin_allowance(), 0);
    session.end_stdin();
    assert!(session.take_outgoing().is_empty());
}

#[test]
fn messages_out_of_turn_are_errors() {
    let written = Written::default();
    let order = |result| matches!(result, Err(ControlError::Order { .. }));
    assert!(order(say(&mut session(1), FromGuest::Started)));
    assert!(order(say(&mut session(1), FromGuest::Exited { status: 0, written })));
    assert!(order(say(&mut session(1), FromGuest::Received { line: Line::Control, total: 0 })));
    assert!(order(say(&mut running(), FromGuest::Ready)));
    assert!(order(say(&mut running(), FromGuest::Started)));
    assert!(order(say(&mut running(), FromGuest::ExecFailed { errno: 2, message: String::new() })));
    let text = running().receive(b"login: ");
    assert!(matches!(text, Err(ControlError::Decode(DecodeError::Magic(_)))));
}

#[test]
fn endings_have_a_shells_exit_statuses_and_end_the_session() {
    let written = Written { stdout: 1, stderr: 2 };
    let message = String::from("reason");
    let running_cases = [
        (FromGuest::Exited { status: 7, written }, 7),
        (FromGuest::Killed { signal: 9, written }, 137),
        (FromGuest::Failed { message: message.clone() }, 125),
    ];
    for (said, status) in running_cases {
        let mut session = running();
        let events = say(&mut session, said).unwrap();
        let [Event::Ended(ending)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(ending.exit_status(), status);
        session.signal(1);
        assert!(session.take_outgoing().is_empty());
        assert!(session.receive(b"whatever the kernel says at its end").unwrap().is_empty());
    }
    for (errno, status) in [(2, 127), (13, 126)] {
        let mut session = session(1);
        say(&mut session, FromGuest::Ready).unwrap();
        let message = message.clone();
        let events = say(&mut session, FromGuest::ExecFailed { errno, message }).unwrap();
        let [Event::Ended(ending)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(ending.exit_status(), status);
    }
}

/// Init's side of a line: takes bytes and acknowledges as `guest/init` does.
#[derive(Default)]
struct Receiver {
    bytes: Vec<u8>,
    acknowledged: u64,
}

impl Receiver {
    fn take(&mut self, bytes: &[u8], line: Line, replies: &mut Vec<u8>) {
        self.bytes.extend_from_slice(bytes);
        let total = self.bytes.len() as u64;
        if total - self.acknowledged >= ACKNOWLEDGE_AFTER {
            self.acknowledged = total;
            FromGuest::Received { line, total }.encode(replies).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn a_long_command_and_stdin_get_through_without_ever_exceeding_the_window(
        argument in 0usize..300_000,
        stdin in 0usize..300_000,
        piece in 1usize..5000,
    ) {
        let mut session = session(argument);
        let (mut control, mut data) = (Receiver::default(), Receiver::default());
        let mut replies = Vec::new();
        FromGuest::Ready.encode(&mut replies).unwrap();
        FromGuest::Started.encode(&mut replies).unwrap();
        let mut sent = 0;
        loop {
            for bytes in std::mem::take(&mut replies).chunks(piece) {
                session.receive(bytes).unwrap();
            }
            let outgoing = session.take_outgoing();
            prop_assert!(outgoing.len() as u64 <= WINDOW);
            let count = session.stdin_allowance().min(stdin - sent);
            sent += count;
            session.stdin_sent(count);
            if outgoing.is_empty() && count == 0 {
                break;
            }
            for bytes in outgoing.chunks(piece) {
                control.take(bytes, Line::Control, &mut replies);
            }
            for bytes in vec![0; count].chunks(piece) {
                data.take(bytes, Line::Stdin, &mut replies);
            }
        }
        prop_assert_eq!(sent, stdin, "stuck");
        prop_assert_eq!(data.bytes.len(), stdin);
        let messages = decode(&control.bytes);
        let [ToGuest::Start(start)] = &messages[..] else { panic!("{} messages", messages.len()) };
        prop_assert_eq!(start.argv[0].len(), argument);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), mut kinds in prop::collection::vec(0u8..10, 0..8)) {
        let _ = running().receive(&bytes);
        let mut stream = Vec::new();
        for kind in kinds.drain(..) {
            stream.extend_from_slice(&[0xab, b'U', 1, kind, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        let _ = session(1).receive(&stream);
    }
}
