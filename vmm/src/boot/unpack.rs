//! Unpacks what a kernel build can pack: all of its formats but LZO.
//!
//! Output is bounded by the caller, memory by the output plus a window of at
//! most [`MAX_WINDOW`]. Bytes after the compressed stream are ignored: a
//! kernel build appends the unpacked size as four bytes.
//! See: Linux, scripts/Makefile.lib, `size_append`.

use std::fmt;
use std::io::{self, ErrorKind, Read};

use lz4_flex::block::{DecompressError, decompress_into};
use thiserror::Error;

/// Largest window (dictionary) that a stream may ask for: a kernel is packed
/// with up to 128 MiB (`zstd -22 --ultra`).
pub const MAX_WINDOW: u64 = 128 << 20;

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// `CONFIG_KERNEL_GZIP`
    Gzip,
    /// `CONFIG_KERNEL_BZIP2`
    Bzip2,
    /// `CONFIG_KERNEL_LZMA`
    Lzma,
    /// `CONFIG_KERNEL_XZ`
    Xz,
    /// `CONFIG_KERNEL_LZO`: recognized, not unpacked.
    Lzo,
    /// `CONFIG_KERNEL_LZ4`: the legacy frame of `lz4 -l`.
    Lz4,
    /// `CONFIG_KERNEL_ZSTD`
    Zstd,
}

/// First bytes of each format. See: Linux, lib/decompress.c.
const MAGIC: [(&[u8], Compression); 7] = [
    (&[0x1f, 0x8b], Compression::Gzip),
    (b"BZh", Compression::Bzip2),
    (&[0x5d, 0x00, 0x00], Compression::Lzma),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
    (&[0x89, b'L', b'Z', b'O'], Compression::Lzo),
    (&LZ4_LEGACY, Compression::Lz4),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
];

/// See: lz4, doc/lz4_Frame_format.md, "Legacy frame".
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Each block but the last unpacks to exactly this.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// Why something cannot be unpacked.
#[derive(Debug, Error)]
pub enum Error {
    /// No known format begins like this.
    #[error("unknown compression (it begins with {magic:02x?})")]
    Unknown {
        /// The first bytes.
        magic: Vec<u8>,
    },
    /// A format that there is no decompressor for here.
    #[error("{0} compression is not supported")]
    Unsupported(Compression),
    /// The stream ends before its end.
    #[error("the {0} stream is cut off")]
    Truncated(Compression),
    /// The stream is damaged.
    #[error("the {compression} stream is damaged")]
    Corrupt {
        /// Its format.
        compression: Compression,
        /// What the decompressor says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More comes out than the caller allows.
    #[error("the {compression} stream unpacks to more than {limit} bytes")]
    TooBig {
        /// Its format.
        compression: Compression,
        /// The caller's limit.
        limit: u64,
    },
    /// The host has no memory for it.
    #[error("no memory to unpack {0} bytes")]
    NoMemory(u64),
}

impl Compression {
    /// Recognizes a format by its first bytes.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Option<Compression> {
        MAGIC.into_iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, format)| format)
    }

    /// The name that people and kernel configurations use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Bzip2 => "bzip2",
            Compression::Lzma => "LZMA",
            Compression::Xz => "XZ",
            Compression::Lzo => "LZO",
            Compression::Lz4 => "LZ4",
            Compression::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Unpacks `packed` to at most `limit` bytes. `expected` is how many will
/// come out, if that is known: a hint that saves copying, nothing more.
pub fn unpack(packed: &[u8], expected: Option<u64>, limit: u64) -> Result<Vec<u8>, Error> {
    let Some(compression) = Compression::detect(packed) else {
        return Err(Error::Unknown { magic: packed[..packed.len().min(6)].to_vec() });
    };
    let output = Output { compression, expected, limit };
    match compression {
        Compression::Gzip => output.read(flate2::bufread::GzDecoder::new(packed)),
        Compression::Bzip2 => output.read(bzip2::bufread::BzDecoder::new(packed)),
        Compression::Lzma => output.read(
            lzma_rust2::LzmaReader::new_mem_limit(packed, MAX_WINDOW_KIB, None)
                .map_err(|e| output.error(e))?,
        ),
        Compression::Xz => {
            output.read(lzma_rust2::XzReader::new_mem_limit(packed, false, MAX_WINDOW_KIB))
        }
        Compression::Lz4 => output.lz4_legacy(packed),
        Compression::Zstd => output.read(
            ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, MAX_WINDOW)
                .map_err(|e| output.corrupt(e))?,
        ),
        Compression::Lzo => Err(Error::Unsupported(compression)),
    }
}

/// Room for a dictionary of [`MAX_WINDOW`] and what an LZMA decoder has besides.
const MAX_WINDOW_KIB: u32 = (MAX_WINDOW >> 10) as u32 + 1024;

/// What may come out.
#[derive(Clone, Copy)]
struct Output {
    compression: Compression,
    expected: Option<u64>,
    limit: u64,
}

impl Output {
    fn read(self, stream: impl Read) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let room = self.expected.unwrap_or(0).min(self.limit);
        reserve(&mut bytes, room)?;
        // One more than allowed tells "as much" from "more".
        stream
            .take(self.limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|e| self.error(e))?;
        if bytes.len() as u64 > self.limit {
            return Err(self.too_big());
        }
        Ok(bytes)
    }

    /// Blocks, each with its length in front. There is no end mark: after
    /// the last block a kernel image has the unpacked size, four bytes that
    /// would read as a length with nothing behind it.
    fn lz4_legacy(self, packed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut rest = &packed[LZ4_LEGACY.len()..];
        // Zeroed as a whole, and by the system: pages cost when they are used.
        let mut bytes = vec![0; self.room(self.expected.unwrap_or(0))];
        let mut filled = 0;
        while let Some((length, data)) = rest.split_first_chunk::<4>() {
            if data.is_empty() {
                break;
            }
            if *length == LZ4_LEGACY {
                rest = data; // Another frame: `cat a.lz4 b.lz4`.
                continue;
            }
            let length = u32::from_le_bytes(*length) as usize;
            let Some((block, after)) = data.split_at_checked(length) else {
                return Err(Error::Truncated(self.compression));
            };
            filled += self.lz4_block(block, &mut bytes, filled)?;
            rest = after;
        }
        if filled == 0 {
            return Err(Error::Truncated(self.compression));
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Unpacks a block to `bytes[filled..]`; makes room if the size hint has
    /// left too little.
    fn lz4_block(self, block: &[u8], bytes: &mut Vec<u8>, filled: usize) -> Result<usize, Error> {
        let room = self.room((filled + LZ4_LEGACY_BLOCK) as u64);
        let hinted = room.min(bytes.len());
        match decompress_into(block, &mut bytes[filled..hinted]) {
            Err(DecompressError::OutputTooSmall { .. }) if hinted < room => {
                bytes.resize(room, 0);
                decompress_into(block, &mut bytes[filled..room])
            }
            result => result,
        }
        .map_err(|e| self.lz4_error(e, room - filled))
    }

    fn room(self, wanted: u64) -> usize {
        usize::try_from(wanted.min(self.limit)).unwrap_or(usize::MAX)
    }

    fn lz4_error(self, error: DecompressError, room: usize) -> Error {
        match error {
            // A full block is the format's own bound, not the caller's.
            DecompressError::OutputTooSmall { .. } if room < LZ4_LEGACY_BLOCK => self.too_big(),
            error => self.corrupt(error),
        }
    }

    fn error(self, error: io::Error) -> Error {
        match error.kind() {
            ErrorKind::UnexpectedEof => Error::Truncated(self.compression),
            _ => self.corrupt(error),
        }
    }

    fn corrupt(self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Corrupt { compression: self.compression, source: error.into() }
    }

    fn too_big(self) -> Error {
        Error::TooBig { compression: self.compression, limit: self.limit }
    }
}

fn reserve(bytes: &mut Vec<u8>, room: u64) -> Result<(), Error> {
    usize::try_from(room)
        .ok()
        .and_then(|room| bytes.try_reserve_exact(room).ok())
        .ok_or(Error::NoMemory(room))
}

#[cfg(test)]
#[path = "unpack_test.rs"]
mod unpack_test;
