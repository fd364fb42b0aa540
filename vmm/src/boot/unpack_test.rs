use std::io::Write;

use proptest::prelude::*;

use super::super::fixture::lz4_with_size;
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

fn pack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            w.write_all(bytes).unwrap();
            w.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut w = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            w.write_all(bytes).unwrap();
            w.finish().unwrap()
        }
        Compression::Lzma => {
            let options = lzma_rust2::LzmaOptions::with_preset(1);
            let mut w = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
            w.write_all(bytes).unwrap();
            w.finish().unwrap()
        }
        Compression::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut w = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            w.write_all(bytes).unwrap();
            w.finish().unwrap()
        }
        Compression::Lz4 => {
            let mut packed = lz4_with_size(bytes);
            packed.truncate(packed.len() - 4);
            packed
        }
        Compression::Zstd => {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        }
        Compression::Lzo => unreachable!("there is no encoder"),
    }
}

const FORMATS: [Compression; 6] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Lzma,
    Compression::Xz,
    Compression::Lz4,
    Compression::Zstd,
];

#[test]
fn every_format_comes_back_whole_and_ignores_the_appended_size() {
    let bytes = sample(300_000);
    for format in FORMATS {
        let mut packed = pack(format, &bytes);
        assert_eq!(Compression::detect(&packed), Some(format));
        assert!(packed.len() < bytes.len(), "{format}");
        for expected in [None, Some(300_000), Some(7), Some(u64::MAX)] {
            assert!(unpack(&packed, expected, 1 << 20).unwrap() == bytes, "{format}");
        }
        packed.extend(300_000u32.to_le_bytes());
        assert!(unpack(&packed, Some(300_000), 300_000).unwrap() == bytes, "{format}, size");
        packed.truncate(packed.len() - 3);
        assert!(unpack(&packed, None, 1 << 20).unwrap() == bytes, "{format}, 1 byte more");
    }
}

#[test]
fn output_is_bounded() {
    let bytes = sample(300_000);
    for format in FORMATS {
        let packed = pack(format, &bytes);
        let result = unpack(&packed, Some(300_000), 299_999);
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
    assert!(unpack(&packed, None, 1 << 30).unwrap() == bytes);
    let twice = [packed.clone(), packed].concat();
    assert!(unpack(&twice, None, 1 << 30).unwrap() == [bytes.clone(), bytes].concat());
}

#[test]
fn a_stream_that_is_cut_off_is_an_error() {
    let bytes = sample(300_000);
    for format in FORMATS {
        let packed = pack(format, &bytes);
        for length in [packed.len() / 2, packed.len() - 9, 8] {
            let result = unpack(&packed[..length], Some(300_000), 1 << 20);
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
    let error = unpack(b"hello, world", None, 100).unwrap_err();
    assert!(error.to_string().contains("68, 65, 6c"), "{error}");
    let error = unpack(b"\x89LZO\0\x0d\x0a\x1a\x0a", None, 100).unwrap_err();
    assert_eq!(error.to_string(), "LZO compression is not supported");
    assert!(matches!(unpack(b"", None, 100), Err(Error::Unknown { .. })));
}

proptest! {
    #[test]
    fn arbitrary_streams_do_no_harm(
        format in 0usize..7,
        tail in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut packed = MAGIC[format].0.to_vec();
        packed.extend(tail);
        if let Ok(bytes) = unpack(&packed, Some(1000), 10_000) {
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
        if let Ok(bytes) = unpack(&packed, Some(5_000), 10_000) {
            prop_assert!(bytes.len() <= 10_000);
        }
    }
}
