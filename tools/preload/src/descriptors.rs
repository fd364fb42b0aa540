//! Which descriptor is of which object: [`Descriptors`].
//!
//! A program makes a million ioctls a second, on several threads, and may close a descriptor meanwhile, or do either in a signal's
//! handler. So nothing is locked: a handler would wait for the thread that it has interrupted. Instead an entry is one word, with an
//! object's address and how many [`Reference`]s were taken through it, of which the table itself has paid for none yet:
//!
//! - who takes a reference adds one to the word, and has the address as it was at that very moment;
//! - who gives one back takes one from the word, if that still has the object. If not, whoever has removed it has paid for all: so one
//!   reference of the object's own is dropped;
//! - who removes an object empties the word, and pays for as many as it had.
//!
//! An object that is removed from an entry, and put there again meanwhile, may have references given back to the word that others
//! took. Then those find none left, and drop one of the object's own: the sum is right.

use std::ops::Deref;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use virt::Errno;

use crate::object::Object;

/// Entries that are made at once.
const CHUNK: usize = 512;
/// How many times that many: more descriptors than Linux lets a process have, unless it is told otherwise.
const CHUNKS: usize = 2048;
/// Where the count begins in a word: above each address of a process's.
const COUNT: u32 = 48;
/// One reference.
const ONE: u64 = 1 << COUNT;
/// The address.
const ADDRESS: u64 = ONE - 1;

type Chunk = [AtomicU64; CHUNK];

/// The objects of a process, by descriptor.
pub struct Descriptors {
    /// Made when needed, and never dropped.
    chunks: [AtomicPtr<Chunk>; CHUNKS],
}

/// Those of this process.
pub static DESCRIPTORS: Descriptors = Descriptors::new();

impl Descriptors {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunks: [const { AtomicPtr::new(null_mut()) }; CHUNKS] }
    }

    /// The object that a descriptor is of, if it is of one. Any context.
    #[inline]
    pub fn get(&self, descriptor: i32) -> Option<Reference<'_>> {
        let entry = self.entry(descriptor)?;
        if entry.load(Ordering::Relaxed) & ADDRESS == 0 {
            return None;
        }
        let word = entry.fetch_add(ONE, Ordering::Acquire);
        if word & ADDRESS == 0 {
            // It was removed just now. In an empty entry the count means nothing, and is overwritten.
            return None;
        }
        Some(Reference { entry, object: object(word) })
    }

    /// Whether a descriptor is of an object. Any context.
    #[inline]
    pub fn has(&self, descriptor: i32) -> bool {
        self.entry(descriptor).is_some_and(|entry| entry.load(Ordering::Relaxed) & ADDRESS != 0)
    }

    /// Has a descriptor be of an object, and of none that it was of before.
    ///
    /// # Errors
    /// `EMFILE` for a number that is too large.
    pub fn insert(&self, descriptor: i32, object: Arc<Object>) -> Result<(), Errno> {
        let entry = self.entry_for(descriptor).ok_or(Errno(libc::EMFILE))?;
        let word = Arc::into_raw(object).expose_provenance() as u64;
        drop(removed(entry.swap(word, Ordering::AcqRel)));
        Ok(())
    }

    /// Has a descriptor be of nothing; gives the object that it was of.
    pub fn remove(&self, descriptor: i32) -> Option<Arc<Object>> {
        let entry = self.entry(descriptor)?;
        if entry.load(Ordering::Relaxed) & ADDRESS == 0 {
            return None;
        }
        removed(entry.swap(0, Ordering::AcqRel))
    }

    /// Has all descriptors from `first` to `last` be of nothing.
    pub fn remove_range(&self, first: u32, last: u32) {
        let last = last.min((CHUNK * CHUNKS - 1) as u32);
        let mut next = first;
        while next <= last {
            let number = next as usize / CHUNK;
            if self.chunks[number].load(Ordering::Acquire).is_null() {
                next = ((number + 1) * CHUNK) as u32;
                continue;
            }
            drop(self.remove(next as i32));
            next += 1;
        }
    }

    #[inline]
    fn entry(&self, descriptor: i32) -> Option<&AtomicU64> {
        let index = usize::try_from(descriptor).ok()?;
        let chunk = self.chunks.get(index / CHUNK)?.load(Ordering::Acquire);
        // SAFETY: it is null, or was made by `entry_for`, and is never dropped.
        let chunk = unsafe { chunk.as_ref() }?;
        chunk.get(index % CHUNK)
    }

    /// The same; makes it if there is none yet.
    fn entry_for(&self, descriptor: i32) -> Option<&AtomicU64> {
        let index = usize::try_from(descriptor).ok()?;
        let place = self.chunks.get(index / CHUNK)?;
        if place.load(Ordering::Acquire).is_null() {
            let new = Box::into_raw(Box::new([const { AtomicU64::new(0) }; CHUNK]));
            let put = place.compare_exchange(null_mut(), new, Ordering::AcqRel, Ordering::Acquire);
            if put.is_err() {
                // SAFETY: it was made above, and nobody has seen it.
                drop(unsafe { Box::from_raw(new) });
            }
        }
        self.entry(descriptor)
    }
}

impl Default for Descriptors {
    fn default() -> Self {
        Self::new()
    }
}

fn object(word: u64) -> *const Object {
    std::ptr::with_exposed_provenance((word & ADDRESS) as usize)
}

/// The object of a word that was taken out, with a reference for each that was taken through it.
fn removed(word: u64) -> Option<Arc<Object>> {
    if word & ADDRESS == 0 {
        return None;
    }
    for _ in 0..word >> COUNT {
        // SAFETY: it comes from `Arc::into_raw`, and the word had a reference, which is only dropped below.
        unsafe { Arc::increment_strong_count(object(word)) };
    }
    // SAFETY: likewise, and nobody else has taken this word.
    Some(unsafe { Arc::from_raw(object(word)) })
}

/// An object that stays as long as this.
pub struct Reference<'a> {
    entry: &'a AtomicU64,
    object: *const Object,
}

impl Reference<'_> {
    /// The object itself.
    #[must_use]
    pub fn object(&self) -> Arc<Object> {
        // SAFETY: it comes from `Arc::into_raw`, and has a reference more: this one.
        unsafe {
            Arc::increment_strong_count(self.object);
            Arc::from_raw(self.object)
        }
    }
}

impl Deref for Reference<'_> {
    type Target = Object;

    fn deref(&self) -> &Object {
        // SAFETY: it is there until this is dropped.
        unsafe { &*self.object }
    }
}

impl Drop for Reference<'_> {
    #[inline]
    fn drop(&mut self) {
        let given_back = self.entry.fetch_update(Ordering::Release, Ordering::Relaxed, |word| {
            let is_counted = object(word) == self.object && word >> COUNT != 0;
            is_counted.then(|| word - ONE)
        });
        if given_back.is_err() {
            // SAFETY: who removed it has made a reference of it for this one.
            unsafe { Arc::decrement_strong_count(self.object) };
        }
    }
}
