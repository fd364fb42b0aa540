//! Tests of frames: bounds, pieces of any size, streams of garbage.

use proptest::prelude::*;

use crate::{
    DecodeError, Decoder, EncodeError, FromGuest, HEADER, MAX_PAYLOAD, Message, Start, ToGuest,
};

/// Decodes a whole stream that comes in pieces of `piece` bytes.
fn decode_all<M: Message>(stream: &[u8], piece: usize) -> Result<Vec<M>, DecodeError> {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for mut input in stream.chunks(piece.max(1)) {
        while let Some(message) = decoder.decode(&mut input)? {
            messages.push(message);
        }
        assert!(input.is_empty(), "None must mean that the input is used up");
    }
    Ok(messages)
}

#[test]
fn a_frame_lies_as_documented() {
    let mut frame = Vec::new();
    ToGuest::StdinEnd { total: 0x0102 }.encode(&mut frame).unwrap();
    assert_eq!(frame, [0xab, b'U', 1, 4, 8, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn headers_are_checked_before_the_payload_is_waited_for() {
    let cases: [(&[u8], DecodeError); 4] = [
        (b"$ ", DecodeError::Magic(*b"$ ")),
        (&[0xab, b'U', 9, 1, 0, 0, 0, 0], DecodeError::Version(9)),
        (&[0xab, b'U', 1, 1, 1, 0, 16, 0], DecodeError::TooLong { length: (1 << 20) + 1 }),
        (&[0xab, b'U', 1, 99, 0, 0, 0, 0], DecodeError::Kind(99)),
    ];
    for (bytes, error) in cases {
        let mut decoder = Decoder::<FromGuest>::default();
        assert_eq!(decoder.decode(&mut &*bytes), Err(error));
        let mut good = Vec::new();
        FromGuest::Ready.encode(&mut good).unwrap();
        assert_eq!(decoder.decode(&mut &good[..]), Err(error), "an error must stay");
    }
}

#[test]
fn a_payload_must_be_used_up_and_whole() {
    let excess = [0xab, b'U', 1, 1, 1, 0, 0, 0, 0];
    assert_eq!(decode_all::<FromGuest>(&excess, 100), Err(DecodeError::Excess));
    let short = [0xab, b'U', 1, 6, 1, 0, 0, 0, 0];
    assert_eq!(decode_all::<FromGuest>(&short, 100), Err(DecodeError::Truncated));
}

#[test]
fn the_longest_frame_goes_through_and_one_byte_more_does_not() {
    // Counts and lengths of an otherwise empty `Start` with one argument.
    let fixed = 4 + 4 + 4 + 1 + 1 + 1 + 4 + 4 + 1 + 1;
    let longest = vec![b'a'; MAX_PAYLOAD - fixed];
    let start =
        |argument| ToGuest::Start(Start { argv: vec![argument], ..Start::default() }.into());
    let mut frame = Vec::new();
    start(longest.clone()).encode(&mut frame).unwrap();
    assert_eq!(frame.len(), HEADER + MAX_PAYLOAD);
    assert_eq!(decode_all(&frame, 4095), Ok(vec![start(longest.clone())]));

    let before = frame.clone();
    let mut longer = longest;
    longer.push(b'a');
    assert_eq!(
        start(longer).encode(&mut frame),
        Err(EncodeError::TooLong { length: MAX_PAYLOAD + 1 })
    );
    assert!(frame == before, "a refused message must leave nothing behind");
}

#[test]
fn a_count_alone_takes_no_memory() {
    // `Start` with 2^32 - 1 arguments claimed and none there.
    let frame = [0xab, b'U', 1, 1, 4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(decode_all::<ToGuest>(&frame, 100), Err(DecodeError::Truncated));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), piece in 1usize..40) {
        let _ = decode_all::<ToGuest>(&bytes, piece);
        let _ = decode_all::<FromGuest>(&bytes, piece);
    }

    #[test]
    fn arbitrary_payloads_never_panic(
        kind in 0u8..10,
        payload in prop::collection::vec(any::<u8>(), 0..200),
        piece in 1usize..40,
    ) {
        let mut frame = vec![0xab, b'U', 1, kind, payload.len() as u8, 0, 0, 0];
        frame.extend_from_slice(&payload);
        let _ = decode_all::<ToGuest>(&frame, piece);
        let _ = decode_all::<FromGuest>(&frame, piece);
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(kind in 0u8..10, payload in prop::collection::vec(0u8..4, 0..60)) {
        let mut frame = vec![0xab, b'U', 1, kind, payload.len() as u8, 0, 0, 0];
        frame.extend_from_slice(&payload);
        if let Ok(messages) = decode_all::<ToGuest>(&frame, 1000) {
            let mut again = Vec::new();
            for message in &messages {
                message.encode(&mut again).unwrap();
            }
            prop_assert_eq!(again, frame);
        }
    }
}
