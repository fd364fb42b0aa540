//! KVM_GET_STATS_FD: what the descriptor reads as, [`StatisticsFile`].
//!
//! Who has the descriptor keeps the file, and reads from it where the caller's `read` (which goes on behind the last) or `pread` says. It
//! lives longer than the machine if it has to. Deviation: the name of the whole is `kvm`, or `kvm/vcpu-N`, without the number of the
//! process that made the machine, which is not known here.
//!
//! See: api.rst 4.133 (`KVM_GET_STATS_FD`); Linux, virt/kvm/binary_stats.c.

use core::fmt::{self, Write};

use abi::encoding::Encoded;
use abi::stats::{
    NAME_SIZE, StatsDesc, StatsHeader, TYPE_CUMULATIVE, TYPE_INSTANT, UNIT_BOOLEAN, UNIT_NONE,
};
use alloc::sync::Arc;

use crate::statistics::{Description, Kind, Statistics};

/// A name: text, zeros behind it, the last of which always is one.
#[derive(Clone, Copy)]
struct Name {
    bytes: [u8; NAME_SIZE],
    len: usize,
}

impl Name {
    const fn new() -> Self {
        Self { bytes: [0; NAME_SIZE], len: 0 }
    }
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..NAME_SIZE - 1).unwrap_or_default();
        let fits = text.len().min(room.len());
        room[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}

/// What the descriptor of statistics reads as.
#[derive(Clone)]
pub struct StatisticsFile {
    name: Name,
    statistics: Arc<dyn Statistics>,
}

impl StatisticsFile {
    /// Those of a machine.
    #[must_use]
    pub fn of_vm(statistics: Arc<dyn Statistics>) -> Self {
        Self::named(format_args!("kvm"), statistics)
    }

    /// Those of a vCPU.
    #[must_use]
    pub fn of_vcpu(id: u32, statistics: Arc<dyn Statistics>) -> Self {
        Self::named(format_args!("kvm/vcpu-{id}"), statistics)
    }

    fn named(text: fmt::Arguments<'_>, statistics: Arc<dyn Statistics>) -> Self {
        let mut name = Name::new();
        // It takes any text.
        let _ = name.write_fmt(text);
        Self { name, statistics }
    }

    /// Fills `buffer` from an offset on; gives how many bytes there were, 0 at the end. The values are those of now. Any context.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let mut window = Window { next: 0, offset, buffer, filled: 0 };
        let descriptions = self.statistics.descriptions();
        window.put(&header(descriptions.len()));
        window.put(&self.name.bytes);
        for (at, description) in (0..).zip(descriptions) {
            window.put(&described(at, description));
        }
        for at in 0..descriptions.len() {
            window.put(&self.statistics.value(at));
        }
        window.filled
    }
}

fn header(count: usize) -> StatsHeader {
    let id_offset = StatsHeader::SIZE;
    let desc_offset = id_offset + NAME_SIZE;
    StatsHeader {
        flags: 0,
        name_size: NAME_SIZE as u32,
        num_desc: count as u32,
        id_offset: id_offset as u32,
        desc_offset: desc_offset as u32,
        data_offset: (desc_offset + count * StatsDesc::SIZE) as u32,
    }
}

fn described(at: u32, description: &Description) -> StatsDesc {
    let mut name = Name::new();
    let _ = name.write_str(description.name);
    let flags = match description.kind {
        Kind::Count => TYPE_CUMULATIVE | UNIT_NONE,
        Kind::State => TYPE_INSTANT | UNIT_BOOLEAN,
    };
    let offset = at * u64::SIZE as u32;
    StatsDesc { flags, exponent: 0, size: 1, offset, bucket_size: 0, name: name.bytes }
}

/// The part of a file that is wanted, while the file is gone through from its beginning.
struct Window<'a> {
    /// Where the file's next part begins.
    next: u64,
    offset: u64,
    buffer: &'a mut [u8],
    filled: usize,
}

impl Window<'_> {
    /// The file's next part.
    fn put<T: Encoded>(&mut self, part: &T) {
        let mut bytes = [0; size_of::<StatsDesc>()];
        part.encode(&mut bytes);
        let wanted = self.offset + self.filled as u64;
        let end = self.next + T::SIZE as u64;
        if let Some(skipped) = wanted.checked_sub(self.next)
            && wanted < end
        {
            let rest = &bytes[skipped as usize..T::SIZE];
            let room = &mut self.buffer[self.filled..];
            let fits = rest.len().min(room.len());
            room[..fits].copy_from_slice(&rest[..fits]);
            self.filled += fits;
        }
        self.next = end;
    }
}
