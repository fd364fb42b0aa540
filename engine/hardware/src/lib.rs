//! The processor's virtualization: the one place that names the engines on it.
//!
//! [`Hardware`] is what the kernel module uses, and knows as [`arch_x86::hardware::Virtualization`] only.
//!
//! Not implemented: VMX. When it is, the module has one of the two by what the processor has.
#![no_std]
#![forbid(unsafe_code)]

/// The processor's virtualization.
pub type Hardware<P> = engine_svm::Svm<P>;
