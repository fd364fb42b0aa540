//! KVM_GET_IRQCHIP, KVM_SET_IRQCHIP: the state of the 8259s and of the I/O APIC.
//!
//! Deviations: the I/O APIC is at its usual address, and that is not set. Of its pins those of edges are told as inactive: an edge
//! was sent when it came, or was lost. What is set to be requested at an 8259's level-triggered line is taken from the line
//! itself.
//!
//! See: api.rst 4.26, 4.27; Linux, arch/x86/kvm/i8259.c, arch/x86/kvm/ioapic.c, `kvm_set_ioapic`.

use core::mem::offset_of;

use abi::encoding::Encoded;
use abi::irqchip::{
    IRQCHIP_IOAPIC, IRQCHIP_PIC_MASTER, IRQCHIP_PIC_SLAVE, IoapicState, Irqchip, PicState,
};
use alloc::vec::Vec;
use virt::host::Host;
use virt::ioctl::Argument;
use virt::{Errno, Vm};

use crate::engine::Engine;
use crate::irqchip::i8259::{Chip, ELCR_WRITABLE, Expects};
use crate::irqchip::ioapic::{self, Redirection};
use crate::machine::X86;

/// Where a chip's state is in the argument.
const CHIP: usize = offset_of!(Irqchip, chip);

#[inline(never)]
pub(super) fn get<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let (id, mut bytes) = read(vm, argument)?;
    let state = bytes.get_mut(CHIP..).unwrap_or_default();
    vm.arch().machine().look_at_chips(|chips| match id {
        IRQCHIP_PIC_MASTER => from_pic(&chips.pic().chips()[0], 0).encode(state),
        IRQCHIP_PIC_SLAVE => from_pic(&chips.pic().chips()[1], 1).encode(state),
        _ => from_ioapic(chips.ioapic().state()).encode(state),
    });
    argument.put(0, &bytes)?;
    Ok(0)
}

#[inline(never)]
pub(super) fn set<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let (id, bytes) = read(vm, argument)?;
    let state = bytes.get(CHIP..).unwrap_or_default();
    match id {
        IRQCHIP_PIC_MASTER => set_pic(vm, &PicState::decode(state), 0),
        IRQCHIP_PIC_SLAVE => set_pic(vm, &PicState::decode(state), 1),
        _ => set_ioapic(vm, &IoapicState::decode(state)),
    }
    Ok(0)
}

/// The argument, and the number of a chip that there is. As in Linux it is read before it is looked whether there are any.
fn read<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<(u32, Vec<u8>), Errno> {
    let bytes = argument.bytes(0, Irqchip::SIZE)?;
    there_are_chips(vm)?;
    let id = u32::decode(&bytes);
    if id > IRQCHIP_IOAPIC { Err(Errno::EINVAL) } else { Ok((id, bytes)) }
}

#[inline(never)]
fn set_pic<E: Engine, H: Host>(vm: &Vm<X86<E, H>>, from: &PicState, which: usize) {
    let to = pic(from, which);
    vm.arch().machine().with_chips(|chips, _| {
        let restored = chips.restore(|pic, _, _| {
            let mut both = pic.chips().clone();
            both[which] = to;
            pic.set_chips(both);
        });
        ((), restored)
    });
}

#[inline(never)]
fn set_ioapic<E: Engine, H: Host>(vm: &Vm<X86<E, H>>, from: &IoapicState) {
    let state = ioapic(from);
    vm.arch().machine().with_chips(|chips, _| ((), chips.restore_ioapic(state, from.irr)));
}

fn there_are_chips<E: Engine, H: Host>(vm: &Vm<X86<E, H>>) -> Result<(), Errno> {
    if vm.arch().machine().setup.has_shared_chips() { Ok(()) } else { Err(Errno::ENXIO) }
}

fn from_pic(chip: &Chip, which: usize) -> PicState {
    PicState {
        last_irr: chip.lines,
        irr: chip.irr(),
        imr: chip.imr,
        isr: chip.isr,
        priority_add: chip.highest_priority,
        irq_base: chip.vector,
        read_reg_select: chip.read_isr.into(),
        poll: chip.poll.into(),
        special_mask: chip.special_mask.into(),
        init_state: match chip.expects {
            Expects::Mask => 0,
            Expects::Icw2 => 1,
            Expects::Icw3 => 2,
            Expects::Icw4 => 3,
        },
        auto_eoi: chip.auto_eoi.into(),
        rotate_on_auto_eoi: chip.rotate_on_auto_eoi.into(),
        special_fully_nested_mode: chip.special_fully_nested.into(),
        init4: chip.icw4_follows.into(),
        elcr: chip.elcr,
        elcr_mask: ELCR_WRITABLE[which],
    }
}

fn pic(from: &PicState, which: usize) -> Chip {
    let elcr = from.elcr & ELCR_WRITABLE[which];
    Chip {
        lines: from.last_irr,
        edges: from.irr & !elcr,
        imr: from.imr,
        isr: from.isr,
        elcr,
        vector: from.irq_base,
        highest_priority: from.priority_add,
        expects: match from.init_state {
            1 => Expects::Icw2,
            2 => Expects::Icw3,
            3 => Expects::Icw4,
            _ => Expects::Mask,
        },
        // KVM knows no single 8259.
        icw3_follows: true,
        icw4_follows: from.init4 != 0,
        auto_eoi: from.auto_eoi != 0,
        rotate_on_auto_eoi: from.rotate_on_auto_eoi != 0,
        special_mask: from.special_mask != 0,
        special_fully_nested: from.special_fully_nested_mode != 0,
        poll: from.poll != 0,
        read_isr: from.read_reg_select != 0,
    }
}

fn from_ioapic(state: &ioapic::State) -> IoapicState {
    let levels = (0..).zip(&state.redirections).filter(|(_, entry)| entry.is_level());
    let levels = levels.fold(0, |pins, (pin, _)| pins | 1_u32 << pin);
    IoapicState {
        base_address: ioapic::DEFAULT_ADDRESS,
        ioregsel: state.index.into(),
        id: state.id.into(),
        irr: state.lines & levels,
        pad: 0,
        redirtbl: state.redirections.map(|entry| entry.0),
    }
}

/// The state, with no pin active.
fn ioapic(from: &IoapicState) -> ioapic::State {
    const KNOWN: u64 = Redirection::WRITABLE | Redirection::REMOTE_IRR;
    ioapic::State {
        id: from.id as u8 & 0xf,
        index: from.ioregsel as u8,
        lines: 0,
        redirections: from.redirtbl.map(|entry| Redirection(entry & KNOWN)),
    }
}
