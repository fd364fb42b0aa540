//! [`Replay`]: what an instruction has exchanged with devices before it completes, for [`super::access`].

/// How many device accesses of one instruction are remembered: a string comparison
/// across two pages makes four reads.
const ACCESSES: usize = 4;

/// Device accesses of an instruction that has not completed. Part of the saved state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replay {
    reads: [(u64, u8, u64); ACCESSES],
    read_count: usize,
    writes: [(u64, u8, u64); ACCESSES],
    write_count: usize,
}

impl Replay {
    /// Remembers what a device read as.
    pub fn answer(&mut self, gpa: u64, size: u8, value: u64) {
        if self.read_count == ACCESSES {
            // Older answers are of a string instruction's earlier rounds.
            self.reads.copy_within(1.., 0);
            self.read_count -= 1;
        }
        self.reads[self.read_count] = (gpa, size, value);
        self.read_count += 1;
    }

    /// Forgets the answers: the instruction that they were for has completed.
    pub fn forget_reads(&mut self) {
        self.read_count = 0;
    }

    /// What a device read as.
    pub fn find(&self, gpa: u64, size: u8) -> Option<u64> {
        let known = self.reads[..self.read_count].iter();
        known.rev().find(|(at, len, _)| (*at, *len) == (gpa, size)).map(|(_, _, value)| *value)
    }

    /// Keeps a write until the instruction has completed. Gives false if there is no room.
    pub fn write(&mut self, gpa: u64, size: u8, value: u64) -> bool {
        let room = self.write_count < ACCESSES;
        if room {
            self.writes[self.write_count] = (gpa, size, value);
            self.write_count += 1;
        }
        room
    }

    /// Whether writes are kept.
    pub fn has_writes(&self) -> bool {
        self.write_count > 0
    }

    /// Takes the first write.
    pub fn next_write(&mut self) -> Option<(u64, u8, u64)> {
        self.write_count = self.write_count.checked_sub(1)?;
        let first = self.writes[0];
        self.writes.copy_within(1.., 0);
        Some(first)
    }
}
