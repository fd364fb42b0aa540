//! The state in which the first processor starts.
//!
//! [`Start`] is plain data: it names no back end and depends on none. The
//! machine makes the vCPU's registers from it.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::layout;

/// How the processor runs at its first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit mode, paging on: the 64-bit boot protocol.
    Long,
    /// 32-bit protected mode, paging off: PVH and Multiboot.
    Protected,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible part: an offset into [`Start::gdt`].
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes (already scaled by the granularity).
    pub limit: u32,
    /// Access rights as SVM's VMCB packs them: type 0–3, S 4, DPL 5–6, P 7,
    /// AVL 8, L 9, D/B 10, G 11. See: AMD APM vol. 2, 15.5.1.
    pub attributes: u16,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit: size in bytes less one.
    pub limit: u16,
}

/// The registers of the first processor. What is not named here is as after
/// a reset: general registers zero, no IDT, interrupts off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// How the processor runs.
    pub mode: Mode,
    /// First instruction.
    pub rip: u64,
    /// Top of a small stack.
    pub rsp: u64,
    /// RAX: Multiboot's magic number, or 0.
    pub rax: u64,
    /// RBX: PVH's start info, Multiboot's information, or 0.
    pub rbx: u64,
    /// RSI: `boot_params`, or 0.
    pub rsi: u64,
    /// RFLAGS: interrupts off.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR3: the identity page tables, or 0.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// CS.
    pub code: Segment,
    /// DS, ES, FS, GS and SS.
    pub data: Segment,
    /// TR: no kernel uses it, but VMX and SVM want a busy TSS there.
    pub task: Segment,
    /// GDTR. The table stands in guest memory.
    pub gdt: DescriptorTable,
}

/// `__BOOT_CS`: the boot protocol asks for 0x10.
const CODE_SELECTOR: u16 = 0x10;
/// `__BOOT_DS`: the boot protocol asks for 0x18.
const DATA_SELECTOR: u16 = 0x18;
/// The task, after them. In long mode its descriptor takes two entries.
const TASK_SELECTOR: u16 = 0x20;
/// Two empty entries (the first is the null descriptor), code, data, task.
const GDT_ENTRIES: usize = 6;

// Attributes: present (0x80), code or data (0x10), 4 KiB granularity (0x800).
const CODE64: u16 = 0xa9b; // execute/read, accessed, L
const CODE32: u16 = 0xc9b; // execute/read, accessed, D
const DATA32: u16 = 0xc93; // read/write, accessed, B
const BUSY_TSS: u16 = 0x08b;

const RFLAGS_FIXED: u64 = 1 << 1;
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

impl Start {
    /// 64-bit mode with identity paging, RSI at `boot_params`.
    /// See: Linux, Documentation/arch/x86/boot.rst, "64-bit Boot Protocol".
    #[must_use]
    pub fn long(rip: u64) -> Self {
        Start {
            mode: Mode::Long,
            rip,
            rsp: layout::BOOT_STACK,
            rbx: 0,
            rsi: layout::BOOT_PARAMS,
            rflags: RFLAGS_FIXED,
            cr0: CR0_PG | CR0_ET | CR0_PE,
            cr3: layout::PAGE_TABLES,
            cr4: CR4_PAE,
            efer: EFER_LMA | EFER_LME,
            code: flat(CODE_SELECTOR, CODE64),
            ..Start::protected(rip)
        }
    }

    /// 32-bit protected mode, RBX at PVH's start info.
    /// See: Xen, docs/misc/pvh.pandoc.
    #[must_use]
    pub fn protected(rip: u64) -> Self {
        Start {
            mode: Mode::Protected,
            rip,
            rsp: layout::BOOT_STACK,
            rax: 0,
            rbx: layout::PVH_START_INFO,
            rsi: 0,
            rflags: RFLAGS_FIXED,
            cr0: CR0_ET | CR0_PE,
            cr3: 0,
            cr4: 0,
            efer: 0,
            code: flat(CODE_SELECTOR, CODE32),
            data: flat(DATA_SELECTOR, DATA32),
            task: Segment { selector: TASK_SELECTOR, base: 0, limit: 0x67, attributes: BUSY_TSS },
            gdt: DescriptorTable {
                base: layout::GDT,
                limit: (GDT_ENTRIES * size_of::<u64>() - 1) as u16,
            },
        }
    }

    /// Writes the GDT that the selectors refer to.
    pub(crate) fn write_gdt<M: GuestMemoryBackend>(
        &self,
        memory: &M,
    ) -> Result<(), GuestMemoryError> {
        let mut table = [0u64; GDT_ENTRIES];
        for segment in [self.code, self.data, self.task] {
            table[usize::from(segment.selector) / size_of::<u64>()] = segment.descriptor();
        }
        write_words(memory, self.gdt.base, &table)
    }
}

impl Segment {
    /// The descriptor's eight bytes. See: Intel SDM vol. 3, 3.4.5.
    #[must_use]
    pub fn descriptor(&self) -> u64 {
        const GRANULARITY: u16 = 1 << 11;
        let in_pages = self.attributes & GRANULARITY != 0;
        let limit = u64::from(if in_pages { self.limit >> 12 } else { self.limit });
        let attributes = u64::from(self.attributes);
        (limit & 0xffff)
            | (self.base & 0xff_ffff) << 16
            | (attributes & 0xff) << 40
            | (limit >> 16 & 0xf) << 48
            | (attributes >> 8 & 0xf) << 52
            | (self.base >> 24 & 0xff) << 56
    }
}

fn flat(selector: u16, attributes: u16) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attributes }
}

/// Writes page tables that map the first 4 GiB onto themselves.
/// See: AMD APM vol. 2, 5.3.
pub(crate) fn write_page_tables<M: GuestMemoryBackend>(memory: &M) -> Result<(), GuestMemoryError> {
    const TABLE: u64 = 1 << 1 | 1 << 0; // writable, present
    const LARGE: u64 = 1 << 7 | TABLE;
    const ENTRIES: u64 = 512;
    const DIRECTORIES: u64 = 4;
    let pointers = layout::PAGE_TABLES + layout::PAGE;
    let directories = pointers + layout::PAGE;

    write_words(memory, layout::PAGE_TABLES, &[pointers | TABLE])?;
    let entries: Vec<u64> =
        (0..DIRECTORIES).map(|i| (directories + i * layout::PAGE) | TABLE).collect();
    write_words(memory, pointers, &entries)?;
    let pages: Vec<u64> = (0..DIRECTORIES * ENTRIES).map(|i| i << 21 | LARGE).collect();
    write_words(memory, directories, &pages)
}

fn write_words<M: GuestMemoryBackend>(
    memory: &M,
    address: u64,
    words: &[u64],
) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write_slice(&bytes, GuestAddress(address))
}

#[cfg(test)]
#[path = "start_test.rs"]
mod start_test;
