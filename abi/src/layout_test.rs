//! Sizes, alignments and offsets of the fields against `kvm-bindings`,
//! which is generated from Linux's own headers.

use crate::{
    clock, cpuid, debug, device, events, fpu, irq, irqchip, memory, msr, nested, regs, run, stats,
};
use core::mem::offset_of;
use kvm_bindings as linux;

/// Compares a structure, and its fields if any are named: `ours: theirs`, or
/// one name for both.
macro_rules! same {
    ($ours:ty, $theirs:ident $(, $field:ident $(: $other:ident)?)* $(,)?) => {
        let theirs = stringify!($theirs);
        assert_eq!(size_of::<$ours>(), size_of::<linux::$theirs>(), "size of {theirs}");
        assert_eq!(align_of::<$ours>(), align_of::<linux::$theirs>(), "alignment of {theirs}");
        $(
            assert_eq!(
                offset_of!($ours, $field),
                same!(@offset $theirs, $field $(, $other)?),
                "offset of {} in {theirs}",
                stringify!($field)
            );
        )*
    };
    (@offset $theirs:ident, $field:ident) => { offset_of!(linux::$theirs, $field) };
    (@offset $theirs:ident, $field:ident, $other:ident) => { offset_of!(linux::$theirs, $other) };
}

#[test]
fn registers() {
    same!(
        regs::Regs,
        kvm_regs,
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags
    );
    same!(
        regs::Segment,
        kvm_segment,
        base,
        limit,
        selector,
        type_,
        present,
        dpl,
        db,
        s,
        l,
        g,
        avl,
        unusable,
        padding
    );
    same!(regs::Dtable, kvm_dtable, base, limit, padding);
    same!(
        regs::Sregs,
        kvm_sregs,
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldt,
        gdt,
        idt,
        cr0,
        cr2,
        cr3,
        cr4,
        cr8,
        efer,
        apic_base,
        interrupt_bitmap
    );
    same!(
        regs::Sregs2,
        kvm_sregs2,
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldt,
        gdt,
        idt,
        cr0,
        cr2,
        cr3,
        cr4,
        cr8,
        efer,
        apic_base,
        flags,
        pdptrs
    );
    same!(
        regs::Translation,
        kvm_translation,
        linear_address,
        physical_address,
        valid,
        writeable,
        usermode
    );
}

#[test]
fn floating_point() {
    same!(fpu::Fpu, kvm_fpu, fpr, fcw, fsw, ftwx, last_opcode, last_ip, last_dp, xmm, mxcsr);
    same!(fpu::Xsave, kvm_xsave, region);
    same!(fpu::Xcr, kvm_xcr, xcr, reserved, value);
    same!(fpu::Xcrs, kvm_xcrs, nr_xcrs, flags, xcrs, padding);
}

#[test]
fn pending_events() {
    same!(
        events::Events,
        kvm_vcpu_events,
        exception,
        interrupt,
        nmi,
        sipi_vector,
        flags,
        smi,
        triple_fault,
        reserved,
        exception_has_payload,
        exception_payload
    );
    same!(
        events::Exception,
        kvm_vcpu_events__bindgen_ty_1,
        injected,
        nr,
        has_error_code,
        pending,
        error_code
    );
    same!(events::Interrupt, kvm_vcpu_events__bindgen_ty_2, injected, nr, soft, shadow);
    same!(events::Nmi, kvm_vcpu_events__bindgen_ty_3, injected, pending, masked);
    same!(events::Smi, kvm_vcpu_events__bindgen_ty_4, smm, pending, smm_inside_nmi, latched_init);
    same!(events::TripleFault, kvm_vcpu_events__bindgen_ty_5, pending);
    same!(events::MpState, kvm_mp_state, mp_state);
}

#[test]
fn cpuid_and_msrs() {
    same!(cpuid::CpuidHeader, kvm_cpuid2, nent, padding);
    same!(cpuid::CpuidEntry, kvm_cpuid_entry2, function, index, flags, eax, ebx, ecx, edx, padding);
    same!(msr::MsrsHeader, kvm_msrs, nmsrs, pad);
    same!(msr::MsrEntry, kvm_msr_entry, index, reserved, data);
    same!(msr::MsrListHeader, kvm_msr_list, nmsrs);
    same!(msr::MsrFilterRange, kvm_msr_filter_range, flags, nmsrs, base, bitmap);
    same!(msr::MsrFilter, kvm_msr_filter, flags, ranges);
}

#[test]
fn guest_memory() {
    same!(
        memory::UserspaceMemoryRegion,
        kvm_userspace_memory_region,
        slot,
        flags,
        guest_phys_addr,
        memory_size,
        userspace_addr
    );
    same!(
        memory::UserspaceMemoryRegion2,
        kvm_userspace_memory_region2,
        slot,
        flags,
        guest_phys_addr,
        memory_size,
        userspace_addr,
        guest_memfd_offset,
        guest_memfd,
        pad1,
        pad2
    );
    same!(memory::DirtyLog, kvm_dirty_log, slot, padding1, dirty_bitmap: __bindgen_anon_1);
    same!(
        memory::ClearDirtyLog, kvm_clear_dirty_log, slot, num_pages, first_page,
        dirty_bitmap: __bindgen_anon_1
    );
    same!(
        memory::CoalescedMmioZone, kvm_coalesced_mmio_zone, addr, size, pio: __bindgen_anon_1
    );
    same!(
        memory::CoalescedMmio, kvm_coalesced_mmio, phys_addr, len, pio: __bindgen_anon_1, data
    );
    same!(memory::CoalescedMmioRing, kvm_coalesced_mmio_ring, first, last);
    same!(memory::DirtyGfn, kvm_dirty_gfn, flags, slot, offset);
}

#[test]
fn chips() {
    same!(irqchip::Irqchip, kvm_irqchip, chip_id, pad, chip);
    same!(
        irqchip::PicState,
        kvm_pic_state,
        last_irr,
        irr,
        imr,
        isr,
        priority_add,
        irq_base,
        read_reg_select,
        poll,
        special_mask,
        init_state,
        auto_eoi,
        rotate_on_auto_eoi,
        special_fully_nested_mode,
        init4,
        elcr,
        elcr_mask
    );
    same!(irqchip::IoapicState, kvm_ioapic_state, base_address, ioregsel, id, irr, pad, redirtbl);
    same!(irqchip::LapicState, kvm_lapic_state, regs);
    same!(irqchip::PitConfig, kvm_pit_config, flags, pad);
    same!(
        irqchip::PitChannelState,
        kvm_pit_channel_state,
        count,
        latched_count,
        count_latched,
        status_latched,
        status,
        read_state,
        write_state,
        write_latch,
        rw_mode,
        mode,
        bcd,
        gate,
        count_load_time
    );
    same!(irqchip::PitState2, kvm_pit_state2, channels, flags, reserved);
    same!(irqchip::ReinjectControl, kvm_reinject_control, pit_reinject, reserved);
}

#[test]
fn interrupts() {
    same!(irq::IrqLevel, kvm_irq_level, irq: __bindgen_anon_1, level);
    same!(irq::Interrupt, kvm_interrupt, irq);
    same!(irq::IrqRoutingHeader, kvm_irq_routing, nr, flags);
    same!(irq::IrqRoutingEntry, kvm_irq_routing_entry, gsi, type_, flags, pad, target: u);
    same!(irq::IrqRoutingIrqchip, kvm_irq_routing_irqchip, irqchip, pin);
    same!(
        irq::IrqRoutingMsi, kvm_irq_routing_msi, address_lo, address_hi, data,
        devid: __bindgen_anon_1
    );
    same!(irq::Msi, kvm_msi, address_lo, address_hi, data, flags, devid, pad);
    same!(irq::Irqfd, kvm_irqfd, fd, gsi, flags, resamplefd, pad);
    same!(irq::Ioeventfd, kvm_ioeventfd, datamatch, addr, len, fd, flags, pad);
    same!(irq::TprAccessCtl, kvm_tpr_access_ctl, enabled, flags, reserved);
}

#[test]
fn the_rest() {
    same!(clock::ClockData, kvm_clock_data, clock, flags, pad0, realtime, host_tsc, pad);
    same!(debug::DebugRegs, kvm_debugregs, db, dr6, dr7, flags, reserved);
    same!(debug::GuestDebug, kvm_guest_debug, control, pad, debugreg: arch);
    same!(debug::DebugExit, kvm_debug_exit_arch, exception, pad, pc, dr6, dr7);
    same!(nested::NestedState, kvm_nested_state, flags, format, size, hdr);
    same!(device::EnableCap, kvm_enable_cap, cap, flags, args, pad);
    same!(device::CreateDevice, kvm_create_device, type_, fd, flags);
    same!(device::DeviceAttr, kvm_device_attr, flags, group, attr, addr);
}

#[test]
fn statistics() {
    same!(
        stats::StatsHeader,
        kvm_stats_header,
        flags,
        name_size,
        num_desc,
        id_offset,
        desc_offset,
        data_offset
    );
    macro_rules! same_field {
        ($($field:ident)*) => {
            $(assert_eq!(
                offset_of!(stats::StatsDesc, $field),
                offset_of!(linux::kvm_stats_desc, $field),
                "offset of {}", stringify!($field)
            );)*
        };
    }
    // Theirs has a name of any size.
    same_field!(flags exponent size offset bucket_size name);
    assert_eq!(stats::TYPE_INSTANT, linux::KVM_STATS_TYPE_INSTANT);
    assert_eq!(stats::UNIT_BOOLEAN, linux::KVM_STATS_UNIT_BOOLEAN);
}

#[test]
fn the_shared_page() {
    same!(
        run::Run, kvm_run, request_interrupt_window, exit_reason, ready_for_interrupt_injection,
        if_flag, flags, cr8, apic_base, exit: __bindgen_anon_1, kvm_valid_regs, kvm_dirty_regs,
        sync_regs: s
    );
}
