//! Where things lie in a guest's memory, its ports, and the selectors of its descriptor tables.

/// Size of the guest's RAM, which starts at 0.
pub const RAM: u64 = 16 << 20;

/// Where programs may lie that a test writes between two runs.
pub const PROGRAMS: [core::ops::Range<u64>; 2] = [0..at::USER_STACK, at::FREE..at::FREE + 0x1_0000];

/// Guest-physical addresses, which are the linear ones too. The first 2 MiB are mapped by
/// pages of 4 KiB, the rest by pages of 2 MiB.
pub mod at {
    /// Interrupt vectors of real mode.
    pub const REAL_VECTORS: u64 = 0;
    /// Global descriptor table.
    pub const GDT: u64 = 0x6000;
    /// Interrupt descriptor table of long mode.
    pub const IDT: u64 = 0x7000;
    /// Task state segment of long mode.
    pub const TSS: u64 = 0x8000;
    /// Task state segment of protected mode.
    pub const TSS32: u64 = 0x8800;
    /// Where a start-up message makes another processor start.
    pub const TRAMPOLINE: u64 = 0x9000;
    /// Interrupt descriptor table of protected mode.
    pub const IDT32: u64 = 0xa000;
    /// Local descriptor table.
    pub const LDT: u64 = 0xa800;
    /// Where the exception handler goes on: see [`super::resume`].
    pub const RESUME: u64 = 0xb000;
    /// The program in 16-bit protected mode.
    pub const CODE16: u64 = 0xc000;
    /// The program.
    pub const CODE: u64 = 0x1_0000;
    /// Entries of the exception handlers of long mode, 16 bytes each, and their common part.
    pub const STUBS: u64 = 0x2_0000;
    /// The same for protected mode.
    pub const STUBS32: u64 = 0x2_8000;
    /// The same for real mode.
    pub const STUBS16: u64 = 0x2_c000;
    /// Handlers of a test's own, 256 bytes each.
    pub const HANDLERS: u64 = 0x3_0000;
    /// Nothing.
    pub const DATA: u64 = 0x5_0000;
    /// Top of the stack.
    pub const STACK: u64 = 0x8_0000;
    /// Top of the stack that the TSS names for level 0.
    pub const STACK0: u64 = 0x9_0000;
    /// Top of the first entry of the interrupt stack table; the others are a page apart.
    pub const IST: u64 = 0x9_4000;
    /// Code that user mode may run.
    pub const USER_CODE: u64 = 0x10_0000;
    /// Data that user mode may use.
    pub const USER_DATA: u64 = 0x11_0000;
    /// Top of user mode's stack.
    pub const USER_STACK: u64 = 0x12_0000;
    /// Page tables.
    pub const TABLES: u64 = 0x20_0000;
    /// Page tables of a test's own.
    pub const MORE_TABLES: u64 = 0x30_0000;
    /// Nothing, to the end of RAM.
    pub const FREE: u64 = 0x40_0000;
    /// The I/O APIC.
    pub const IOAPIC: u64 = 0xfec0_0000;
    /// The local APIC.
    pub const LAPIC: u64 = 0xfee0_0000;
    /// Mapped, but nothing is there.
    pub const NOWHERE: u64 = 0xfe00_0000;
}

/// What the quadword at [`at::RESUME`] tells the exception handlers.
pub mod resume {
    /// The guest ends.
    pub const END: u64 = 0;
    /// The handler returns to where it was.
    pub const SAME: u64 = 1;
    // Anything else is the address to go on at; in real mode CS in the upper half, IP in the lower.
}

/// Ports by which a guest reports.
pub mod port {
    /// A byte: the program is done.
    pub const END: u32 = 0xe0;
    /// Four bytes: goes to [`crate::Log::values`].
    pub const VALUE: u32 = 0xe4;
    /// Four bytes: a part of a [`crate::Trap`].
    pub const TRAP: u32 = 0xe8;
    /// Left to the test.
    pub const FREE: u32 = 0xd0;
}

/// Selectors in the global descriptor table.
pub mod selector {
    /// 64-bit code.
    pub const CODE: u16 = 0x08;
    /// Data.
    pub const DATA: u16 = 0x10;
    /// 32-bit code.
    pub const CODE32: u16 = 0x18;
    /// User mode's 32-bit code. (SYSRET wants this order.)
    pub const USER_CODE32: u16 = 0x20 | 3;
    /// User mode's data.
    pub const USER_DATA: u16 = 0x28 | 3;
    /// User mode's 64-bit code.
    pub const USER_CODE: u16 = 0x30 | 3;
    /// 16-bit code with a limit of 64 KiB.
    pub const CODE16: u16 = 0x38;
    /// 16-bit data with a limit of 64 KiB.
    pub const DATA16: u16 = 0x40;
    /// Long mode's task: two entries.
    pub const TSS: u16 = 0x48;
    /// Protected mode's task.
    pub const TSS32: u16 = 0x58;
    /// Data that is not present.
    pub const ABSENT_DATA: u16 = 0x60;
    /// 64-bit code that is not present.
    pub const ABSENT_CODE: u16 = 0x68;
    /// Data that is read only.
    pub const READ_ONLY: u16 = 0x70;
    /// Code that conforms.
    pub const CONFORMING: u16 = 0x78;
    /// A local descriptor table: two entries.
    pub const LDT: u16 = 0x80;
    /// Code whose D and L are both set.
    pub const BAD_CODE: u16 = 0x90;
    /// The first selector behind the table.
    pub const BEYOND: u16 = 0x98;
}
