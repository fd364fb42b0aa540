//! Lists behind a spinlock: [`push`] adds to one, with memory that is had, and given back, without the lock, for neither may be done with it.

use alloc::vec::Vec;

use lock_api::{Mutex, RawMutex};

use crate::host::Errno;

/// Adds to a list, if `check` has nothing against it, which is asked with the lock held. Gives back what is not added. Process context.
///
/// # Errors
/// What `check` says; `ENOMEM`.
pub(crate) fn push<R: RawMutex, T>(
    list: &Mutex<R, Vec<T>>,
    new: T,
    check: impl Fn(&[T]) -> Result<(), Errno>,
) -> Result<(), (Errno, T)> {
    let mut more = Vec::new();
    loop {
        let mut all = list.lock();
        if let Err(errno) = check(&all) {
            return Err((errno, new));
        }
        let needed = all.len() + 1;
        if needed <= more.capacity() {
            more.extend(all.drain(..));
            more.push(new);
            let old = core::mem::replace(&mut *all, more);
            drop(all);
            drop(old);
            return Ok(());
        }
        drop(all);
        if more.try_reserve_exact(needed).is_err() {
            return Err((Errno::ENOMEM, new));
        }
    }
}
