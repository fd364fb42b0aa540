//! Makes a qcow2 image ready to be written to: [`prepare`] has all its tables be there before `imago` writes the first byte.
//!
//! `imago` 0.2 enters a new table of clusters, and a new block of refcounts, before the cluster that it is in is counted as used: a process
//! that is killed in between leaves an image whose tables the next writer overwrites. Whatever is killed here, an image has to be whole, but for
//! clusters that are counted and not used. So the tables are made here, in an order that has that hold at each step, and `imago` never needs a
//! new one. They are empty, and holes in the file: a disk of 1 TiB has 160 MiB of them, which take less than one MiB of the host's.
//!
//! - [`header`]: what an image says of itself;
//! - [`refcounts`]: how often each cluster is used.
//!
//! Looked at is what would have the guest's data overwrite tables: two tables at one place, and tables that are not counted.
//! What is not implemented is refused: snapshots in the image, encryption, a data file beside it.
//!
//! Its tests are `vmm/tests/qcow2`, with QEMU's programs.
//!
//! See: QEMU, docs/interop/qcow2.txt.

pub mod header;
pub mod refcounts;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use hv::host_error::explain;

use self::header::{Header, MOST_REFCOUNT_TABLE, REFCOUNT_TABLE_AT};
use self::refcounts::Refcounts;

/// Of an entry of the first table: where the L2 table is, and that nobody else uses it. See: qcow2.txt, "L1 table entry".
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;

/// Why an image is not written to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("its tables cannot be read: {}", explain(.0))]
    Read(io::Error),
    /// It cannot be written to.
    #[error("its tables cannot be written: {}", explain(.0))]
    Write(io::Error),
    /// Something in its header is impossible.
    #[error("{0} make no sense")]
    NoSense(&'static str),
    /// What it says is elsewhere in the file is not.
    #[error("its tables are not where its header says, or the file is shorter than it was")]
    Short,
    /// Writing to it would destroy more.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It has what is not implemented.
    #[error("it has {0}, with which an image can be read here, and not written to")]
    Lacks(&'static str),
    /// There can be no table for it.
    #[error("its clusters are too small for its size")]
    TooLarge,
}

/// Has all tables of an image be there that its disk can need. Whatever ends the process, the image is whole.
///
/// # Errors
/// When it is none to write to, or the host cannot.
pub fn prepare(file: &File) -> Result<(), Error> {
    let header = Header::read(file)?;
    let mut first = read_table(file, header.l1_offset, header.l1_entries)?;
    let refcounts = Refcounts::read(file, &header)?;
    check(file, &header, &first, &refcounts)?;
    let missing: Vec<_> = (0..first.len()).filter(|index| first[*index] == 0).collect();
    let length = file.metadata().map_err(Error::Read)?.len();
    let plan = plan(&header, &refcounts, length, missing.len() as u64)?;
    if plan.total() == 0 {
        return Ok(());
    }
    make(file, &header, refcounts, &plan)?;
    // Counted, and on the medium: now they may be used.
    for (index, cluster) in missing.into_iter().zip(plan.tables()) {
        first[index] = (cluster * header.cluster_size()) | COPIED;
    }
    write_table(file, header.l1_offset, &first)?;
    sync(file)
}

/// Where new clusters are, one after the other from the end of the file: the new table of refcount blocks, the blocks, L2 tables.
#[derive(Debug)]
struct Plan {
    /// The first of them.
    start: u64,
    /// How many clusters the table of refcount blocks takes: none if it can stay as it is.
    table_clusters: u64,
    /// The blocks that are missing, by their index in that table.
    blocks: Vec<u64>,
    l2_tables: u64,
}

impl Plan {
    fn total(&self) -> u64 {
        self.table_clusters + self.blocks.len() as u64 + self.l2_tables
    }

    fn tables(&self) -> std::ops::Range<u64> {
        let first = self.start + self.table_clusters + self.blocks.len() as u64;
        first..first + self.l2_tables
    }
}

/// What is missing. There are to be refcounts for each cluster that the file can come to have: `imago` takes the first that is free, or with
/// those of a request one behind the other, so that none is farther than what is there now, the disk, and an L2 table's clusters together.
fn plan(
    header: &Header,
    refcounts: &Refcounts,
    length: u64,
    l2_tables: u64,
) -> Result<Plan, Error> {
    let start = length.div_ceil(header.cluster_size());
    let mut plan = Plan { start, table_clusters: 0, blocks: Vec::new(), l2_tables };
    // What is added needs refcounts, too: until that is no more than it was.
    loop {
        let before = plan.total();
        let clusters = start + before + header.clusters() + 2 * header.entries();
        let needed = clusters.div_ceil(header.refcounts());
        if needed * 8 > MOST_REFCOUNT_TABLE {
            return Err(Error::TooLarge);
        }
        plan.blocks = refcounts.missing(needed);
        if !plan.blocks.is_empty() {
            let entries = needed.max(refcounts.entries());
            plan.table_clusters = entries.div_ceil(header.entries());
        }
        if plan.total() == before {
            return Ok(plan);
        }
    }
}

/// Makes the planned clusters, counted once each, and has their refcounts be found by the header. When this returns that is on the medium.
fn make(file: &File, header: &Header, mut refcounts: Refcounts, plan: &Plan) -> Result<(), Error> {
    let size = header.cluster_size();
    // All that is new reads as zero, and so are the tables that are not written to below.
    file.set_len((plan.start + plan.total()) * size).map_err(Error::Write)?;
    let old = refcounts.place();
    let blocks = plan.start + plan.table_clusters..;
    refcounts.enter(&plan.blocks, blocks);
    refcounts.set(plan.start..plan.start + plan.total(), 1)?;
    if plan.table_clusters == 0 {
        return sync(file);
    }
    refcounts.write_table(plan.start, plan.table_clusters)?;
    sync(file)?;
    // One write within one sector: the old table, or the new one.
    let mut place = [0; 12];
    place[..8].copy_from_slice(&(plan.start * size).to_be_bytes());
    place[8..].copy_from_slice(&(plan.table_clusters as u32).to_be_bytes());
    file.write_all_at(&place, REFCOUNT_TABLE_AT).map_err(Error::Write)?;
    sync(file)?;
    refcounts.set(old, 0)
}

/// Whether the tables are at places of their own, and counted.
fn check(file: &File, header: &Header, first: &[u64], refcounts: &Refcounts) -> Result<(), Error> {
    let size = header.cluster_size();
    let end = file.metadata().map_err(Error::Read)?.len();
    let own = header.l1_offset / size..(header.l1_offset + header.l1_entries * 8).div_ceil(size);
    let mut used: Vec<u64> = std::iter::once(0).chain(own).chain(refcounts.place()).collect();
    let tables = first.iter().filter(|entry| **entry != 0);
    if tables.clone().any(|entry| entry & COPIED == 0) {
        return Err(Error::Damaged("one of its tables is used by more than one"));
    }
    let places = tables.map(|entry| entry & OFFSET).chain(refcounts.blocks());
    for place in places {
        if !place.is_multiple_of(size) {
            return Err(Error::Damaged("one of its tables begins within a cluster"));
        }
        if place.checked_add(size).is_none_or(|last| last > end) {
            return Err(Error::Short);
        }
        used.push(place / size);
    }
    used.sort_unstable();
    if used.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Damaged("two of its tables are at one place"));
    }
    match refcounts.are_counted(&used)? {
        true => Ok(()),
        false => Err(Error::Damaged("one of its tables is not counted as used")),
    }
}

fn read_table(file: &File, offset: u64, entries: u64) -> Result<Vec<u64>, Error> {
    // As many as the header was found to be good for.
    let mut bytes = vec![0; entries as usize * 8];
    file.read_exact_at(&mut bytes, offset).map_err(Error::Read)?;
    let (entries, _) = bytes.as_chunks();
    Ok(entries.iter().copied().map(u64::from_be_bytes).collect())
}

fn write_table(file: &File, offset: u64, entries: &[u64]) -> Result<(), Error> {
    let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    file.write_all_at(&bytes, offset).map_err(Error::Write)
}

fn sync(file: &File) -> Result<(), Error> {
    file.sync_data().map_err(Error::Write)
}
