//! What an ioctl is called with: [`Argument`], a value or the address of a structure in the caller's memory.
//!
//! That memory changes at any time, so a structure is read once. It is read into the heap, as stacks are small in
//! the kernel; how much is the interface's to say, never the caller's alone. Neighbours: the files beside.

use alloc::vec::Vec;

use abi::encoding::Encoded;

use crate::host::{Errno, Host};

/// An ioctl's argument.
pub struct Argument<H> {
    host: H,
    value: u64,
}

impl<H: Host> Argument<H> {
    /// What the ioctl was called with.
    pub fn new(host: H, value: u64) -> Self {
        Self { host, value }
    }

    /// The argument itself.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Another place in the memory of the same caller, which a structure names.
    #[must_use]
    pub fn elsewhere(&self, address: u64) -> Self {
        Self { host: self.host.clone(), value: address }
    }

    /// The structure that it points to.
    ///
    /// # Errors
    /// `EFAULT` if it cannot be read, `ENOMEM`.
    pub fn read<T: Encoded>(&self) -> Result<T, Errno> {
        Ok(T::decode(&self.bytes(0, T::SIZE)?))
    }

    /// Fills the structure that it points to.
    ///
    /// # Errors
    /// `EFAULT` if it cannot be written, `ENOMEM`.
    pub fn write<T: Encoded>(&self, value: &T) -> Result<(), Errno> {
        let mut bytes = zeroed(T::SIZE)?;
        value.encode(&mut bytes);
        self.put(0, &bytes)
    }

    /// The `len` bytes at an offset from what it points to.
    ///
    /// # Errors
    /// `EFAULT` if they cannot be read, `ENOMEM`.
    pub fn bytes(&self, offset: usize, len: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = zeroed(len)?;
        let address = self.address(offset, len)?;
        self.host.copy_from_caller(address, &mut bytes).map_err(|_| Errno::EFAULT)?;
        Ok(bytes)
    }

    /// Fills the bytes at an offset from what it points to.
    ///
    /// # Errors
    /// `EFAULT` if they cannot be written.
    pub fn put(&self, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        let address = self.address(offset, bytes.len())?;
        self.host.copy_to_caller(address, bytes).map_err(|_| Errno::EFAULT)
    }

    /// An address all of whose bytes are there to be addressed.
    fn address(&self, offset: usize, len: usize) -> Result<u64, Errno> {
        let address = self.value.checked_add(offset as u64).ok_or(Errno::EFAULT)?;
        address.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        Ok(address)
    }
}

/// As many bytes of zero.
///
/// # Errors
/// `ENOMEM`.
pub fn zeroed(len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    Ok(bytes)
}
