//! One direction of bytes: [`Input`] from the host to the command, [`Output`] from it to the host.
//!
//! Both read and write without blocking and count; who is polled for what is `session`'s subject.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use guest_protocol::ACKNOWLEDGE_AFTER;

use crate::sys;

/// Bytes on their way. Filled and emptied in turn, which suits pipes and needs no wrapping around.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub fn new(size: usize) -> Self {
        Self { bytes: vec![0; size].into_boxed_slice(), start: 0, end: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether there is room at the end.
    pub fn has_room(&self) -> bool {
        self.end < self.bytes.len()
    }

    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Reads once, at most `limit` bytes.
    fn fill(&mut self, mut source: impl Read, limit: u64) -> io::Result<usize> {
        let room = &mut self.bytes[self.end..];
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(room.len());
        let count = source.read(&mut room[..limit])?;
        self.end += count;
        Ok(count)
    }

    /// Writes once.
    fn empty(&mut self, mut sink: impl Write) -> io::Result<usize> {
        let count = sink.write(&self.bytes[self.start..self.end])?;
        self.start += count;
        if self.is_empty() {
            self.clear();
        }
        Ok(count)
    }
}

/// Makes a result of a non-blocking call an option: `None` says that it would have blocked.
fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        // Signals are blocked, but a stop and continue of the whole process interrupts too.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}

/// What comes from the host.
pub(crate) struct Input {
    buffer: Buffer,
    /// The pipe or terminal; `None` once it is closed, from either side.
    sink: Option<File>,
    taken: u64,
    acknowledged: u64,
    end: Option<u64>,
}

impl Input {
    pub fn new(sink: File, buffer: usize) -> Self {
        Self { buffer: Buffer::new(buffer), sink: Some(sink), taken: 0, acknowledged: 0, end: None }
    }

    /// Says that no byte follows after the first `total`.
    pub fn end_at(&mut self, total: u64) {
        self.end = Some(total);
    }

    /// Whether the line is to be polled for input.
    pub fn wants_to_read(&self) -> bool {
        self.sink.is_some() && self.buffer.has_room() && self.end.is_none_or(|end| self.taken < end)
    }

    /// The command's end, and whether there is something for it.
    pub fn sink(&self) -> Option<(&File, bool)> {
        self.sink.as_ref().map(|sink| (sink, !self.buffer.is_empty()))
    }

    /// Whether all that the host will send has been passed on. It stays so.
    pub fn is_at_end(&self) -> bool {
        self.buffer.is_empty() && self.end.is_some_and(|end| self.taken >= end)
    }

    /// Reads once from the line.
    pub fn read(&mut self, line: impl Read) -> io::Result<()> {
        // What is beyond the end, if the host breaks its word, stays on the line.
        let limit = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.taken));
        let count = unless_blocked(self.buffer.fill(line, limit))?.unwrap_or(0);
        self.taken += count as u64;
        Ok(())
    }

    /// Returns the count to acknowledge, if it is time.
    pub fn acknowledge(&mut self) -> Option<u64> {
        let due = self.taken - self.acknowledged >= ACKNOWLEDGE_AFTER;
        due.then(|| {
            self.acknowledged = self.taken;
            self.taken
        })
    }

    /// Whether the command's end is open.
    pub fn is_open(&self) -> bool {
        self.sink.is_some()
    }

    /// Writes once to the command, if there is something for it or `ready` says that something is up
    /// there. Returns false when nobody reads there any more.
    pub fn write(&mut self, ready: bool) -> bool {
        let Some(sink) = &self.sink else { return true };
        if self.buffer.is_empty() {
            // Ready, though room was not asked for: it is an error, and a pipe has only one.
            return !ready;
        }
        unless_blocked(self.buffer.empty(sink)).is_ok()
    }

    /// Closes the command's end and drops what is on its way.
    pub fn close(&mut self) {
        self.sink = None;
        self.buffer.clear();
    }
}

/// What the command writes.
pub(crate) struct Output {
    buffer: Buffer,
    /// The pipe or terminal; `None` once it is closed, from either side.
    source: Option<File>,
    /// How much of it is still to be read, once the command has ended.
    left: Option<u64>,
    written: u64,
    /// Whether the host still wants it.
    wanted: bool,
}

impl Output {
    pub fn new(source: Option<File>, buffer: usize) -> Self {
        let buffer = Buffer::new(if source.is_some() { buffer } else { 0 });
        Self { buffer, source, left: None, written: 0, wanted: true }
    }

    /// All bytes that went to the host.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The command's end, if it is to be polled.
    pub fn source(&self) -> Option<&File> {
        self.source.as_ref().filter(|_| self.buffer.has_room() && self.left.is_none())
    }

    /// Whether the line is to be polled for room.
    pub fn wants_to_write(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Reads once from the command. Returns false if there was nothing, or no room for it.
    pub fn read(&mut self) -> bool {
        let Some(source) = &self.source else {
            return false;
        };
        let left = self.left.unwrap_or(u64::MAX);
        if !self.buffer.has_room() || left == 0 {
            return false;
        }
        match unless_blocked(self.buffer.fill(source, left)) {
            Ok(None) => false,
            Ok(Some(count @ 1..)) => {
                self.left = self.left.map(|left| left.saturating_sub(count as u64));
                if !self.wanted {
                    self.buffer.clear();
                }
                true
            }
            // End of file, or EIO: a terminal that nobody holds open.
            Ok(Some(0)) | Err(_) => {
                self.source = None;
                false
            }
        }
    }

    /// Writes once to the line.
    pub fn write(&mut self, line: impl Write) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let count = unless_blocked(self.buffer.empty(line))?.unwrap_or(0);
            self.written += count as u64;
        }
        Ok(())
    }

    /// Drops what comes from now on. A pipe is closed, so that the command gets SIGPIPE; a terminal
    /// can't be closed one way only and is read on.
    pub fn close(&mut self, is_terminal: bool) {
        self.buffer.clear();
        self.wanted = false;
        if !is_terminal {
            self.source = None;
        }
    }

    /// Says that the command has ended: only what is in the pipe now is its own. Other processes
    /// that hold the pipe open are not waited for. `terminal` is how much there can be in a terminal.
    pub fn finish(&mut self, terminal: Option<u64>) {
        let pipe = || self.source.as_ref().and_then(|source| sys::pending(source.as_fd()).ok());
        self.left = terminal.or_else(pipe).or(Some(0));
    }

    /// Reads what is there and what there is room for.
    fn read_rest(&mut self) {
        while self.read() {}
        if self.buffer.has_room() {
            // Nothing more was there.
            self.source = None;
        }
    }

    /// After [`Self::finish`]: passes on what is there, until that is all or the line has no room. So what is left waits for the line, and
    /// not for the source, which tells of nothing any more.
    pub fn pass_rest(&mut self, mut line: impl Write) -> io::Result<()> {
        loop {
            self.read_rest();
            let before = self.written;
            self.write(&mut line)?;
            if self.written == before || self.is_finished() {
                return Ok(());
            }
        }
    }

    /// After [`Self::finish`]: whether the line has been given all of it.
    pub fn is_finished(&self) -> bool {
        self.buffer.is_empty() && (self.source.is_none() || self.left == Some(0))
    }
}
