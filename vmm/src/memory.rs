//! Guest memory: one memfd, mapped where the guest's RAM lies.
//!
//! A file without a name rather than anonymous memory: other processes of the project, debuggers and
//! snapshots can map it. A page of it costs about half as much again at first touch.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use hv::host_error::explain;
use rustix::fs::MemfdFlags;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap,
    GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use crate::boot::layout::ram_regions;

/// The smallest memory that a guest can be given: what lies below 1 MiB and a little more.
pub const MIN: u64 = 8 << 20;

/// Size of a page: memory is given in whole ones.
const PAGE: u64 = 4096;

/// Why there is no memory for the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too little to be a machine at all.
    #[error("{asked} bytes of memory are too little: a guest needs at least {MIN}")]
    TooLittle {
        /// What was asked for.
        asked: u64,
    },
    /// More than the host has.
    #[error("{asked} bytes of memory are more than the host's {total}")]
    TooMuch {
        /// What was asked for.
        asked: u64,
        /// What the host has, swap included.
        total: u64,
    },
    /// The host refuses.
    #[error("cannot get {size} bytes of memory from the host: {}", explain(error))]
    Host {
        /// How much was asked for.
        size: u64,
        /// Why.
        error: io::Error,
    },
    /// The regions do not fit together.
    #[error("cannot lay out the guest's memory: {0}")]
    Layout(String),
}

/// Gets memory for a guest: `asked` bytes, rounded down to whole pages.
///
/// # Errors
/// When it is too little or too much, or the host refuses.
pub fn allocate(asked: u64) -> Result<Vec<Arc<GuestRegionMmap>>, Error> {
    let size = asked - asked % PAGE;
    if size < MIN {
        return Err(Error::TooLittle { asked });
    }
    let host = rustix::system::sysinfo();
    let total = (host.totalram + host.totalswap).saturating_mul(host.mem_unit.into());
    if size > total {
        return Err(Error::TooMuch { asked, total });
    }
    let refused = |error: io::Error| Error::Host { size, error };
    let file = rustix::fs::memfd_create("guest-memory", MemfdFlags::CLOEXEC)
        .map_err(|errno| refused(errno.into()))?;
    let file = File::from(file);
    file.set_len(size).map_err(refused)?;
    let file = Arc::new(file);
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, length) in ram_regions(size) {
        let part = FileOffset::from_arc(Arc::clone(&file), offset);
        let mapping =
            MmapRegion::from_file(part, length).map_err(|error| refused(host_error(error)))?;
        let region = GuestRegionMmap::new(mapping, start)
            .ok_or_else(|| Error::Layout(format!("{length:#x} bytes at {:#x}", start.0)))?;
        regions.push(Arc::new(region));
        offset += length as u64;
    }
    Ok(regions)
}

/// What the host said to a mapping.
fn host_error(error: MmapRegionError) -> io::Error {
    match error {
        MmapRegionError::Mmap(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// The regions as one memory.
///
/// # Errors
/// When they overlap.
pub fn join(regions: Vec<Arc<GuestRegionMmap>>) -> Result<GuestMemoryMmap, Error> {
    GuestMemoryMmap::from_arc_regions(regions).map_err(|error| Error::Layout(error.to_string()))
}

/// Writes `bytes`, of which there are many, to memory that nobody uses yet.
///
/// It is the file that is written to, if there is one: its pages need not be cleared before, nor mapped one by one. What is mapped
/// shows it at once.
///
/// # Errors
/// When there is no such memory, or the host has no room for it.
pub(crate) fn write<M: GuestMemoryBackend>(
    memory: &M,
    bytes: &[u8],
    address: GuestAddress,
) -> Result<(), GuestMemoryError> {
    match file_at(memory, address, bytes.len()) {
        Some((file, offset)) => file.write_all_at(bytes, offset).map_err(GuestMemoryError::IOError),
        None => memory.write_slice(bytes, address),
    }
}

/// Writes `size` bytes of the file `from`, the next ones that it gives, as [`write()`] does those that are here: the kernel
/// copies them from the one file to the other.
///
/// # Errors
/// As for [`write()`], and when `from` can't be read or has fewer.
pub(crate) fn write_from<M: GuestMemoryBackend>(
    memory: &M,
    mut from: &File,
    size: usize,
    address: GuestAddress,
) -> Result<(), GuestMemoryError> {
    let Some((mut file, offset)) = file_at(memory, address, size) else {
        return memory.read_exact_volatile_from(address, &mut from, size);
    };
    let copied = file
        .seek(SeekFrom::Start(offset))
        .and_then(|_| io::copy(&mut from.take(size as u64), &mut file));
    match copied {
        Ok(count) if count < size as u64 => {
            Err(GuestMemoryError::IOError(ErrorKind::UnexpectedEof.into()))
        }
        copied => copied.map(|_| ()).map_err(GuestMemoryError::IOError),
    }
}

/// Where in a file the `size` bytes at `address` are, if they are all in one region that has a file.
fn file_at<M: GuestMemoryBackend>(
    memory: &M,
    address: GuestAddress,
    size: usize,
) -> Option<(&File, u64)> {
    let (region, offset) = memory.to_region_addr(address)?;
    let has_room = region.len() - offset.0 >= size as u64;
    let file = region.file_offset().filter(|_| has_room)?;
    Some((file.file(), file.start() + offset.0))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_written_is_seen_in_the_guests_memory() {
        let memory = join(allocate(4 << 30).unwrap()).unwrap();
        // In the second region the file has an offset.
        for address in [0x1ffe, (4 << 30) + 5].map(GuestAddress) {
            write(&memory, b"abc", address).unwrap();
            assert_eq!(memory.read_obj::<[u8; 3]>(address).unwrap(), *b"abc");
        }
        let (end, hole) = ((5 << 30) - 1, 3 << 30);
        assert!(write(&memory, b"abc", GuestAddress(end)).is_err());
        assert!(write(&memory, b"abc", GuestAddress(hole)).is_err());
    }

    #[test]
    fn what_a_file_has_is_seen_in_the_guests_memory() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| ((i * 7) >> 5) as u8).collect();
        file.write_all(&bytes).unwrap();
        let memory = join(allocate(4 << 30).unwrap()).unwrap();
        for (skipped, address) in [(3, 0x1ffe), (4096, 4 << 30)] {
            file.seek(SeekFrom::Start(skipped)).unwrap();
            write_from(&memory, &file, 150_000, GuestAddress(address)).unwrap();
            let mut found = vec![0; 150_001];
            memory.read_slice(&mut found, GuestAddress(address)).unwrap();
            let (found, behind) = found.split_at(150_000);
            assert!(found == &bytes[skipped as usize..][..150_000] && *behind == [0]);
        }
        let from = |position, size, address| {
            (&file).seek(SeekFrom::Start(position)).unwrap();
            write_from(&memory, &file, size, GuestAddress(address))
        };
        from(199_990, 10, 0).unwrap();
        assert!(from(199_990, 11, 0).is_err());
        let (end, hole) = ((5 << 30) - 1, 3 << 30);
        assert!(from(0, 10, end).is_err());
        assert!(from(0, 10, hole).is_err());
    }

    #[test]
    fn memory_is_zero_and_lies_around_the_hole_for_devices() {
        let memory = join(allocate(4 << 30).unwrap()).unwrap();
        assert_eq!(memory.num_regions(), 2);
        assert_eq!(memory.last_addr(), GuestAddress((5 << 30) - 1));
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1234)).unwrap(), 0);
        memory.write_obj(7_u8, GuestAddress((4 << 30) + 5)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(5)).unwrap(), 0);
    }

    #[test]
    fn what_no_host_has_and_no_guest_can_use_is_refused() {
        assert!(matches!(allocate(MIN - 1), Err(Error::TooLittle { .. })));
        assert!(matches!(allocate(1 << 60), Err(Error::TooMuch { .. })));
        assert!(matches!(allocate(u64::MAX), Err(Error::TooMuch { .. })));
    }
}
