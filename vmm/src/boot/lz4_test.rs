use std::io::BufReader;

use proptest::prelude::*;

use super::super::fixture::lz4_with_size;
use super::*;

/// The whole output, read in pieces of `piece` bytes.
fn unpack(packed: &[u8], piece: usize) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::new(BufReader::with_capacity(piece, packed))?;
    let mut bytes = Vec::new();
    loop {
        decoder.advance()?;
        if decoder.chunk().is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(decoder.chunk());
    }
}

/// A frame of one block.
fn frame(block: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &(block.len() as u32).to_le_bytes(), block].concat()
}

/// Parts as a kernel has them: what repeats, near and far, and what does not.
fn parts() -> impl Strategy<Value = Vec<u8>> {
    let noise = |seed: u32, length: usize| -> Vec<u8> {
        let bytes = (0..length).scan(seed, |state, _| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*state >> 24) as u8)
        });
        bytes.collect()
    };
    let part =
        (any::<u32>(), 1_usize..40, 1_usize..60_000).prop_map(move |(seed, period, length)| {
            match seed % 3 {
                0 => noise(seed, length),
                1 => noise(seed, period).into_iter().cycle().take(length).collect(),
                _ => noise(seed % 5, period * 1000),
            }
        });
    prop::collection::vec(part, 1..40).prop_map(|parts| parts.concat())
}

/// Short lengths and small offsets, of which a block may be that is all right, and a few long ones.
fn block_byte() -> impl Strategy<Value = u8> {
    (0_u8..56).prop_map(|byte| if byte < 40 { byte } else { byte + 200 })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_packed_comes_back(bytes in parts(), piece in 1_usize..100_000) {
        prop_assert!(unpack(&lz4_with_size(&bytes), piece).unwrap() == bytes);
    }

    /// What lz4_flex takes comes out the same, and nothing else does.
    #[test]
    fn any_block_is_as_it_is_to_others(block in prop::collection::vec(block_byte(), 1..2000)) {
        let theirs = lz4_flex::block::decompress(&block, 1 << 20);
        prop_assert_eq!(unpack(&frame(&block), 64).ok(), theirs.ok());
        let theirs = lz4_flex::block::decompress(&block, 1 << 20);
        prop_assert_eq!(unpack(&frame(&block), 1 << 16).ok(), theirs.ok());
    }
}

#[test]
fn a_match_may_be_longer_than_all_that_is_kept() {
    for period in [1, 2, 3, 5, 31, 40_000] {
        let bytes: Vec<u8> = (0..(17 << 20) + 3).map(|i| (i % period % 251) as u8).collect();
        assert!(unpack(&lz4_with_size(&bytes), 1 << 16).unwrap() == bytes, "{period}");
    }
}

#[test]
fn a_block_unpacks_to_no_more_than_a_block() {
    // Zeros: a literal, and a match of some 8 MiB, more or less.
    let zeros = |more: usize| {
        let mut block = vec![0x1f, 0, 1, 0];
        block.extend(vec![0xff; more]);
        block.extend([0, 0]);
        frame(&block)
    };
    let most = BLOCK / 255;
    assert!(unpack(&zeros(most - 1), 64).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(unpack(&zeros(most + 1), 64).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn damage_is_told() {
    let blocks: [&[u8]; 7] = [
        &[0],                       // nothing
        &[0x30, 1, 2],              // fewer literals than said
        &[0xf0, 255],               // a length without an end
        &[0x10, 1, 1],              // half an offset
        &[0x10, 1, 0, 0, 0],        // no offset
        &[0x10, 1, 2, 0, 0],        // before the beginning
        &[0x1f, 1, 1, 0, 255, 255], // a length without an end
    ];
    for block in blocks {
        let error = unpack(&frame(block), 64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{block:?}");
    }
}

#[test]
fn a_block_knows_nothing_of_the_one_before() {
    let mut packed = lz4_with_size(&vec![0; BLOCK]);
    packed.truncate(packed.len() - 4);
    // A match that begins before this block does, at its end and where there is plenty behind it.
    for rest in [0, 250] {
        let block = [&[0x10, 1, 2, 0][..], &[0x10, 1, 1, 0].repeat(rest), &[0x10, 1]].concat();
        let packed = [&packed[..], &(block.len() as u32).to_le_bytes(), &block].concat();
        assert_eq!(unpack(&packed, 1 << 16).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
