//! State of the chips that live in the hypervisor. Neighbours: [`crate::irq`].
//!
//! See: api.rst 4.26 (`KVM_GET_IRQCHIP`), 4.57 (`KVM_GET_LAPIC`), 4.72 (`KVM_GET_PIT2`).

use crate::bytes::{get_u8, get_u32, get_u64, set};

/// [`Irqchip::chip_id`]: the first 8259.
pub const IRQCHIP_PIC_MASTER: u32 = 0;
/// [`Irqchip::chip_id`]: the second 8259.
pub const IRQCHIP_PIC_SLAVE: u32 = 1;
/// [`Irqchip::chip_id`]: the I/O APIC.
pub const IRQCHIP_IOAPIC: u32 = 2;

/// A chip's state: `struct kvm_irqchip`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Irqchip {
    /// `IRQCHIP_…`.
    pub chip_id: u32,
    /// Zero.
    pub pad: u32,
    /// A [`PicState`] or an [`IoapicState`], by [`Self::chip_id`].
    pub chip: [u8; 512],
}

impl Irqchip {
    /// Nothing, for the named chip.
    pub const fn new(chip_id: u32) -> Self {
        Self { chip_id, pad: 0, chip: [0; 512] }
    }

    /// The state of an 8259.
    pub fn pic(&self) -> PicState {
        let at = |offset| get_u8(&self.chip, offset);
        PicState {
            last_irr: at(0),
            irr: at(1),
            imr: at(2),
            isr: at(3),
            priority_add: at(4),
            irq_base: at(5),
            read_reg_select: at(6),
            poll: at(7),
            special_mask: at(8),
            init_state: at(9),
            auto_eoi: at(10),
            rotate_on_auto_eoi: at(11),
            special_fully_nested_mode: at(12),
            init4: at(13),
            elcr: at(14),
            elcr_mask: at(15),
        }
    }

    /// Sets the state of an 8259.
    pub fn set_pic(&mut self, pic: &PicState) {
        let bytes = [
            pic.last_irr,
            pic.irr,
            pic.imr,
            pic.isr,
            pic.priority_add,
            pic.irq_base,
            pic.read_reg_select,
            pic.poll,
            pic.special_mask,
            pic.init_state,
            pic.auto_eoi,
            pic.rotate_on_auto_eoi,
            pic.special_fully_nested_mode,
            pic.init4,
            pic.elcr,
            pic.elcr_mask,
        ];
        set(&mut self.chip, 0, bytes);
    }

    /// The state of the I/O APIC.
    pub fn ioapic(&self) -> IoapicState {
        let mut redirtbl = [0; IOAPIC_NUM_PINS];
        for (pin, entry) in redirtbl.iter_mut().enumerate() {
            *entry = get_u64(&self.chip, 24 + 8 * pin);
        }
        IoapicState {
            base_address: get_u64(&self.chip, 0),
            ioregsel: get_u32(&self.chip, 8),
            id: get_u32(&self.chip, 12),
            irr: get_u32(&self.chip, 16),
            pad: get_u32(&self.chip, 20),
            redirtbl,
        }
    }

    /// Sets the state of the I/O APIC.
    pub fn set_ioapic(&mut self, ioapic: &IoapicState) {
        set(&mut self.chip, 0, ioapic.base_address.to_ne_bytes());
        set(&mut self.chip, 8, ioapic.ioregsel.to_ne_bytes());
        set(&mut self.chip, 12, ioapic.id.to_ne_bytes());
        set(&mut self.chip, 16, ioapic.irr.to_ne_bytes());
        set(&mut self.chip, 20, ioapic.pad.to_ne_bytes());
        for (pin, entry) in ioapic.redirtbl.iter().enumerate() {
            set(&mut self.chip, 24 + 8 * pin, entry.to_ne_bytes());
        }
    }
}

/// An 8259: `struct kvm_pic_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PicState {
    /// The lines as last seen, for edges.
    pub last_irr: u8,
    /// Interrupt request register.
    pub irr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// The line of the highest priority.
    pub priority_add: u8,
    /// The vector of line 0: ICW2.
    pub irq_base: u8,
    /// Whether a read gives the ISR.
    pub read_reg_select: u8,
    /// Whether a read polls.
    pub poll: u8,
    /// Special mask mode.
    pub special_mask: u8,
    /// Which initialisation word comes next; 0 is none.
    pub init_state: u8,
    /// Automatic end of interrupt.
    pub auto_eoi: u8,
    /// Rotation with it.
    pub rotate_on_auto_eoi: u8,
    /// Special fully nested mode.
    pub special_fully_nested_mode: u8,
    /// Whether ICW4 comes.
    pub init4: u8,
    /// Edge or level by line: port 4D0h or 4D1h.
    pub elcr: u8,
    /// Which bits of it can be set.
    pub elcr_mask: u8,
}

/// Pins of the I/O APIC.
pub const IOAPIC_NUM_PINS: usize = 24;

/// The I/O APIC: `struct kvm_ioapic_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoapicState {
    /// Where it is.
    pub base_address: u64,
    /// The register that is selected.
    pub ioregsel: u32,
    /// Its identity.
    pub id: u32,
    /// The lines.
    pub irr: u32,
    /// Zero.
    pub pad: u32,
    /// The redirection table.
    pub redirtbl: [u64; IOAPIC_NUM_PINS],
}

/// A local APIC's registers as its page shows them: `struct kvm_lapic_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LapicState {
    /// The first 1,024 bytes of the page.
    pub regs: [u8; 0x400],
}

/// In [`PitConfig::flags`]: port 61h is answered too.
pub const PIT_SPEAKER_DUMMY: u32 = 1;

/// How an 8254 is made: `struct kvm_pit_config`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PitConfig {
    /// [`PIT_SPEAKER_DUMMY`].
    pub flags: u32,
    /// Zero.
    pub pad: [u32; 15],
}

/// One of the 8254's counters: `struct kvm_pit_channel_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PitChannelState {
    /// What it counts from: 1–65,536.
    pub count: u32,
    /// The latched count.
    pub latched_count: u16,
    /// Which of its bytes are still to be read.
    pub count_latched: u8,
    /// Whether the status is latched.
    pub status_latched: u8,
    /// The latched status.
    pub status: u8,
    /// Which byte is read next.
    pub read_state: u8,
    /// Which byte is written next.
    pub write_state: u8,
    /// The byte written first.
    pub write_latch: u8,
    /// How it is read and written.
    pub rw_mode: u8,
    /// Mode 0–5.
    pub mode: u8,
    /// Whether it counts in BCD.
    pub bcd: u8,
    /// Its gate.
    pub gate: u8,
    /// When the count was loaded: the host's clock in nanoseconds.
    pub count_load_time: i64,
}

/// In [`PitState2::flags`]: the HPET has taken the timer's line.
pub const PIT_FLAGS_HPET_LEGACY: u32 = 1 << 0;
/// In [`PitState2::flags`]: port 61h's bit 1.
pub const PIT_FLAGS_SPEAKER_DATA_ON: u32 = 1 << 1;

/// The 8254: `struct kvm_pit_state2`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PitState2 {
    /// Its counters.
    pub channels: [PitChannelState; 3],
    /// `PIT_FLAGS_…`.
    pub flags: u32,
    /// Zero.
    pub reserved: [u32; 9],
}

/// What becomes of the 8254's ticks that the guest missed: `struct kvm_reinject_control`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReinjectControl {
    /// Whether they come later.
    pub pit_reinject: u8,
    /// Zero.
    pub reserved: [u8; 31],
}
