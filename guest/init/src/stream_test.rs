//! Tests of both directions, over pipes: counts, ends, acknowledgements, closed readers.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use guest_protocol::ACKNOWLEDGE_AFTER;

use crate::stream::{Input, Output};
use crate::sys;

/// Makes a pipe whose ends don't block: reader, writer.
fn pipe() -> (File, File) {
    let (reader, writer) = io::pipe().unwrap();
    let [reader, writer] = [OwnedFd::from(reader), OwnedFd::from(writer)].map(File::from);
    sys::set_nonblocking(reader.as_fd()).unwrap();
    sys::set_nonblocking(writer.as_fd()).unwrap();
    (reader, writer)
}

fn available(mut reader: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
    }
    bytes
}

#[test]
fn input_passes_exactly_what_was_announced() {
    let (command, sink) = pipe();
    let mut input = Input::new(sink, 64);
    input.read(&b"abcdef"[..]).unwrap();
    assert!(!input.is_at_end());
    input.end_at(8);
    assert!(input.wants_to_read());
    input.read(&b"ghijk"[..]).unwrap();
    assert!(!input.wants_to_read(), "the end has come");
    assert!(!input.is_at_end(), "it has not been passed on");
    assert!(input.write(true));
    assert!(input.is_at_end());
    assert_eq!(available(&command), b"abcdefgh");
}

#[test]
fn an_end_at_nothing_is_an_end() {
    let (_command, sink) = pipe();
    let mut input = Input::new(sink, 64);
    input.end_at(0);
    assert!(input.is_at_end());
    assert!(!input.wants_to_read());
}

#[test]
fn input_is_acknowledged_in_parts() {
    let (command, sink) = pipe();
    let mut input = Input::new(sink, 4096);
    let block = vec![7; 1000];
    let (mut acknowledged, mut sent) = (Vec::new(), 0);
    while sent < 3 * ACKNOWLEDGE_AFTER {
        input.read(&block[..]).unwrap();
        sent += 1000;
        acknowledged.extend(input.acknowledge());
        assert!(input.write(false));
        assert_eq!(available(&command).len(), 1000);
    }
    assert_eq!(acknowledged, [9000, 18000]);
}

#[test]
fn a_full_pipe_stops_input_and_loses_nothing() {
    let (command, sink) = pipe();
    let mut input = Input::new(sink, 4096);
    let mut sent = Vec::new();
    let mut next = 0u32;
    while input.wants_to_read() {
        let block: Vec<u8> = (0..500)
            .map(|_| {
                next = next.wrapping_mul(5).wrapping_add(1);
                next.to_le_bytes()[1]
            })
            .collect();
        let mut rest = &block[..];
        input.read(&mut rest).unwrap();
        sent.extend_from_slice(&block[..block.len() - rest.len()]);
        assert!(input.write(false));
    }
    assert!(sent.len() > 64 * 1024, "a pipe's capacity and the buffer's");
    let mut received = available(&command);
    while input.sink().unwrap().1 {
        assert!(input.write(true));
        received.extend(available(&command));
    }
    assert!(received == sent);
}

#[test]
fn a_closed_reader_is_noticed_with_and_without_input() {
    let (command, sink) = pipe();
    let mut input = Input::new(sink, 64);
    drop(command);
    assert!(!input.write(true), "poll reports an error though nothing is to be written");
    input.read(&b"x"[..]).unwrap();
    assert!(!input.write(false));
    input.close();
    assert!(input.write(false));
    assert!(!input.wants_to_read());
}

#[test]
fn output_ends_with_the_command_though_others_hold_the_pipe() {
    let (source, mut command) = pipe();
    let mut output = Output::new(Some(source), 8);
    command.write_all(b"0123456789").unwrap();
    output.finish(None);
    command.write_all(b"later").unwrap();
    let mut line = Vec::new();
    // More than the buffer holds, and the line takes all of it: there is nothing to wait for.
    output.pass_rest(&mut line).unwrap();
    assert!(output.is_finished());
    assert_eq!(line, b"0123456789");
    assert_eq!(output.written(), 10);
}

#[test]
fn what_a_line_has_no_room_for_is_left_and_waits_for_it() {
    let (source, mut command) = pipe();
    let (mut line, mut full) = pipe();
    while full.write(&[0; 1 << 16]).is_ok() {}
    let mut output = Output::new(Some(source), 8);
    command.write_all(b"0123456789").unwrap();
    output.finish(None);
    output.pass_rest(&full).unwrap();
    assert!(output.wants_to_write() && !output.is_finished());
    available(&line);
    output.pass_rest(&full).unwrap();
    assert!(output.is_finished());
    let mut bytes = [0; 16];
    assert_eq!(line.read(&mut bytes).unwrap(), 10);
    assert_eq!(&bytes[..10], b"0123456789");
}

#[test]
fn output_of_a_terminal_ends_when_nothing_more_is_there() {
    let (source, mut command) = pipe();
    let mut output = Output::new(Some(source), 64);
    command.write_all(b"prompt").unwrap();
    output.finish(Some(1000));
    let mut line = Vec::new();
    output.pass_rest(&mut line).unwrap();
    assert!(output.is_finished());
    assert_eq!(line, b"prompt");
}

#[test]
fn output_that_nobody_wants_breaks_the_pipe() {
    let (source, mut command) = pipe();
    let mut output = Output::new(Some(source), 64);
    command.write_all(b"x").unwrap();
    assert!(output.read());
    output.close(false);
    assert!(output.is_finished() && !output.wants_to_write());
    assert_eq!(command.write(b"y").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_stream_that_does_not_exist_is_finished() {
    let mut output = Output::new(None, 64);
    assert!(output.source().is_none());
    output.finish(None);
    output.pass_rest(io::sink()).unwrap();
    assert!(output.is_finished());
}
