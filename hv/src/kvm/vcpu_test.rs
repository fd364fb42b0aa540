use super::*;

/// Bytes as the mapping has them, and what waits for the first `len` of them.
fn waiting(bytes: &mut [u8], len: usize, access: Access) -> Waiting {
    Waiting { at: NonNull::from(bytes).cast(), left: len, access }
}

fn data(bytes: &[u8]) -> Answer {
    Answer::Data(Data::new(bytes))
}

#[test]
fn a_string_that_is_read_is_asked_for_in_parts() {
    let mut bytes = [0; 20];
    let mut waiting = waiting(&mut bytes, 18, Access::In { port: 0x70, size: 2 });
    let part = |count| Some(Exit::In { port: 0x70, size: 2, count });
    assert_eq!(waiting.next_part(), part(4));
    assert_eq!(waiting.complete(&data(b"abcdefgh")), part(4));
    assert_eq!(waiting.complete(&Answer::None), part(1));
    // More than is asked for.
    assert_eq!(waiting.complete(&data(b"ijkl")), None);
    assert_eq!(&bytes, b"abcdefgh\xff\xff\xff\xff\xff\xff\xff\xffij\0\0");
}

#[test]
fn single_bytes_are_read_one_by_one() {
    for (answer, found) in [(data(b"a"), b"a\0"), (data(b"ab"), b"a\0"), (Answer::None, b"\xff\0")]
    {
        let mut bytes = [0; 2];
        let mut waiting = waiting(&mut bytes, 1, Access::In { port: 0x70, size: 1 });
        assert_eq!((waiting.complete(&answer), &bytes), (None, found));
    }
    // The first one of a string, as an answer that is too short, and the last one.
    let mut bytes = [0; 10];
    let mut waiting = waiting(&mut bytes, 9, Access::In { port: 0x70, size: 1 });
    let part = |count| Some(Exit::In { port: 0x70, size: 1, count });
    assert_eq!(waiting.complete(&data(b"a")), part(8));
    assert_eq!(waiting.complete(&data(b"bcdefgh")), part(1));
    assert_eq!(waiting.complete(&data(b"i")), None);
    assert_eq!(&bytes, b"abcdefghi\0");
}

#[test]
fn a_string_that_is_written_comes_in_parts_and_takes_no_answer() {
    let mut bytes = *b"abcdefghijk";
    let mut waiting = waiting(&mut bytes, 9, Access::Out { port: 0x70, size: 1 });
    let part = |part| Some(Exit::Out { port: 0x70, size: 1, data: Data::new(part) });
    assert_eq!(waiting.next_part(), part(b"abcdefgh"));
    assert_eq!(waiting.complete(&data(b"x")), part(b"i"));
    assert_eq!(waiting.complete(&data(b"x")), None);
    assert_eq!(&bytes, b"abcdefghijk");
}

#[test]
fn memory_that_is_read_gets_what_it_is_answered() {
    let mut bytes = [0; 5];
    let mut waiting = waiting(&mut bytes, 4, Access::MmioRead { gpa: 0x1000 });
    assert_eq!(waiting.next_part(), Some(Exit::MmioRead { gpa: 0x1000, size: 4 }));
    assert_eq!(waiting.complete(&data(b"abcd")), None);
    assert_eq!(&bytes, b"abcd\0");
}
