//! Descriptors of the hypervisor's own in a process that is another program's: [`OwnDescriptor`].
//!
//! Such a program may close all numbers that it does not know (`close_range`, `closefrom`, a loop), which once it has opened what it
//! wants is a common thing to do. So which numbers are whose is noted while they are open, and who stands before the C library's `close`
//! asks ([`is_own`], [`next_own`]). That may be in a signal's handler: there is no lock, the numbers are bits.
//!
//! Not noted, and so closed with the others, is a number from [`NOTED`] on, which a process has only if its limit is that high
//! (`RLIMIT_NOFILE`) and it has that many files; and one that another thread has just got from the kernel, or is about to give back.
//!
//! A child that `fork` has made has copies of the descriptors and of the bits: there, too, they are none of the program's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many numbers can be noted, from 0 on.
pub const NOTED: usize = 1 << 16;
const BITS: usize = u64::BITS as usize;

/// A bit for each number.
static OWN: [AtomicU64; NOTED / BITS] = [const { AtomicU64::new(0) }; NOTED / BITS];

/// A descriptor whose number is noted while it is open.
#[derive(Debug)]
pub struct OwnDescriptor(Option<OwnedFd>);

impl OwnDescriptor {
    /// Another descriptor of what one of the program's is of, which stays the program's.
    ///
    /// # Errors
    /// `EBADF` if it is none, and when there are too many files open.
    pub fn duplicate_of(number: RawFd) -> io::Result<Self> {
        // SAFETY: the call takes any number, and refuses what is no descriptor.
        let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
        if duplicate < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just made, and nothing else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(duplicate) }.into())
    }
}

impl From<OwnedFd> for OwnDescriptor {
    fn from(descriptor: OwnedFd) -> Self {
        if let Some((word, bit)) = place(descriptor.as_raw_fd()) {
            word.fetch_or(bit, Ordering::AcqRel);
        }
        Self(Some(descriptor))
    }
}

impl AsFd for OwnDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("it is there until this is dropped").as_fd()
    }
}

impl Drop for OwnDescriptor {
    fn drop(&mut self) {
        // It is closed after this: from then on anyone may get the number. And what closes it is the C library's `close`, by its name:
        // who stands before that would refuse a number that is noted.
        let Some(descriptor) = self.0.take() else { return };
        let noted = place(descriptor.as_raw_fd());
        if noted.is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::AcqRel) & bit == 0) {
            // It was given away, and is not to be closed.
            let _ = descriptor.into_raw_fd();
        }
    }
}

/// Somebody else has had another descriptor take a number's place (`dup2`): it is theirs from now on. Any context.
pub fn give_away(number: RawFd) {
    if let Some((word, bit)) = place(number) {
        word.fetch_and(!bit, Ordering::AcqRel);
    }
}

/// Whether a number is one of the hypervisor's own. Any context.
#[inline]
#[must_use]
pub fn is_own(number: RawFd) -> bool {
    place(number).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
}

/// The lowest number of the hypervisor's own from `first` on. Any context.
#[must_use]
pub fn next_own(first: u32) -> Option<u32> {
    let mut at = first as usize;
    while let Some(word) = OWN.get(at / BITS) {
        let rest = word.load(Ordering::Acquire) >> (at % BITS);
        if rest != 0 {
            return Some(at as u32 + rest.trailing_zeros());
        }
        at = (at / BITS + 1) * BITS;
    }
    None
}

/// Where a number is noted, if it can be.
#[inline]
fn place(number: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let number = usize::try_from(number).ok()?;
    Some((OWN.get(number / BITS)?, 1 << (number % BITS)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::io::fcntl_dupfd_cloexec;

    use super::*;

    /// A file's descriptor whose number is the lowest free one from `least` on. No other test has numbers as high.
    fn from(least: RawFd) -> OwnedFd {
        fcntl_dupfd_cloexec(File::open("/dev/null").unwrap(), least).unwrap()
    }

    #[test]
    fn one_is_noted_while_it_is_open_and_who_gets_the_number_next_is_not() {
        let own = OwnDescriptor::from(from(700));
        assert_eq!(own.as_fd().as_raw_fd(), 700);
        assert!(is_own(700) && !is_own(699) && !is_own(701));
        drop(own);
        assert!(!is_own(700));
        let other = from(700);
        assert_eq!(other.as_raw_fd(), 700);
        assert!(!is_own(700));
    }

    #[test]
    fn what_was_given_away_is_not_closed() {
        let own = OwnDescriptor::from(from(760));
        give_away(760);
        assert!(!is_own(760));
        drop(own);
        // Still open.
        let next = from(760);
        assert_eq!(next.as_raw_fd(), 761);
    }

    #[test]
    fn the_next_one_is_found_across_words() {
        let (one, two) = (OwnDescriptor::from(from(831)), OwnDescriptor::from(from(960)));
        for (first, found) in [(800, 831), (831, 831), (832, 960), (895, 960), (960, 960)] {
            assert_eq!(next_own(first), Some(found));
        }
        drop(two);
        assert_eq!((next_own(831), next_own(832)), (Some(831), None));
        drop(one);
        assert_eq!(next_own(800), None);
    }

    #[test]
    fn what_can_be_no_ones_is_not_own() {
        for number in [-1, RawFd::MIN, RawFd::MAX, NOTED as RawFd, NOTED as RawFd - 1] {
            assert!(!is_own(number));
        }
        assert_eq!((next_own(NOTED as u32), next_own(u32::MAX)), (None, None));
    }
}
