//! Frames: a header of eight bytes and a payload.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0–1 | the magic number |
//! | 2 | [`VERSION`] |
//! | 3 | which message it is |
//! | 4–7 | the payload's length, little-endian, at most [`MAX_PAYLOAD`] |
//!
//! [`Message`] is what a direction's messages implement (see `message.rs`), [`Decoder`] takes a
//! stream apart that comes in pieces of any size.

use std::fmt;
use std::marker::PhantomData;

use crate::wire::{Reader, Writer};

/// The protocol's version. Both ends are built from one tree: a difference is an error, not a negotiation.
pub const VERSION: u8 = 1;

/// The length of a frame's header in bytes.
pub const HEADER: usize = 8;

/// The longest payload in bytes; in practice a bound on a command's arguments and environment.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Starts each frame. The first byte is not ASCII, so that stray text is seen at once.
const MAGIC: [u8; 2] = [0xab, b'U'];

/// A message of one of the two directions.
pub trait Message: Sized {
    /// Returns the number that says which message it is.
    #[doc(hidden)]
    fn kind(&self) -> u8;

    /// Appends the fields.
    #[doc(hidden)]
    fn write(&self, fields: &mut Fields<'_>);

    /// Reads the message's fields; whatever they leave over is an error of the caller's finding.
    #[doc(hidden)]
    fn read(kind: u8, fields: &mut FieldReader<'_>) -> Result<Self, DecodeError>;

    /// Checks what the other end would refuse.
    #[doc(hidden)]
    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }

    /// Appends the message to `out` as a frame; leaves `out` as it was if it can't be sent.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if let Err(DecodeError::Field(field)) = self.check() {
            return Err(EncodeError::Field(field));
        }
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, self.kind(), 0, 0, 0, 0]);
        self.write(&mut Fields(Writer(out)));
        let length = out.len() - start - HEADER;
        match u32::try_from(length) {
            Ok(encoded) if length <= MAX_PAYLOAD => {
                out[start + 4..start + HEADER].copy_from_slice(&encoded.to_le_bytes());
                Ok(())
            }
            _ => {
                out.truncate(start);
                Err(EncodeError::TooLong { length })
            }
        }
    }
}

/// Where [`Message::write`] puts a message's fields.
#[doc(hidden)]
pub struct Fields<'a>(pub(crate) Writer<'a>);

/// Where [`Message::read`] takes a message's fields from.
#[doc(hidden)]
pub struct FieldReader<'a>(pub(crate) Reader<'a>);

/// Turns a stream of bytes into messages. It never holds more than one frame.
#[derive(Debug)]
pub struct Decoder<M> {
    /// The frame that is coming in, header included.
    frame: Vec<u8>,
    /// Set by the first error: where the next frame would begin is then unknown.
    failed: Option<DecodeError>,
    message: PhantomData<M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Self { frame: Vec::new(), failed: None, message: PhantomData }
    }
}

impl<M: Message> Decoder<M> {
    /// Takes bytes off the front of `input` up to the end of a frame, and returns its message.
    ///
    /// `None` says that `input` is used up and more is needed. After an error each call returns
    /// that error again and takes nothing.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<M>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.advance(input);
        if let Err(error) = result {
            self.failed = Some(error);
            self.frame = Vec::new();
        }
        result
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<M>, DecodeError> {
        self.fill(input, HEADER);
        // Before the header is whole: stray text need not be as long as one.
        if let Some(start) = self.frame.first_chunk::<2>()
            && *start != MAGIC
        {
            return Err(DecodeError::Magic(*start));
        }
        let Some((header, _)) = self.frame.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (kind, length) = parse_header(*header)?;
        self.fill(input, HEADER + length);
        if self.frame.len() < HEADER + length {
            return Ok(None);
        }
        let mut fields = FieldReader(Reader(&self.frame[HEADER..]));
        let message = M::read(kind, &mut fields)?;
        if !fields.0.0.is_empty() {
            return Err(DecodeError::Excess);
        }
        message.check()?;
        // A long frame comes once in a session (`Start`): its memory is not kept.
        if self.frame.capacity() > 4096 {
            self.frame = Vec::new();
        }
        self.frame.clear();
        Ok(Some(message))
    }

    /// Moves bytes from `input` until the frame has `length` of them.
    fn fill(&mut self, input: &mut &[u8], length: usize) {
        let wanted = length.saturating_sub(self.frame.len());
        let (head, tail) = input.split_at(wanted.min(input.len()));
        self.frame.extend_from_slice(head);
        *input = tail;
    }
}

/// Returns the message's number and the payload's length. The magic number has been checked.
fn parse_header(header: [u8; HEADER]) -> Result<(u8, usize), DecodeError> {
    let [_, _, version, kind, l0, l1, l2, l3] = header;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    match usize::try_from(length) {
        Ok(length) if length <= MAX_PAYLOAD => Ok((kind, length)),
        _ => Err(DecodeError::TooLong { length }),
    }
}

/// Why a stream can't be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A frame doesn't begin with the magic number.
    Magic([u8; 2]),
    /// The other end speaks another version.
    Version(u8),
    /// A frame claims a payload beyond [`MAX_PAYLOAD`].
    TooLong {
        /// The length that it claims.
        length: u32,
    },
    /// No message of this direction has this number.
    Kind(u8),
    /// A payload ends within a field.
    Truncated,
    /// A payload goes on after its last field.
    Excess,
    /// A field, named here, has a value that it can't have.
    Field(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic([a, b]) => write!(f, "bytes that are no frame: {a:02x} {b:02x}"),
            Self::Version(version) => {
                write!(f, "version {version} of the protocol, where this end has version {VERSION}")
            }
            Self::TooLong { length } => write!(f, "a frame of {length} bytes"),
            Self::Kind(kind) => write!(f, "a message of unknown kind {kind}"),
            Self::Truncated => write!(f, "a message that is cut short"),
            Self::Excess => write!(f, "a message with bytes left over"),
            Self::Field(field) => write!(f, "a message with a bad {field}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Why a message can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The payload would be longer than [`MAX_PAYLOAD`].
    TooLong {
        /// The length that it would have.
        length: usize,
    },
    /// A field, named here, has a value that can't be passed on, such as an argument with a NUL.
    Field(&'static str),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length } => {
                write!(f, "command and environment take {length} bytes, {MAX_PAYLOAD} is the most")
            }
            Self::Field(field) => write!(f, "bad {field}"),
        }
    }
}

impl std::error::Error for EncodeError {}
