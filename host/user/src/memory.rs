//! Guest memory at host virtual addresses.
//!
//! The guest, and other threads, read and write this memory at any time, so no Rust
//! reference to it is ever made: accesses are volatile or atomic, through raw pointers.
//!
//! Not implemented: a host virtual address that goes bad under a running machine (a
//! truncated file behind it) ends the process with SIGBUS. The regions that `hv`'s safe interface
//! hands in are held alive by it.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use virt::host::BadAddress;

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
/// When the address can't be one of guest memory.
pub fn read(hva: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
    let from = check(hva, buffer.len())?;
    let aligned = hva.is_multiple_of(buffer.len().max(1) as u64);
    // SAFETY: `Host`'s contract: the range lies in a memory slot, whose mapping the slot's owner holds
    // alive; it is only accessed with atomics or byte-wise volatile-like copies, never by reference.
    unsafe {
        match buffer {
            [a] => *a = (*from.cast::<AtomicU8>()).load(Ordering::Relaxed),
            [_, _] if aligned => buffer.copy_from_slice(
                &(*from.cast::<AtomicU16>()).load(Ordering::Relaxed).to_le_bytes(),
            ),
            [_, _, _, _] if aligned => buffer.copy_from_slice(
                &(*from.cast::<AtomicU32>()).load(Ordering::Relaxed).to_le_bytes(),
            ),
            [_, _, _, _, _, _, _, _] if aligned => buffer.copy_from_slice(
                &(*from.cast::<AtomicU64>()).load(Ordering::Relaxed).to_le_bytes(),
            ),
            _ => std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()),
        }
    }
    Ok(())
}

/// Writes memory. Naturally aligned words of up to 8 bytes are written in one access.
///
/// # Errors
/// When the address can't be one of guest memory.
pub fn write(hva: u64, bytes: &[u8]) -> Result<(), BadAddress> {
    let to = check(hva, bytes.len())?;
    let aligned = hva.is_multiple_of(bytes.len().max(1) as u64);
    // SAFETY: as in `read`; that the slot may be written is the caller's check.
    unsafe {
        match *bytes {
            [a] => (*to.cast::<AtomicU8>()).store(a, Ordering::Relaxed),
            [a, b] if aligned => {
                (*to.cast::<AtomicU16>()).store(u16::from_le_bytes([a, b]), Ordering::Relaxed);
            }
            [a, b, c, d] if aligned => {
                let word = u32::from_le_bytes([a, b, c, d]);
                (*to.cast::<AtomicU32>()).store(word, Ordering::Relaxed);
            }
            [a, b, c, d, e, f, g, h] if aligned => {
                let word = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                (*to.cast::<AtomicU64>()).store(word, Ordering::Relaxed);
            }
            _ => std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()),
        }
    }
    Ok(())
}

/// Compares and exchanges `size` bytes; gives what was there.
///
/// # Errors
/// When the address can't be one of guest memory, or is not aligned to `size`.
pub fn compare_exchange(hva: u64, size: u8, expected: u128, new: u128) -> Result<u128, BadAddress> {
    let at = check(hva, usize::from(size))?;
    if size == 0 || !hva.is_multiple_of(u64::from(size)) {
        return Err(BadAddress);
    }
    macro_rules! exchange {
        ($atomic:ty, $int:ty) => {{
            // SAFETY: as in `read`; the address is aligned to the size.
            let cell = unsafe { &*at.cast::<$atomic>() };
            let order = Ordering::SeqCst;
            match cell.compare_exchange(expected as $int, new as $int, order, order) {
                Ok(old) | Err(old) => u128::from(old),
            }
        }};
    }
    Ok(match size {
        1 => exchange!(AtomicU8, u8),
        2 => exchange!(AtomicU16, u16),
        4 => exchange!(AtomicU32, u32),
        8 => exchange!(AtomicU64, u64),
        16 if std::is_x86_feature_detected!("cmpxchg16b") => {
            // SAFETY: as in `read`; aligned to 16, and the processor has the instruction.
            unsafe { compare_exchange_16(at.cast(), expected, new) }
        }
        _ => return Err(BadAddress),
    })
}

/// # Safety
/// `at` is valid for atomic accesses and aligned to 16; the processor has CMPXCHG16B.
unsafe fn compare_exchange_16(at: *mut u128, expected: u128, new: u128) -> u128 {
    let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
    // SAFETY: the caller's promise. RBX is the compiler's own, so it is exchanged in and out.
    unsafe {
        core::arch::asm!(
            "xchg {new_low}, rbx",
            "lock cmpxchg16b [{at}]",
            "mov rbx, {new_low}",
            at = in(reg) at,
            new_low = inout(reg) new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    u128::from(low) | u128::from(high) << 64
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
