//! Unpacks what a kernel build can pack: all of its formats but LZO.
//!
//! An [`Unpacker`] gives its output chunk by chunk, and never has all of it in memory. What it
//! takes is a chunk (256 KiB; 512 KiB for LZ4) and what the format itself needs: next to nothing for
//! gzip and LZ4, 4 MiB for bzip2, and for LZMA, XZ and zstd the window (dictionary) that the stream asks
//! for, at most [`MAX_WINDOW`], as far as the output fills it. A kernel packed with `zstd -22
//! --ultra` has a window bigger than itself: to unpack it takes as much memory as it has bytes.
//!
//! Bytes after the compressed stream are ignored: a kernel build appends the unpacked size as four
//! bytes. See: Linux, scripts/Makefile.lib, `size_append`.

use std::fmt;
use std::io::{self, BufReader, ErrorKind, Read};

use thiserror::Error;

use super::input::Input;
use super::lz4;

/// Largest window (dictionary) that a stream may ask for: a kernel is packed
/// with up to 128 MiB (`zstd -22 --ultra`).
pub const MAX_WINDOW: u64 = 128 << 20;

/// How much comes out at a time, but for LZ4: small enough to stay in a processor's cache on its
/// way to the guest, big enough to begin with all headers of a kernel.
const CHUNK: usize = 256 << 10;

/// How much is read of a file at a time.
const READ_AHEAD: usize = 64 << 10;

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
    (&lz4::MAGIC, Compression::Lz4),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
];

/// Why something cannot be unpacked.
#[derive(Debug, Error)]
pub enum Error {
    /// The packed bytes cannot be read.
    #[error("cannot read it: {0}")]
    Read(#[source] io::Error),
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

    fn error(self, error: io::Error) -> Error {
        match error.kind() {
            // Decompressors make no errors with the system's numbers.
            _ if error.raw_os_error().is_some() => Error::Read(error),
            ErrorKind::UnexpectedEof => Error::Truncated(self),
            _ => self.corrupt(error),
        }
    }

    fn corrupt(self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Corrupt { compression: self, source: error.into() }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Room for a dictionary of [`MAX_WINDOW`] and what an LZMA decoder has besides.
const MAX_WINDOW_KIB: u32 = (MAX_WINDOW >> 10) as u32 + 1024;

/// Unpacks one stream, once: see [`Unpacker::chunk`] and [`Unpacker::advance`].
pub struct Unpacker {
    compression: Compression,
    limit: u64,
    decoder: Decoder,
    /// Where the chunk lies in the whole output.
    offset: u64,
}

enum Decoder {
    Stream(Stream),
    Lz4(lz4::Decoder<BufReader<Input>>),
}

/// What comes out of a decoder that is read from.
struct Stream {
    unpacked: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// How much of the buffer is the chunk.
    filled: usize,
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unpacker { compression, limit, offset, .. } = self;
        f.debug_struct("Unpacker")
            .field("compression", compression)
            .field("limit", limit)
            .field("offset", offset)
            .field("chunk", &self.chunk().len())
            .finish_non_exhaustive()
    }
}

impl Unpacker {
    /// Begins to unpack `packed`, which may become `limit` bytes, and gets the first chunk.
    pub fn new(packed: Input, limit: u64) -> Result<Unpacker, Error> {
        let magic = packed.head(6).map_err(Error::Read)?;
        let Some(compression) = Compression::detect(&magic) else {
            return Err(Error::Unknown { magic });
        };
        let decoder = Decoder::new(compression, packed)?;
        let mut this = Unpacker { compression, limit, decoder, offset: 0 };
        this.advance()?;
        Ok(this)
    }

    /// How it is packed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// How much may come out.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What has come out last, after the output's first [`Unpacker::offset`] bytes. Empty when
    /// everything has come out.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        match &self.decoder {
            Decoder::Stream(stream) => &stream.buffer[..stream.filled],
            Decoder::Lz4(decoder) => decoder.chunk(),
        }
    }

    /// How much came out before the chunk.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on to the next chunk.
    pub fn advance(&mut self) -> Result<(), Error> {
        self.offset += self.chunk().len() as u64;
        match &mut self.decoder {
            Decoder::Stream(stream) => stream.advance(),
            Decoder::Lz4(decoder) => decoder.advance(),
        }
        .map_err(|error| self.compression.error(error))?;
        if self.offset + self.chunk().len() as u64 > self.limit {
            return Err(self.too_big());
        }
        Ok(())
    }

    /// The whole output from the current chunk on, in memory after all.
    pub fn into_bytes(mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while !self.chunk().is_empty() {
            bytes.extend_from_slice(self.chunk());
            self.advance()?;
        }
        Ok(bytes)
    }

    /// What there is to say when more comes out than is allowed.
    pub(super) fn too_big(&self) -> Error {
        Error::TooBig { compression: self.compression, limit: self.limit }
    }
}

impl Decoder {
    fn new(compression: Compression, packed: Input) -> Result<Decoder, Error> {
        let packed = BufReader::with_capacity(READ_AHEAD, packed);
        let unpacked: Box<dyn Read + Send> = match compression {
            Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(packed)),
            Compression::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(packed)),
            Compression::Lzma => Box::new(
                lzma_rust2::LzmaReader::new_mem_limit(packed, MAX_WINDOW_KIB, None)
                    .map_err(|error| compression.error(error))?,
            ),
            Compression::Xz => {
                Box::new(lzma_rust2::XzReader::new_mem_limit(packed, false, MAX_WINDOW_KIB))
            }
            Compression::Zstd => Box::new(
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, MAX_WINDOW)
                    .map_err(|error| compression.corrupt(error))?,
            ),
            Compression::Lz4 => {
                let decoder = lz4::Decoder::new(packed).map_err(|error| compression.error(error));
                return decoder.map(Decoder::Lz4);
            }
            Compression::Lzo => return Err(Error::Unsupported(compression)),
        };
        Ok(Decoder::Stream(Stream { unpacked, buffer: vec![0; CHUNK], filled: 0 }))
    }
}

impl Stream {
    /// Fills the buffer as far as the stream goes.
    fn advance(&mut self) -> io::Result<()> {
        self.filled = 0;
        while self.filled < self.buffer.len() {
            match self.unpacked.read(&mut self.buffer[self.filled..]) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "unpack_test.rs"]
mod unpack_test;
