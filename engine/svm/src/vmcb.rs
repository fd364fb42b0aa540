//! The VMCB, the page in which the processor keeps a guest: [`Vmcb`], its control area and its state save area; and
//! [`clean`], what the processor need not read of it again.
//!
//! Plain data. [`page`] holds one in memory of the platform's; `regs` and `intercepts` fill it in, `exits` and `events` read it.
//!
//! See: AMD APM vol. 2, 15.5, appendix B; 15.15 (clean bits).

use core::mem::offset_of;

pub mod page;

/// A segment register, or GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Access rights, as [`arch_x86::regs::Attr`] has them.
    pub attr: u16,
    /// In bytes.
    pub limit: u32,
    /// Linear base address.
    pub base: u64,
}

/// The VMCB. Fields that are not used are reserved here.
#[repr(C, align(4096))]
#[allow(missing_docs, reason = "the names are the manual's")]
pub struct Vmcb {
    /// CR0 to CR15: reads in the lower half, writes in the upper.
    pub intercept_cr: u32,
    pub intercept_dr: u32,
    pub intercept_exceptions: u32,
    /// The three words of [`crate::intercepts`].
    pub intercepts: [u32; 3],
    reserved_18: [u32; 9],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    pub iopm_base: u64,
    pub msrpm_base: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    /// A [`tlb_control`].
    pub tlb_control: u32,
    /// Bits of [`virtual_interrupt`].
    pub virtual_interrupt: u64,
    /// Bit 0.
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    /// Bit 0.
    pub nested_paging: u64,
    reserved_98: [u64; 2],
    pub event_injection: u64,
    pub nested_cr3: u64,
    reserved_b8: u64,
    /// Bits of [`clean`].
    pub clean: u32,
    reserved_c4: u32,
    pub next_rip: u64,
    reserved_d0: [u64; 102],
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    reserved_4a0: [u8; 43],
    pub cpl: u8,
    reserved_4cc: u32,
    pub efer: u64,
    reserved_4d8: [u64; 14],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved_580: [u64; 11],
    pub rsp: u64,
    reserved_5e0: [u64; 3],
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved_648: [u64; 4],
    pub g_pat: u64,
    reserved_670: [u64; 306],
}

/// Checks where fields are.
macro_rules! at {
    ($($offset:literal $field:ident)*) => {
        $(const _: () = assert!(offset_of!(Vmcb, $field) == $offset);)*
    };
}
at! {
    0x000 intercept_cr
    0x004 intercept_dr
    0x008 intercept_exceptions
    0x00c intercepts
    0x03c pause_filter_threshold
    0x03e pause_filter_count
    0x040 iopm_base
    0x048 msrpm_base
    0x050 tsc_offset
    0x058 asid
    0x05c tlb_control
    0x060 virtual_interrupt
    0x068 interrupt_shadow
    0x070 exit_code
    0x078 exit_info1
    0x080 exit_info2
    0x088 exit_int_info
    0x090 nested_paging
    0x0a8 event_injection
    0x0b0 nested_cr3
    0x0c0 clean
    0x0c8 next_rip
    0x400 es
    0x410 cs
    0x420 ss
    0x430 ds
    0x440 fs
    0x450 gs
    0x460 gdtr
    0x470 ldtr
    0x480 idtr
    0x490 tr
    0x4cb cpl
    0x4d0 efer
    0x548 cr4
    0x550 cr3
    0x558 cr0
    0x560 dr7
    0x568 dr6
    0x570 rflags
    0x578 rip
    0x5d8 rsp
    0x5f8 rax
    0x600 star
    0x608 lstar
    0x610 cstar
    0x618 sfmask
    0x620 kernel_gs_base
    0x628 sysenter_cs
    0x630 sysenter_esp
    0x638 sysenter_eip
    0x640 cr2
    0x668 g_pat
}
const _: () = assert!(size_of::<Vmcb>() == 4096);
const _: () = assert!(size_of::<Segment>() == 16);

/// What VMRUN does with the TLB. See: AMD APM vol. 2, 15.16.1.
pub mod tlb_control {
    /// Nothing.
    pub const KEEP: u32 = 0;
    /// All entries of all guests and the host go.
    pub const FLUSH_ALL: u32 = 1;
    /// This ASID's go; where the processor can.
    pub const FLUSH_ASID: u32 = 3;
}

/// Bits of the virtual interrupt's word. See: AMD APM vol. 2, 15.21.
pub mod virtual_interrupt {
    /// One is pending.
    pub const IRQ: u64 = 1 << 8;
    /// Its priority: the highest.
    pub const PRIORITY: u64 = 0xf << 16;
    /// It is taken whatever the task priority is.
    pub const IGNORE_TPR: u64 = 1 << 20;
    /// RFLAGS.IF of the guest does not hold the host's interrupts back, nor CR8 change what they are held back by.
    pub const MASKING: u64 = 1 << 24;
}

/// What the processor may have kept of a VMCB, a bit each. See: AMD APM vol. 2, 15.15.
pub mod clean {
    /// Intercepts, TSC offset, pause filter.
    pub const INTERCEPTS: u32 = 1 << 0;
    /// The ASID.
    pub const ASID: u32 = 1 << 2;
    /// The virtual interrupt's word.
    pub const INTERRUPT: u32 = 1 << 3;
    /// CR0, CR3, CR4, EFER.
    pub const CONTROL: u32 = 1 << 5;
    /// DR6 and DR7.
    pub const DEBUG: u32 = 1 << 6;
    /// GDTR and IDTR.
    pub const TABLES: u32 = 1 << 7;
    /// CS, DS, SS, ES and the privilege level.
    pub const SEGMENTS: u32 = 1 << 8;
    /// CR2.
    pub const CR2: u32 = 1 << 9;
    /// All that are defined.
    pub const ALL: u32 = (1 << 13) - 1;
}

impl Vmcb {
    /// Sets a field; `bit` of [`clean`] goes if that changes it.
    pub fn set<T: PartialEq>(&mut self, bit: u32, field: fn(&mut Self) -> &mut T, value: T) {
        let old = field(self);
        if *old != value {
            *old = value;
            self.clean &= !bit;
        }
    }
}
