//! What a kernel reads of its processor's own data, at a known distance from GS's base.

use arch_x86::emulate::Feature;
use arch_x86::engine::{EngineVcpu, Intercept};
use arch_x86::regs::{Regs, Seg, Segment, SysReg, cr4, gpr};
use iced_x86::code_asm::*;

use crate::Options;
use crate::test_kernel::{
    Assembled, DIRECT, Fault, Guest, IMAGE, LOWER, MORE, PAGES, RESULT, Read, SIZE, Value, number,
};
use crate::test_machine::{RAM, assemble, at, run};
use crate::test_ways::in_every_way;

in_every_way! {
    it_is_read_wherever_it_is,
    it_is_read_where_gs_has_just_been_moved_to,
    what_is_unmapped_faults,
    flags_stay,
}

/// A distance, another one, and one that is farther than is reckoned with.
const NEAR: u64 = 0x18;
const FAR: u64 = 0x2_f7f0;
const FARTHER: u64 = 0x12_3450;

const PLAIN: u64 = at::CODE + 0x1000;
const WRITTEN: u64 = at::CODE + 0x1200;
const SWAPPED: u64 = at::CODE + 0x1400;
/// How to come to GS's base.
const WAYS: [u64; 3] = [PLAIN, WRITTEN, SWAPPED];

fn read(a: &mut CodeAssembler) -> Assembled {
    for (n, distance) in (0..).zip([NEAR, FAR, FARTHER]) {
        a.mov(rsi, qword_ptr(distance).gs())?;
        a.mov(qword_ptr(RESULT + n * 8), rsi)?;
    }
    Ok(())
}

fn guest(options: Options) -> Guest {
    let mut guest = Guest::new(options);
    let features = guest.vcpu.features.with(Feature::Fsgsbase, true);
    guest.vcpu.set_features(features);
    guest.vcpu.set_cr4(guest.vcpu.cr4() | cr4::FSGSBASE);
    let program = |address, start: fn(&mut CodeAssembler) -> Assembled| {
        let bytes = assemble(address, |a| {
            start(a)?;
            read(a)?;
            a.hlt()
        });
        guest.machine.write(address, &bytes);
    };
    program(PLAIN, |_| Ok(()));
    program(WRITTEN, |a| a.wrgsbase(rbx));
    program(SWAPPED, |a| a.swapgs());
    guest
}

fn set_base(guest: &mut Guest, base: u64) {
    let segment = guest.vcpu.segment(Seg::Gs);
    guest.vcpu.set_segment(Seg::Gs, Segment { base, ..segment });
}

/// What is read where GS's base is `base`.
fn read_at(guest: &mut Guest, way: u64, base: u64) -> [Read; 3] {
    let vcpu = &mut guest.vcpu;
    match way {
        PLAIN => set_base(guest, base),
        SWAPPED => vcpu.set_sysreg(SysReg::KernelGsBase, base),
        _ => {}
    }
    let vcpu = &mut guest.vcpu;
    vcpu.set_rip(way);
    vcpu.set_gpr(gpr::RBX, base);
    vcpu.set_gpr(gpr::RSP, at::STACK);
    assert_eq!(run(vcpu), Intercept::Halt { len: 1 });
    if vcpu.rip() >= at::HANDLERS {
        return [Fault(vcpu.gpr(gpr::RDX), vcpu.gpr(gpr::RCX)); 3];
    }
    [0, 8, 16].map(|n| Value(guest.machine.read_u64(RESULT + n)))
}

fn expected(gpa: u64) -> [Read; 3] {
    [NEAR, FAR, FARTHER].map(|distance| Value(number(gpa + distance)))
}

fn it_is_read_wherever_it_is(options: Options) {
    for way in WAYS {
        let mut guest = guest(options);
        for _ in 0..3 {
            for region in [DIRECT, DIRECT, IMAGE, PAGES, MORE, LOWER, DIRECT] {
                for gpa in [SIZE, 2 * SIZE - 8, 3 * SIZE - FAR, RAM - 0x14_0000, RAM - FARTHER - 8]
                {
                    let found = read_at(&mut guest, way, region + gpa);
                    assert_eq!(found, expected(gpa), "{way:x} {region:x} {gpa:x}");
                }
            }
        }
    }
}

/// The block is translated with one base, and executed with others.
fn it_is_read_where_gs_has_just_been_moved_to(options: Options) {
    for way in WAYS {
        let mut guest = guest(options);
        guest.read_all(DIRECT);
        for _ in 0..12 {
            assert_eq!(read_at(&mut guest, way, DIRECT + SIZE), expected(SIZE));
        }
        for n in 2..8 {
            let gpa = n * SIZE + n * 8;
            assert_eq!(read_at(&mut guest, way, DIRECT + gpa), expected(gpa));
            assert_eq!(read_at(&mut guest, way, LOWER + gpa), expected(gpa));
            let nowhere = DIRECT + 2 * RAM + n * 8;
            assert_eq!(read_at(&mut guest, way, nowhere), [Fault(nowhere + NEAR, 0); 3]);
        }
    }
}

fn what_is_unmapped_faults(options: Options) {
    for way in WAYS {
        let mut guest = guest(options);
        guest.read_all(DIRECT);
        let base = DIRECT + 5 * SIZE;
        for _ in 0..12 {
            assert_eq!(read_at(&mut guest, way, base), expected(5 * SIZE));
        }
        let entry = guest.machine.read_u64(crate::test_kernel::PD + 5 * 8);
        guest.map(5, 0);
        guest.invlpg(base);
        assert_eq!(read_at(&mut guest, way, base), [Fault(base + NEAR, 0); 3]);
        guest.map(5, entry);
        assert_eq!(read_at(&mut guest, way, base), expected(5 * SIZE));
        guest.map(5, entry + SIZE);
        guest.invlpg(base);
        assert_eq!(read_at(&mut guest, way, base), expected(6 * SIZE));
    }
}

fn flags_stay(options: Options) {
    let mut guest = guest(options);
    guest.read_all(DIRECT);
    let program = at::CODE + 0x1600;
    guest.machine.write(
        program,
        &assemble(program, |a| {
            a.cmp(rbx, rcx)?;
            a.mov(rdx, qword_ptr(NEAR).gs())?;
            a.swapgs()?;
            a.setc(al)?;
            a.seto(ah)?;
            a.setz(r8b)?;
            a.swapgs()?;
            a.cmp(rdx, qword_ptr(NEAR).gs())?;
            a.setz(r9b)?;
            a.hlt()
        }),
    );
    for base in [DIRECT + SIZE, LOWER + SIZE] {
        for n in 0..20 {
            set_base(&mut guest, base);
            let vcpu = &mut guest.vcpu;
            let (left, right) = [(1, 2), (2, 1), (1 << 63, 1), (5, 5)][n % 4];
            for (register, value) in
                [(gpr::RBX, left), (gpr::RCX, right), (gpr::RAX, 0), (8, 0), (9, 0)]
            {
                vcpu.set_gpr(register, value);
            }
            vcpu.set_rip(program);
            assert_eq!(run(vcpu), Intercept::Halt { len: 1 });
            let overflow = (left as i64).checked_sub(right as i64).is_none();
            let flags = u64::from(left < right) | u64::from(overflow) << 8;
            assert_eq!(vcpu.gpr(gpr::RAX), flags, "{left:x} {right:x}");
            assert_eq!((vcpu.gpr(8), vcpu.gpr(9)), (u64::from(left == right), 1));
        }
    }
}
