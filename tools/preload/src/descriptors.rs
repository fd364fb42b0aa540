//! Which descriptor is of which object: [`Descriptors`].
//!
//! A program makes a million ioctls a second, on several threads, and may close a descriptor meanwhile, or do either in a signal's
//! handler. So nothing is locked: a handler would wait for the thread that it has interrupted. Instead an entry is one word, with an
//! object's address and how many [`Reference`]s were taken through it. For as many as there can be, [`Held`] counts them as taken from the
//! time on when the object is put there:
//!
//! - who takes a reference adds one to the word, and has the address as it was at that very moment;
//! - who gives one back takes one from the word, if that still has the object. If not, it was removed, and the reference is one of
//!   the object's own by now: that is dropped;
//! - who removes an object empties the word, and gives back what of the references was not taken.
//!
//! An object that is removed from an entry, and put there again meanwhile, may have references given back to the word that others
//! took. Then those find none left, and drop one of the object's own: the sum is right.

use std::ops::Deref;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

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
/// How many references an entry has of an object: more than its word can count.
const PREPAID: u64 = 1 << (u64::BITS - COUNT);

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
        // If it was removed just now: in an empty entry the count means nothing, and is overwritten.
        let object = object(entry.fetch_add(ONE, Ordering::Acquire))?;
        Some(Reference { entry, object })
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
    pub fn insert(&self, descriptor: i32, object: Held) -> Result<(), Errno> {
        let entry = self.entry_for(descriptor).ok_or(Errno(libc::EMFILE))?;
        object.counted().count.fetch_add(PREPAID - 1, Ordering::Relaxed);
        drop(removed(entry.swap(object.into_word(), Ordering::AcqRel)));
        Ok(())
    }

    /// Has a descriptor be of nothing; gives the object that it was of.
    pub fn remove(&self, descriptor: i32) -> Option<Held> {
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

    /// Calls `look` for each object.
    pub fn each(&self, look: impl Fn(&Object)) {
        for (n, chunk) in self.chunks.iter().enumerate() {
            if chunk.load(Ordering::Acquire).is_null() {
                continue;
            }
            for number in n * CHUNK..(n + 1) * CHUNK {
                if let Some(object) = self.get(number as i32) {
                    look(&object);
                }
            }
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

/// An object, and how many references there are of it.
struct Counted {
    count: AtomicU64,
    object: Object,
}

/// A reference of an object's own: it is there as long as one of these is, or an entry has it.
pub struct Held(NonNull<Counted>);

// SAFETY: it gives out shared references alone, and `Object` may be used by any thread (asserted below), and be dropped by any.
unsafe impl Send for Held {}
// SAFETY: likewise.
unsafe impl Sync for Held {}

const fn is_for_any_thread<T: Send + Sync>() {}
const _: () = is_for_any_thread::<Object>();

impl Held {
    /// The first one of an object.
    #[must_use]
    pub fn new(object: Object) -> Self {
        let counted = Box::leak(Box::new(Counted { count: AtomicU64::new(1), object }));
        Self(NonNull::from(counted))
    }

    fn counted(&self) -> &Counted {
        // SAFETY: it comes from `new`, and is there as long as this is.
        unsafe { self.0.as_ref() }
    }

    /// As an entry has it that has counted nothing.
    fn into_word(self) -> u64 {
        let word = self.0.as_ptr().expose_provenance() as u64;
        std::mem::forget(self);
        word
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        self.counted().count.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What others did with it is before its end.
        if self.counted().count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: it comes from `Box::leak`, and this was the last reference.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

/// The object of a word, if it has one.
fn object(word: u64) -> Option<NonNull<Counted>> {
    NonNull::new(std::ptr::with_exposed_provenance_mut((word & ADDRESS) as usize))
}

/// The object of a word that was taken out.
fn removed(word: u64) -> Option<Held> {
    let held = Held(object(word)?);
    // Those that were taken have theirs, and so has this.
    let taken = word >> COUNT;
    held.counted().count.fetch_sub(PREPAID - taken - 1, Ordering::Relaxed);
    Some(held)
}

/// An object that stays as long as this.
pub struct Reference<'a> {
    entry: &'a AtomicU64,
    object: NonNull<Counted>,
}

impl Reference<'_> {
    /// The object itself.
    #[must_use]
    pub fn object(&self) -> Held {
        self.counted().count.fetch_add(1, Ordering::Relaxed);
        Held(self.object)
    }

    fn counted(&self) -> &Counted {
        // SAFETY: the entry that this was taken through has counted it, or it is one of the object's own by now.
        unsafe { self.object.as_ref() }
    }
}

impl Deref for Reference<'_> {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.counted().object
    }
}

impl Drop for Reference<'_> {
    #[inline]
    fn drop(&mut self) {
        let given_back = self.entry.fetch_update(Ordering::Release, Ordering::Relaxed, |word| {
            let is_counted = object(word) == Some(self.object) && word >> COUNT != 0;
            is_counted.then(|| word - ONE)
        });
        if given_back.is_err() {
            // It was removed, by someone who has left this one.
            drop(Held(self.object));
        }
    }
}

#[cfg(test)]
#[path = "descriptors_test.rs"]
mod descriptors_test;
