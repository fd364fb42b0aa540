//! Members of a union, in the bytes that stand for it. Neighbours: [`crate::run`], [`crate::irq`].
//!
//! Offsets are constants of this crate's, and lie inside: a read or write
//! beyond the end is nothing, so that there is no panic to compile.

/// The `N` bytes at `offset`.
#[inline]
pub(crate) fn get<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut value = [0; N];
    if let Some(source) = bytes.get(offset..).and_then(|rest| rest.get(..N)) {
        value.copy_from_slice(source);
    }
    value
}

/// Sets the `N` bytes at `offset`.
#[inline]
pub(crate) fn set<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    if let Some(target) = bytes.get_mut(offset..).and_then(|rest| rest.get_mut(..N)) {
        target.copy_from_slice(&value);
    }
}

/// The byte at `offset`.
pub(crate) fn get_u8(bytes: &[u8], offset: usize) -> u8 {
    u8::from_ne_bytes(get(bytes, offset))
}

/// The 16 bits at `offset`.
pub(crate) fn get_u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes(get(bytes, offset))
}

/// The 32 bits at `offset`.
pub(crate) fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(get(bytes, offset))
}

/// The 64 bits at `offset`.
pub(crate) fn get_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(get(bytes, offset))
}
