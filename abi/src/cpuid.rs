//! What CPUID answers. Neighbours: [`crate::msr`].
//!
//! See: api.rst 4.46 (`KVM_GET_SUPPORTED_CPUID`).

/// What precedes the entries: `struct kvm_cpuid2` without them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidHeader {
    /// In: room for this many entries; out: this many there are.
    pub nent: u32,
    /// Zero.
    pub padding: u32,
}

/// One answer: `struct kvm_cpuid_entry2`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidEntry {
    /// EAX of the question.
    pub function: u32,
    /// ECX of the question, if [`FLAG_SIGNIFICANT_INDEX`] is set.
    pub index: u32,
    /// `FLAG_…`.
    pub flags: u32,
    /// EAX of the answer.
    pub eax: u32,
    /// EBX of the answer.
    pub ebx: u32,
    /// ECX of the answer.
    pub ecx: u32,
    /// EDX of the answer.
    pub edx: u32,
    /// Zero.
    pub padding: [u32; 3],
}

/// [`CpuidEntry::index`] is part of the question.
pub const FLAG_SIGNIFICANT_INDEX: u32 = 1 << 0;
