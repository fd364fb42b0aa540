//! Instructions that read and write registers of the system: control registers, the bases of FS and GS, the
//! time-stamp counter with the processor's number.

use arch_x86::emulate::Feature;
use arch_x86::engine::{EngineVcpu, Features};
use arch_x86::regs::{Regs, Seg, Segment, SysReg, cr4, gpr, rflags};
use iced_x86::code_asm::*;

use crate::Options;
use crate::SoftVcpu;
use crate::test_machine::{Machine, assemble, at, machine, run_to_halt};
use crate::test_ways::in_every_way;

in_every_way! {
    control_registers_are_read_with_the_flags_kept,
    selectors_are_read,
    bases_are_read_and_written,
    a_base_that_is_not_canonical_is_refused,
    bases_are_off_unless_cr4_says_so,
    the_processors_number_comes_with_its_time,
}

const BASE: u64 = 0xffff_8000_1234_5678;

fn vcpu(machine: &Machine) -> SoftVcpu {
    let mut vcpu = machine.vcpu();
    let features = [Feature::Fsgsbase, Feature::Rdtscp];
    let set = |all: Features, feature: Feature| all.with(feature, true);
    vcpu.set_features(features.into_iter().fold(Features::default(), set));
    vcpu.set_cr4(vcpu.cr4() | cr4::FSGSBASE);
    vcpu
}

fn control_registers_are_read_with_the_flags_kept(options: Options) {
    let machine = machine(options, |a| {
        a.cmp(rbx, 1)?;
        a.mov(rax, qword_ptr(rbp))?;
        a.mov(rdx, cr0)?;
        a.mov(r10, cr2)?;
        a.mov(rsi, cr3)?;
        a.mov(r15, iced_x86::code_asm::registers::cr4)?;
        a.setc(cl)?;
        a.sbb(r12, r12)?;
        a.hlt()
    });
    let mut vcpu = vcpu(&machine);
    vcpu.set_cr2(BASE);
    vcpu.set_gpr(gpr::RBP, at::DATA);
    for below in [1, 0] {
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RBX, 1 - below);
        run_to_halt(&mut vcpu);
        let found = [gpr::RDX, 10, gpr::RSI, 15].map(|n| vcpu.gpr(n));
        assert_eq!(found, [vcpu.cr0(), BASE, vcpu.cr3(), vcpu.cr4()]);
        assert_eq!(vcpu.gpr(gpr::RCX) & 0xff, below);
        assert_eq!(vcpu.gpr(12), below.wrapping_neg());
    }
}

fn selectors_are_read(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rax, -1i64)?;
        a.mov(r10, -1i64)?;
        a.mov(rdx, -1i64)?;
        a.mov(r11, -1i64)?;
        a.mov(qword_ptr(rbp), rax)?;
        a.mov(qword_ptr(rbp + 8), rax)?;
        a.cmp(rbx, 1)?;
        a.mov(eax, fs)?;
        a.mov(r10d, gs)?;
        a.mov(dx, es)?;
        a.mov(r11w, gs)?;
        a.mov(word_ptr(rbp), cs)?;
        a.mov(word_ptr(rbp + 12), ds)?;
        a.setc(cl)?;
        a.hlt()
    });
    let mut vcpu = vcpu(&machine);
    let set = |vcpu: &mut SoftVcpu, seg, selector| {
        let segment = vcpu.segment(seg);
        vcpu.set_segment(seg, Segment { selector, ..segment });
    };
    for (seg, selector) in [(Seg::Fs, 0x1234), (Seg::Gs, 0xfedc), (Seg::Es, 3), (Seg::Ds, 0x8001)] {
        set(&mut vcpu, seg, selector);
    }
    vcpu.set_gpr(gpr::RBP, at::DATA);
    vcpu.set_gpr(gpr::RBX, 0);
    run_to_halt(&mut vcpu);
    let found = [gpr::RAX, 10, gpr::RDX, 11].map(|n| vcpu.gpr(n));
    let over = |selector: u64| 0xffff_ffff_ffff_0000 | selector;
    assert_eq!(found, [0x1234, 0xfedc, over(3), over(0xfedc)]);
    let code = u64::from(vcpu.segment(Seg::Cs).selector);
    assert_eq!(machine.read_u64(at::DATA), 0xffff_ffff_ffff_0000 | code);
    assert_eq!(machine.read_u64(at::DATA + 8), 0xffff_8001_ffff_ffff);
    assert_eq!(vcpu.gpr(gpr::RCX) & 0xff, 1, "no flag has changed");
}

fn bases_are_read_and_written(options: Options) {
    let machine = machine(options, |a| {
        a.cmp(rbx, 1)?;
        a.rdfsbase(rdx)?;
        a.rdgsbase(r11)?;
        a.wrfsbase(r10)?;
        a.wrgsbase(rsi)?;
        a.setc(cl)?;
        a.mov(r14, qword_ptr(0x10).fs())?;
        a.mov(r15, qword_ptr(0x10).gs())?;
        a.hlt()
    });
    machine.write_u64(at::DATA + 0x10, 1);
    machine.write_u64(at::DATA + 0x110, 2);
    let mut vcpu = vcpu(&machine);
    for below in [1, 0] {
        vcpu.set_rip(at::CODE);
        for (seg, base) in [(Seg::Fs, BASE), (Seg::Gs, !BASE)] {
            let segment = vcpu.segment(seg);
            vcpu.set_segment(seg, arch_x86::regs::Segment { base, ..segment });
        }
        vcpu.set_gpr(gpr::RBX, 1 - below);
        vcpu.set_gpr(10, at::DATA);
        vcpu.set_gpr(gpr::RSI, at::UPPER + at::DATA + 0x100);
        run_to_halt(&mut vcpu);
        let found = [gpr::RDX, 11, 14, 15].map(|n| vcpu.gpr(n));
        assert_eq!(found, [BASE, !BASE, 1, 2]);
        assert_eq!(vcpu.gpr(gpr::RCX) & 0xff, below);
    }
}

fn a_base_that_is_not_canonical_is_refused(options: Options) {
    let code = assemble(at::CODE, |a| {
        a.cmp(rbx, 1)?;
        a.wrgsbase(r15)?;
        a.hlt()
    });
    let machine = Machine::with(options, &code);
    machine.handle(13, &[0xf4]);
    let mut vcpu = vcpu(&machine);
    for (base, fault) in [(BASE, false), (1 << 47, true), (BASE ^ 1 << 63, true), (7, false)] {
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RSP, at::STACK);
        vcpu.set_gpr(gpr::RBX, 0);
        vcpu.set_gpr(15, base);
        let before = vcpu.segment(Seg::Gs).base;
        run_to_halt(&mut vcpu);
        assert_eq!(vcpu.segment(Seg::Gs).base, if fault { before } else { base });
        if fault {
            let frame = vcpu.gpr(gpr::RSP);
            assert_eq!(machine.read_u64(frame + 8), at::CODE + 4);
            assert_eq!(machine.read_u64(frame + 24) & rflags::CF, rflags::CF);
        }
    }
}

fn bases_are_off_unless_cr4_says_so(options: Options) {
    let code = assemble(at::CODE, |a| {
        a.nop()?;
        a.rdfsbase(rax)?;
        a.hlt()
    });
    let machine = Machine::with(options, &code);
    machine.handle(6, &[0xf4]);
    let mut vcpu = vcpu(&machine);
    for on in [true, false, true] {
        let all = vcpu.cr4();
        vcpu.set_cr4(if on { all | cr4::FSGSBASE } else { all & !cr4::FSGSBASE });
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RSP, at::STACK);
        run_to_halt(&mut vcpu);
        assert_eq!(vcpu.gpr(gpr::RSP) == at::STACK, on);
    }
}

fn the_processors_number_comes_with_its_time(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rcx, -1i64)?;
        a.rdtscp()?;
        a.nop()?;
        a.hlt()
    });
    let mut vcpu = vcpu(&machine);
    vcpu.set_sysreg(SysReg::TscAux, 0x1_8000_0007);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RCX), 0x8000_0007);
    assert_eq!((vcpu.gpr(gpr::RAX) | vcpu.gpr(gpr::RDX)) >> 32, 0);
}
