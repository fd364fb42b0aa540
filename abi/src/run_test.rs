//! The members of unions against `kvm-bindings`, and each as it was set.

use crate::debug::DebugExit;
use crate::irq::{IrqRoutingEntry, IrqRoutingIrqchip, IrqRoutingMsi};
use crate::irqchip::{IOAPIC_NUM_PINS, IRQCHIP_IOAPIC, IoapicState, Irqchip, PicState};
use crate::run::{Details, Hypercall, InternalError, Io, Mmio, Msr, TprAccess};
use core::mem::offset_of;
use kvm_bindings as linux;

#[test]
fn members_are_where_linux_has_them() {
    assert_eq!(offset_of!(linux::kvm_run__bindgen_ty_1__bindgen_ty_4, direction), 0);
    assert_eq!(offset_of!(linux::kvm_run__bindgen_ty_1__bindgen_ty_4, size), 1);
    assert_eq!(offset_of!(linux::kvm_run__bindgen_ty_1__bindgen_ty_4, port), 2);
    assert_eq!(offset_of!(linux::kvm_run__bindgen_ty_1__bindgen_ty_4, count), 4);
    assert_eq!(offset_of!(linux::kvm_run__bindgen_ty_1__bindgen_ty_4, data_offset), 8);
    assert_eq!(offset_of!(linux::kvm_run__bindgen_ty_1__bindgen_ty_6, phys_addr), 0);
    assert_eq!(offset_of!(linux::kvm_run__bindgen_ty_1__bindgen_ty_6, data), 8);
    assert_eq!(offset_of!(linux::kvm_run__bindgen_ty_1__bindgen_ty_6, len), 16);
    assert_eq!(offset_of!(linux::kvm_run__bindgen_ty_1__bindgen_ty_6, is_write), 20);
    assert_eq!(offset_of!(linux::kvm_ioapic_state, redirtbl), 24);
}

#[test]
fn a_port_access_comes_back() {
    let io =
        Io { direction: crate::exit::IO_OUT, size: 2, port: 0x3F8, count: 7, data_offset: 4096 };
    let mut run: Details = Details::new();
    run.set_io(&io);
    assert_eq!(run.io(), io);
}

#[test]
fn a_memory_access_comes_back() {
    let mmio =
        Mmio { phys_addr: 0xFEC0_0010, data: [1, 2, 3, 4, 5, 6, 7, 8], len: 4, is_write: true };
    let mut run: Details = Details::new();
    run.set_mmio(&mmio);
    assert_eq!(run.mmio(), mmio);
}

#[test]
fn the_other_details_come_back() {
    let mut run: Details = Details::new();
    let debug = DebugExit { exception: 1, pad: 0, pc: 0x1000, dr6: 0xFFFF_0FF1, dr7: 0x400 };
    run.set_debug(&debug);
    assert_eq!(run.debug(), debug);
    let hypercall = Hypercall { nr: 12, args: [1, 2, 3, 4, 5, 6], ret: 7, flags: 1 };
    run.set_hypercall(&hypercall);
    assert_eq!(run.hypercall(), hypercall);
    let error =
        InternalError { suberror: crate::exit::INTERNAL_ERROR_EMULATION, ndata: 16, data: [9; 16] };
    run.set_internal_error(&error);
    assert_eq!(run.internal_error(), error);
    let msr = Msr { error: 1, reason: 2, index: 0x10, data: 3 };
    run.set_msr(&msr);
    assert_eq!(run.msr(), msr);
    let access = TprAccess { rip: 0x8012_3456_789a_bcde, is_write: true };
    run.set_tpr_access(&access);
    assert_eq!(run.tpr_access(), access);
}

#[test]
fn a_route_comes_back() {
    let pin = IrqRoutingIrqchip { irqchip: IRQCHIP_IOAPIC, pin: 5 };
    assert_eq!(IrqRoutingEntry::to_irqchip(5, pin).irqchip(), pin);
    let msi = IrqRoutingMsi { address_lo: 0xFEE0_0000, address_hi: 1, data: 0x41, devid: 9 };
    assert_eq!(IrqRoutingEntry::to_msi(24, msi).msi(), msi);
}

#[test]
fn a_chip_comes_back() {
    let pic = PicState { imr: 0xFB, irq_base: 0x30, elcr_mask: 0xDE, ..PicState::default() };
    let mut chip = Irqchip::new(crate::irqchip::IRQCHIP_PIC_SLAVE);
    chip.set_pic(&pic);
    assert_eq!(chip.pic(), pic);
    let ioapic = IoapicState {
        base_address: 0xFEC0_0000,
        redirtbl: [0x1_0000; IOAPIC_NUM_PINS],
        ..IoapicState::default()
    };
    let mut chip = Irqchip::new(IRQCHIP_IOAPIC);
    chip.set_ioapic(&ioapic);
    assert_eq!(chip.ioapic(), ioapic);
}
