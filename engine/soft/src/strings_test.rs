//! MOVS and STOS: all sizes, alone and repeated, in both directions, within a page and across its end.
//!
//! Each case is executed several times: the first time its pages may not be in the TLB.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arch_x86::engine::{Engine, EngineVcpu, Entry, Intercept};
use arch_x86::regs::{Regs, gpr, rflags};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::test_machine::{Machine, assemble, at, machine, pte, run_to_halt};
use crate::test_ways::in_every_way;
use crate::{Options, SoftVcpu};

in_every_way! {
    what_is_repeated_is_done_element_by_element,
    a_single_element_moves_in_either_direction,
    a_fault_leaves_what_is_done_and_the_flags,
    a_count_whose_bytes_wrap_around_is_no_small_one,
    nothing_is_touched_if_there_is_nothing_to_do,
    what_may_not_be_written_is_not,
    a_copy_over_the_next_instruction_is_seen,
    the_direction_changes_with_no_other_flag,
    flags_that_are_lost_are_right_in_the_frame_of_a_string_instruction,
    pages_that_follow_each_other_lie_anywhere,
    a_kick_is_answered_between_two_pages,
}

/// An instruction, and whether it moves, and its element's size.
type Instruction = (fn(&mut CodeAssembler) -> Result<(), IcedError>, bool, u64);

const REPEATED: [Instruction; 10] = [
    (|a| a.rep().movsb(), true, 1),
    (|a| a.rep().movsw(), true, 2),
    (|a| a.rep().movsd(), true, 4),
    (|a| a.rep().movsq(), true, 8),
    (|a| a.repne().movsb(), true, 1),
    (|a| a.rep().stosb(), false, 1),
    (|a| a.rep().stosw(), false, 2),
    (|a| a.rep().stosd(), false, 4),
    (|a| a.rep().stosq(), false, 8),
    (|a| a.repne().stosd(), false, 4),
];

const SINGLE: [Instruction; 8] = [
    (|a| a.movsb(), true, 1),
    (|a| a.movsw(), true, 2),
    (|a| a.movsd(), true, 4),
    (|a| a.movsq(), true, 8),
    (|a| a.stosb(), false, 1),
    (|a| a.stosw(), false, 2),
    (|a| a.stosd(), false, 4),
    (|a| a.stosq(), false, 8),
];

/// What the tests write to: four pages.
const SIZE: u64 = 0x4000;
const PAGE: u64 = 0x1000;
/// The end of the first one.
const END: u64 = at::DATA + PAGE;
const VALUE: u64 = 0x8877_6655_4433_2211;

/// A string instruction's operands.
#[derive(Clone, Copy, Debug)]
struct Operands {
    source: u64,
    target: u64,
    count: u64,
    down: bool,
}

impl Operands {
    fn set(self, vcpu: &mut SoftVcpu) {
        vcpu.set_rip(at::CODE);
        vcpu.set_rflags(rflags::FIXED | if self.down { rflags::DF } else { 0 });
        vcpu.set_gpr(gpr::RAX, VALUE);
        vcpu.set_gpr(gpr::RSP, at::STACK);
        vcpu.set_gpr(gpr::RSI, self.source);
        vcpu.set_gpr(gpr::RDI, self.target);
        vcpu.set_gpr(gpr::RCX, self.count);
    }

    /// Does to `memory` what the instruction does. Gives RSI and RDI.
    fn execute(self, memory: &mut [u8], moves: bool, size: u64) -> (u64, u64) {
        let index = |linear: u64| (linear & 0xf_ffff).wrapping_sub(at::DATA) as usize;
        let (mut source, mut target) = (self.source, self.target);
        let step = if self.down { size.wrapping_neg() } else { size };
        for _ in 0..self.count {
            let mut element = VALUE.to_le_bytes()[..size as usize].to_vec();
            if moves {
                element.copy_from_slice(&memory[index(source)..][..size as usize]);
                source = source.wrapping_add(step);
            }
            memory[index(target)..][..size as usize].copy_from_slice(&element);
            target = target.wrapping_add(step);
        }
        (source, target)
    }
}

/// Bytes that differ from page to page.
fn pattern() -> Vec<u8> {
    (0..SIZE).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 11) as u8).collect()
}

fn read(machine: &Machine) -> Vec<u8> {
    (0..SIZE).step_by(8).flat_map(|n| machine.read_u64(at::DATA + n).to_le_bytes()).collect()
}

/// The entry of the page at `linear`.
fn entry(linear: u64) -> u64 {
    at::PT + (linear >> 12) * 8
}

/// Executes an instruction, with flags from before it that are looked at behind it, and compares.
fn check(options: Options, instruction: Instruction, cases: &[Operands]) {
    let (emit, moves, size) = instruction;
    let machine = machine(options, |a| {
        a.cmp(r12, r13)?;
        emit(a)?;
        a.setc(bl)?;
        a.pushfq()?;
        a.pop(r14)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for (case, time) in cases.iter().flat_map(|case| [(case, 0), (case, 1), (case, 2)]) {
        let mut expected = pattern();
        machine.write(at::DATA, &expected);
        case.set(&mut vcpu);
        vcpu.set_gpr(12, time);
        vcpu.set_gpr(13, 1);
        run_to_halt(&mut vcpu);
        let (source, target) = case.execute(&mut expected, moves, size);
        let found = [gpr::RSI, gpr::RDI, gpr::RAX].map(|n| vcpu.gpr(n));
        assert_eq!(found, [source, target, VALUE], "{case:x?}, {size}");
        assert!(read(&machine) == expected, "{case:x?}, {size}");
        let flags = match time {
            0 => rflags::CF | rflags::SF | rflags::PF | rflags::AF,
            1 => rflags::ZF | rflags::PF,
            _ => 0,
        };
        assert_eq!(vcpu.gpr(14) & rflags::STATUS, flags, "{case:x?}, {size}");
        assert_eq!(vcpu.gpr(gpr::RBX) & 1, u64::from(time == 0), "{case:x?}, {size}");
    }
}

fn what_is_repeated_is_done_element_by_element(options: Options) {
    for instruction in REPEATED {
        let size = instruction.2;
        let page = PAGE / size;
        let up = |source, target, count| Operands { source, target, count, down: false };
        let mut cases = Vec::new();
        for count in [0, 1, 2, 3, 7, 33, page - 1, page, page + 1, 2 * page + 5] {
            // From a page's start to a page's start; not aligned.
            cases.push(up(at::DATA, END, count));
            cases.push(up(END + 3, at::DATA + 5, count.min(page + 1)));
            // Up to the end, and a byte and an element further.
            let count = count.min(page);
            let bytes = count * size;
            for more in [0, 1, size] {
                cases.push(up(at::DATA, END + PAGE - bytes + more, count));
                cases.push(up(END - bytes + more, END + PAGE, count));
            }
            // Onto itself, and just ahead or behind; and the same memory at another address.
            let start = at::DATA + 0x10;
            let count = count.min(page - 4);
            for (source, target) in [(0, 0), (0, 1), (1, 0), (0, size), (size, 0), (0, 3)] {
                cases.push(up(start + source, start + target, count));
                cases.push(up(start + source, at::UPPER + start + target, count));
            }
            let (source, target) = (END + bytes.min(PAGE), END + PAGE + bytes.min(PAGE));
            cases.push(Operands { source, target, count, down: true });
        }
        check(options, instruction, &cases);
    }
}

fn a_single_element_moves_in_either_direction(options: Options) {
    for instruction in SINGLE {
        let mut cases = Vec::new();
        for distance in 0..=9 {
            for down in [false, true] {
                let (near, far) = (END - distance, END + 0x100 + distance);
                cases.push(Operands { source: near, target: far, count: 1, down });
                cases.push(Operands { source: far, target: near, count: 1, down });
                cases.push(Operands { source: far, target: far - 1, count: 1, down });
            }
        }
        check(options, instruction, &cases);
    }
}

fn a_fault_leaves_what_is_done_and_the_flags(options: Options) {
    for (emit, moves, size) in REPEATED {
        let code = assemble(at::CODE, |a| {
            a.cmp(r12, r13)?;
            emit(a)?;
            a.hlt()
        });
        let machine = Machine::with(options, &code);
        machine.handle(14, &[0xf4]);
        machine.write_u64(entry(END), 0);
        let mut vcpu = machine.vcpu();
        let source = END + PAGE;
        for (target, time) in
            [END - 16, END, END + 8, END - 0x800].into_iter().flat_map(|at| [(at, 0), (at, 1)])
        {
            let count = 0x900 / size;
            let done = END.saturating_sub(target) / size;
            let case = Operands { source, target, count, down: false };
            let mut expected = pattern();
            machine.write(at::DATA, &expected);
            case.set(&mut vcpu);
            vcpu.set_gpr(12, time);
            vcpu.set_gpr(13, 1);
            run_to_halt(&mut vcpu);
            let (source, target) =
                Operands { count: done, ..case }.execute(&mut expected, moves, size);
            let found = [gpr::RSI, gpr::RDI, gpr::RCX].map(|n| vcpu.gpr(n));
            assert_eq!(found, [source, target, count - done], "{case:x?}, {size}");
            assert_eq!(vcpu.cr2(), target, "{case:x?}, {size}");
            assert!(read(&machine) == expected, "{case:x?}, {size}");
            let frame = vcpu.gpr(gpr::RSP);
            assert_eq!(machine.read_u64(frame + 8), at::CODE + 3);
            let flags =
                [rflags::CF | rflags::SF | rflags::PF | rflags::AF, rflags::ZF | rflags::PF];
            assert_eq!(machine.read_u64(frame + 24) & rflags::STATUS, flags[time as usize]);
        }
    }
}

fn a_count_whose_bytes_wrap_around_is_no_small_one(options: Options) {
    for (emit, _, size) in REPEATED {
        let code = assemble(at::CODE, |a| {
            emit(a)?;
            a.hlt()
        });
        let machine = Machine::with(options, &code);
        machine.handle(14, &[0xf4]);
        machine.write_u64(entry(END), 0);
        let mut vcpu = machine.vcpu();
        let (source, target) = (END + PAGE, END - 16);
        for count in [u64::MAX, 1 << 63, 1 << 62, 1 << 61, (1 << 61) + 1, 1 << 32] {
            Operands { source, target, count, down: false }.set(&mut vcpu);
            run_to_halt(&mut vcpu);
            let found = [gpr::RDI, gpr::RCX].map(|n| vcpu.gpr(n));
            assert_eq!(found, [END, count - 16 / size], "{count:#x}, {size}");
        }
    }
}

fn nothing_is_touched_if_there_is_nothing_to_do(options: Options) {
    for instruction in REPEATED {
        let nowhere = 0x1234_5678_0000;
        let to = |source, target| Operands { source, target, count: 0, down: false };
        let cases = [to(nowhere, nowhere), to(1 << 63, u64::MAX), to(at::DATA, nowhere)];
        check(options, instruction, &cases);
    }
}

fn what_may_not_be_written_is_not(options: Options) {
    for (emit, _, size) in REPEATED.into_iter().chain(SINGLE) {
        let code = assemble(at::CODE, |a| {
            a.mov(dl, byte_ptr(rdi))?;
            emit(a)?;
            a.hlt()
        });
        let machine = Machine::with(options, &code);
        machine.handle(14, &[0xf4]);
        machine.write_u64(entry(END), END | pte::PRESENT);
        machine.write(at::DATA, &pattern());
        let mut vcpu = machine.vcpu();
        let case = Operands { source: at::DATA, target: END + 8, count: 5, down: false };
        for _ in 0..3 {
            case.set(&mut vcpu);
            run_to_halt(&mut vcpu);
            let found = [gpr::RSI, gpr::RDI, gpr::RCX].map(|n| vcpu.gpr(n));
            assert_eq!(found, [case.source, case.target, case.count], "{size}");
            assert!(read(&machine) == pattern());
        }
    }
}

fn a_copy_over_the_next_instruction_is_seen(options: Options) {
    for alone in [false, true] {
        let code = |target: u64| {
            assemble(at::CODE, |a| {
                let mut top = a.create_label();
                a.set_label(&mut top)?;
                a.mov(edi, target as u32)?;
                a.mov(ecx, 4)?;
                if alone {
                    a.movsd()?
                } else {
                    a.rep().movsb()?
                }
                a.mov(eax, 0x1111_1111)?;
                a.add(rbx, rax)?;
                a.dec(edx)?;
                a.jnz(top)?;
                a.hlt()
            })
        };
        let place = code(0).windows(4).position(|bytes| bytes == [0x11; 4]).unwrap();
        let machine = Machine::with(options, &code(at::CODE + place as u64));
        let values = [1u32, 2, 0x8000_0000, 40];
        machine.write(at::DATA, &values.map(u32::to_le_bytes).concat());
        let mut vcpu = machine.vcpu();
        vcpu.set_gpr(gpr::RSI, at::DATA);
        vcpu.set_gpr(gpr::RBX, 0);
        vcpu.set_gpr(gpr::RDX, 4);
        run_to_halt(&mut vcpu);
        assert_eq!(vcpu.gpr(gpr::RBX), values.into_iter().map(u64::from).sum::<u64>());
    }
}

fn the_direction_changes_with_no_other_flag(options: Options) {
    let machine = machine(options, |a| {
        a.cmp(rax, rcx)?;
        a.std()?;
        a.pushfq()?;
        a.pop(rsi)?;
        a.cmp(rax, rcx)?;
        a.cld()?;
        a.setc(bl)?;
        a.pushfq()?;
        a.pop(rdi)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for (first, carry) in [(0, rflags::CF | rflags::SF | rflags::PF | rflags::AF), (2, 0)] {
        for before in [rflags::FIXED, rflags::FIXED | rflags::DF, rflags::FIXED | rflags::AC] {
            vcpu.set_rip(at::CODE);
            vcpu.set_rflags(before);
            vcpu.set_gpr(gpr::RAX, first);
            vcpu.set_gpr(gpr::RCX, 1);
            run_to_halt(&mut vcpu);
            let flags = before & !rflags::DF | carry;
            assert_eq!([gpr::RSI, gpr::RDI].map(|n| vcpu.gpr(n)), [flags | rflags::DF, flags]);
            assert_eq!(vcpu.gpr(gpr::RBX) & 1, carry & 1);
            assert_eq!(vcpu.rflags() & rflags::DF, 0);
        }
    }
}

fn flags_that_are_lost_are_right_in_the_frame_of_a_string_instruction(options: Options) {
    for (emit, _, size) in SINGLE {
        let code = assemble(at::CODE, |a| {
            a.cmp(r12, r13)?;
            a.mov(rdx, qword_ptr(rsp))?;
            emit(a)?;
            a.cld()?;
            emit(a)?;
            a.test(edx, edx)?;
            a.hlt()
        });
        let machine = Machine::with(options, &code);
        machine.handle(14, &[0xf4]);
        machine.write_u64(entry(END), 0);
        let mut vcpu = machine.vcpu();
        for (time, target) in [(0, END - size), (1, END - size), (0, END), (1, END)] {
            let source = END + PAGE;
            Operands { source, target, count: 7, down: false }.set(&mut vcpu);
            vcpu.set_gpr(12, time);
            vcpu.set_gpr(13, 1);
            run_to_halt(&mut vcpu);
            assert_eq!((vcpu.gpr(gpr::RDI), vcpu.gpr(gpr::RCX)), (END, 7));
            let flags =
                [rflags::CF | rflags::SF | rflags::PF | rflags::AF, rflags::ZF | rflags::PF];
            let frame = machine.read_u64(vcpu.gpr(gpr::RSP) + 24);
            assert_eq!(frame & rflags::STATUS, flags[time as usize]);
        }
    }
}

/// Addresses that the tests map as they like, and the table that has the first 512 pages.
const ELSEWHERE: u64 = 1 << 39;
const TABLES: [u64; 3] = [0xa_0000, 0xa_1000, 0xa_2000];

fn map_elsewhere(machine: &Machine, pages: impl Iterator<Item = u64>) {
    let writable = pte::PRESENT | pte::WRITABLE;
    machine.write_u64(at::PML4 + 8, TABLES[0] | writable);
    machine.write_u64(TABLES[0], TABLES[1] | writable);
    machine.write_u64(TABLES[1], TABLES[2] | writable);
    for (place, page) in (TABLES[2]..).step_by(8).zip(pages) {
        machine.write_u64(place, page | writable);
    }
}

fn pages_that_follow_each_other_lie_anywhere(options: Options) {
    const PAGES: u64 = 8;
    for (emit, moves, size) in REPEATED {
        let machine = machine(options, |a| {
            emit(a)?;
            a.hlt()
        });
        let pages = || (0..PAGES).map(|n| at::DATA + (3 * n + 1) % PAGES * PAGE);
        map_elsewhere(&machine, pages());
        let mut vcpu = machine.vcpu();
        for (source, target) in [(0x128, 0x4048), (0x4048, 0x128), (8, 0x3ff0), (0x128, 0x130)] {
            let count = (3 * PAGE + 0x18) / size;
            let mut expected = pattern().repeat(2);
            for (page, bytes) in pages().zip(expected.chunks(PAGE as usize)) {
                machine.write(page, bytes);
            }
            let to = |base| Operands {
                source: base + source,
                target: base + target,
                count,
                down: false,
            };
            to(ELSEWHERE).set(&mut vcpu);
            run_to_halt(&mut vcpu);
            to(at::DATA).execute(&mut expected, moves, size);
            let all = pages().flat_map(|page| (0..PAGE).step_by(8).map(move |n| page + n));
            let found = all.flat_map(|place| machine.read_u64(place).to_le_bytes());
            assert!(found.eq(expected), "{source:#x} {target:#x} {size}");
        }
    }
}

/// It is mostly between two pages of 2 MiB that translated code is asked to come out.
fn a_kick_is_answered_between_two_pages(options: Options) {
    const COUNT: u64 = 512 * PAGE / 8;
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.mov(rdi, ELSEWHERE)?;
        a.mov(rcx, COUNT)?;
        a.rep().stosq()?;
        a.jmp(top)
    });
    map_elsewhere(&machine, std::iter::repeat_n(END, 512));
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RAX, VALUE);
    let request = AtomicU32::new(0);
    let mut between = 0;
    for _ in 0..20 {
        machine.write_u64(END, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let start = Instant::now();
                while machine.read_u64(END) != VALUE {
                    assert!(start.elapsed() < Duration::from_secs(60), "it does not run");
                    std::thread::yield_now();
                }
                request.store(1, Ordering::SeqCst);
                machine.engine.kick(0);
            });
            let out = vcpu.enter(&Entry::default(), &request);
            assert_eq!(out, Intercept::Interrupted);
        });
        request.store(0, Ordering::SeqCst);
        let (left, target) = (vcpu.gpr(gpr::RCX), vcpu.gpr(gpr::RDI));
        if left != 0 && left != COUNT {
            assert_eq!((target - ELSEWHERE) / 8, COUNT - left);
            assert!(left.is_multiple_of(PAGE / 8), "{left:#x}");
            between += 1;
        }
    }
    assert_ne!(between, 0, "it comes out between two repetitions only");
}
