use vm_memory::Bytes;

use vm_memory::GuestMemoryMmap;

use super::*;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

fn archives(bytes: &[&[u8]]) -> Vec<Input> {
    bytes.iter().map(|bytes| Input::bytes(bytes.to_vec())).collect()
}

/// Places and writes them.
fn place(
    memory: &GuestMemoryMmap,
    archives: Vec<Input>,
    room: Range<u64>,
) -> Result<Option<Range<u64>>, Error> {
    let Some(initrd) = Initrd::new(archives, room)? else { return Ok(None) };
    let range = initrd.range();
    initrd.load(memory).map(|()| Some(range))
}

#[test]
fn archives_follow_each_other_at_multiples_of_four() {
    let memory = memory();
    let range =
        place(&memory, archives(&[b"abcde", b"", b"xyz"]), 0x1001..0x4800).unwrap().unwrap();
    assert_eq!(range, 0x4000..0x400b);
    let mut bytes = [0u8; 11];
    memory.read_slice(&mut bytes, GuestAddress(0x4000)).unwrap();
    assert_eq!(&bytes, b"abcde\0\0\0xyz");
}

#[test]
fn none_is_none() {
    assert!(place(&memory(), Vec::new(), 0..0x1000).unwrap().is_none());
    assert!(place(&memory(), archives(&[b"", b""]), 0..0x1000).unwrap().is_none());
}

#[test]
fn one_that_would_reach_into_the_kernel_is_refused() {
    let archive = vec![1u8; 0x2001];
    let result = place(&memory(), archives(&[&archive]), 0x1800..0x4000);
    assert!(matches!(result, Err(Error::TooBig { size: 0x2001, room: 0x2000 })));
    let exact = place(&memory(), archives(&[&archive[..0x2000]]), 0x1800..0x4000).unwrap().unwrap();
    assert_eq!(exact, 0x2000..0x4000);
    let none = Range { start: 0x9000, end: 0x1000 };
    assert!(matches!(place(&memory(), archives(&[b"x"]), none), Err(Error::TooBig { .. })));
}
