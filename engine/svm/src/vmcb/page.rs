//! [`VmcbPage`]: a [`Vmcb`] in a page of the platform's.

use core::ops::{Deref, DerefMut};

use arch_x86::hardware::{Pages, Platform};
use virt::Errno;

use super::Vmcb;

/// A VMCB where the processor finds it.
pub struct VmcbPage<G>(G);

impl<G: Pages> VmcbPage<G> {
    /// One that is all zeros. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(platform: &impl Platform<Pages = G>) -> Result<Self, Errno> {
        platform.pages(1).map(Self)
    }

    /// Where it is for the processor.
    pub fn physical(&self) -> u64 {
        self.0.physical()
    }
}

impl<G: Pages> Deref for VmcbPage<G> {
    type Target = Vmcb;

    fn deref(&self) -> &Vmcb {
        // SAFETY: the page is this value's alone, as large and as aligned as a VMCB, and was zeroed: any bytes are one. The processor
        // accesses it during `Processor::run` only, which is given a `&mut` of it.
        unsafe { &*self.0.address().cast::<Vmcb>() }
    }
}

impl<G: Pages> DerefMut for VmcbPage<G> {
    fn deref_mut(&mut self) -> &mut Vmcb {
        // SAFETY: as in `deref`; `&mut self` says that there is no other reference.
        unsafe { &mut *self.0.address().cast::<Vmcb>() }
    }
}
