//! [`Header`]: what a qcow2 image says of itself, as far as its tables are looked at here.
//!
//! See: QEMU, docs/interop/qcow2.txt, "Header".

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::Error;

/// By what an image begins.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes of the header that are looked at: all of version 3's that must be there.
const SIZE: usize = 104;

/// Where in it what is that is written here: 8 bytes and 4.
pub const REFCOUNT_TABLE_AT: u64 = 48;

/// Most bytes of the table of L2 tables, as QEMU has it.
const MOST_L1: u64 = 32 << 20;

/// Most bytes of the table of refcount blocks, as QEMU has it.
pub const MOST_REFCOUNT_TABLE: u64 = 8 << 20;

/// Bits of the incompatible features.
mod incompatible {
    pub const DIRTY: u64 = 1 << 0;
    pub const CORRUPT: u64 = 1 << 1;
    pub const DATA_FILE: u64 = 1 << 2;
}

/// A header that makes sense by itself.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    cluster_bits: u32,
    /// Bytes of the disk.
    pub size: u64,
    /// Where the table of L2 tables is, and how many entries the disk needs of it.
    pub l1_offset: u64,
    /// The entries that the disk needs.
    pub l1_entries: u64,
    /// Where the table of refcount blocks is.
    pub refcount_table_offset: u64,
    /// How many clusters it is.
    pub refcount_table_clusters: u64,
    /// The base-2 logarithm of how many bits a refcount has.
    pub refcount_order: u32,
}

impl Header {
    /// Reads it, of an image that is to be written to.
    ///
    /// # Errors
    /// When it makes no sense, or says of the image what is not implemented.
    pub fn read(file: &File) -> Result<Self, Error> {
        let mut bytes = [0; SIZE];
        // Version 2's is 72 bytes, in a cluster of its own that is larger than either.
        file.read_exact_at(&mut bytes, 0).map_err(Error::Read)?;
        let header = Self::decode(&bytes)?;
        let end = file.metadata().map_err(Error::Read)?.len();
        let is_in_file = |offset: u64, size: u64| {
            offset.is_multiple_of(header.cluster_size())
                && offset.checked_add(size).is_some_and(|last| last <= end)
        };
        let table = header.refcount_table_clusters * header.cluster_size();
        if !is_in_file(header.l1_offset, header.l1_entries * 8)
            || !is_in_file(header.refcount_table_offset, table)
        {
            return Err(Error::Short);
        }
        Ok(header)
    }

    fn decode(bytes: &[u8; SIZE]) -> Result<Self, Error> {
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        let version = word(4);
        if bytes[..4] != MAGIC || !matches!(version, 2 | 3) {
            return Err(Error::NoSense("its first bytes"));
        }
        let (features, refcount_order) = if version == 2 { (0, 4) } else { (long(72), word(96)) };
        if features & (incompatible::DIRTY | incompatible::CORRUPT) != 0 {
            return Err(Error::Damaged("it says so itself"));
        }
        if features & incompatible::DATA_FILE != 0 {
            return Err(Error::Lacks("a data file of its own"));
        }
        if features & !(incompatible::DIRTY | incompatible::CORRUPT | incompatible::DATA_FILE) != 0
        {
            return Err(Error::Lacks("features that are not known here"));
        }
        if word(32) != 0 {
            return Err(Error::Lacks("encryption"));
        }
        if word(60) != 0 {
            return Err(Error::Lacks("snapshots in it"));
        }
        let cluster_bits = word(20);
        if !(9..=21).contains(&cluster_bits) || refcount_order > 6 {
            return Err(Error::NoSense("the size of its clusters or refcounts"));
        }
        let mut header = Self {
            cluster_bits,
            size: long(24),
            l1_offset: long(40),
            l1_entries: 0,
            refcount_table_offset: long(REFCOUNT_TABLE_AT as usize),
            refcount_table_clusters: word(56).into(),
            refcount_order,
        };
        header.l1_entries = header.clusters().div_ceil(header.entries());
        let table = header.refcount_table_clusters * header.cluster_size();
        if header.l1_entries > u64::from(word(36)) || header.l1_entries * 8 > MOST_L1 {
            return Err(Error::NoSense("the size of its first table"));
        }
        if table == 0 || table > MOST_REFCOUNT_TABLE {
            return Err(Error::NoSense("the size of its table of refcounts"));
        }
        Ok(header)
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters of the disk.
    pub fn clusters(&self) -> u64 {
        self.size.div_ceil(self.cluster_size())
    }

    /// Entries of a table that is a cluster.
    pub fn entries(&self) -> u64 {
        self.cluster_size() / 8
    }

    /// Refcounts in a block of them, which is a cluster.
    pub fn refcounts(&self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }
}
