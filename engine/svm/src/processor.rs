//! [`Processor`]: what the engine has the processor do. [`Native`] is the one that this runs on; tests have another, which plays the
//! guest.
//!
//! What changes a register that the kernel has a use for says who puts the kernel's value back. All of it needs privilege level 0.

use arch_x86::cpuid::Leaf;

use crate::vmcb::Vmcb;

mod native;

pub use native::Native;

/// The processor that this runs on.
pub trait Processor: Clone + Send + Sync + 'static {
    /// CPUID.
    fn cpuid(&self, function: u32, index: u32) -> Leaf;
    /// The host's CR4.
    fn cr4(&self) -> u64;

    /// VM_CR. See: AMD APM vol. 2, 15.30.1.
    fn vm_cr(&self) -> u64;
    /// Whether SVM is on.
    fn is_on(&self) -> bool;
    /// Switches SVM on; the host's state is kept in the page at `save_area` while a guest runs.
    fn switch_on(&self, save_area: u64);
    /// Switches SVM off, if it is on, and takes what VMRUN and CLGI hold back. It looks at the processor alone: nothing else may be as it should.
    fn switch_off(&self);

    /// XCR0.
    fn xcr0(&self) -> u64;
    /// Sets XCR0. The host's is set again before interrupts are on.
    fn set_xcr0(&self, value: u64);
    /// XSS.
    fn xss(&self) -> u64;
    /// Sets XSS. The host's is set again before interrupts are on.
    fn set_xss(&self, value: u64);
    /// TSC_AUX.
    fn tsc_aux(&self) -> u64;
    /// Sets TSC_AUX. The host's is set again before another thread runs.
    fn set_tsc_aux(&self, value: u64);
    /// DR0 to DR3, DR6 or DR7.
    fn dr(&self, n: u8) -> u64;
    /// Sets DR0 to DR3, DR6 or DR7. The host's is set again before interrupts are on.
    fn set_dr(&self, n: u8, value: u64);
    /// SPEC_CTRL.
    fn speculation_control(&self) -> u64;
    /// Sets SPEC_CTRL, to no less than the host has. The host's is set again before interrupts are on.
    fn set_speculation_control(&self, value: u64);
    /// No indirect branch is predicted by what ran before.
    fn forget_branches(&self);
    /// Has the host handle a machine check that was intercepted: the processor has not called its handler.
    fn machine_check(&self);

    /// Runs the guest of `vmcb`, whose physical address is `physical`, until it comes out. Its general-purpose registers but for RAX and
    /// RSP are `registers`, by their encoding. What VMSAVE saves of the host is kept in the page at `host`.
    ///
    /// When it returns interrupts are off, and those that came meanwhile wait.
    ///
    /// # Safety
    /// Interrupts are off, SVM is on, and this thread stays on this processor. `vmcb` lies at `physical`. Its nested tables, and the
    /// pages that they lead to, are the guest's until no processor can use them any more; its permission maps let it reach nothing of
    /// the host's; it intercepts interrupts, NMIs, VMRUN and the like. `host` is a page that nobody else uses.
    unsafe fn run(&self, vmcb: &mut Vmcb, physical: u64, host: u64, registers: &mut [u64; 16]);
}
