//! Guest memory: one memfd, mapped where the guest's RAM lies, and anonymous memory where its kernel does.
//!
//! A file without a name rather than anonymous memory: other processes of the project, debuggers and
//! snapshots can map it. A page of it costs about half as much again at first touch.
//!
//! For the kernel that cost is most of a start: 34 MB of Debian's take 8.5 ms in pages of a memfd, which are small ones on nearly all
//! hosts, and 3 ms in anonymous huge pages. So what is below the kernel's end is such memory ([`allocate`]). A device in another process
//! sees only what is above that; a machine that is to have one has to do without.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hv::host_error::explain;
use hv::huge_pages;
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

/// Gets memory for a guest: `asked` bytes, rounded down to whole pages. What is below `kernel_end` is in huge pages, if the host has any.
///
/// # Errors
/// When it is too little or too much, or the host refuses.
pub fn allocate(asked: u64, kernel_end: u64) -> Result<Vec<Arc<GuestRegionMmap>>, Error> {
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
    for (start, length) in split(ram_regions(size), kernel_end) {
        let has_kernel = start.0 < kernel_end;
        let mapping = match has_kernel {
            true => MmapRegion::new(length),
            false => MmapRegion::from_file(FileOffset::from_arc(Arc::clone(&file), offset), length),
        };
        let mapping = mapping.map_err(|error| refused(host_error(error)))?;
        let region = GuestRegionMmap::new(mapping, start)
            .ok_or_else(|| Error::Layout(format!("{length:#x} bytes at {:#x}", start.0)))?;
        if has_kernel {
            huge_pages::prefer(&region);
        }
        regions.push(Arc::new(region));
        offset += length as u64;
    }
    Ok(regions)
}

/// The regions, of which the first ends where the huge page does in which `kernel_end` is, and another goes on there.
fn split(
    regions: Vec<(GuestAddress, usize)>,
    kernel_end: u64,
) -> impl Iterator<Item = (GuestAddress, usize)> {
    let end = kernel_end.checked_next_multiple_of(huge_pages::SIZE).unwrap_or(u64::MAX);
    let parts = move |(start, length): (GuestAddress, usize)| {
        let before = end.saturating_sub(start.0).min(length as u64);
        let behind = GuestAddress(start.0 + before);
        [(start, before as usize), (behind, length - before as usize)]
    };
    regions.into_iter().flat_map(parts).filter(|(_, length)| *length > 0)
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
/// It is the memfd that is written to, where that is: its pages need not be cleared before, nor mapped one by one. What is mapped
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

/// A part of a file, and where in guest memory it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Where it is in the file.
    pub(crate) offset: u64,
    /// Its size.
    pub(crate) size: usize,
    /// Where it goes.
    pub(crate) address: GuestAddress,
}

impl Part {
    /// What of it is `skipped` bytes behind its start: as much as there is, or `size`.
    fn at(self, skipped: usize, size: usize) -> Part {
        Part {
            offset: self.offset.saturating_add(skipped as u64),
            size: size.min(self.size.saturating_sub(skipped)),
            address: GuestAddress(self.address.0.saturating_add(skipped as u64)),
        }
    }

    /// The part in parts that end where addresses are multiples of `size`.
    fn split(self, size: usize) -> impl Iterator<Item = Part> {
        let skipped = (self.address.0 % size as u64) as usize;
        let first = size - skipped;
        let others = (first..self.size).step_by(size).map(move |start| self.at(start, size));
        std::iter::once(self.at(0, first)).chain(others).filter(|part| part.size > 0)
    }
}

/// How much of a file one thread copies at a time: what goes into a huge page. If two threads touch a new one both clear one, and one of
/// these is thrown away.
const PIECE: usize = huge_pages::SIZE as usize;
/// What it copies at once through the mapping: so much stays in a processor's own cache.
const BUFFER: usize = 128 << 10;
/// How many threads copy a file.
const MAX_COPIERS: usize = 4;

/// Writes parts of the file `from`, as [`write()`] does bytes that are here.
///
/// The kernel copies them from the one file to the other; but it lets one at a time write to a file, so if there is much, the host's
/// other processors copy some of it through the mapping. Moves the file's position.
///
/// # Errors
/// As for [`write()`], and when `from` can't be read or has fewer.
pub(crate) fn write_from<M: GuestMemoryBackend + Sync>(
    memory: &M,
    from: &File,
    parts: impl IntoIterator<Item = Part>,
) -> Result<(), GuestMemoryError> {
    let mut pieces = Vec::new();
    for part in parts {
        if !memory.check_range(part.address, part.size) {
            return Err(GuestMemoryError::InvalidGuestAddress(part.address));
        }
        pieces.extend(part.split(PIECE));
    }
    let next = AtomicUsize::new(0);
    let copy_by = |copy: fn(&M, &File, Part) -> Result<(), GuestMemoryError>| {
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            copy(memory, from, *piece)?;
        }
        Ok(())
    };
    let copiers = match pieces.len() {
        0..4 => 1,
        _ => std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(MAX_COPIERS)),
    };
    std::thread::scope(|scope| {
        let other = |_| {
            let other = std::thread::Builder::new().name("boot".into());
            // Who can't be started is not missed.
            other.spawn_scoped(scope, || copy_by(through_mapping)).ok()
        };
        let others: Vec<_> = (1..copiers).map_while(other).collect();
        let own = copy_by(file_to_file);
        let results = others.into_iter().map(|other| other.join().expect("it panics nowhere"));
        results.fold(own, Result::and)
    })
}

/// Copies a part of a file to the memfd, or to where there is other memory.
fn file_to_file<M: GuestMemoryBackend>(
    memory: &M,
    mut from: &File,
    part: Part,
) -> Result<(), GuestMemoryError> {
    let Some((mut file, start)) = file_at(memory, part.address, part.size) else {
        return through_mapping(memory, from, part);
    };
    let copied = from
        .seek(SeekFrom::Start(part.offset))
        .and_then(|_| file.seek(SeekFrom::Start(start)))
        .and_then(|_| io::copy(&mut from.take(part.size as u64), &mut file));
    match copied {
        Ok(count) if count < part.size as u64 => {
            Err(GuestMemoryError::IOError(ErrorKind::UnexpectedEof.into()))
        }
        copied => copied.map(|_| ()).map_err(GuestMemoryError::IOError),
    }
}

/// Copies a part of a file to where the memory is mapped.
fn through_mapping<M: GuestMemoryBackend>(
    memory: &M,
    from: &File,
    part: Part,
) -> Result<(), GuestMemoryError> {
    let mut buffer = vec![0; part.size.min(BUFFER)];
    for part in part.split(BUFFER) {
        let bytes = &mut buffer[..part.size];
        from.read_exact_at(bytes, part.offset).map_err(GuestMemoryError::IOError)?;
        memory.write_slice(bytes, part.address)?;
    }
    Ok(())
}

/// Where in the memfd the `size` bytes at `address` are, if they are all in one region of it.
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
        let memory = join(allocate(4 << 30, 0).unwrap()).unwrap();
        // In the second region the file has an offset.
        for address in [0x1ffe, (4 << 30) + 5].map(GuestAddress) {
            write(&memory, b"abc", address).unwrap();
            assert_eq!(memory.read_obj::<[u8; 3]>(address).unwrap(), *b"abc");
        }
        let (end, hole) = ((5 << 30) - 1, 3 << 30);
        assert!(write(&memory, b"abc", GuestAddress(end)).is_err());
        assert!(write(&memory, b"abc", GuestAddress(hole)).is_err());
    }

    /// Some bytes in which nothing repeats, and a file of them.
    fn file_of(size: u32) -> (Vec<u8>, File) {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..size).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect();
        file.write_all(&bytes).unwrap();
        (bytes, file)
    }

    #[test]
    fn what_a_file_has_is_seen_in_the_guests_memory() {
        let (bytes, file) = file_of(10 << 20);
        // In the second region the file has an offset.
        for (size, address) in [(150_000, 0x1ffe), (150_000, 4 << 30), ((9 << 20) + 77, 0x1003)] {
            let memory = join(allocate(4 << 30, 0).unwrap()).unwrap();
            for skipped in [3, 4096] {
                let part = Part { offset: skipped, size, address: GuestAddress(address) };
                write_from(&memory, &file, [part]).unwrap();
                let mut found = vec![0; size + 1];
                memory.read_slice(&mut found, GuestAddress(address)).unwrap();
                let (found, behind) = found.split_at(size);
                assert!(found == &bytes[skipped as usize..][..size] && *behind == [0]);
            }
        }
    }

    #[test]
    fn a_file_is_copied_whole_or_that_is_an_error() {
        let (_, file) = file_of(10 << 20);
        let memory = join(allocate(4 << 30, 0).unwrap()).unwrap();
        let from = |offset, size, address| {
            let part = Part { offset, size, address: GuestAddress(address) };
            write_from(&memory, &file, [part])
        };
        let (end, hole) = ((5 << 30) - 1, 3 << 30);
        from((10 << 20) - 10, 10, 0).unwrap();
        for (offset, size) in [((10 << 20) - 10, 11), (1, 10 << 20), (u64::MAX - 7, 9)] {
            assert!(from(offset, size, 0).is_err(), "{size} at {offset}");
        }
        for (size, address) in
            [(10, end), (10, hole), (9 << 20, end - (5 << 20)), (9 << 20, u64::MAX - 7)]
        {
            assert!(from(0, size, address).is_err(), "{size} to {address:#x}");
        }
    }

    #[test]
    fn memory_is_zero_and_lies_around_the_hole_for_devices() {
        let memory = join(allocate(4 << 30, 0).unwrap()).unwrap();
        assert_eq!(memory.num_regions(), 2);
        assert_eq!(memory.last_addr(), GuestAddress((5 << 30) - 1));
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1234)).unwrap(), 0);
        memory.write_obj(7_u8, GuestAddress((4 << 30) + 5)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(5)).unwrap(), 0);
    }

    #[test]
    fn a_kernels_memory_is_apart_and_takes_what_the_other_does() {
        let end = 0x123_4567;
        let regions = allocate(4 << 30, end).unwrap();
        let has_file = |region: &Arc<GuestRegionMmap>| region.file_offset().is_some();
        let places: Vec<_> =
            regions.iter().map(|region| (region.start_addr().0, has_file(region))).collect();
        assert_eq!(places, [(0, false), (0x140_0000, true), (4 << 30, true)]);

        let (bytes, file) = file_of(9 << 20);
        let memory = join(regions).unwrap();
        // Within it, and from it to the other.
        for address in [0x10_0003, 0x13f_fffe, 0x120_0000].map(GuestAddress) {
            write(&memory, b"abc", address).unwrap();
            assert_eq!(memory.read_obj::<[u8; 3]>(address).unwrap(), *b"abc");
            write_from(&memory, &file, [Part { offset: 0, size: 9 << 20, address }]).unwrap();
            let mut found = vec![0; 9 << 20];
            memory.read_slice(&mut found, address).unwrap();
            assert!(found == bytes);
        }
    }

    #[test]
    fn all_of_a_small_memory_may_be_the_kernels() {
        for (size, end) in [(MIN, MIN), (MIN, u64::MAX), (MIN + 4096, MIN + 5000)] {
            let regions = allocate(size, end).unwrap();
            assert_eq!((regions.len(), regions[0].len()), (1, size));
            assert!(regions[0].file_offset().is_none());
        }
    }

    #[test]
    fn what_no_host_has_and_no_guest_can_use_is_refused() {
        assert!(matches!(allocate(MIN - 1, 0), Err(Error::TooLittle { .. })));
        assert!(matches!(allocate(1 << 60, 0), Err(Error::TooMuch { .. })));
        assert!(matches!(allocate(u64::MAX, 0), Err(Error::TooMuch { .. })));
    }
}
