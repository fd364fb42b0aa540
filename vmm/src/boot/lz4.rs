//! LZ4's legacy frame, `lz4 -l`: the one that kernels are packed in.
//!
//! Blocks, each with its length in front. There is no end mark: after the last block a kernel image
//! has the unpacked size, four bytes that would read as a length with nothing behind it.
//! See: lz4, doc/lz4_Frame_format.md, "Legacy frame".
//!
//! A block is 8 MiB, and the decoders that there are want it whole, on both sides: that would be most of what a machine takes
//! besides its guest's memory. [`Decoder`] keeps what a match may reach back to, and gives its output in
//! parts. See: lz4, doc/lz4_Block_format.md.

use std::io::{self, BufRead, ErrorKind, Read};

/// First bytes of a frame.
pub(super) const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Each block but the last unpacks to exactly this.
pub(super) const BLOCK: usize = 8 << 20;
/// The longest that a packed block can be. See: lz4, lib/lz4.h, `LZ4_COMPRESSBOUND`.
const PACKED_BLOCK: usize = BLOCK + BLOCK / 255 + 16;

/// How far a match reaches back.
const WINDOW: usize = 64 << 10;
/// How much comes out at a time: more than the window, which is moved each time.
const CHUNK: usize = 512 << 10;

/// What a length in a token is that goes on in the bytes after it.
const LONG: usize = 15;
/// The shortest match.
const MIN_MATCH: usize = 4;
/// A length in a token goes on in one byte at most.
const MAX_SHORT: usize = LONG + 254;
/// More than a sequence with such lengths takes packed, and unpacked with what is copied for nothing.
const SHORT_PACKED: usize = 3 + MAX_SHORT + 2 + STEP;
const SHORT_UNPACKED: usize = 2 * (MAX_SHORT + MIN_MATCH + STEP);
/// How much is copied at once.
const STEP: usize = 16;

/// Unpacks chunk after chunk.
pub(super) struct Decoder<R> {
    packed: R,
    /// The window, the chunk, and room.
    buffer: Vec<u8>,
    /// Where the chunk begins and ends.
    start: usize,
    end: usize,
    /// How much of the block is still packed.
    left: usize,
    /// How much the block unpacked to so far.
    unpacked: usize,
    /// Whether there was a block before.
    is_first: bool,
    next: Next,
}

/// What comes next. A sequence is a token, literals, and a match.
#[derive(Clone, Copy)]
enum Next {
    Token,
    Literals { left: usize, token: u8 },
    Match { left: usize, offset: usize },
}

impl<R: BufRead> Decoder<R> {
    /// Begins behind the first frame's magic.
    pub(super) fn new(mut packed: R) -> io::Result<Decoder<R>> {
        packed.read_exact(&mut [0; MAGIC.len()])?;
        Ok(Decoder {
            packed,
            buffer: vec![0; WINDOW + CHUNK],
            start: 0,
            end: 0,
            left: 0,
            unpacked: 0,
            is_first: true,
            next: Next::Token,
        })
    }

    /// What has come out last. Empty when everything has come out.
    pub(super) fn chunk(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Unpacks the next chunk.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        let kept = self.end.min(WINDOW);
        self.buffer.copy_within(self.end - kept..self.end, 0);
        (self.start, self.end) = (kept, kept);
        while self.room() > 0 {
            if self.left == 0 && matches!(self.next, Next::Token) && !self.next_block()? {
                break;
            }
            match self.next {
                Next::Token => {
                    self.short_sequences()?;
                    self.token()?;
                }
                Next::Literals { left: 0, token } => self.match_after(token)?,
                Next::Literals { left, token } => self.literals(left, token)?,
                Next::Match { left: 0, .. } => self.next = Next::Token,
                Next::Match { left, offset } => self.copy_match(left, offset),
            }
        }
        Ok(())
    }

    fn room(&self) -> usize {
        self.buffer.len() - self.end
    }

    /// Begins the next block, if there is one.
    fn next_block(&mut self) -> io::Result<bool> {
        let Some(length) = self.block_length()? else {
            return if self.is_first { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(false) };
        };
        // There are no checksums: this finds some of the damage that one would.
        if !self.is_first && self.unpacked != BLOCK {
            return Err(damaged("a block that is not the last one is short"));
        }
        if length == 0 || length > PACKED_BLOCK {
            return Err(damaged("a block has a length that a block can't have"));
        }
        (self.left, self.unpacked, self.is_first) = (length, 0, false);
        Ok(true)
    }

    /// Reads the next block's length, if there is a block.
    fn block_length(&mut self) -> io::Result<Option<usize>> {
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
                self.unpacked = BLOCK; // Another frame: `cat a.lz4 b.lz4`.
                continue;
            }
            return Ok(Some(u32::from_le_bytes(*bytes) as usize));
        }
    }

    /// Unpacks sequences with short lengths, as most are, while there is plenty of everything. So none of them is the block's
    /// last, which has no match. More is copied than is meant: what comes next is written over it.
    fn short_sequences(&mut self) -> io::Result<()> {
        let packed = self.packed.fill_buf()?;
        let packed = &packed[..packed.len().min(self.left)];
        let limit = self.buffer.len().min(self.end + BLOCK - self.unpacked);
        let buffer = &mut self.buffer[..limit];
        // Where the block begins, if that is still there.
        let start = self.end.saturating_sub(self.unpacked);
        let (mut read, mut end) = (0, self.end);
        while end + SHORT_UNPACKED <= buffer.len()
            && let Some(sequence) = packed.get(read..read + SHORT_PACKED)
        {
            let (mut literals, mut length) = lengths(sequence[0]);
            let mut at = 1;
            if literals == LONG {
                literals += usize::from(sequence[at]);
                at += 1;
            }
            if literals > MAX_SHORT {
                break;
            }
            let after = at + literals;
            if literals <= STEP {
                buffer[end..end + STEP].copy_from_slice(&sequence[at..at + STEP]);
            } else {
                buffer[end..end + literals].copy_from_slice(&sequence[at..after]);
            }
            let offset = usize::from(u16::from_le_bytes([sequence[after], sequence[after + 1]]));
            at = after + 2;
            if length == LONG {
                length += usize::from(sequence[at]);
                at += 1;
            }
            if length > MAX_SHORT {
                break;
            }
            let to = end + literals;
            if offset == 0 || offset > to - start {
                return Err(damaged("a match is before the block's beginning"));
            }
            length += MIN_MATCH;
            repeat(buffer, to, offset, length);
            end = to + length;
            read += at;
        }
        self.packed.consume(read);
        self.left -= read;
        self.came_out(end - self.end);
        Ok(())
    }

    fn token(&mut self) -> io::Result<()> {
        let token = self.byte()?;
        let left = self.length(lengths(token).0)?;
        if left > self.left || left > BLOCK - self.unpacked {
            return Err(damaged("literals are longer than the block"));
        }
        self.next = Next::Literals { left, token };
        Ok(())
    }

    fn literals(&mut self, left: usize, token: u8) -> io::Result<()> {
        let room = self.room();
        let packed = self.packed.fill_buf()?;
        let count = left.min(packed.len()).min(room);
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.buffer[self.end..self.end + count].copy_from_slice(&packed[..count]);
        self.packed.consume(count);
        self.left -= count;
        self.came_out(count);
        self.next = Next::Literals { left: left - count, token };
        Ok(())
    }

    fn match_after(&mut self, token: u8) -> io::Result<()> {
        if self.left == 0 {
            if self.unpacked == 0 {
                return Err(damaged("a block is empty"));
            }
            // The block's last sequence.
            self.next = Next::Token;
            return Ok(());
        }
        let offset = usize::from(u16::from_le_bytes([self.byte()?, self.byte()?]));
        let left = self.length(lengths(token).1)? + MIN_MATCH;
        if offset == 0 || offset > self.unpacked {
            return Err(damaged("a match is before the block's beginning"));
        }
        if left > BLOCK - self.unpacked {
            return Err(damaged("a match is longer than the block"));
        }
        self.next = Next::Match { left, offset };
        Ok(())
    }

    fn copy_match(&mut self, left: usize, offset: usize) {
        // A match that reaches into itself repeats: then twice as much comes each time.
        let count = left.min(self.room()).min(offset);
        let from = self.end - offset;
        self.buffer.copy_within(from..from + count, self.end);
        self.came_out(count);
        let offset = if count == offset && offset <= WINDOW / 2 { offset * 2 } else { offset };
        self.next = Next::Match { left: left - count, offset };
    }

    fn came_out(&mut self, count: usize) {
        self.end += count;
        self.unpacked += count;
    }

    /// A length: of the token, and what it goes on with.
    fn length(&mut self, of_token: usize) -> io::Result<usize> {
        let mut length = of_token;
        if of_token == LONG {
            loop {
                let more = self.byte()?;
                // A block's bytes are too few for an overflow.
                length += usize::from(more);
                if more != u8::MAX {
                    break;
                }
            }
        }
        Ok(length)
    }

    /// The next byte of the block.
    fn byte(&mut self) -> io::Result<u8> {
        if self.left == 0 {
            return Err(damaged("a block ends within a sequence"));
        }
        let byte = *self.packed.fill_buf()?.first().ok_or(ErrorKind::UnexpectedEof)?;
        self.packed.consume(1);
        self.left -= 1;
        Ok(byte)
    }
}

/// Copies at least `length` bytes from `offset` before `end` to there; what is copied may be part of what is copied from.
fn repeat(buffer: &mut [u8], end: usize, offset: usize, length: usize) {
    let from = end - offset;
    if offset < STEP {
        for at in 0..length {
            buffer[end + at] = buffer[from + at];
        }
        return;
    }
    let mut at = 0;
    while at < length {
        buffer.copy_within(from + at..from + at + STEP, end + at);
        at += STEP;
    }
}

/// The lengths in a token: of the literals, and of the match beyond the shortest.
fn lengths(token: u8) -> (usize, usize) {
    (usize::from(token >> 4), usize::from(token & 15))
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

#[cfg(test)]
#[path = "lz4_test.rs"]
mod lz4_test;
