//! IRETQ from a kernel to a program: what is translated does what the interpreter does.

use std::sync::atomic::AtomicU32;

use arch_x86::engine::{EngineVcpu, Entry, Intercept};
use arch_x86::exception;
use arch_x86::regs::{Regs, Seg, Segment, Table, gpr, rflags};
use iced_x86::code_asm::*;

use crate::run_test::handler;
use crate::test_machine::{Machine, assemble, at, machine, pte, selector};
use crate::test_ways::{in_every_way, interpreter};
use crate::{Options, SoftVcpu};

in_every_way! {
    a_program_is_returned_to_again_and_again,
    what_is_special_is_as_the_interpreter_has_it,
    descriptors_are_read_each_time,
    an_open_window_is_seen,
}

/// Where the program calls the kernel.
const CALL: u8 = 0x80;
const ROUNDS: u64 = 20;
/// Enough for a return to be noted, and to be found again.
const _: () = assert!(ROUNDS > 10);

/// The frame that the kernel returns with: RIP, CS, RFLAGS, RSP, SS.
const FRAME: u64 = at::DATA;
const USUAL: [u64; 5] = [
    at::USER_CODE,
    selector::USER_CODE as u64,
    rflags::FIXED | rflags::CF | rflags::OF,
    0x7_0000,
    selector::USER_DATA as u64,
];

/// A kernel that returns to a program, which calls it, RBX times.
struct Guest {
    machine: Machine,
    vcpu: SoftVcpu,
}

/// What is done between two runs.
type Change = fn(&mut Guest);

/// All that can be seen of how it went.
#[derive(Debug, PartialEq)]
struct Outcome {
    intercept: Intercept,
    rip: u64,
    gprs: [u64; 16],
    flags: u64,
    segments: [Segment; 6],
    cpl: u8,
    nmi_blocked: bool,
}

impl Guest {
    fn new(options: Options) -> Self {
        let machine = machine(options, |a| {
            a.mov(ds, esi)?;
            a.mov(es, edi)?;
            a.mov(fs, r14d)?;
            a.mov(gs, r15d)?;
            for n in (0..5).rev() {
                a.push(qword_ptr(FRAME + n * 8))?;
            }
            a.iretq()
        });
        // mov eax, 0; a prefix, or inc eax in 32-bit code; nop; int CALL.
        machine.write(at::USER_CODE, &[0xb8, 0, 0, 0, 0, 0x40, 0x90, 0xcd, CALL]);
        machine.handle(
            CALL,
            &assemble(at::HANDLERS + u64::from(CALL) * 256, |a| {
                let mut done = a.create_label();
                for register in [r8, r9, r10, r11, r13] {
                    a.pop(register)?;
                }
                a.mov(rsp, r12)?;
                a.dec(rbx)?;
                a.jz(done)?;
                a.jmp(at::CODE)?;
                a.set_label(&mut done)?;
                a.hlt()
            }),
        );
        for vector in [exception::DB, exception::NP, exception::SS, exception::GP, exception::PF] {
            handler(&machine, vector, |a| {
                a.mov(edx, u32::from(vector))?;
                a.hlt()
            });
        }
        let mut vcpu = machine.vcpu();
        vcpu.set_gpr(12, at::STACK);
        Self { machine, vcpu }
    }

    /// Returns so often with a frame.
    fn run(&mut self, rounds: u64, frame: [u64; 5], entry: &Entry) -> Outcome {
        for (n, word) in (0..).zip(frame) {
            self.machine.write_u64(FRAME + n * 8, word);
        }
        let vcpu = &mut self.vcpu;
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RBX, rounds);
        vcpu.set_gpr(gpr::RSP, vcpu.gpr(12));
        let intercept = vcpu.enter(entry, &AtomicU32::new(0));
        Outcome {
            intercept,
            rip: vcpu.rip(),
            gprs: std::array::from_fn(|n| vcpu.gpr(n as u8)),
            flags: vcpu.rflags(),
            segments: [Seg::Cs, Seg::Ss, Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs]
                .map(|seg| vcpu.segment(seg)),
            cpl: vcpu.cpl(),
            nmi_blocked: vcpu.nmi_blocked(),
        }
    }
}

/// Returns as usual first, then with a frame once `change` has been made. A loop of two such.
fn after(options: Options, frame: [u64; 5], change: impl Fn(&mut Guest)) -> [Outcome; 3] {
    let mut guest = Guest::new(options);
    let fresh = Entry { fresh: true, ..Entry::default() };
    let usual = guest.run(ROUNDS, USUAL, &fresh);
    change(&mut guest);
    let changed = guest.run(2, frame, &Entry::default());
    // Back at level 0 with all as it was.
    let mut again = Guest { vcpu: guest.machine.vcpu(), machine: guest.machine };
    again.vcpu.set_gpr(12, at::STACK);
    [usual, changed, again.run(1, USUAL, &fresh)]
}

fn a_program_is_returned_to_again_and_again(options: Options) {
    let [outcome, ..] = after(options, USUAL, |_| {});
    assert_eq!(outcome.intercept, Intercept::Halt { len: 1 });
    assert_eq!(outcome.gprs[usize::from(gpr::RBX)], 0);
    // What the program's call has pushed.
    let pushed = [8, 9, 10, 11, 13].map(|n| outcome.gprs[n]);
    assert_eq!(pushed, [USUAL[0] + 9, USUAL[1], USUAL[2], USUAL[3], USUAL[4]]);
    let null = outcome.segments[2..].iter().all(|segment| segment.selector == 0);
    assert!(null, "{outcome:?}");
}

fn what_is_special_is_as_the_interpreter_has_it(options: Options) {
    let with = |n: usize, value: u64| {
        let mut frame = USUAL;
        frame[n] = value;
        frame
    };
    let flags = [
        rflags::TF,
        rflags::NT,
        rflags::AC,
        rflags::RF,
        rflags::IF,
        rflags::DF | rflags::ID | rflags::IOPL,
        rflags::VIF | rflags::VIP,
        rflags::VM,
        rflags::STATUS,
        !0,
    ];
    let mut frames: Vec<_> = flags.iter().map(|flags| with(2, rflags::FIXED | flags)).collect();
    let addresses = [1 << 47, !0 << 47, 1 << 63, at::UPPER + at::USER_CODE, at::USER_CODE + 1];
    frames.extend(addresses.map(|rip| with(0, rip)));
    let codes = [0, 3, selector::CODE, selector::USER_CODE & !3, selector::USER_DATA, 0xfffb];
    frames.extend(codes.map(|code| with(1, code.into())));
    frames.extend([with(1, u64::from(selector::USER_CODE) | 0x1234_0000)]);
    let stacks = [0, 3, selector::DATA, selector::USER_CODE, selector::USER_DATA & !3, 0xfffb];
    frames.extend(stacks.map(|stack| with(4, stack.into())));
    frames.extend([0, 1 << 47, !0, 0x7_0001].map(|pointer| with(3, pointer)));
    for frame in frames {
        let expected = after(interpreter(), frame, |_| {});
        assert_eq!(after(options, frame, |_| {}), expected, "{frame:x?}");
    }

    let changes: [(&str, Change); 7] = [
        ("nested task", |guest| guest.vcpu.set_rflags(rflags::FIXED | rflags::NT)),
        ("alignment", |guest| guest.vcpu.set_rflags(rflags::FIXED | rflags::AC)),
        ("NMIs blocked", |guest| guest.vcpu.set_nmi_blocked(true)),
        ("a kernel's DS", |guest| guest.vcpu.set_gpr(gpr::RSI, selector::DATA.into())),
        ("a program's GS", |guest| guest.vcpu.set_gpr(15, selector::USER_DATA.into())),
        ("a stack across pages", |guest| guest.vcpu.set_gpr(12, at::STACK - 0x1000 + 16)),
        ("no stack", |guest| {
            guest.machine.write_u64(at::PT + ((at::STACK >> 12) - 1) * 8, 0);
            guest.vcpu.flush_tlb();
        }),
    ];
    for (name, change) in changes {
        let expected = after(interpreter(), USUAL, change);
        let is_seen = !matches!(name, "alignment" | "NMIs blocked");
        assert_eq!(expected[0] != expected[1], is_seen, "{name}");
        assert_eq!(after(options, USUAL, change), expected, "{name}");
    }
}

fn descriptors_are_read_each_time(options: Options) {
    let code = at::GDT + u64::from(selector::USER_CODE & !7);
    let data = at::GDT + u64::from(selector::USER_DATA & !7);
    let descriptors = [
        // Not present, 32-bit code, of level 0, data.
        (code, 0x00af_7b00_0000_ffff),
        (code, 0x00cf_fb00_0000_ffff),
        (code, 0x00af_9b00_0000_ffff),
        (code, 0x00af_f300_0000_ffff),
        // Not present, read-only, none.
        (data, 0x00cf_7300_0000_ffff),
        (data, 0x00cf_f100_0000_ffff),
        (data, 0),
    ];
    for (place, descriptor) in descriptors {
        let change = |guest: &mut Guest| guest.machine.write_u64(place, descriptor);
        let expected = after(interpreter(), USUAL, change);
        assert_ne!(expected[0], expected[1], "{descriptor:x}");
        assert_eq!(after(options, USUAL, change), expected, "{descriptor:x}");
    }
    let tables: [Change; 3] = [
        |guest| guest.vcpu.set_gdtr(Table { base: at::GDT, limit: 0x1f }),
        |guest| guest.vcpu.set_gdtr(Table { base: at::GDT + 8, limit: 0x37 }),
        // The page that it is in is another one.
        |guest| {
            for n in 0..7 {
                let word = guest.machine.read_u64(at::GDT + n * 8);
                let other = if n == 4 { word & !(1 << 47) } else { word };
                guest.machine.write_u64(at::GDT + 0x5_0000 + n * 8, other);
            }
            let page = at::GDT + 0x5_0000;
            guest.machine.write_u64(at::PT + (at::GDT >> 12) * 8, page | pte::RIGHTS);
            guest.vcpu.flush_tlb();
        },
    ];
    for (n, change) in tables.into_iter().enumerate() {
        let expected = after(interpreter(), USUAL, change);
        assert_ne!(expected[0], expected[1], "{n}");
        assert_eq!(after(options, USUAL, change), expected, "{n}");
    }
}

fn an_open_window_is_seen(options: Options) {
    let mut guest = Guest::new(options);
    guest.run(ROUNDS, USUAL, &Entry { fresh: true, ..Entry::default() });
    let entry = Entry { interrupt_window: true, ..Entry::default() };
    let mut frame = USUAL;
    frame[2] |= rflags::IF;
    let outcome = guest.run(2, frame, &entry);
    assert_eq!(outcome.intercept, Intercept::InterruptWindow);
    assert_eq!((outcome.rip, outcome.cpl), (USUAL[0], 3));
}
