//! LZ4's legacy frame, `lz4 -l`: the one that kernels are packed in.
//!
//! Blocks, each with its length in front. There is no end mark: after the last block a kernel image
//! has the unpacked size, four bytes that would read as a length with nothing behind it.
//! See: lz4, doc/lz4_Frame_format.md, "Legacy frame".

use std::io::{self, BufRead, ErrorKind, Read};

use lz4_flex::block::{decompress_into, get_maximum_output_size};

/// First bytes of a frame.
pub(super) const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Each block but the last unpacks to exactly this.
pub(super) const BLOCK: usize = 8 << 20;

/// Unpacks block after block.
pub(super) struct Decoder<R> {
    packed: R,
    /// The packed block.
    block: Vec<u8>,
    /// How much the last block unpacked to: 0 before the first one.
    last: usize,
}

impl<R: BufRead> Decoder<R> {
    /// Begins behind the first frame's magic.
    pub(super) fn new(mut packed: R) -> io::Result<Decoder<R>> {
        packed.read_exact(&mut [0; MAGIC.len()])?;
        Ok(Decoder { packed, block: Vec::new(), last: 0 })
    }

    /// Unpacks the next block to the beginning of `output`, which has [`BLOCK`] bytes, and tells
    /// its length: 0 after the last one.
    pub(super) fn block(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let Some(length) = self.length()? else {
            return if self.last == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(0) };
        };
        if length as usize > get_maximum_output_size(BLOCK) {
            return Err(damaged("a block is longer than a block can be"));
        }
        self.block.clear();
        self.packed.by_ref().take(length.into()).read_to_end(&mut self.block)?;
        if self.block.len() < length as usize {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match decompress_into(&self.block, output).map_err(damaged)? {
            0 => Err(damaged("a block is empty")),
            count => {
                self.last = count;
                Ok(count)
            }
        }
    }

    /// Reads the next block's length, if there is a block.
    fn length(&mut self) -> io::Result<Option<u32>> {
        let mut length = Vec::new();
        loop {
            length.clear();
            self.packed.by_ref().take(4).read_to_end(&mut length)?;
            let Some(bytes) = length.first_chunk() else {
                return Ok(None);
            };
            if self.packed.fill_buf()?.is_empty() {
                return Ok(None);
            }
            if *bytes == MAGIC {
                self.last = BLOCK; // Another frame: `cat a.lz4 b.lz4`.
                continue;
            }
            // There are no checksums: this finds some of the damage that one would.
            if self.last != 0 && self.last != BLOCK {
                return Err(damaged("a block that is not the last one is short"));
            }
            return Ok(Some(u32::from_le_bytes(*bytes)));
        }
    }
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
