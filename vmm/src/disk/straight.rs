//! [`Disk::try_now`]: a request that is done at a file of the host's itself, if the host need not wait for a medium; [`InFile`]: where it can be done
//! if it must.
//!
//! That is so of blocks that are in one piece there, as those of raw images are. Of others `imago` is asked ([`Disk::read`], [`Disk::write`]).
//! The page cache is asked for what it has by RWF_NOWAIT. A file system that does not know that, as ext4 of writes, is taken
//! not to wait for what is written, and to wait for what is read unless it is in memory altogether.

use std::fs::File as HostFile;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hv::io_ring::Direction;
use imago::io_buffers::{IoVector, IoVectorMut};
use parking_lot::{ArcRwLockReadGuard, RawRwLock};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};
use vm_memory::VolatileSlice;

use super::image::{Image, ImageFile, Spot};
use super::{Disk, Format};

/// Where blocks are in a file of the host's. While it exists they stay there.
pub struct InFile {
    direction: Direction,
    file: Arc<ImageFile>,
    offset: u64,
    size: u64,
    /// Bytes that the file is at least as long as.
    length: u64,
    _stays: ArcRwLockReadGuard<RawRwLock, Image>,
}

/// What came of [`Disk::try_now`].
pub enum Tried {
    /// It is done.
    Done,
    /// It is not, and can be at a file.
    Waits(InFile),
    /// It is not, and the image has to be asked.
    Elsewhere,
}

impl InFile {
    /// Which way bytes go.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The file, and where in it.
    #[must_use]
    pub fn at(&self) -> (Arc<HostFile>, u64) {
        (Arc::clone(&self.file.file), self.offset)
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Tries it, and gives whether all of it is done. Any error is one that is found again by who does it in another way.
    fn try_now(&self, memory: &[VolatileSlice<'_>]) -> bool {
        let never_says = &self.file.never_says[self.direction as usize];
        if !never_says.load(Ordering::Relaxed) {
            match self.transfer(memory, ReadWriteFlags::NOWAIT) {
                Err(Errno::OPNOTSUPP) => never_says.store(true, Ordering::Relaxed),
                result => return result == Ok(self.size),
            }
        }
        let does_wait = self.direction == Direction::Read && !self.file.is_in_memory;
        !does_wait && self.transfer(memory, ReadWriteFlags::empty()) == Ok(self.size)
    }

    fn transfer(&self, memory: &[VolatileSlice<'_>], flags: ReadWriteFlags) -> Result<u64, Errno> {
        let done = match self.direction {
            Direction::Read => {
                let (vector, _guard) = IoVectorMut::from_volatile_slice(memory);
                preadv2(&self.file.file, &mut vector.into_inner(), self.offset, flags)
            }
            Direction::Write => {
                let (vector, _guard) = IoVector::from_volatile_slice(memory);
                pwritev2(&self.file.file, &vector.into_inner(), self.offset, flags)
            }
        };
        done.map(|size| size as u64)
    }
}

impl Disk {
    /// Reads into the guest's memory, or writes from it, if that can be done at once: nothing is waited for, no lock either.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`write`](Self::write).
    pub fn try_now(
        &self,
        direction: Direction,
        memory: &[VolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<Tried> {
        self.is_lost()?;
        let size = memory.iter().map(|slice| slice.len() as u64).sum();
        // Somebody changes where blocks are, or waits until nobody uses them.
        let Some(stays) = self.image.try_read_arc() else { return Ok(Tried::Elsewhere) };
        let (file, offset, length, alignment) = match stays.find(direction, offset, size) {
            Ok(Some(Spot::InFile { file, offset, length, alignment })) => {
                (file, offset, length, alignment)
            }
            Ok(Some(Spot::Zeroes)) => {
                memory.iter().for_each(fill_with_zeroes);
                return Ok(Tried::Done);
            }
            // An error is found by who asks the image.
            Ok(None) | Err(_) => return Ok(Tried::Elsewhere),
        };
        let place = InFile { direction, file, offset, size, length, _stays: stays };
        if direction == Direction::Write {
            self.check_file(&place)?;
        }
        let [address, unit] = alignment;
        // Past the page cache nothing is there at once.
        if self.options.direct && unit > 1 {
            let is_aligned = |slice: &VolatileSlice<'_>| {
                (slice.ptr_guard().as_ptr() as u64).is_multiple_of(address)
                    && (slice.len() as u64).is_multiple_of(address.max(unit))
            };
            let is_aligned =
                (place.offset | size).is_multiple_of(unit) && memory.iter().all(is_aligned);
            return Ok(if is_aligned { Tried::Waits(place) } else { Tried::Elsewhere });
        }
        if !place.try_now(memory) {
            return Ok(Tried::Waits(place));
        }
        self.arrived(&place)?;
        Ok(Tried::Done)
    }

    /// To be asked when all of a request was done at a file: whether it is good for anything.
    ///
    /// # Errors
    /// When the file has become shorter, and what was read may be nothing.
    pub fn arrived(&self, place: &InFile) -> io::Result<()> {
        match place.direction {
            Direction::Read => self.check_file(place),
            Direction::Write => Ok(()),
        }
    }

    fn check_file(&self, place: &InFile) -> io::Result<()> {
        if place.file.is_cut(place.length)? {
            return Err(self.lose(place.file.why_cut(&self.options.path)));
        }
        self.is_lost()
    }

    /// The file to flush, if that is all there is to do. How it went is to be said by [`synced`](Self::synced).
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn file_to_sync(&self) -> io::Result<Option<Arc<HostFile>>> {
        self.is_lost()?;
        if self.format != Format::Raw || self.options.ephemeral {
            return Ok(None);
        }
        let Some(image) = self.image.try_read() else { return Ok(None) };
        self.check(&image)?;
        Ok(Some(Arc::clone(&self.file)))
    }

    /// What the host says of a flush. If what it had is not on the medium, nothing more is read or written.
    ///
    /// # Errors
    /// The same.
    pub fn synced(&self, result: io::Result<()>) -> io::Result<()> {
        // The host forgets that, and says the next time that all is well.
        result.inspect_err(|_| {
            self.lose("the host could not write to the image what the guest had".to_owned());
        })
    }
}

fn fill_with_zeroes(slice: &VolatileSlice<'_>) {
    const ZEROES: [u8; 4096] = [0; 4096];
    let mut done = 0;
    while done < slice.len() {
        let Ok(rest) = slice.offset(done) else { return };
        let part = rest.len().min(ZEROES.len());
        rest.copy_from(&ZEROES[..part]);
        done += part;
    }
}

#[cfg(test)]
#[path = "straight_test.rs"]
mod straight_test;
