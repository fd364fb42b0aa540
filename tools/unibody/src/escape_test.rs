//! Tests of the keys: what reaches the guest, what doesn't, however the bytes are cut up.

use super::*;

/// Filters `input` in pieces and returns what the guest gets and all actions.
fn run(input: &[u8], piece: usize) -> (Vec<u8>, Vec<Action>) {
    let mut filter = EscapeFilter::default();
    let (mut guest, mut actions) = (Vec::new(), Vec::new());
    for mut bytes in input.chunks(piece) {
        while let Some((action, rest)) = filter.filter(bytes, &mut guest) {
            actions.push(action);
            bytes = rest;
        }
    }
    (guest, actions)
}

#[test]
fn keys_do_what_the_help_says() {
    let cases: [(&[u8], &[u8], &[Action]); 9] = [
        (b"", b"", &[]),
        (b"ls -l\r", b"ls -l\r", &[]),
        (b"a\x01xb", b"ab", &[Action::Quit]),
        (b"a\x01hb", b"ab", &[Action::Help]),
        (b"\x01?\x01h\x01x", b"", &[Action::Help, Action::Help, Action::Quit]),
        (b"\x01\x01x", b"\x01x", &[]),
        (b"\x01axh", b"\x01xh", &[]),
        (b"\x01\x01\x01\x01\x01x", b"\x01\x01", &[Action::Quit]),
        (b"\x01k\x01\x1b[C", b"\x01k\x01\x1b[C", &[]),
    ];
    for (input, guest, actions) in cases {
        for piece in 1..=input.len().max(1) {
            assert_eq!(
                run(input, piece),
                (guest.to_vec(), actions.to_vec()),
                "{input:?} by {piece}"
            );
        }
    }
}

#[test]
fn every_other_byte_passes() {
    let input: Vec<u8> = (0..=255).filter(|byte| *byte != PREFIX).collect();
    assert_eq!(run(&input, 7), (input, vec![]));
}
