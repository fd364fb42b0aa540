//! What QEMU must be told to translate again.
//!
//! QEMU sees writes of its own processor to code that it has translated, but not those that a test makes
//! through this process's mapping. [`Stale`] finds out what differs from the last run; the monitor writes
//! it again, byte for byte the same, and with that QEMU drops its translations.

use std::io;

use vm_memory::{Bytes, GuestRegionMmap, MemoryRegionAddress};

use super::area::{Area, place};
use crate::layout::PROGRAMS;

/// Size of what is compared and written at a time.
const WORD: usize = 8;

/// The bytes of [`PROGRAMS`] at the last run.
#[derive(Default)]
pub struct Stale {
    last: Vec<Vec<u8>>,
}

impl Stale {
    /// Writes the list for the next run: places and numbers of quadwords, up to a number of 0.
    pub fn write(&mut self, ram: &GuestRegionMmap, area: &Area) -> io::Result<()> {
        let now: Vec<Vec<u8>> = PROGRAMS
            .iter()
            .map(|range| {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                ram.read_slice(&mut bytes, MemoryRegionAddress(range.start))
                    .map_err(io::Error::other)?;
                Ok(bytes)
            })
            .collect::<io::Result<_>>()?;
        let mut list = Vec::new();
        for ((range, old), new) in PROGRAMS.iter().zip(&self.last).zip(&now) {
            for (place, words) in changes(old, new) {
                list.extend((range.start + place as u64).to_le_bytes());
                list.extend((words as u64).to_le_bytes());
            }
        }
        list.extend([0; 16]);
        if list.len() as u64 > place::STALE_SIZE {
            return Err(io::Error::other("too much of the guest's memory has changed"));
        }
        self.last = now;
        area.write(place::STALE, &list)
    }
}

/// Where `new` differs from `old`, and for how many words.
fn changes(old: &[u8], new: &[u8]) -> Vec<(usize, usize)> {
    const BLOCK: usize = 0x200;
    let mut list: Vec<(usize, usize)> = Vec::new();
    for (block, (old, new)) in (0..).zip(old.chunks(BLOCK).zip(new.chunks(BLOCK))) {
        if old == new {
            continue;
        }
        for (word, (old, new)) in (0..).zip(old.chunks(WORD).zip(new.chunks(WORD))) {
            let place = block * BLOCK + word * WORD;
            match list.last_mut() {
                _ if old == new => {}
                Some((start, words)) if *start + *words * WORD == place => *words += 1,
                _ => list.push((place, 1)),
            }
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::changes;

    #[test]
    fn neighbours_are_one_change() {
        let old = vec![0; 0x1000];
        let mut new = old.clone();
        assert_eq!(changes(&old, &new), []);
        new[0x1f8] = 1;
        new[0x207] = 1;
        new[0xfff] = 1;
        assert_eq!(changes(&old, &new), [(0x1f8, 2), (0xff8, 1)]);
    }
}
