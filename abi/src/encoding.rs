//! Structures from and to the bytes of a caller's memory: [`Encoded`].
//!
//! The side that answers the calls reads an argument once, as bytes, since the caller may change it meanwhile, and makes a
//! value of them here; the numbers are in the host's own byte order. What is between the fields is left alone.
//! Neighbours: all modules whose structures are arguments.

use crate::bytes;

/// What has a layout in memory.
pub trait Encoded: Sized {
    /// How many bytes it has.
    const SIZE: usize = size_of::<Self>();

    /// The value that is in the first bytes. A number that is not there whole is zero.
    fn decode(bytes: &[u8]) -> Self;

    /// Puts the value into the first bytes. A number that there is no room for is left out.
    fn encode(&self, bytes: &mut [u8]);
}

/// The bytes from `offset` on.
fn behind(bytes: &[u8], offset: usize) -> &[u8] {
    bytes.get(offset..).unwrap_or_default()
}

/// The same, to be filled.
fn behind_mut(bytes: &mut [u8], offset: usize) -> &mut [u8] {
    bytes.get_mut(offset..).unwrap_or_default()
}

macro_rules! integers {
    ($($type:ty)*) => {
        $(
            impl Encoded for $type {
                #[inline]
                fn decode(bytes: &[u8]) -> Self {
                    Self::from_ne_bytes(bytes::get(bytes, 0))
                }
                #[inline]
                fn encode(&self, bytes: &mut [u8]) {
                    bytes::set(bytes, 0, self.to_ne_bytes());
                }
            }
        )*
    };
}

integers!(u8 u16 u32 u64 i16 i32 i64);

impl<T: Encoded, const N: usize> Encoded for [T; N] {
    fn decode(bytes: &[u8]) -> Self {
        core::array::from_fn(|n| T::decode(behind(bytes, n * T::SIZE)))
    }
    fn encode(&self, bytes: &mut [u8]) {
        for (n, value) in self.iter().enumerate() {
            value.encode(behind_mut(bytes, n * T::SIZE));
        }
    }
}

/// Structures, each with all its fields.
macro_rules! structures {
    ($($type:path { $($field:ident),* $(,)? })*) => {
        $(
            impl Encoded for $type {
                fn decode(bytes: &[u8]) -> Self {
                    Self {
                        $($field: Encoded::decode(behind(bytes, core::mem::offset_of!(Self, $field)))),*
                    }
                }
                fn encode(&self, bytes: &mut [u8]) {
                    $(self.$field.encode(behind_mut(bytes, core::mem::offset_of!(Self, $field)));)*
                }
            }
        )*
    };
}

structures! {
    crate::regs::Regs {
        rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
    }
    crate::regs::Segment {
        base, limit, selector, type_, present, dpl, db, s, l, g, avl, unusable, padding,
    }
    crate::regs::Dtable { base, limit, padding }
    crate::regs::Sregs {
        cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, apic_base, interrupt_bitmap,
    }
    crate::regs::Sregs2 {
        cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, apic_base, flags, pdptrs,
    }
    crate::regs::Translation { linear_address, physical_address, valid, writeable, usermode, pad }
    crate::fpu::Fpu {
        fpr, fcw, fsw, ftwx, pad1, last_opcode, last_ip, last_dp, xmm, mxcsr, pad2,
    }
    crate::fpu::Xcr { xcr, reserved, value }
    crate::fpu::Xcrs { nr_xcrs, flags, xcrs, padding }
    crate::events::Exception { injected, nr, has_error_code, pending, error_code }
    crate::events::Interrupt { injected, nr, soft, shadow }
    crate::events::Nmi { injected, pending, masked, pad }
    crate::events::Smi { smm, pending, smm_inside_nmi, latched_init }
    crate::events::TripleFault { pending }
    crate::events::Events {
        exception, interrupt, nmi, sipi_vector, flags, smi, triple_fault, reserved, exception_has_payload,
        exception_payload,
    }
    crate::events::MpState { mp_state }
    crate::debug::DebugRegs { db, dr6, dr7, flags, reserved }
    crate::debug::GuestDebug { control, pad, debugreg }
    crate::cpuid::CpuidHeader { nent, padding }
    crate::cpuid::CpuidEntry { function, index, flags, eax, ebx, ecx, edx, padding }
    crate::clock::ClockData { clock, flags, pad0, realtime, host_tsc, pad }
    crate::device::CreateDevice { type_, fd, flags }
    crate::device::EnableCap { cap, flags, args, pad }
    crate::device::DeviceAttr { flags, group, attr, addr }
    crate::irqchip::Irqchip { chip_id, pad, chip }
    crate::irqchip::PicState {
        last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask, init_state, auto_eoi,
        rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask,
    }
    crate::irqchip::IoapicState { base_address, ioregsel, id, irr, pad, redirtbl }
    crate::irqchip::PitConfig { flags, pad }
    crate::irqchip::ReinjectControl { pit_reinject, reserved }
    crate::irqchip::PitChannelState {
        count, latched_count, count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode, mode,
        bcd, gate, count_load_time,
    }
    crate::irqchip::PitState2 { channels, flags, reserved }
    crate::memory::UserspaceMemoryRegion { slot, flags, guest_phys_addr, memory_size, userspace_addr }
    crate::memory::UserspaceMemoryRegion2 {
        slot, flags, guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset, guest_memfd, pad1, pad2,
    }
    crate::memory::DirtyLog { slot, padding1, dirty_bitmap }
    crate::memory::ClearDirtyLog { slot, num_pages, first_page, dirty_bitmap }
    crate::memory::CoalescedMmioZone { addr, size, pio }
    crate::memory::CoalescedMmio { phys_addr, len, pio, data }
    crate::memory::CoalescedMmioRing { first, last }
    crate::memory::DirtyGfn { flags, slot, offset }
    crate::msr::MsrsHeader { nmsrs, pad }
    crate::msr::MsrListHeader { nmsrs }
    crate::msr::MsrFilterRange { flags, nmsrs, base, bitmap }
    crate::msr::MsrFilter { flags, ranges }
    crate::msr::MsrEntry { index, reserved, data }
    crate::irq::Interrupt { irq }
    crate::irq::IrqLevel { irq, level }
    crate::irq::IrqRoutingHeader { nr, flags }
    crate::irq::IrqRoutingEntry { gsi, type_, flags, pad, target }
    crate::irq::Msi { address_lo, address_hi, data, flags, devid, pad }
    crate::irq::Irqfd { fd, gsi, flags, resamplefd, pad }
    crate::irq::Ioeventfd { datamatch, addr, len, fd, flags, pad }
    crate::irq::TprAccessCtl { enabled, flags, reserved }
    crate::nested::NestedState { flags, format, size, hdr }
    crate::stats::StatsHeader { flags, name_size, num_desc, id_offset, desc_offset, data_offset }
    crate::stats::StatsDesc { flags, exponent, size, offset, bucket_size, name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::CpuidEntry;
    use crate::events::Events;
    use crate::fpu::{Fpu, Xcrs};
    use crate::regs::{Sregs, Sregs2};

    /// Bytes that differ from their neighbours.
    fn pattern<const N: usize>() -> [u8; N] {
        core::array::from_fn(|n| (n * 7 + 1) as u8)
    }

    fn there_and_back<T: Encoded, const N: usize>() {
        assert_eq!(T::SIZE, N);
        let bytes: [u8; N] = pattern();
        let mut again = [0; N];
        T::decode(&bytes).encode(&mut again);
        assert_eq!(again, bytes);
    }

    #[test]
    fn every_byte_of_a_structure_goes_there_and_back() {
        there_and_back::<crate::regs::Regs, 144>();
        there_and_back::<Sregs, 312>();
        there_and_back::<Sregs2, 320>();
        there_and_back::<Fpu, 416>();
        there_and_back::<Xcrs, 392>();
        there_and_back::<Events, 64>();
        there_and_back::<CpuidEntry, 40>();
        there_and_back::<crate::regs::Translation, 24>();
        there_and_back::<crate::debug::DebugRegs, 128>();
        there_and_back::<crate::debug::GuestDebug, 72>();
        there_and_back::<crate::msr::MsrEntry, 16>();
        there_and_back::<crate::irq::TprAccessCtl, 40>();
        there_and_back::<crate::nested::NestedState, 128>();
        there_and_back::<crate::clock::ClockData, 48>();
        there_and_back::<crate::device::CreateDevice, 12>();
        there_and_back::<crate::device::EnableCap, 104>();
        there_and_back::<crate::device::DeviceAttr, 24>();
        there_and_back::<crate::irqchip::Irqchip, 520>();
        there_and_back::<crate::irqchip::PicState, 16>();
        there_and_back::<crate::irqchip::IoapicState, 216>();
        there_and_back::<crate::irqchip::PitConfig, 64>();
        there_and_back::<crate::irqchip::PitState2, 112>();
        there_and_back::<crate::irqchip::ReinjectControl, 32>();
        there_and_back::<crate::memory::UserspaceMemoryRegion, 32>();
        there_and_back::<crate::memory::UserspaceMemoryRegion2, 160>();
        there_and_back::<crate::memory::DirtyLog, 16>();
        there_and_back::<crate::memory::ClearDirtyLog, 24>();
        there_and_back::<crate::memory::CoalescedMmioZone, 16>();
        there_and_back::<crate::memory::CoalescedMmio, 24>();
        there_and_back::<crate::memory::CoalescedMmioRing, 8>();
        there_and_back::<crate::irq::IrqLevel, 8>();
        there_and_back::<crate::irq::IrqRoutingHeader, 8>();
        there_and_back::<crate::irq::IrqRoutingEntry, 48>();
        there_and_back::<crate::irq::Msi, 32>();
        there_and_back::<crate::irq::Irqfd, 32>();
        there_and_back::<crate::stats::StatsHeader, 24>();
        there_and_back::<crate::stats::StatsDesc, 64>();
    }

    #[test]
    fn fields_are_where_their_structure_has_them() {
        let bytes: [u8; 64] = pattern();
        let events = Events::decode(&bytes);
        assert_eq!(events.interrupt.shadow, bytes[11]);
        assert_eq!(events.exception_payload.to_ne_bytes(), bytes[56..]);
    }

    #[test]
    fn numbers_that_are_not_there_are_zero_or_left_out() {
        let entry = CpuidEntry::decode(&[1, 0, 0, 0, 9, 9]);
        assert_eq!(entry, CpuidEntry { function: 1, ..CpuidEntry::default() });
        let mut short = [0; 6];
        CpuidEntry { function: !0, index: !0, ..entry }.encode(&mut short);
        assert_eq!(short, [0xff, 0xff, 0xff, 0xff, 0, 0]);
    }
}
