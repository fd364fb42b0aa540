//! [`Request`]: what the driver asks a disk for, the [`Target`]; most are a [`Transfer`].
//!
//! See: VIRTIO 1.2, 5.2.6.

use std::io;
use std::sync::Arc;

use hv::io_ring::Direction;
use vm_memory::GuestMemoryMmap;

use super::MOST_SECTORS;
use crate::disk::{Disk, SECTOR};
use crate::virtio::queue::{self, Broken, Buffer, Chain};

/// Bytes before the data: type, 4 that are reserved, and the first sector.
const HEADER: u64 = 16;

/// Types.
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// How it went.
mod status {
    pub const OK: u8 = 0;
    pub const ERROR: u8 = 1;
    pub const UNSUPPORTED: u8 = 2;
}

/// What requests are for.
#[derive(Clone)]
pub struct Target {
    /// The disk.
    pub disk: Arc<Disk>,
    /// What the driver is told for a serial number.
    pub serial: [u8; 20],
    /// The driver does not know that it has to flush: what was written is on the medium. See: VIRTIO 1.2, 5.2.6.2.
    pub writes_through: bool,
}

/// What a request moves.
pub struct Transfer<'a> {
    /// Which way.
    pub direction: Direction,
    /// Where on the disk.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Where in the guest's memory.
    pub buffers: &'a [Buffer],
}

/// A request.
#[derive(Debug)]
pub struct Request {
    kind: u32,
    sector: u64,
    /// What is read from the guest's memory, or written to it.
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
    /// Where the status goes.
    status: Vec<Buffer>,
}

impl Request {
    /// Takes one apart.
    ///
    /// # Errors
    /// When there is no whole header, or no place for the status.
    pub fn read(memory: &GuestMemoryMmap, chain: &Chain) -> Result<Self, Broken> {
        let mut header = [0; HEADER as usize];
        if queue::read(memory, &chain.readable, &mut header)? < header.len() {
            return Err(Broken);
        }
        let [kind, _, low, high] = [0, 4, 8, 12].map(|at| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        });
        let room = queue::size_of(&chain.writable).checked_sub(1).ok_or(Broken)?;
        Ok(Self {
            kind,
            sector: u64::from(high) << 32 | u64::from(low),
            readable: queue::part(&chain.readable, HEADER, u64::MAX),
            writable: queue::part(&chain.writable, 0, room),
            status: queue::part(&chain.writable, room, 1),
        })
    }

    /// What it moves between the disk and the guest's memory, if that is all that it asks for.
    #[must_use]
    pub fn transfer(&self, target: &Target) -> Option<Transfer<'_>> {
        let direction = match self.kind {
            kind::IN => Direction::Read,
            kind::OUT if !target.writes_through && !target.disk.is_read_only() => Direction::Write,
            _ => return None,
        };
        let buffers = self.buffers(direction);
        let size = queue::size_of(buffers);
        let offset = place(&target.disk, self.sector, size).ok().filter(|_| size != 0)?;
        Some(Transfer { direction, offset, size, buffers })
    }

    /// Where in the guest's memory what is read goes, or what is written is.
    #[must_use]
    pub fn buffers(&self, direction: Direction) -> &[Buffer] {
        match direction {
            Direction::Read => &self.writable,
            Direction::Write => &self.readable,
        }
    }

    /// Whether it takes the longer the more the host has to do, or the medium: all but what is wrong with it, and transfers.
    #[must_use]
    pub fn takes_long(&self, target: &Target) -> bool {
        match self.kind {
            kind::FLUSH | kind::DISCARD | kind::WRITE_ZEROES => true,
            kind::OUT => target.writes_through,
            _ => false,
        }
    }

    /// Whether it asks for what was written to be on the medium.
    #[must_use]
    pub fn is_flush(&self) -> bool {
        self.kind == kind::FLUSH
    }

    /// Does it, and writes how it went. Gives how many bytes were written to the guest's memory.
    ///
    /// # Errors
    /// When the status cannot be written.
    pub fn carry_out(&self, target: &Target, memory: &GuestMemoryMmap) -> Result<u32, Broken> {
        let (status, written) = match self.execute(target, memory) {
            Ok(written) => (status::OK, written),
            Err(Failure::Unsupported) => (status::UNSUPPORTED, 0),
            Err(Failure::Failed) => (status::ERROR, 0),
        };
        self.end(memory, status, written)
    }

    /// Writes how a transfer or a flush went that somebody else has done. Gives how many bytes were written to the guest's memory.
    ///
    /// # Errors
    /// As [`carry_out`](Self::carry_out).
    pub fn answer(&self, memory: &GuestMemoryMmap, outcome: io::Result<()>) -> Result<u32, Broken> {
        let is_read = self.kind == kind::IN;
        match outcome {
            Ok(()) if is_read => self.end(memory, status::OK, queue::size_of(&self.writable)),
            Ok(()) => self.end(memory, status::OK, 0),
            Err(_) => self.end(memory, status::ERROR, 0),
        }
    }

    fn end(&self, memory: &GuestMemoryMmap, status: u8, written: u64) -> Result<u32, Broken> {
        queue::write(memory, &self.status, &[status])?;
        // A chain has no more bytes than that.
        Ok(u32::try_from(written).unwrap_or(u32::MAX).saturating_add(1))
    }

    fn execute(&self, target: &Target, memory: &GuestMemoryMmap) -> Result<u64, Failure> {
        let disk = &*target.disk;
        let changes = matches!(self.kind, kind::OUT | kind::DISCARD | kind::WRITE_ZEROES);
        if changes && disk.is_read_only() {
            return Err(Failure::Failed);
        }
        let written = match self.kind {
            kind::IN => {
                let size = queue::size_of(&self.writable);
                let offset = place(disk, self.sector, size)?;
                disk.read(&queue::slices(memory, &self.writable)?, offset)?;
                size
            }
            kind::OUT => {
                let offset = place(disk, self.sector, queue::size_of(&self.readable))?;
                disk.write(&queue::slices(memory, &self.readable)?, offset)?;
                0
            }
            kind::FLUSH => disk.flush().map(|()| 0)?,
            kind::GET_ID => queue::write(memory, &self.writable, &target.serial)? as u64,
            kind::DISCARD | kind::WRITE_ZEROES => self.clear(disk, memory).map(|()| 0)?,
            _ => return Err(Failure::Unsupported),
        };
        if changes && target.writes_through {
            disk.flush()?;
        }
        Ok(written)
    }

    /// One range is discarded, or set to zero.
    fn clear(&self, disk: &Disk, memory: &GuestMemoryMmap) -> Result<(), Failure> {
        let mut range = [0; 16];
        if queue::size_of(&self.readable) != range.len() as u64 {
            return Err(Failure::Failed);
        }
        queue::read(memory, &self.readable, &mut range)?;
        let [low, high, sectors, flags] = [0, 4, 8, 12]
            .map(|at| u32::from_le_bytes([range[at], range[at + 1], range[at + 2], range[at + 3]]));
        // Of the flags there is one, which is for zeroes alone. See: VIRTIO 1.2, 5.2.6.2.
        let known = u32::from(self.kind == kind::WRITE_ZEROES);
        if flags & !known != 0 {
            return Err(Failure::Unsupported);
        }
        if sectors > MOST_SECTORS {
            return Err(Failure::Failed);
        }
        let size = u64::from(sectors) * SECTOR;
        let offset = place(disk, u64::from(high) << 32 | u64::from(low), size)?;
        match self.kind {
            kind::DISCARD => Ok(disk.discard(offset, size)?),
            _ => Ok(disk.write_zeroes(offset, size)?),
        }
    }
}

/// Why a request is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// There is no such request.
    Unsupported,
    /// It is wrong, or the host could not.
    Failed,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Failed
    }
}

impl From<Broken> for Failure {
    fn from(_: Broken) -> Self {
        Self::Failed
    }
}

/// Where on the disk some sectors are, if all of them are on it.
fn place(disk: &Disk, sector: u64, size: u64) -> Result<u64, Failure> {
    let offset = sector.checked_mul(SECTOR).ok_or(Failure::Failed)?;
    let end = offset.checked_add(size).ok_or(Failure::Failed)?;
    let is_there = size.is_multiple_of(SECTOR) && end <= disk.size();
    if is_there { Ok(offset) } else { Err(Failure::Failed) }
}
