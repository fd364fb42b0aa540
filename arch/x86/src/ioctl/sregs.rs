//! KVM_GET_SREGS, KVM_SET_SREGS, and the same as SREGS2: segments, tables, control registers, IA32_APIC_BASE.
//!
//! SREGS2 is SREGS with PAE's page-directory pointers in the place of the interrupt that is on its way. There are no such
//! registers here, as the entries are read when they are used ([`crate::mmu`]): none are told, and those that are set are
//! taken for what memory has. KVM keeps the current privilege level in SS.
//!
//! Deviations: EFER bits that are not offered are refused, which Linux takes from a VMM.
//!
//! See: api.rst 4.13, 4.14, 4.131, 4.132; Linux, arch/x86/kvm/x86.c, `kvm_is_valid_sregs`.

use core::mem::offset_of;

use abi::encoding::Encoded;
use abi::regs::{Dtable, SREGS2_FLAGS_PDPTRS_VALID, Segment as AbiSegment, Sregs, Sregs2};
use virt::Errno;
use virt::host::Host;
use virt::ioctl::{Argument, zeroed};

use crate::emulate::control::ControlRegisters;
use crate::engine::Engine;
use crate::regs::{Attr, Regs, Seg, Segment, Table, cr0, cr4, efer};
use crate::vcpu::Vcpu;

/// How far both structures are the same.
const COMMON: usize = offset_of!(Sregs, interrupt_bitmap);
const _: () = assert!(offset_of!(Sregs2, flags) == COMMON, "SREGS2 begins as SREGS does");

#[inline(never)]
pub(super) fn get<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    argument.write(&read(vcpu))?;
    Ok(0)
}

#[inline(never)]
pub(super) fn get2<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let mut bytes = zeroed(Sregs2::SIZE)?;
    // There is no room for the bitmap in this.
    if let Some(common) = bytes.get_mut(..COMMON) {
        read(vcpu).encode(common);
    }
    argument.put(0, &bytes)?;
    Ok(0)
}

#[inline(never)]
pub(super) fn set<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    set_all(vcpu, &argument.read()?)?;
    Ok(0)
}

/// Sets them, if a vCPU can be in this state.
pub(super) fn set_all<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    from: &Sregs,
) -> Result<(), Errno> {
    check(vcpu, from)?;
    apply(vcpu, from);
    // The first of them only.
    let word = from.interrupt_bitmap.iter().position(|word| *word != 0);
    if let Some(word) = word {
        let bit = from.interrupt_bitmap[word].trailing_zeros() as usize;
        vcpu.set_pending_interrupt((word * 64 + bit) as u8);
    }
    Ok(())
}

#[inline(never)]
pub(super) fn set2<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let bytes = argument.bytes(0, Sregs2::SIZE)?;
    let (common, rest) = bytes.split_at_checked(COMMON).unwrap_or_default();
    let from = Sregs::decode(common);
    let flags = u64::decode(rest);
    let pae = from.cr0 & cr0::PG != 0 && from.cr4 & cr4::PAE != 0 && from.efer & efer::LMA == 0;
    if flags & !SREGS2_FLAGS_PDPTRS_VALID != 0 || flags != 0 && !pae {
        return Err(Errno::EINVAL);
    }
    check(vcpu, &from)?;
    apply(vcpu, &from);
    Ok(0)
}

pub(super) fn read<E: Engine, H: Host>(vcpu: &mut Vcpu<E, H>) -> Sregs {
    let pending = vcpu.pending();
    let regs = vcpu.engine();
    let seg = |seg| from_segment(&regs.segment(seg));
    let mut ss = seg(Seg::Ss);
    ss.dpl = regs.cpl();
    let mut to = Sregs {
        cs: seg(Seg::Cs),
        ds: seg(Seg::Ds),
        es: seg(Seg::Es),
        fs: seg(Seg::Fs),
        gs: seg(Seg::Gs),
        ss,
        tr: seg(Seg::Tr),
        ldt: seg(Seg::Ldtr),
        gdt: from_table(regs.gdtr()),
        idt: from_table(regs.idtr()),
        cr0: regs.cr0(),
        cr2: regs.cr2(),
        cr3: regs.cr3(),
        cr4: regs.cr4(),
        cr8: vcpu.lapic().cr8(),
        efer: regs.efer(),
        apic_base: vcpu.lapic().base(),
        interrupt_bitmap: [0; 4],
    };
    if let Some(vector) = super::events::interrupt(pending.event, pending.interrupt) {
        to.interrupt_bitmap[usize::from(vector / 64)] = 1 << (vector % 64);
    }
    to
}

/// Whether a vCPU can be in this state.
fn check<E: Engine, H: Host>(vcpu: &Vcpu<E, H>, from: &Sregs) -> Result<(), Errno> {
    let control = ControlRegisters {
        cr0: from.cr0,
        cr3: from.cr3,
        cr4: from.cr4,
        efer: from.efer,
        code64: from.cs.l != 0,
    };
    let cpuid = vcpu.cpuid();
    // Until CPUID says what there is, it is all that there can be.
    let told = !cpuid.entries().is_empty();
    let features = if told { cpuid.features() } else { vcpu.possible_features() };
    let fine = control.are_consistent(features, cpuid.physical_bits() as u8)
        && vcpu.lapic().check_base(from.apic_base).is_ok();
    if fine { Ok(()) } else { Err(Errno::EINVAL) }
}

#[inline(never)]
fn apply<E: Engine, H: Host>(vcpu: &mut Vcpu<E, H>, from: &Sregs) {
    // Checked before.
    let _ = vcpu.restore_apic_base(from.apic_base);
    if from.cr8 < 16 {
        vcpu.set_cr8(from.cr8);
    }
    let regs = vcpu.engine_mut();
    regs.set_efer(from.efer);
    regs.set_cr0(from.cr0 & cr0::DEFINED | cr0::ET);
    regs.set_cr2(from.cr2);
    regs.set_cr4(from.cr4);
    regs.set_cr3(from.cr3);
    for (seg, value) in [
        (Seg::Cs, &from.cs),
        (Seg::Ds, &from.ds),
        (Seg::Es, &from.es),
        (Seg::Fs, &from.fs),
        (Seg::Gs, &from.gs),
        (Seg::Ss, &from.ss),
        (Seg::Tr, &from.tr),
        (Seg::Ldtr, &from.ldt),
    ] {
        regs.set_segment(seg, segment(value));
    }
    let real = from.cr0 & cr0::PE == 0;
    regs.set_cpl(if real { 0 } else { from.ss.dpl & 3 });
    regs.set_gdtr(Table { base: from.gdt.base, limit: from.gdt.limit });
    regs.set_idtr(Table { base: from.idt.base, limit: from.idt.limit });
    vcpu.flush_tlb();
}

fn segment(from: &AbiSegment) -> Segment {
    let bit = |value: u8, bit: u16| if value & 1 != 0 { bit } else { 0 };
    let present = if from.unusable == 0 { bit(from.present, Attr::P) } else { 0 };
    let attr = u16::from(from.type_ & 15)
        | bit(from.s, Attr::S)
        | u16::from(from.dpl & 3) << 5
        | present
        | bit(from.avl, Attr::AVL)
        | bit(from.l, Attr::L)
        | bit(from.db, Attr::DB)
        | bit(from.g, Attr::G);
    Segment { base: from.base, limit: from.limit, selector: from.selector, attr: Attr(attr) }
}

fn from_segment(from: &Segment) -> AbiSegment {
    let has = |bits| u8::from(from.attr.has(bits));
    AbiSegment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: from.attr.kind() as u8,
        present: has(Attr::P),
        dpl: from.attr.dpl(),
        db: has(Attr::DB),
        s: has(Attr::S),
        l: has(Attr::L),
        g: has(Attr::G),
        avl: has(Attr::AVL),
        unusable: u8::from(!from.attr.has(Attr::P)),
        padding: 0,
    }
}

const fn from_table(from: Table) -> Dtable {
    Dtable { base: from.base, limit: from.limit, padding: [0; 3] }
}
