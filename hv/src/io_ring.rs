//! [`IoRing`]: transfers between files and the guest's memory that the host's kernel does by itself (io_uring), several at once.
//!
//! It knows nothing of what they are for: with each it keeps what its owner gives it, and gives that back when the kernel is done.
//!
//! See: io_uring(7), io_uring_setup(2), io_uring_enter(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use io_uring::{IoUring, opcode, squeue, types};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use crate::EventFd;

/// What marks the completion that a new ring is tried with.
const TRIAL: u64 = u64::MAX;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file to memory.
    Read,
    /// From memory to the file.
    Write,
}

/// What the kernel does, by number, until it says that it is done.
pub struct IoRing<T> {
    ring: IoUring,
    started: Vec<Option<Started<T>>>,
    free: Vec<usize>,
}

/// What the kernel does, and all that it uses for that.
struct Started<T> {
    owner: T,
    _file: Arc<File>,
    /// None where nothing is transferred. The pieces are in it.
    _memory: Option<Arc<GuestMemoryMmap>>,
    _pieces: Box<[Piece]>,
}

/// A piece of the guest's memory: an `iovec`. The address is a number, which nothing but the kernel makes a pointer of.
#[repr(C)]
struct Piece {
    address: usize,
    size: usize,
}

impl<T> IoRing<T> {
    /// One that does so many at once. `event` is signalled when one is done.
    ///
    /// # Errors
    /// When the host has no io_uring, or does not let this process use it.
    pub fn new(most: u16, event: &EventFd) -> io::Result<Self> {
        let mut ring = IoUring::new(u32::from(most))?;
        // A filter of system calls may let one be made and not used.
        let trial = opcode::Nop::new().build().user_data(TRIAL);
        // SAFETY: it does nothing, and so it needs nothing.
        let is_taken = unsafe { ring.submission().push(&trial) };
        is_taken.map_err(io::Error::other)?;
        ring.submit_and_wait(1)?;
        ring.completion().next().ok_or(io::ErrorKind::Unsupported)?;
        ring.submitter().register_eventfd(event.as_fd().as_raw_fd())?;
        let most = usize::from(most);
        let started = (0..most).map(|_| None).collect();
        Ok(Self { ring, started, free: (0..most).collect() })
    }

    /// How many are started, and were not given back.
    #[must_use]
    pub fn len(&self) -> usize {
        self.started.len() - self.free.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts a transfer between a file, from an offset on, and ranges of memory, with the next [`submit`](Self::submit).
    ///
    /// # Errors
    /// What was given, if there is no room, or if the ranges are not in memory.
    pub fn transfer(
        &mut self,
        direction: Direction,
        (file, offset): (Arc<File>, u64),
        memory: &Arc<GuestMemoryMmap>,
        ranges: impl IntoIterator<Item = (GuestAddress, usize)>,
        owner: T,
    ) -> Result<(), T> {
        let Some(pieces) = pieces(memory, ranges) else { return Err(owner) };
        let (first, count) = (pieces.as_ptr().cast(), pieces.len() as u32);
        let number = types::Fd(file.as_raw_fd());
        let entry = match direction {
            Direction::Read => opcode::Readv::new(number, first, count).offset(offset).build(),
            Direction::Write => opcode::Writev::new(number, first, count).offset(offset).build(),
        };
        let memory = Some(Arc::clone(memory));
        self.start(entry, Started { owner, _file: file, _memory: memory, _pieces: pieces })
    }

    /// Has all that was written to a file before be on its medium, with the next [`submit`](Self::submit).
    ///
    /// # Errors
    /// What was given, if there is no room.
    pub fn sync(&mut self, file: Arc<File>, owner: T) -> Result<(), T> {
        let flags = types::FsyncFlags::DATASYNC;
        let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(flags).build();
        self.start(entry, Started { owner, _file: file, _memory: None, _pieces: Box::default() })
    }

    fn start(&mut self, entry: squeue::Entry, started: Started<T>) -> Result<(), T> {
        let Some(number) = self.free.pop() else { return Err(started.owner) };
        let entry = entry.user_data(number as u64);
        self.started[number] = Some(started);
        // SAFETY: the kernel uses the file, the pieces and the memory that they are pieces of until it says that it is done with this number. Until
        // then all three are in `started`, and stay where they are: the file is open, the pieces are in their box, the memory is mapped. They
        // leave it in `take` alone, after the kernel's word, which a ring that is dropped waits for; one that is leaked leaks them as well.
        // That the guest uses the memory meanwhile is what it is for: nothing here has a reference to it.
        let is_taken = unsafe { self.ring.submission().push(&entry) };
        if is_taken.is_err() {
            self.free.push(number);
            return self.started[number].take().map_or(Ok(()), |started| Err(started.owner));
        }
        Ok(())
    }

    /// Gives the kernel what was started.
    ///
    /// # Errors
    /// When it takes nothing just now: it is to be tried again.
    pub fn submit(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            if self.ring.submit()? == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(())
    }

    /// The next one that the kernel is done with: whose it is, and how many bytes were moved.
    pub fn take(&mut self) -> Option<(T, io::Result<u64>)> {
        loop {
            let completion = self.ring.completion().next()?;
            let number = completion.user_data() as usize;
            let Some(started) = self.started.get_mut(number).and_then(Option::take) else {
                continue;
            };
            self.free.push(number);
            let result = u64::try_from(completion.result())
                .map_err(|_| io::Error::from_raw_os_error(-completion.result()));
            return Some((started.owner, result));
        }
    }

    /// Has the event be signalled no more: what is done is looked for.
    pub fn stop_events(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// Has it be signalled from now on. Gives whether something is done already, which it may not tell of.
    pub fn want_events(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // The kernel writes the completion first and looks for this afterwards.
        fence(Ordering::SeqCst);
        !self.ring.completion().is_empty()
    }
}

impl<T> Drop for IoRing<T> {
    /// Waits until the kernel is done with all of it: from then on it accesses no memory of the guest's.
    fn drop(&mut self) {
        while !self.is_empty() {
            // A signal of the process' cuts it short, and that the host has no memory just now.
            if self.ring.submit_and_wait(1).is_err() {
                std::thread::yield_now();
            }
            while self.take().is_some() {}
        }
    }
}

/// The host's addresses of some ranges, if all of them are in memory.
fn pieces(
    memory: &GuestMemoryMmap,
    ranges: impl IntoIterator<Item = (GuestAddress, usize)>,
) -> Option<Box<[Piece]>> {
    let mut all = Vec::new();
    for (address, size) in ranges {
        for slice in memory.get_slices(address, size, Permissions::ReadWrite).ok()? {
            let slice = slice.ok()?;
            let address = slice.ptr_guard_mut().as_ptr().expose_provenance();
            all.push(Piece { address, size: slice.len() });
        }
    }
    Some(all.into())
}

#[cfg(test)]
#[path = "io_ring_test.rs"]
mod io_ring_test;
