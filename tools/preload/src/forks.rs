//! Whose process an object is of: [`Owner`].
//!
//! A machine is its process's: a child that `fork` has made has its memory as a copy, and none of its threads. So what was made before
//! is dead there, and what is made after it lives.

use host_user::own_process;

/// The process in which something was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u32);

impl Owner {
    /// This process.
    #[must_use]
    pub fn this_process() -> Self {
        Self(own_process::number())
    }

    /// Whether it is this process.
    #[must_use]
    pub fn is_this_process(self) -> bool {
        self == Self::this_process()
    }
}
