use proptest::prelude::*;

use super::super::fixture::{FORMATS, pack};
use super::*;

/// Bytes that compress, but not to nothing.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    (0..length)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 64 < 40 { (i / 64) as u8 } else { (state >> 28) as u8 }
        })
        .collect()
}

/// The whole output of `packed`.
fn unpack(packed: &[u8], limit: u64) -> Result<Vec<u8>, Error> {
    Unpacker::new(Input::bytes(packed.to_vec()), limit)?.into_bytes()
}

#[test]
fn every_format_comes_back_whole_and_ignores_the_appended_size() {
    let bytes = sample(300_000);
    for format in FORMATS {
        let mut packed = pack(format, &bytes);
        assert_eq!(Compression::detect(&packed), Some(format));
        assert!(packed.len() < bytes.len(), "{format}");
        assert!(unpack(&packed, 1 << 20).unwrap() == bytes, "{format}");
        packed.extend(300_000u32.to_le_bytes());
        assert!(unpack(&packed, 300_000).unwrap() == bytes, "{format}, size");
        packed.truncate(packed.len() - 3);
        assert!(unpack(&packed, 1 << 20).unwrap() == bytes, "{format}, 1 byte more");
    }
}

#[test]
fn output_is_bounded() {
    let bytes = sample(300_000);
    for format in FORMATS {
        let packed = pack(format, &bytes);
        let result = unpack(&packed, 299_999);
        assert!(
            matches!(result, Err(Error::TooBig { limit: 299_999, .. })),
            "{format}: {:?}",
            result.map(|b| b.len())
        );
    }
}

#[test]
fn lz4_has_several_blocks_and_frames() {
    let bytes = sample((8 << 20) + 5);
    let packed = pack(Compression::Lz4, &bytes);
    assert!(unpack(&packed, 1 << 30).unwrap() == bytes);
    let twice = [packed.clone(), packed].concat();
    assert!(unpack(&twice, 1 << 30).unwrap() == [bytes.clone(), bytes].concat());
}

#[test]
fn output_comes_in_chunks_that_follow_each_other() {
    let bytes = sample((8 << 20) + 700_000);
    for format in FORMATS {
        let input = Input::bytes(pack(format, &bytes));
        let mut unpacker = Unpacker::new(input, 1 << 30).unwrap();
        assert_eq!(unpacker.compression(), format);
        let mut end = 0;
        while !unpacker.chunk().is_empty() {
            assert_eq!(unpacker.offset(), end as u64);
            assert!(unpacker.chunk().len() <= 1 << 20);
            assert!(bytes[end..].starts_with(unpacker.chunk()), "{format}");
            end += unpacker.chunk().len();
            unpacker.advance().unwrap();
        }
        assert_eq!((end, unpacker.offset()), (bytes.len(), bytes.len() as u64));
        unpacker.advance().unwrap();
        assert!(unpacker.chunk().is_empty(), "{format} has ended");
    }
}

#[test]
fn an_lz4_block_cannot_be_longer_than_one_can_be() {
    let mut packed = lz4::MAGIC.to_vec();
    packed.extend([0xff, 0xff, 0xff, 0x7f, 0]);
    assert!(matches!(unpack(&packed, 100), Err(Error::Corrupt { .. })));
}

#[test]
fn an_lz4_block_is_short_at_the_end_of_a_frame_only() {
    let block = |packed: &mut Vec<u8>| {
        let block = lz4_flex::block::compress(b"a short block");
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    };
    let mut packed = lz4::MAGIC.to_vec();
    block(&mut packed);
    assert_eq!(unpack(&packed, 100).unwrap(), b"a short block");
    block(&mut packed);
    assert!(matches!(unpack(&packed, 100), Err(Error::Corrupt { .. })));
}

#[test]
fn what_the_system_fails_to_read_is_no_damage() {
    let error = Compression::Xz.error(io::Error::from_raw_os_error(5));
    assert!(error.to_string().starts_with("cannot read it: "), "{error}");
}

#[test]
fn a_stream_that_is_cut_off_is_an_error() {
    let bytes = sample(300_000);
    for format in FORMATS {
        let packed = pack(format, &bytes);
        for length in [packed.len() / 2, packed.len() - 9, 8] {
            let result = unpack(&packed[..length], 1 << 20);
            assert!(
                matches!(result, Err(Error::Truncated(_) | Error::Corrupt { .. })),
                "{format} at {length}: {:?}",
                result.map(|b| b.len())
            );
        }
    }
}

#[test]
fn what_cannot_be_unpacked_is_named() {
    let error = unpack(b"hello, world", 100).unwrap_err();
    assert!(error.to_string().contains("68, 65, 6c"), "{error}");
    let error = unpack(b"\x89LZO\0\x0d\x0a\x1a\x0a", 100).unwrap_err();
    assert_eq!(error.to_string(), "LZO compression is not supported");
    assert!(matches!(unpack(b"", 100), Err(Error::Unknown { .. })));
}

proptest! {
    #[test]
    fn arbitrary_streams_do_no_harm(
        format in 0usize..7,
        tail in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut packed = MAGIC[format].0.to_vec();
        packed.extend(tail);
        if let Ok(bytes) = unpack(&packed, 10_000) {
            prop_assert!(bytes.len() <= 10_000);
        }
    }

    #[test]
    fn damaged_streams_do_no_harm(
        format in 0usize..6,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut packed = pack(FORMATS[format], &sample(5_000));
        for (index, value) in damage {
            let index = index.index(packed.len());
            packed[index] = value;
        }
        if let Ok(bytes) = unpack(&packed, 10_000) {
            prop_assert!(bytes.len() <= 10_000);
        }
    }
}
