//! Where things lie in the probe's machine, and the state in which its guest starts.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestRegionMmap, MemoryRegionAddress};

use super::program::{self, Line, port};
use super::script;
use crate::x86::{Attr, Seg, Segment, State, Table, cr0, cr4, efer, gpr};

/// RAM, which starts at 0, in bytes.
const RAM: usize = 1 << 20;
/// Vectors of exceptions.
const EXCEPTIONS: u64 = 32;
/// The vector of a page fault. See: AMD APM vol. 2, 8.2.15.
const PAGE_FAULT: u64 = 14;
/// The vector of the interrupt that the guest sends itself.
const INTERRUPT: u64 = 0x50;

/// Addresses, which are guest-physical and linear.
pub(super) mod at {
    /// Page tables, from the root down. The last maps the first 2 MiB in pages of 4 KiB.
    pub(crate) const TABLES: [u64; 4] = [0x1000, 0x2000, 0x3000, 0x4000];
    /// The third level of the local APIC's page.
    pub(crate) const APIC_TABLE: u64 = 0x5000;
    pub(crate) const GDT: u64 = 0x6000;
    /// Limit and base of the GDT, for LGDT.
    pub(crate) const GDT_POINTER: u64 = 0x6800;
    pub(crate) const IDT: u64 = 0x7000;
    pub(crate) const TSS: u64 = 0x8000;
    pub(crate) const DATA: u64 = 0x9000;
    pub(crate) const STACK: u64 = 0x2_0000;
    /// Handlers of exceptions that nothing in the program causes, 16 bytes each.
    pub(crate) const EXCEPTIONS: u64 = 0x1_1100;
    pub(crate) const PAGE_FAULT: u64 = 0x1_1000;
    pub(crate) const INTERRUPT: u64 = 0x1_1080;
    pub(crate) const LOCAL_APIC: u64 = 0xfee0_0000;
    /// Linear only: at first the page at [`DATA`], then the one behind it.
    pub(crate) const SECOND: u64 = 0x18_0000;
}

/// Bits of a page table's entry. See: AMD APM vol. 2, 5.4.1.
mod pte {
    /// Present and writable.
    pub(super) const PW: u64 = 3;
    /// Not cached: for devices.
    pub(super) const PCD: u64 = 1 << 4;
    /// A large page.
    pub(super) const PS: u64 = 1 << 7;
}

const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 0x10;
const TSS_SELECTOR: u16 = 0x18;
/// Access rights, as [`Attr`] packs them: 64-bit code, writable data, a busy task.
const CODE_RIGHTS: u16 = 0xa9b;
const DATA_RIGHTS: u16 = 0xc93;
const TASK_RIGHTS: u16 = 0x8b;

/// Makes the guest's memory, with all that it needs; none if the host has no room.
pub(super) fn memory() -> Option<Arc<GuestRegionMmap>> {
    let region = GuestRegionMmap::from_range(GuestAddress(0), RAM, None).ok()?;
    let memory = Memory(&region);
    memory.write_page_tables()?;
    memory.write_descriptors()?;
    memory.write_code(at::PAGE_FAULT, program::PAGE_FAULT)?;
    memory.write_code(at::INTERRUPT, program::INTERRUPT_HANDLER)?;
    for section in &script::SECTIONS {
        memory.write_code(section.entry, section.program)?;
    }
    memory.write_code(script::LOOP_ENTRY, program::LOOP)?;
    Some(Arc::new(region))
}

struct Memory<'a>(&'a GuestRegionMmap);

impl Memory<'_> {
    fn write(&self, address: u64, bytes: &[u8]) -> Option<()> {
        self.0.write_slice(bytes, MemoryRegionAddress(address)).ok()
    }

    fn write_u64(&self, address: u64, value: u64) -> Option<()> {
        self.write(address, &value.to_le_bytes())
    }

    fn write_code(&self, address: u64, lines: &[Line]) -> Option<()> {
        let code: Vec<u8> = lines.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
        self.write(address, &code)
    }

    /// RAM and the local APIC are mapped to themselves, [`at::SECOND`] to a part of RAM, and the page
    /// behind that to nothing.
    fn write_page_tables(&self) -> Option<()> {
        let [first, second, third, fourth] = at::TABLES;
        self.write_u64(first, second | pte::PW)?;
        self.write_u64(second, third | pte::PW)?;
        self.write_u64(third, fourth | pte::PW)?;
        for page in 0..RAM as u64 >> 12 {
            self.write_u64(fourth + page * 8, page << 12 | pte::PW)?;
        }
        self.write_u64(fourth + (at::SECOND >> 12) * 8, at::DATA | pte::PW)?;
        self.write_u64(second + (at::LOCAL_APIC >> 30) * 8, at::APIC_TABLE | pte::PW)?;
        let entry = at::APIC_TABLE + (at::LOCAL_APIC >> 21 & 0x1ff) * 8;
        self.write_u64(entry, at::LOCAL_APIC | pte::PW | pte::PCD | pte::PS)
    }

    fn write_descriptors(&self) -> Option<()> {
        self.write_u64(at::GDT + u64::from(CODE_SELECTOR), descriptor(CODE_RIGHTS))?;
        self.write_u64(at::GDT + u64::from(DATA_SELECTOR), descriptor(DATA_RIGHTS))?;
        self.write(at::GDT_POINTER, &GDT.limit.to_le_bytes())?;
        self.write_u64(at::GDT_POINTER + 2, GDT.base)?;
        for vector in 0..EXCEPTIONS {
            let stub = at::EXCEPTIONS + vector * 16;
            // mov al, vector; out FAULT, al; hlt
            self.write(stub, &[0xb0, vector as u8, 0xe6, port::FAULT as u8, 0xf4])?;
            self.write_gate(vector, stub)?;
        }
        self.write_gate(PAGE_FAULT, at::PAGE_FAULT)?;
        self.write_gate(INTERRUPT, at::INTERRUPT)
    }

    /// An interrupt gate. See: AMD APM vol. 2, 4.8.4.
    fn write_gate(&self, vector: u64, target: u64) -> Option<()> {
        let present_interrupt_gate = 0x8e << 40;
        let selector = u64::from(CODE_SELECTOR) << 16;
        let low = target & 0xffff | selector | present_interrupt_gate | (target >> 16) << 48;
        self.write_u64(at::IDT + vector * 16, low)
    }
}

const GDT: Table = Table { base: at::GDT, limit: 0x17 };
const IDT: Table = Table { base: at::IDT, limit: ((INTERRUPT + 1) * 16 - 1) as u16 };

/// The descriptor of a segment from 0 to the end. See: AMD APM vol. 2, 4.7.
const fn descriptor(rights: u16) -> u64 {
    let rights = rights as u64;
    0xf_0000_0000_ffff | (rights & 0xff) << 40 | (rights >> 8) << 52
}

/// Ring 0 in 64-bit mode, interrupts off, at `entry`.
pub(super) fn start(entry: u64) -> State {
    let flat = |selector, attr| Segment { base: 0, limit: !0, selector, attr: Attr(attr) };
    let mut state = State::at_reset();
    state.rip = entry;
    state.gprs[usize::from(gpr::RSP)] = at::STACK;
    state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
    state.cr3 = at::TABLES[0];
    state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    state.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    for seg in [Seg::Es, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
        state.segments[seg as usize] = flat(DATA_SELECTOR, DATA_RIGHTS);
    }
    state.segments[Seg::Cs as usize] = flat(CODE_SELECTOR, CODE_RIGHTS);
    state.segments[Seg::Tr as usize] =
        Segment { base: at::TSS, limit: 0x67, selector: TSS_SELECTOR, attr: Attr(TASK_RIGHTS) };
    (state.gdtr, state.idtr) = (GDT, IDT);
    state
}
