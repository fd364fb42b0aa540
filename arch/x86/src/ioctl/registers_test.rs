//! Test bodies of `regs` and `sregs`.

use abi::ioctl::{GET_REGS, GET_SREGS, GET_SREGS2, SET_REGS, SET_SREGS, SET_SREGS2};
use abi::regs::{Dtable, Regs as AbiRegs, SREGS2_FLAGS_PDPTRS_VALID, Segment, Sregs, Sregs2};
use selftest::{Outcome, cases, check, check_eq};
use virt::Errno;

use super::caller::Caller;
use crate::cpuid::{Instructions, Table};
use crate::engine::Event;
use crate::regs::{Regs, Seg, cr0, cr4, efer, gpr, rflags};
use crate::vcpu::run_test::{TestVcpu, engine, out};
use crate::vcpu::{Answer, Exit};

const fn segment(n: u64) -> Segment {
    Segment {
        base: n << 12,
        limit: 0xfffff,
        selector: (n as u16) << 3 | 3,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 1,
        unusable: 0,
        padding: 0,
    }
}

/// A program in a 64-bit guest.
fn odd_sregs() -> Sregs {
    let absent = Segment { present: 0, unusable: 1, ..Segment::default() };
    Sregs {
        cs: Segment { type_: 11, l: 1, db: 0, ..segment(1) },
        ds: segment(2),
        es: segment(3),
        fs: segment(4),
        gs: segment(5),
        ss: segment(6),
        tr: Segment { type_: 11, s: 0, dpl: 0, ..segment(7) },
        ldt: absent,
        gdt: Dtable { base: 0x7000, limit: 0x7f, padding: [0; 3] },
        idt: Dtable { base: 0xffff_8000_0000_6000, limit: 0xfff, padding: [0; 3] },
        cr0: cr0::PE | cr0::PG | cr0::ET | cr0::WP | cr0::NE,
        cr2: 0x1234_5678_9abc,
        cr3: 0x2000,
        cr4: cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::SMEP,
        cr8: 5,
        efer: efer::LME | efer::LMA | efer::SCE | efer::NXE,
        apic_base: 0xfee0_0000 | 1 << 11 | 1 << 10 | 1 << 8,
        interrupt_bitmap: [0; 4],
    }
}

fn refused(caller: &Caller, vcpu: &mut TestVcpu, change: impl Fn(&mut Sregs)) -> Outcome {
    let mut sregs = odd_sregs();
    change(&mut sregs);
    caller.refused(vcpu, SET_SREGS, &sregs, Errno::EINVAL)
}

cases! {
    fn general_registers_go_there_and_back() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let value = |n: u64| n * 0x0101_0101_0101_0101;
        let regs = AbiRegs {
            rax: value(1), rbx: value(2), rcx: value(3), rdx: value(4), rsi: value(5), rdi: value(6),
            rsp: value(7), rbp: value(8), r8: value(9), r9: value(10), r10: value(11),
            r11: value(12), r12: value(13), r13: value(14), r14: value(15), r15: value(16),
            rip: 0xffff_8000_1234_5678, rflags: 0x246,
        };
        check_eq!(caller.set(&mut vcpu, SET_REGS, &regs), Ok(0));
        check_eq!(vcpu.engine().gpr(gpr::RBX), value(2));
        check_eq!(vcpu.engine().gpr(gpr::RSP), value(7));
        check_eq!(vcpu.engine().gpr(gpr::R15), value(16));
        let got: AbiRegs = caller.get(&mut vcpu, GET_REGS)?;
        check_eq!(got, regs);
        let mut other = caller.vcpu()?;
        check_eq!(caller.set(&mut other, SET_REGS, &got), Ok(0));
        check_eq!(caller.get::<AbiRegs>(&mut other, GET_REGS)?, regs);
    }

    fn flags_that_a_processor_lacks_are_not_kept() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let regs = AbiRegs { rflags: !0, ..AbiRegs::default() };
        check_eq!(caller.set(&mut vcpu, SET_REGS, &regs), Ok(0));
        check_eq!(vcpu.engine().rflags(), 0x3f_7fd7);
        check_eq!(caller.set(&mut vcpu, SET_REGS, &AbiRegs::default()), Ok(0));
        check_eq!(vcpu.engine().rflags(), rflags::FIXED);
    }

    fn special_registers_go_there_and_back() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &odd_sregs()), Ok(0));
        let regs = vcpu.engine();
        check_eq!((regs.cpl(), regs.mode64(), regs.cr2()), (3, true, 0x1234_5678_9abc));
        check_eq!((regs.segment(Seg::Ss).selector, regs.segment(Seg::Tr).selector), (0x33, 0x3b));
        check_eq!(regs.idtr().base, 0xffff_8000_0000_6000);
        check_eq!((vcpu.lapic().cr8(), vcpu.lapic().base()), (5, 0xfee0_0d00));
        let got: Sregs = caller.get(&mut vcpu, GET_SREGS)?;
        check_eq!(got, odd_sregs());
        let mut other = caller.vcpu()?;
        check_eq!(caller.set(&mut other, SET_SREGS, &got), Ok(0));
        check_eq!(caller.get::<Sregs>(&mut other, GET_SREGS)?, got);
        // As they were after a reset, too.
        let mut reset = caller.fixture.vcpu(1).map_err(|_| selftest::Failure {
            file: file!(), line: line!(), message: "a vCPU".into(),
        })?;
        let got: Sregs = caller.get(&mut reset, GET_SREGS)?;
        check_eq!((got.cs.selector, got.cs.base, got.cr0), (0xf000, 0xffff_0000, 0x6000_0010));
        check_eq!(caller.set(&mut reset, SET_SREGS, &got), Ok(0));
        check_eq!(caller.get::<Sregs>(&mut reset, GET_SREGS)?, got);
    }

    fn the_level_of_privilege_is_in_the_stack_segment() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let mut sregs = odd_sregs();
        sregs.ss.dpl = 2;
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Ok(0));
        check_eq!(vcpu.engine().cpl(), 2);
        // There is none in real mode.
        (sregs.cr0, sregs.efer, sregs.cs.l) = (cr0::ET, 0, 0);
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Ok(0));
        check_eq!(vcpu.engine().cpl(), 0);
    }

    fn control_registers_that_cannot_be_are_refused() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        refused(&caller, &mut vcpu, |s| s.cr0 |= 1 << 32)?;
        refused(&caller, &mut vcpu, |s| s.cr0 &= !cr0::PE)?;
        refused(&caller, &mut vcpu, |s| s.cr0 |= cr0::NW)?;
        refused(&caller, &mut vcpu, |s| s.cr4 &= !cr4::PAE)?;
        refused(&caller, &mut vcpu, |s| s.cr4 |= 1 << 13)?;
        refused(&caller, &mut vcpu, |s| s.cr4 |= 1 << 63)?;
        refused(&caller, &mut vcpu, |s| s.efer &= !efer::LMA)?;
        refused(&caller, &mut vcpu, |s| s.efer &= !efer::LME)?;
        refused(&caller, &mut vcpu, |s| s.efer |= efer::SVME)?;
        refused(&caller, &mut vcpu, |s| s.cr3 |= 1 << 63)?;
        refused(&caller, &mut vcpu, |s| s.cr3 |= 1 << 52)?;
        refused(&caller, &mut vcpu, |s| s.cr0 &= !cr0::PG)?;
        // Long mode off, but for one thing.
        let off = |s: &mut Sregs| (s.cr0, s.efer, s.cs.l) = (cr0::PE | cr0::ET, 0, 0);
        refused(&caller, &mut vcpu, |s| { off(s); s.cs.l = 1; })?;
        refused(&caller, &mut vcpu, |s| { off(s); s.efer = efer::LMA; })?;
        let mut sregs = odd_sregs();
        off(&mut sregs);
        sregs.efer = efer::LME;
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Ok(0));
    }

    fn until_cpuid_is_set_all_of_cr4_may_be_that_there_is() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        vcpu.set_cpuid(Table::default());
        let mut sregs: Sregs = caller.get(&mut vcpu, GET_SREGS)?;
        (sregs.cr0, sregs.efer, sregs.cs.l, sregs.apic_base) = (cr0::ET, 0, 0, 0xfee0_0900);
        let all = cr4::PCIDE | cr4::SMAP | cr4::FSGSBASE | cr4::OSXSAVE | cr4::UMIP | cr4::LA57;
        sregs.cr4 |= all;
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Ok(0));
        check_eq!(vcpu.engine().cr4() & all, all);
        // What the engine lacks there is not.
        let lacks = Instructions { leaf1_ecx: 1 << 17, ..Instructions::default() };
        *caller.fixture.vm.arch().machine().engine.lacks.lock() = lacks;
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Err(Errno::EINVAL));
        sregs.cr4 &= !cr4::PCIDE;
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Ok(0));
        sregs.cr4 |= 1 << 13;
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Err(Errno::EINVAL));
    }

    fn bits_of_cr4_are_by_cpuid() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let mut sregs = odd_sregs();
        sregs.cr4 |= cr4::SMAP | cr4::FSGSBASE | cr4::OSXSAVE;
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Ok(0));
        let mut table = Table::default();
        check_eq!(table.set(0, None, [0; 4]), Ok(()));
        vcpu.set_cpuid(table);
        sregs.apic_base &= !(1 << 10);
        caller.refused(&mut vcpu, SET_SREGS, &sregs, Errno::EINVAL)?;
        sregs.cr4 &= !(cr4::SMAP | cr4::FSGSBASE | cr4::OSXSAVE | cr4::SMEP);
        for bit in [cr4::SMEP, cr4::PCIDE, cr4::LA57] {
            let with = Sregs { cr4: sregs.cr4 | bit, ..sregs };
            caller.refused(&mut vcpu, SET_SREGS, &with, Errno::EINVAL)?;
        }
        // Linux looks at no CPUID for these.
        sregs.cr4 |= cr4::VME | cr4::PVI;
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Ok(0));
    }

    fn the_local_apics_base_takes_any_mode_that_there_is() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let mut sregs = odd_sregs();
        // Transitions that a guest may not make are among them.
        for mode in [1 << 11 | 1 << 10, 1 << 11, 0, 1 << 11 | 1 << 10] {
            sregs.apic_base = 0xfee0_0000 | mode | 1 << 8;
            check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Ok(0));
            check_eq!(caller.get::<Sregs>(&mut vcpu, GET_SREGS)?.apic_base, sregs.apic_base);
        }
        refused(&caller, &mut vcpu, |s| s.apic_base = 0xfee0_0000 | 1 << 10)?;
        refused(&caller, &mut vcpu, |s| s.apic_base |= 1)?;
        refused(&caller, &mut vcpu, |s| s.apic_base |= 1 << 9)?;
        refused(&caller, &mut vcpu, |s| s.apic_base |= 1 << 60)?;
        // A CR8 that cannot be is not looked at.
        sregs.cr8 = 16;
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Ok(0));
        check_eq!(vcpu.lapic().cr8(), 5);
    }

    fn the_interrupt_on_its_way_is_in_the_bitmap() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let mut sregs = odd_sregs();
        sregs.interrupt_bitmap = [0, 0, 1 << 2 | 1 << 9, 1];
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &sregs), Ok(0));
        let got: Sregs = caller.get(&mut vcpu, GET_SREGS)?;
        check_eq!(got.interrupt_bitmap, [0, 0, 1 << 2, 0]);
        // It waits for interrupts to be on.
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), []);
        check!(vcpu.engine().entries[0].interrupt_window);
        engine(&mut vcpu).set_rflags(rflags::FIXED | rflags::IF);
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: 130 }]);
        check_eq!(caller.get::<Sregs>(&mut vcpu, GET_SREGS)?.interrupt_bitmap, [0; 4]);
    }

    fn the_second_form_has_no_interrupt_and_pointers_in_pae_mode_only() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let first = odd_sregs();
        check_eq!(caller.set(&mut vcpu, SET_SREGS, &first), Ok(0));
        vcpu.set_pending_interrupt(3);
        let mut got: Sregs2 = caller.get(&mut vcpu, GET_SREGS2)?;
        check_eq!((got.cs, got.cr3, got.apic_base), (first.cs, first.cr3, first.apic_base));
        check_eq!((got.flags, got.pdptrs), (0, [0; 4]));
        got.cr2 = 77;
        check_eq!(caller.set(&mut vcpu, SET_SREGS2, &got), Ok(0));
        check_eq!(vcpu.engine().cr2(), 77);
        check_eq!(caller.get::<Sregs2>(&mut vcpu, GET_SREGS2)?, got);
        got.flags = SREGS2_FLAGS_PDPTRS_VALID;
        caller.refused(&mut vcpu, SET_SREGS2, &got, Errno::EINVAL)?;
        (got.efer, got.cs.l) = (0, 0);
        check_eq!(caller.set(&mut vcpu, SET_SREGS2, &got), Ok(0));
        got.flags = 2;
        caller.refused(&mut vcpu, SET_SREGS2, &got, Errno::EINVAL)?;
        (got.flags, got.cr0) = (0, cr0::PG);
        caller.refused(&mut vcpu, SET_SREGS2, &got, Errno::EINVAL)?;
    }
}
