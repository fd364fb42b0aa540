//! KVM's interface, the part of it that knows no architecture: an [`Argument`] of an ioctl, read through
//! [`Host`](crate::Host).
//!
//! See: Linux, Documentation/virt/kvm/api.rst.

mod argument;

pub use argument::{Argument, zeroed};
