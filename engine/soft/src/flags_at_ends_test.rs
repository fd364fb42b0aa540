//! Flags at the end of a block: the next block may overwrite them at once, look at them, fault before it overwrites them,
//! or become another one that does something else with them. They are what they are when all is interpreted.

use std::sync::atomic::AtomicU32;

use arch_x86::engine::{EngineVcpu, Entry, Intercept};
use arch_x86::exception;
use arch_x86::regs::{Regs, cr0, gpr, rflags};
use iced_x86::code_asm::*;

use crate::Options;
use crate::run_test::handler;
use crate::test_machine::{Machine, assemble, at};
use crate::test_ways::{in_every_way, interpreter, traced};
use crate::traces_random_test::{Assembled, entry_of};

in_every_way! {
    a_block_that_stays_has_the_flags_of_the_one_before_it,
    a_block_that_becomes_another_one_has_them_too,
    a_block_further_up_has_them_too,
}

/// Instructions that are put into the program.
type Piece = fn(&mut CodeAssembler) -> Assembled;

/// What makes flags last in the first block.
const MAKERS: [Piece; 8] = [
    |a| a.add(rax, rcx),
    |a| a.sub(eax, ecx),
    |a| a.cmp(rax, 5),
    |a| a.test(rax, rcx),
    |a| a.inc(rax),
    |a| a.shl(rax, 1),
    |a| a.adc(rax, rcx),
    // They can't be made again, for nothing of them stays.
    |a| a.add(rax, rax),
];

/// What the second block starts with, in no more than [`ROOM`]: RSI may point to no memory.
const STARTS: [Piece; 20] = [
    // They are overwritten at once, or soon.
    |a| a.xor(edx, edx),
    |a| a.add(rdx, rbx),
    |a| a.cmp(rdx, rbx),
    |a| {
        a.mov(edx, 3)?;
        a.test(rdx, rdx)
    },
    |a| {
        a.lea(rdx, qword_ptr(rdx + 1))?;
        a.sub(rdx, rbx)
    },
    |a| a.sub(r10, r11),
    // Memory is accessed before that, or by what does it.
    |a| {
        a.mov(rdx, qword_ptr(rsi))?;
        a.add(rdx, rbx)
    },
    |a| a.add(rdx, qword_ptr(rsi)),
    |a| {
        a.mov(qword_ptr(rsi), rbx)?;
        a.xor(edx, edx)
    },
    |a| {
        a.push(rbx)?;
        a.pop(rdx)?;
        a.and(rdx, rbx)
    },
    // They are looked at, some of them stay, or all do.
    |a| a.adc(rdx, rbx),
    |a| {
        a.setbe(dl)?;
        a.add(rdx, rbx)
    },
    |a| a.cmovo(rdx, rbx),
    |a| a.inc(rdx),
    |a| {
        a.xor(r8d, 0)?;
        a.nop()
    },
    |a| a.rol(rdx, 1),
    |a| {
        // By no bits: they stay.
        a.mov(ecx, 32)?;
        a.shl(edx, cl)
    },
    |a| {
        a.pushfq()?;
        a.pop(rdx)?;
        a.and(edx, 0x8c5)
    },
    // #NM, if CR0.TS is set.
    |a| {
        a.paddq(xmm0, xmm1)?;
        a.add(rdx, rbx)
    },
    |a| {
        a.cmp(edx, ebx)?;
        a.movq(xmm0, rdx)
    },
];

const ROOM: usize = 16;
const ROUNDS: u64 = 16;
/// Where what is read is: by round.
const POINTERS: u64 = at::DATA;
const MISSING: u64 = at::DATA + 0x1000;
/// The first block, before the second one or behind it.
const BEFORE: u64 = at::CODE;
const BEHIND: u64 = at::CODE + 0x800;
/// The second block's start, and code that it may become.
const SECOND: u64 = at::CODE + 0x100;
const OTHER: u64 = at::DATA + 0x400;

/// How the first block leads to the second one.
const WAYS: [Piece; 4] = [
    |a| a.jmp(SECOND),
    |a| {
        // Whatever the flags are.
        a.jc(SECOND)?;
        a.jmp(SECOND)
    },
    |a| {
        a.jo(SECOND)?;
        a.jns(SECOND)?;
        a.nop()?;
        a.jmp(SECOND)
    },
    |a| {
        a.mov(r8, qword_ptr(POINTERS + 0x200))?;
        a.jmp(SECOND)
    },
];

fn piece(piece: Piece) -> [u8; ROOM] {
    let mut bytes = [0x90; ROOM];
    let code = assemble(SECOND, piece);
    assert!(code.len() <= ROOM);
    bytes[..code.len()].copy_from_slice(&code);
    bytes
}

/// How an entry ended: registers, flags, CR2, and the frame if there is one.
type Outcome = ([u64; 16], u64, u64, [u64; 6]);

struct Guest {
    machine: Machine,
    /// Where the first block is.
    first: u64,
    vcpu: crate::SoftVcpu,
}

impl Guest {
    fn new(options: Options, first: u64) -> Self {
        let machine = Machine::with(options, &[]);
        for vector in [exception::NM, exception::PF] {
            handler(&machine, vector, |a| a.hlt());
        }
        machine.write_u64(entry_of(MISSING), 0);
        let vcpu = machine.vcpu();
        Self { machine, first, vcpu }
    }

    /// A program of two blocks that follow each other. In the rounds that are a multiple of eight the second one's
    /// start and the other code change places, if it `changes`.
    fn program(&mut self, maker: Piece, way: Piece, starts: [Piece; 2], changes: bool) {
        let first = self.first;
        let code = assemble(first, |a| {
            let mut same = a.create_label();
            a.mov(rsi, qword_ptr(POINTERS + rbp * 8))?;
            a.test(ebp, if changes { 7 } else { -1 })?;
            a.jnz(same)?;
            for n in [0, 8] {
                a.mov(r8, qword_ptr(SECOND + n))?;
                a.mov(r9, qword_ptr(OTHER + n))?;
                a.mov(qword_ptr(SECOND + n), r9)?;
                a.mov(qword_ptr(OTHER + n), r8)?;
            }
            a.set_label(&mut same)?;
            a.add(rcx, r14)?;
            maker(a)?;
            way(a)
        });
        assert!(code.len() < 0x100);
        self.machine.write(first, &code);
        self.machine.write(SECOND, &piece(starts[0]));
        self.machine.write(OTHER, &piece(starts[1]));
        let rest = SECOND + ROOM as u64;
        let code = assemble(rest, |a| {
            // What the flags were, AF aside.
            a.pushfq()?;
            a.pop(r12)?;
            a.and(r12d, 0x8c5)?;
            a.add(r13, r12)?;
            a.rol(r13, 3)?;
            a.sub(ebp, 1)?;
            a.jnz(first)?;
            a.hlt()
        });
        self.machine.write(rest, &code);
    }

    /// Executes it: `missing` is the round in which RSI points to no memory.
    fn run(&mut self, fresh: bool, missing: u64, task_switched: bool) -> Outcome {
        let &mut Self { ref machine, first, ref mut vcpu } = self;
        for round in 0..=ROUNDS {
            let place = if round == missing { MISSING } else { at::DATA + 0x800 };
            machine.write_u64(POINTERS + round * 8, place);
        }
        let values = [0x7fff_ffff_ffff_fff1, 0x7fff_ff13, 3, 0x8000_0000_0000_0005];
        let values = values.into_iter().cycle().map(|value: u64| value.rotate_left(missing as u32));
        (0..16).zip(values).for_each(|(n, value)| vcpu.set_gpr(n, value));
        vcpu.set_gpr(gpr::RSP, at::STACK);
        vcpu.set_gpr(gpr::RBP, ROUNDS);
        vcpu.set_rflags(rflags::FIXED);
        vcpu.set_cr0(vcpu.cr0() & !cr0::TS | if task_switched { cr0::TS } else { 0 });
        vcpu.set_rip(first);
        let entry = Entry { fresh, ..Entry::default() };
        let intercept = vcpu.enter(&entry, &AtomicU32::new(0));
        assert_eq!(intercept, Intercept::Halt { len: 1 }, "at {:#x}", vcpu.rip());
        let top = vcpu.gpr(gpr::RSP);
        let mut frame = std::array::from_fn(|n| machine.read_u64(top + n as u64 * 8));
        // RFLAGS is the third word, or the fourth behind an error code; AF may be undefined.
        frame.iter_mut().for_each(|word| *word &= !rflags::AF);
        let frame = if top == at::STACK { [0; 6] } else { frame };
        let registers = std::array::from_fn(|n| vcpu.gpr(n as u8));
        (registers, vcpu.rflags() & !rflags::AF, vcpu.cr2(), frame)
    }

    /// All entries: undisturbed, with a fault when all has been translated, and once more.
    fn outcomes(&mut self) -> [Outcome; 4] {
        [(true, 0, false), (false, 3, false), (false, 0, true), (false, 9, false)]
            .map(|(fresh, missing, task_switched)| self.run(fresh, missing, task_switched))
    }
}

/// Compares with the interpreter.
fn compare(options: Options, first: u64, changes: bool) {
    let patient = Options { patience: 3, ..options };
    let all = if options == traced() { vec![options, patient] } else { vec![options] };
    let mut guests: Vec<_> = all.into_iter().map(|options| Guest::new(options, first)).collect();
    let mut reference = Guest::new(interpreter(), first);
    for (m, maker) in MAKERS.into_iter().enumerate() {
        for (w, way) in WAYS.into_iter().enumerate() {
            for (n, start) in STARTS.into_iter().enumerate() {
                let other = if changes { (n * 7 + m * 3 + w + 1) % STARTS.len() } else { n };
                let starts = [start, STARTS[other]];
                reference.program(maker, way, starts, changes);
                let expected = reference.outcomes();
                for guest in &mut guests {
                    guest.program(maker, way, starts, changes);
                    let what = format!("maker {m}, way {w}, starts {n} and {other}");
                    assert_eq!(guest.outcomes(), expected, "{what}");
                }
            }
        }
    }
}

fn a_block_that_stays_has_the_flags_of_the_one_before_it(options: Options) {
    compare(options, BEFORE, false);
}

fn a_block_that_becomes_another_one_has_them_too(options: Options) {
    compare(options, BEFORE, true);
}

/// The way there looks whether the guest is to be left.
fn a_block_further_up_has_them_too(options: Options) {
    compare(options, BEHIND, true);
}
