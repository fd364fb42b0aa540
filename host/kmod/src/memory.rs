//! Guest memory, and the memory of who makes a call: both are of the process that the thread is of, at addresses of user space.
//!
//! The guest, and other threads, read and write it at any time, and it may not be there: each access is the kernel's own to user memory, which may
//! bring a page in, and fails where there is none. An address of the kernel's is refused before.

use core::ffi::c_int;
use core::mem::MaybeUninit;

use virt::host::BadAddress;

// SAFETY: these are the glue's functions (glue/user.c), with these types. They accept any address of user space.
unsafe extern "C" {
    /// Whether a range is one of user space.
    safe fn unibody_user_range(address: u64, size: usize) -> bool;
    /// Gives how many bytes were not copied.
    fn unibody_copy_from_user(to: *mut u8, from: u64, size: usize) -> usize;
    fn unibody_copy_to_user(to: u64, from: *const u8, size: usize) -> usize;
    /// These give 0, or an error.
    fn unibody_load_8(from: u64, value: *mut u8) -> c_int;
    fn unibody_load_16(from: u64, value: *mut u16) -> c_int;
    fn unibody_load_32(from: u64, value: *mut u32) -> c_int;
    fn unibody_load_64(from: u64, value: *mut u64) -> c_int;
    safe fn unibody_store_8(to: u64, value: u8) -> c_int;
    safe fn unibody_store_16(to: u64, value: u16) -> c_int;
    safe fn unibody_store_32(to: u64, value: u32) -> c_int;
    safe fn unibody_store_64(to: u64, value: u64) -> c_int;
    /// These give what was there in `old`, and less than 0 for an error.
    fn unibody_exchange_8(at: u64, old: *mut u8, new: u8) -> c_int;
    fn unibody_exchange_16(at: u64, old: *mut u16, new: u16) -> c_int;
    fn unibody_exchange_32(at: u64, old: *mut u32, new: u32) -> c_int;
    fn unibody_exchange_64(at: u64, old: *mut u64, new: u64) -> c_int;
    /// Whether the processor has an exchange of 16 bytes.
    safe fn unibody_has_exchange_128() -> bool;
    fn unibody_exchange_128(at: u64, old: *mut u128, new: *const u128) -> c_int;
}

/// Reads memory. Naturally aligned words of up to 8 bytes are read in one access. Process context.
///
/// # Errors
/// When there is nothing that can be read; `buffer` may be partly written.
pub fn read(address: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
    let size = buffer.len();
    if !is_word(address, size) {
        // SAFETY: the buffer is as long as it says.
        let left = unsafe { unibody_copy_from_user(buffer.as_mut_ptr(), address, size) };
        return if left == 0 { Ok(()) } else { Err(BadAddress) };
    }
    let value = match size {
        1 => load(address, unibody_load_8)?.into(),
        2 => load(address, unibody_load_16)?.into(),
        4 => load(address, unibody_load_32)?.into(),
        _ => load(address, unibody_load_64)?,
    };
    buffer.copy_from_slice(&value.to_le_bytes()[..size]);
    Ok(())
}

/// Reads a word by one of the glue's functions.
fn load<T: Copy + Default>(
    address: u64,
    load: unsafe extern "C" fn(u64, *mut T) -> c_int,
) -> Result<T, BadAddress> {
    let mut value = MaybeUninit::new(T::default());
    // SAFETY: the value is one that can be written to; the glue's functions take any address.
    let error = unsafe { load(address, value.as_mut_ptr()) };
    // SAFETY: it had a value before.
    if error == 0 { Ok(unsafe { value.assume_init() }) } else { Err(BadAddress) }
}

/// Writes memory. Naturally aligned words of up to 8 bytes are written in one access. Process context.
///
/// # Errors
/// When there is nothing that can be written; some may be.
pub fn write(address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
    let size = bytes.len();
    if !is_word(address, size) {
        // SAFETY: the bytes are as many as they say.
        let left = unsafe { unibody_copy_to_user(address, bytes.as_ptr(), size) };
        return if left == 0 { Ok(()) } else { Err(BadAddress) };
    }
    let mut word = [0; 8];
    word[..size].copy_from_slice(bytes);
    let value = u64::from_le_bytes(word);
    let error = match size {
        1 => unibody_store_8(address, value as u8),
        2 => unibody_store_16(address, value as u16),
        4 => unibody_store_32(address, value as u32),
        _ => unibody_store_64(address, value),
    };
    if error == 0 { Ok(()) } else { Err(BadAddress) }
}

/// Whether it is what a processor accesses at once.
const fn is_word(address: u64, size: usize) -> bool {
    matches!(size, 1 | 2 | 4 | 8) && address.is_multiple_of(size as u64)
}

/// Compares and exchanges `size` bytes; gives what was there. Process context.
///
/// # Errors
/// When there is nothing that can be written, the address is not aligned to `size`, or the processor has no such exchange.
pub fn compare_exchange(
    address: u64,
    size: u8,
    expected: u128,
    new: u128,
) -> Result<u128, BadAddress> {
    if size == 0 || !address.is_multiple_of(u64::from(size)) {
        return Err(BadAddress);
    }
    let mut old = expected;
    let error = match size {
        1 => exchange(address, &mut old, new, unibody_exchange_8, |value| value as u8),
        2 => exchange(address, &mut old, new, unibody_exchange_16, |value| value as u16),
        4 => exchange(address, &mut old, new, unibody_exchange_32, |value| value as u32),
        8 => exchange(address, &mut old, new, unibody_exchange_64, |value| value as u64),
        // SAFETY: both are 16 bytes; the address is aligned to as many, and the processor has the instruction.
        16 if unibody_has_exchange_128() => unsafe {
            unibody_exchange_128(address, &raw mut old, &raw const new)
        },
        _ => return Err(BadAddress),
    };
    if error >= 0 { Ok(old) } else { Err(BadAddress) }
}

/// Exchanges a word by one of the glue's functions.
fn exchange<T: Copy + Into<u128>>(
    address: u64,
    old: &mut u128,
    new: u128,
    exchange: unsafe extern "C" fn(u64, *mut T, T) -> c_int,
    word: fn(u128) -> T,
) -> c_int {
    let mut was = word(*old);
    // SAFETY: the word is one that can be written to; the glue's functions take any address.
    let error = unsafe { exchange(address, &raw mut was, word(new)) };
    *old = was.into();
    error
}

/// Whether a process can have memory there. Any context.
pub fn can_be_callers(address: u64, size: u64) -> bool {
    usize::try_from(size).is_ok_and(|size| unibody_user_range(address, size))
}
