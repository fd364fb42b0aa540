//! General and special registers. Neighbours: [`crate::fpu`], [`crate::events`].
//!
//! See: api.rst 4.11–4.14 (`KVM_GET_REGS` … `KVM_SET_SREGS`), 4.131 (`KVM_GET_SREGS2`).

/// General registers: `struct kvm_regs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    /// RAX.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// RSP.
    pub rsp: u64,
    /// RBP.
    pub rbp: u64,
    /// R8.
    pub r8: u64,
    /// R9.
    pub r9: u64,
    /// R10.
    pub r10: u64,
    /// R11.
    pub r11: u64,
    /// R12.
    pub r12: u64,
    /// R13.
    pub r13: u64,
    /// R14.
    pub r14: u64,
    /// R15.
    pub r15: u64,
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
}

/// A segment register with its hidden part: `struct kvm_segment`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Base address.
    pub base: u64,
    /// Limit in bytes, whatever the granularity.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// The descriptor's type: 4 bits.
    pub type_: u8,
    /// The descriptor's P.
    pub present: u8,
    /// The descriptor's DPL.
    pub dpl: u8,
    /// The descriptor's D/B.
    pub db: u8,
    /// The descriptor's S: 1 is code or data.
    pub s: u8,
    /// The descriptor's L.
    pub l: u8,
    /// The descriptor's G.
    pub g: u8,
    /// The descriptor's AVL.
    pub avl: u8,
    /// Whether an access through the register faults.
    pub unusable: u8,
    /// Zero.
    pub padding: u8,
}

/// GDTR or IDTR: `struct kvm_dtable`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dtable {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
    /// Zero.
    pub padding: [u16; 3],
}

/// Vectors that an interrupt may have.
pub const NR_INTERRUPTS: usize = 256;

/// Special registers: `struct kvm_sregs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sregs {
    /// CS.
    pub cs: Segment,
    /// DS.
    pub ds: Segment,
    /// ES.
    pub es: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// SS.
    pub ss: Segment,
    /// The task register.
    pub tr: Segment,
    /// LDTR.
    pub ldt: Segment,
    /// GDTR.
    pub gdt: Dtable,
    /// IDTR.
    pub idt: Dtable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8: the task priority.
    pub cr8: u64,
    /// The MSR EFER.
    pub efer: u64,
    /// The MSR IA32_APIC_BASE.
    pub apic_base: u64,
    /// At most one bit: the external interrupt that is injected and not yet delivered.
    pub interrupt_bitmap: [u64; NR_INTERRUPTS / 64],
}

/// [`Sregs2::pdptrs`] holds values.
pub const SREGS2_FLAGS_PDPTRS_VALID: u64 = 1;

/// Special registers with PAE's page-directory pointers: `struct kvm_sregs2`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sregs2 {
    /// CS.
    pub cs: Segment,
    /// DS.
    pub ds: Segment,
    /// ES.
    pub es: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// SS.
    pub ss: Segment,
    /// The task register.
    pub tr: Segment,
    /// LDTR.
    pub ldt: Segment,
    /// GDTR.
    pub gdt: Dtable,
    /// IDTR.
    pub idt: Dtable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8: the task priority.
    pub cr8: u64,
    /// The MSR EFER.
    pub efer: u64,
    /// The MSR IA32_APIC_BASE.
    pub apic_base: u64,
    /// [`SREGS2_FLAGS_PDPTRS_VALID`].
    pub flags: u64,
    /// The four page-directory pointers that a PAE guest loaded with CR3.
    pub pdptrs: [u64; 4],
}

/// A linear address and what it translates to: `struct kvm_translation`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// In: the linear address.
    pub linear_address: u64,
    /// Out: the guest-physical address.
    pub physical_address: u64,
    /// Out: whether there is one.
    pub valid: u8,
    /// Out: whether it may be written.
    pub writeable: u8,
    /// Out: whether user mode may use it.
    pub usermode: u8,
    /// Zero.
    pub pad: [u8; 5],
}
