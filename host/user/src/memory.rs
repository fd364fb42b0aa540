//! Guest memory at host virtual addresses.
//!
//! The guest, and other threads, read and write this memory at any time, so no Rust
//! reference to it is ever made: accesses are volatile or atomic, through raw pointers.
//!
//! That a slot's memory stays mapped is for whose slot it is to see to. Where it does not (a program takes its memory away, or cuts the
//! file off that is mapped there), an access fails, if the process has the handlers of [`crate::fixup`].

use virt::host::BadAddress;

use crate::fixup;

/// Lowest address that Linux ever maps for a process by default.
const LOWEST: u64 = 0x1_0000;
/// First address above a process's half of the address space.
const HIGHEST: u64 = 1 << 56;

fn check(hva: u64, size: usize) -> Result<*mut u8, BadAddress> {
    let end = hva.checked_add(size as u64).ok_or(BadAddress)?;
    if hva < LOWEST || end > HIGHEST { Err(BadAddress) } else { Ok(hva as *mut u8) }
}

/// Reads memory. Naturally aligned words of up to 8 bytes are read in one access.
///
/// # Errors
/// When the address can't be one of guest memory, or nothing is there that can be read.
pub fn read(hva: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
    let size = buffer.len();
    let from = check(hva, size)?;
    // SAFETY: `Host`'s contract: the range lies in a memory slot. No reference is made to it: it is accessed with atomic moves, or
    // byte by byte in any order. The buffer is the caller's.
    unsafe {
        if is_word(hva, size) {
            let value = fixup::load(from, size)?;
            buffer.copy_from_slice(&value.to_le_bytes()[..size]);
            return Ok(());
        }
        fixup::copy(buffer.as_mut_ptr(), from, size)
    }
}

/// Whether a byte can be read there, or with `write` be written to; then it is, with what it was.
#[must_use]
pub fn is_there(hva: u64, write: bool) -> bool {
    let Ok(at) = check(hva, 1) else { return false };
    // SAFETY: as in `read` and `compare_exchange`. An exchange writes in any case. See: Intel SDM vol. 2, CMPXCHG.
    let reached = unsafe {
        match write {
            false => fixup::load(at, 1).map(drop),
            true => fixup::compare_exchange(at, 1, 0, 0).map(drop),
        }
    };
    reached.is_ok()
}

/// Writes memory. Naturally aligned words of up to 8 bytes are written in one access.
///
/// # Errors
/// When the address can't be one of guest memory, or nothing is there that can be written.
pub fn write(hva: u64, bytes: &[u8]) -> Result<(), BadAddress> {
    let size = bytes.len();
    let to = check(hva, size)?;
    // SAFETY: as in `read`; that the slot may be written is the caller's check.
    unsafe {
        if is_word(hva, size) {
            let mut value = [0; 8];
            value[..size].copy_from_slice(bytes);
            return fixup::store(to, size, u64::from_le_bytes(value));
        }
        fixup::copy(to, bytes.as_ptr(), size)
    }
}

/// Whether it is what a processor accesses at once.
const fn is_word(hva: u64, size: usize) -> bool {
    matches!(size, 1 | 2 | 4 | 8) && hva.is_multiple_of(size as u64)
}

/// Compares and exchanges `size` bytes; gives what was there.
///
/// # Errors
/// When the address can't be one of guest memory, or is not aligned to `size`, or nothing is there that can be written.
pub fn compare_exchange(hva: u64, size: u8, expected: u128, new: u128) -> Result<u128, BadAddress> {
    let at = check(hva, usize::from(size))?;
    if size == 0 || !hva.is_multiple_of(u64::from(size)) {
        return Err(BadAddress);
    }
    if size == 16 && !std::is_x86_feature_detected!("cmpxchg16b") {
        return Err(BadAddress);
    }
    // SAFETY: as in `write`; the address is aligned to the size, and the processor has the instruction.
    unsafe { fixup::compare_exchange(at, size.into(), expected, new) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(16))]
    struct Buffer([u8; 64]);

    #[test]
    fn what_is_written_is_read_back_at_every_size_and_alignment() {
        let mut buffer = Buffer([0; 64]);
        let base = buffer.0.as_mut_ptr() as u64;
        for size in [1, 2, 3, 4, 5, 8, 16] {
            for offset in 0..9 {
                let bytes: Vec<u8> = (0..size).map(|n| (n * 7 + offset + 1) as u8).collect();
                write(base + offset as u64, &bytes).unwrap();
                let mut back = vec![0; size];
                read(base + offset as u64, &mut back).unwrap();
                assert_eq!(back, bytes);
            }
        }
    }

    #[test]
    fn an_exchange_is_made_only_when_the_old_value_is_the_expected_one() {
        let mut buffer = Buffer([0x11; 64]);
        let base = buffer.0.as_mut_ptr() as u64;
        for size in [1_u8, 2, 4, 8, 16] {
            let mask = u128::MAX >> (128 - 8 * u32::from(size));
            let old = 0x1111_1111_1111_1111_1111_1111_1111_1111 & mask;
            assert_eq!(compare_exchange(base + 16, size, 0, 5), Ok(old));
            assert_eq!(compare_exchange(base + 16, size, old, old), Ok(old));
        }
        assert_eq!(compare_exchange(base + 1, 4, 0, 0), Err(BadAddress));
        assert_eq!(compare_exchange(base, 7, 0, 0), Err(BadAddress));
    }

    #[test]
    fn addresses_that_no_mapping_can_have_are_refused() {
        assert_eq!(read(0, &mut [0; 4]), Err(BadAddress));
        assert_eq!(read(u64::MAX - 1, &mut [0; 4]), Err(BadAddress));
        assert_eq!(write(1 << 60, &[0; 4]), Err(BadAddress));
    }
}
