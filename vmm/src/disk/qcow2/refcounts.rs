//! [`Refcounts`]: how often each cluster of an image is used: a table of blocks of counts.
//!
//! See: QEMU, docs/interop/qcow2.txt, "Host cluster management".

use std::fs::File;
use std::ops::{Range, RangeFrom};
use std::os::unix::fs::FileExt;

use super::header::Header;
use super::{Error, read_table, write_table};

/// Of an entry of the table: where the block is. See: qcow2.txt, "Refcount table entry".
const OFFSET: u64 = 0xffff_ffff_ffff_fe00;

/// The refcounts of an image: the table in memory, the blocks in the file.
pub struct Refcounts<'a> {
    file: &'a File,
    header: Header,
    /// Where each block is: nowhere, if it is 0.
    table: Vec<u64>,
}

impl<'a> Refcounts<'a> {
    /// Those of an image.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn read(file: &'a File, header: &Header) -> Result<Self, Error> {
        let entries = header.refcount_table_clusters * header.entries();
        let mut table = read_table(file, header.refcount_table_offset, entries)?;
        table.iter_mut().for_each(|entry| *entry &= OFFSET);
        Ok(Self { file, header: *header, table })
    }

    /// How many blocks the table has entries for.
    pub fn entries(&self) -> u64 {
        self.table.len() as u64
    }

    /// The clusters of the table in the file.
    pub fn place(&self) -> Range<u64> {
        let first = self.header.refcount_table_offset / self.header.cluster_size();
        first..first + self.header.refcount_table_clusters
    }

    /// Where the blocks are.
    pub fn blocks(&self) -> impl Iterator<Item = u64> {
        self.table.iter().copied().filter(|offset| *offset != 0)
    }

    /// Which of the first blocks there are not.
    pub fn missing(&self, first: u64) -> Vec<u64> {
        let is_there = |index: u64| self.table.get(index as usize).is_some_and(|at| *at != 0);
        (0..first).filter(|index| !is_there(*index)).collect()
    }

    /// Has blocks be at clusters, in the table in memory.
    pub fn enter(&mut self, blocks: &[u64], clusters: RangeFrom<u64>) {
        if let Some(last) = blocks.last() {
            self.table.resize(self.table.len().max(*last as usize + 1), 0);
        }
        for (index, cluster) in blocks.iter().zip(clusters) {
            self.table[*index as usize] = cluster * self.header.cluster_size();
        }
    }

    /// Writes the whole table to clusters.
    ///
    /// # Errors
    /// When the host cannot.
    pub fn write_table(&mut self, start: u64, clusters: u64) -> Result<(), Error> {
        self.table.resize((clusters * self.header.entries()) as usize, 0);
        write_table(self.file, start * self.header.cluster_size(), &self.table)
    }

    /// Whether each of these clusters, which are in order, is used by somebody.
    ///
    /// # Errors
    /// When the blocks cannot be read.
    pub fn are_counted(&self, clusters: &[u64]) -> Result<bool, Error> {
        let per_block = self.header.refcounts();
        for group in clusters.chunk_by(|a, b| a / per_block == b / per_block) {
            let Some((_, mut block)) = self.block(group[0] / per_block)? else { return Ok(false) };
            let mut counts = Counts { bytes: &mut block, order: self.header.refcount_order };
            if group.iter().any(|cluster| counts.is_zero(cluster % per_block)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Has clusters be used so often: once, or not at all. All of them have blocks.
    ///
    /// # Errors
    /// When the host cannot.
    pub fn set(&self, clusters: Range<u64>, count: u8) -> Result<(), Error> {
        let per_block = self.header.refcounts();
        let mut next = clusters.start;
        while next < clusters.end {
            let index = next / per_block;
            let end = clusters.end.min((index + 1) * per_block);
            let Some((place, mut block)) = self.block(index)? else { return Err(Error::Short) };
            let mut counts = Counts { bytes: &mut block, order: self.header.refcount_order };
            (next..end).for_each(|cluster| counts.set(cluster % per_block, count));
            self.file.write_all_at(&block, place).map_err(Error::Write)?;
            next = end;
        }
        Ok(())
    }

    /// A block, and where it is.
    fn block(&self, index: u64) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let place = usize::try_from(index).ok().and_then(|index| self.table.get(index)).copied();
        let Some(place) = place.filter(|place| *place != 0) else { return Ok(None) };
        let mut bytes = vec![0; self.header.cluster_size() as usize];
        self.file.read_exact_at(&mut bytes, place).map_err(Error::Read)?;
        Ok(Some((place, bytes)))
    }
}

/// The counts in a block, which are of 1 to 64 bits each.
struct Counts<'a> {
    bytes: &'a mut [u8],
    /// The base-2 logarithm of how many.
    order: u32,
}

impl Counts<'_> {
    /// The bytes that a count is in, and which bits of each.
    fn of(&mut self, index: u64) -> (&mut [u8], u8) {
        let bits = 1_usize << self.order;
        let first = index as usize * bits;
        match bits.checked_sub(8) {
            // The first is in the low bits.
            None => (&mut self.bytes[first / 8..=first / 8], ((1_u8 << bits) - 1) << (first % 8)),
            Some(_) => (&mut self.bytes[first / 8..(first + bits) / 8], 0xff),
        }
    }

    fn is_zero(&mut self, index: u64) -> bool {
        let (bytes, mask) = self.of(index);
        bytes.iter().all(|byte| byte & mask == 0)
    }

    /// Has it be 0 or 1.
    fn set(&mut self, index: u64, count: u8) {
        let (bytes, mask) = self.of(index);
        bytes.iter_mut().for_each(|byte| *byte &= !mask);
        if let Some(last) = bytes.last_mut() {
            // The lowest bit of the mask, for counts are big-endian.
            *last |= count << mask.trailing_zeros();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_each_size_are_set_alone() {
        for order in 0..=6 {
            for fill in [0, 0xff] {
                let mut bytes = [fill; 64];
                let mut counts = Counts { bytes: &mut bytes, order };
                counts.set(3, 1);
                assert!(!counts.is_zero(3));
                assert_eq!(counts.is_zero(2), fill == 0);
                assert_eq!(counts.is_zero(4), fill == 0);
                counts.set(3, 0);
                assert!(counts.is_zero(3));
                let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
                assert_eq!(ones, if fill == 0 { 0 } else { 512 - (1 << order) });
            }
        }
    }

    #[test]
    fn counts_are_where_the_format_has_them() {
        let mut bytes = [0; 8];
        Counts { bytes: &mut bytes, order: 0 }.set(1, 1);
        Counts { bytes: &mut bytes, order: 2 }.set(3, 1);
        Counts { bytes: &mut bytes, order: 4 }.set(2, 1);
        assert_eq!(bytes, [2, 0x10, 0, 0, 0, 1, 0, 0]);
    }
}
