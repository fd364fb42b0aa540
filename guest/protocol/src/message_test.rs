//! Tests of messages: each comes out as it went in; what no process can be given is refused.

use proptest::prelude::*;

use crate::{
    Access, Addresses, DecodeError, Decoder, EncodeError, FromGuest, Line, MAX_WARNING, Message,
    Mount, Network, OutputStream, Root, Start, Terminal, ToGuest, User, WindowSize, Written,
};

fn c_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8..=255, 0..40)
}

fn window_size() -> impl Strategy<Value = WindowSize> {
    any::<(u16, u16)>().prop_map(|(rows, cols)| WindowSize { rows, cols })
}

fn mount() -> impl Strategy<Value = Mount> {
    let access =
        prop_oneof![Just(Access::ReadWrite), Just(Access::ReadOnly), Just(Access::CopyOnWrite)];
    (c_bytes(), c_bytes(), access).prop_map(|(tag, path, access)| Mount {
        tag,
        target: [b"/", &path[..]].concat(),
        access,
    })
}

fn user() -> impl Strategy<Value = User> {
    (any::<(u32, u32)>(), prop::collection::vec(any::<u32>(), 0..4))
        .prop_map(|((uid, gid), groups)| User { uid, gid, groups })
}

fn root() -> impl Strategy<Value = Root> {
    (c_bytes(), any::<bool>()).prop_map(|(tag, is_needed)| Root { tag, is_needed })
}

fn network() -> impl Strategy<Value = Network> {
    let search = prop::collection::vec(prop::collection::vec(b'a'..=b'z', 1..20), 0..4);
    let told = (any::<[[u8; 4]; 3]>(), 0..=32_u8, search, any::<u16>()).prop_map(
        |([guest, gateway, dns], prefix, search, mtu)| {
            Network::Told(Addresses { guest, prefix, gateway, dns, search, mtu })
        },
    );
    prop_oneof![Just(Network::Ask), told]
}

fn start() -> impl Strategy<Value = Start> {
    let name = prop::collection::vec(b'A'..=b'Z', 1..10);
    (
        prop::collection::vec(c_bytes(), 0..5),
        prop::collection::vec((name, c_bytes()), 0..5),
        prop::option::of(prop::collection::vec(1u8..=255, 1..40)),
        prop::option::of(user()),
        prop::option::of(
            (window_size(), any::<bool>())
                .prop_map(|(size, stderr_apart)| Terminal { size, stderr_apart }),
        ),
        prop::collection::vec(1u8..=255, 0..=64),
        prop::collection::vec(mount(), 0..3),
        prop::option::of(network()),
        prop::option::of(root()),
    )
        .prop_map(|(argv, env, cwd, user, terminal, hostname, mounts, network, root)| Start {
            argv,
            env,
            cwd,
            user,
            terminal,
            hostname,
            mounts,
            network,
            root,
        })
}

fn to_guest() -> impl Strategy<Value = ToGuest> {
    prop_oneof![
        start().prop_map(|start| ToGuest::Start(start.into())),
        window_size().prop_map(ToGuest::WindowSize),
        (1u8..=64).prop_map(ToGuest::Signal),
        any::<u64>().prop_map(|total| ToGuest::StdinEnd { total }),
        prop_oneof![Just(OutputStream::Stdout), Just(OutputStream::Stderr)]
            .prop_map(ToGuest::OutputClosed),
    ]
}

fn written() -> impl Strategy<Value = Written> {
    any::<(u64, u64)>().prop_map(|(stdout, stderr)| Written { stdout, stderr })
}

fn from_guest() -> impl Strategy<Value = FromGuest> {
    prop_oneof![
        Just(FromGuest::Ready),
        Just(FromGuest::Started),
        Just(FromGuest::StdinClosed),
        (any::<i32>(), ".*").prop_map(|(errno, message)| FromGuest::ExecFailed { errno, message }),
        (prop_oneof![Just(Line::Stdin), Just(Line::Control)], any::<u64>())
            .prop_map(|(line, total)| FromGuest::Received { line, total }),
        (any::<u8>(), written())
            .prop_map(|(status, written)| FromGuest::Exited { status, written }),
        (1u8..=64, written()).prop_map(|(signal, written)| FromGuest::Killed { signal, written }),
        ".*".prop_map(|message| FromGuest::Failed { message }),
        ".{0,200}".prop_map(|message| FromGuest::Warning { message }),
    ]
}

/// Sends all messages as one stream in pieces and compares what comes out.
fn round_trip<M: Message + PartialEq + std::fmt::Debug>(messages: &[M], piece: usize) {
    let mut stream = Vec::new();
    for message in messages {
        message.encode(&mut stream).unwrap();
    }
    let mut decoder = Decoder::<M>::default();
    let mut received = Vec::new();
    for mut input in stream.chunks(piece) {
        while let Some(message) = decoder.decode(&mut input).unwrap() {
            received.push(message);
        }
    }
    assert_eq!(received, messages);
}

proptest! {
    #[test]
    fn to_guest_round_trip(messages in prop::collection::vec(to_guest(), 0..6), piece in 1usize..100) {
        round_trip(&messages, piece);
    }

    #[test]
    fn from_guest_round_trip(messages in prop::collection::vec(from_guest(), 0..6), piece in 1usize..100) {
        round_trip(&messages, piece);
    }
}

#[test]
fn what_no_process_can_be_given_is_not_sent() {
    let mount = |tag: &[u8], target: &[u8]| Mount {
        tag: tag.to_vec(),
        target: target.to_vec(),
        access: Access::ReadWrite,
    };
    let told = |addresses| Start { network: Some(Network::Told(addresses)), ..Start::default() };
    let refused = [
        Start { argv: vec![b"a\0b".to_vec()], ..Start::default() },
        Start { env: vec![(b"A=B".to_vec(), vec![])], ..Start::default() },
        Start { env: vec![(vec![], vec![])], ..Start::default() },
        Start { env: vec![(b"A".to_vec(), b"\0".to_vec())], ..Start::default() },
        Start { cwd: Some(vec![]), ..Start::default() },
        Start { hostname: vec![b'h'; 65], ..Start::default() },
        Start { mounts: vec![mount(b"a\0b", b"/x")], ..Start::default() },
        Start { mounts: vec![mount(b"a", b"x/y")], ..Start::default() },
        Start { mounts: vec![mount(b"a", b"/x\0")], ..Start::default() },
        Start { root: Some(Root { tag: b"a\0b".to_vec(), is_needed: true }), ..Start::default() },
        told(Addresses { prefix: 33, ..Addresses::default() }),
        told(Addresses { search: vec![b"a\nb".to_vec()], ..Addresses::default() }),
    ];
    for start in refused {
        let mut out = Vec::new();
        assert!(matches!(
            ToGuest::Start(start.into()).encode(&mut out),
            Err(EncodeError::Field(_))
        ));
        assert!(out.is_empty());
    }
    assert!(matches!(ToGuest::Signal(0).encode(&mut Vec::new()), Err(EncodeError::Field(_))));
    assert!(matches!(ToGuest::Signal(65).encode(&mut Vec::new()), Err(EncodeError::Field(_))));
}

#[test]
fn a_warning_is_short() {
    let warning = |length| FromGuest::Warning { message: "w".repeat(length) };
    round_trip(&[warning(0), warning(MAX_WARNING)], 100);
    let mut out = Vec::new();
    assert!(matches!(warning(MAX_WARNING + 1).encode(&mut out), Err(EncodeError::Field(_))));
    assert!(out.is_empty());
    // Of another end, which doesn't keep to that.
    let long = [b'w'; MAX_WARNING + 1];
    let fields = u32::try_from(long.len()).unwrap().to_le_bytes();
    let payload = [&fields[..], &long].concat();
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    let frame = [&[0xab, b'U', 1, 9], &length[..], &payload].concat();
    let result = Decoder::<FromGuest>::default().decode(&mut &frame[..]);
    assert_eq!(result, Err(DecodeError::Field("warning: it is too long")));
}

#[test]
fn what_no_process_can_be_given_is_not_accepted_either() {
    let signal_65 = [0xab, b'U', 1, 3, 1, 0, 0, 0, 65];
    let result = Decoder::<ToGuest>::default().decode(&mut &signal_65[..]);
    assert_eq!(result, Err(DecodeError::Field("signal number")));
}
