//! The `bzImage`: real-mode code, the setup header, and the packed kernel.
//!
//! [`parse`] finds the header and the payload in the file's first bytes; it unpacks nothing.
//! See: Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".

use std::ops::Range;

use linux_loader::loader::bootparam::{XLF_KERNEL_64, setup_header};
use thiserror::Error;
use vm_memory::ByteValued;

/// Where the setup header begins in the file.
const HEADER: usize = 0x1f1;
/// The byte whose value, counted from [`HEADER_MAGIC`], ends the header.
const HEADER_LENGTH: usize = 0x201;
/// "HdrS".
const HEADER_MAGIC: usize = 0x202;
/// Up to here the header has had its fields since protocol 2.12.
const HEADER_END: usize = 0x268;
/// The setup code is counted in these.
const SECTOR: usize = 512;
/// Protocol 2.12 (Linux 3.8) brought `xloadflags`, which tell a 64-bit
/// kernel from a 32-bit one.
const OLDEST_VERSION: u16 = 0x20c;
/// As much of the file as [`parse`] wants to see: the most that the setup code can be.
pub const HEAD: usize = 256 * SECTOR;
/// The version string is far shorter; what has no NUL by then is no string.
const VERSION_LIMIT: usize = 256;

/// Why a file is no usable `bzImage`.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// No "HdrS".
    #[error("there is no setup header")]
    NoHeader,
    /// The file ends too early.
    #[error("the bzImage is cut off: it has {length} bytes and needs {needed}")]
    Truncated {
        /// Bytes there are.
        length: u64,
        /// Bytes that the header speaks of.
        needed: u64,
    },
    /// A kernel from before 2013.
    #[error("the kernel's boot protocol is {}.{:02}: 2.12 (Linux 3.8) or newer is needed", .0 >> 8, .0 & 0xff)]
    TooOld(u16),
    /// A kernel for 32-bit processors.
    #[error("it is a 32-bit x86 kernel: only 64-bit kernels are supported")]
    ThirtyTwoBit,
    /// The header names no payload.
    #[error("the bzImage contains no packed kernel")]
    NoPayload,
}

/// A `bzImage`'s parts.
#[derive(Debug)]
pub struct BzImage {
    /// The setup header; fields that this kernel does not have yet are zero.
    pub header: setup_header,
    /// Where in the file the packed kernel is, with what follows it up to `payload_length`.
    pub payload: Range<u64>,
    /// The kernel's version, as in "6.1.0-56-cloud-amd64 (debian-kernel@…) #1 …".
    pub version: Option<String>,
}

/// Whether `file` begins like a `bzImage`.
#[must_use]
pub fn detect(file: &[u8]) -> bool {
    file.get(HEADER_MAGIC..).is_some_and(|rest| rest.starts_with(b"HdrS"))
}

/// Finds the parts of a `bzImage` of `length` bytes that begins with `head`: [`HEAD`] bytes, or all
/// that it has.
pub fn parse(head: &[u8], length: u64) -> Result<BzImage, Error> {
    if !detect(head) {
        return Err(Error::NoHeader);
    }
    let header = header(head)?;
    if header.version < OLDEST_VERSION {
        return Err(Error::TooOld(header.version));
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(Error::ThirtyTwoBit);
    }
    Ok(BzImage { header, payload: payload(length, &header)?, version: version(head, &header) })
}

fn header(file: &[u8]) -> Result<setup_header, Error> {
    if file.len() < HEADER_END {
        return Err(Error::Truncated { length: file.len() as u64, needed: HEADER_END as u64 });
    }
    let end = HEADER_MAGIC + usize::from(file[HEADER_LENGTH]);
    let mut header = setup_header::default();
    let bytes = header.as_mut_slice();
    let length = end.min(file.len()).saturating_sub(HEADER).min(bytes.len());
    bytes[..length].copy_from_slice(&file[HEADER..HEADER + length]);
    Ok(header)
}

fn payload(length: u64, header: &setup_header) -> Result<Range<u64>, Error> {
    if header.payload_length == 0 {
        return Err(Error::NoPayload);
    }
    let start = setup_size(header) as u64 + u64::from(header.payload_offset);
    let needed = start + u64::from(header.payload_length);
    if needed > length {
        return Err(Error::Truncated { length, needed });
    }
    Ok(start..needed)
}

/// The boot sector and the setup code: what precedes the protected-mode part.
fn setup_size(header: &setup_header) -> usize {
    let sectors = match header.setup_sects {
        0 => 4, // "for backwards compatibility", boot.rst
        sectors => usize::from(sectors),
    };
    (1 + sectors) * SECTOR
}

fn version(file: &[u8], header: &setup_header) -> Option<String> {
    if header.kernel_version == 0 {
        return None;
    }
    let start = usize::from(header.kernel_version) + SECTOR;
    let setup = file.get(..setup_size(header))?;
    let text = setup.get(start..)?;
    let text = &text[..text.len().min(VERSION_LIMIT)];
    let end = text.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&text[..end]).into_owned())
}

#[cfg(test)]
#[path = "bzimage_test.rs"]
mod bzimage_test;
