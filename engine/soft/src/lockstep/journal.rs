//! [`Journal`]: the memory that a block has written to, before and after.

use crate::ram::Page;

/// Bytes in one page, one behind the other.
#[derive(Clone, Copy)]
struct Place {
    page: Page,
    offset: u16,
    size: u16,
}

/// The places that were written to, in their order, and what was there. A place may be there twice.
#[derive(Default)]
pub(super) struct Journal {
    on: bool,
    places: Vec<Place>,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Journal {
    /// Forgets all, and notes from now on.
    pub fn start(&mut self) {
        self.on = true;
        self.places.clear();
        self.before.clear();
        self.after.clear();
    }

    /// Notes `size` bytes in a page that are about to be written.
    pub fn note(&mut self, page: Page, offset: u64, size: u64) {
        if !self.on || size == 0 {
            return;
        }
        let at = self.before.len();
        self.before.resize(at + size as usize, 0);
        if page.read(offset, &mut self.before[at..]).is_none() {
            // Nor can it be written.
            self.before.truncate(at);
            return;
        }
        match self.places.last_mut() {
            Some(last) if last.page == page && u64::from(last.offset + last.size) == offset => {
                last.size += size as u16;
            }
            _ => self.places.push(Place { page, offset: offset as u16, size: size as u16 }),
        }
    }

    /// Notes nothing more, and keeps what the places hold now.
    pub fn stop(&mut self) {
        self.on = false;
        self.after.resize(self.before.len(), 0);
        let mut after = self.after.as_mut_slice();
        for place in &self.places {
            let (bytes, rest) = after.split_at_mut(place.size.into());
            let _ = place.page.read(place.offset.into(), bytes);
            after = rest;
        }
    }

    /// Writes back what the places held first.
    pub fn undo(&self) {
        let mut before = self.before.as_slice();
        for place in self.places.iter().rev() {
            let (rest, bytes) = before.split_at(before.len() - usize::from(place.size));
            let _ = place.page.write(place.offset.into(), bytes);
            before = rest;
        }
    }

    /// The first place that does not hold what it did when noting stopped: its offset in the page, the bytes
    /// of then, and those of now.
    pub fn first_difference(&self) -> Option<(u64, Vec<u8>, Vec<u8>)> {
        let mut after = self.after.as_slice();
        let mut now = Vec::new();
        for place in &self.places {
            let (expected, rest) = after.split_at(place.size.into());
            now.resize(expected.len(), 0);
            let _ = place.page.read(place.offset.into(), &mut now);
            if let Some(at) = (0..expected.len()).find(|at| expected[*at] != now[*at]) {
                let end = (at + 8).min(expected.len());
                let offset = u64::from(place.offset) + at as u64;
                return Some((offset, expected[at..end].to_vec(), now[at..end].to_vec()));
            }
            after = rest;
        }
        None
    }
}
