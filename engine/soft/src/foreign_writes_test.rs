//! Code that a stranger rewrites while it runs: with `pwrite` on the file that RAM is, as another process does.
//! Nobody tells the software CPU of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arch_x86::emulate::Feature;
use arch_x86::engine::{Engine, EngineVcpu, Entry, Features, Intercept};
use arch_x86::regs::{Regs, cr4, gpr};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::test_machine::{Machine, assemble, at};
use crate::test_ways::{in_every_way, interpreter, jit, traced, uncounted};
use crate::{Options, SoftVcpu};

in_every_way! {
    each_fresh_entry_sees_what_was_written_before_it,
    code_in_few_pages_and_in_many_is_looked_at,
    what_another_address_space_executes_is_looked_at,
    a_kick_is_enough_for_a_loop_that_never_comes_out,
}

/// `mov rax, IMMEDIATE; ret`, where the immediate is aligned.
const FUNCTION: u64 = at::USER_CODE + 6;
const IMMEDIATE: u64 = FUNCTION + 2;
/// Longer than any test should take.
const LIMIT: Duration = Duration::from_secs(60);

/// The `n`th immediate. It differs from the one before in one byte: so memory holds one of them at any time,
/// however the host's kernel copies. They are all different for `n` below 2048.
fn version(n: u64) -> u64 {
    let times = std::array::from_fn(|byte| ((n + 7 - byte as u64) / 8) as u8);
    u64::from_le_bytes(times)
}

/// Writes an integer as a stranger does: with a system call.
fn write(ram: &File, gpa: u64, value: u64) {
    ram.write_all_at(&value.to_le_bytes(), gpa).expect("it is RAM");
}

fn read(ram: &File, gpa: u64) -> u64 {
    let mut bytes = [0; 8];
    ram.read_exact_at(&mut bytes, gpa).expect("it is RAM");
    u64::from_le_bytes(bytes)
}

/// Waits until memory holds `value`; gives whether it did within [`LIMIT`].
fn is_there(ram: &File, gpa: u64, value: u64) -> bool {
    let start = Instant::now();
    while read(ram, gpa) != value {
        if start.elapsed() > LIMIT {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// A machine with a program, and [`FUNCTION`] in its first version.
fn machine(
    options: Options,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> (Machine, File) {
    let (machine, ram) = Machine::with_file(options, &assemble(at::CODE, program));
    machine.write(FUNCTION, &assemble(FUNCTION, |a| a.mov(rax, u64::MAX)));
    machine.write(IMMEDIATE + 8, &[0xc3]);
    write(&ram, IMMEDIATE, version(0));
    (machine, ram)
}

fn each_fresh_entry_sees_what_was_written_before_it(options: Options) {
    const LAST: u64 = 1_000;
    let (machine, ram) = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.call(FUNCTION)?;
        a.out(0x80, al)?;
        a.jmp(top)
    });
    let mut vcpu = machine.vcpu();
    let (written, entries) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=LAST {
                write(&ram, IMMEDIATE, version(n));
                written.store(n, Ordering::SeqCst);
                let seen = entries.load(Ordering::SeqCst);
                // In between the vCPU enters now and then.
                while n % 4 == 0 && n < LAST && entries.load(Ordering::SeqCst) == seen {
                    assert!(start.elapsed() < LIMIT);
                    std::thread::yield_now();
                }
            }
        });
        // What has been seen, or has to be.
        let mut least = 0;
        let mut over = false;
        while !over {
            // An entry that is not fresh may see what is old, but nothing older than the one before.
            let fresh = entries.fetch_add(1, Ordering::SeqCst).is_multiple_of(3);
            if fresh {
                let before = written.load(Ordering::SeqCst);
                least = least.max(before);
                over = before == LAST;
            }
            call_once(&mut vcpu, fresh);
            let most = (written.load(Ordering::SeqCst) + 1).min(LAST);
            let got = vcpu.gpr(gpr::RAX);
            let seen = (least..=most).find(|n| version(*n) == got);
            least = seen.unwrap_or_else(|| panic!("{got:#x} is none of {least} to {most}"));
            assert!(start.elapsed() < LIMIT);
        }
    });
}

/// Enters the program above, which comes out after its call.
fn call_once(vcpu: &mut SoftVcpu, fresh: bool) {
    let out = vcpu.enter(&Entry { fresh, ..Entry::default() }, &AtomicU32::new(0));
    let Intercept::Out { len, .. } = out else { panic!("{out:?}") };
    vcpu.set_rip(vcpu.rip() + u64::from(len));
}

fn a_kick_is_enough_for_a_loop_that_never_comes_out(options: Options) {
    const LAST: u64 = 100;
    // R8 counts changes of what the function gives.
    let (machine, ram) = machine(options, |a| {
        let (mut top, mut same) = (a.create_label(), a.create_label());
        a.set_label(&mut top)?;
        a.call(FUNCTION)?;
        a.mov(qword_ptr(at::DATA), rax)?;
        a.cmp(rax, rbx)?;
        a.je(same)?;
        a.mov(rbx, rax)?;
        a.inc(r8)?;
        a.set_label(&mut same)?;
        a.jmp(top)
    });
    let (request, over) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut vcpu = machine.vcpu();
    let all_seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            while over.load(Ordering::SeqCst) == 0 {
                let out = vcpu.enter(&Entry { fresh: true, ..Entry::default() }, &request);
                assert_eq!(out, Intercept::Interrupted);
                request.store(0, Ordering::SeqCst);
            }
        });
        let kick = || {
            request.store(1, Ordering::SeqCst);
            machine.engine.kick(0);
        };
        let is_seen = |n| {
            write(&ram, IMMEDIATE, version(n));
            kick();
            is_there(&ram, at::DATA, version(n))
        };
        let all_seen = (1..=LAST).all(is_seen);
        over.store(1, Ordering::SeqCst);
        kick();
        all_seen
    });
    assert!(all_seen, "the last one seen is {:#x}", read(&ram, at::DATA));
    assert_eq!(vcpu.gpr(gpr::R8), LAST, "each version is seen once, and whole");
}

/// A function of one page of many: `mov eax, IMMEDIATE; ret`, the latter at the page's end or in the next one.
const FUNCTIONS: u64 = at::LARGE;
/// Where in its page a function is: its immediate is in both pages.
const IN_PAGE: u64 = 0xffd;

fn code_in_few_pages_and_in_many_is_looked_at(options: Options) {
    // Few; all of what is compared at an entry; too much for that; more pages than are noted.
    for (pages, filled) in [(1, false), (2, false), (12, false), (12, true), (60, false)] {
        let function = |n| FUNCTIONS + n * 0x1000 + IN_PAGE;
        // Behind what is the function's before: nothing but NOPs up to its own.
        let first = |n| if filled { FUNCTIONS + n * 0x1000 + 8 } else { function(n) };
        // What they give, one after the other, at DATA.
        let (machine, ram) = Machine::with_file(
            options,
            &assemble(at::CODE, |a| {
                let mut top = a.create_label();
                a.set_label(&mut top)?;
                for n in 0..pages {
                    a.call(first(n))?;
                    a.mov(dword_ptr(at::DATA + n * 4), eax)?;
                }
                a.out(0x80, al)?;
                a.jmp(top)
            }),
        );
        let mut immediates = vec![0_u32; pages as usize];
        for n in 0..pages {
            machine.write(first(n), &vec![0x90; (function(n) - first(n)) as usize]);
            machine.write(function(n), &[0xb8, 0, 0, 0, 0, 0xc3]);
        }
        let mut vcpu = machine.vcpu();
        for round in 0..40 {
            // Warm before the first change: translated, where that is done.
            let changed = (round * 7) % pages;
            if round > 8 {
                let value = (round as u32) << 8 | 0x4400_0001;
                immediates[changed as usize] = value;
                ram.write_all_at(&value.to_le_bytes(), function(changed) + 1).expect("it is RAM");
            }
            call_once(&mut vcpu, true);
            let given: Vec<_> =
                (0..pages).map(|n| machine.read_u64(at::DATA + n * 4) as u32).collect();
            assert_eq!(given, immediates, "round {round} of {pages} pages");
        }
    }
}

fn what_another_address_space_executes_is_looked_at(options: Options) {
    // Each PCID keeps what it has executed.
    let (machine, ram) = Machine::with_file(
        options,
        &assemble(at::CODE, |a| {
            let mut top = a.create_label();
            a.mov(rax, cr4)?;
            a.or(eax, cr4::PCIDE as i32)?;
            a.mov(cr4, rax)?;
            a.mov(r8, cr3)?;
            a.mov(r9, 1_u64 << 63)?;
            a.or(r9, r8)?;
            a.set_label(&mut top)?;
            for pcid in [1, 2] {
                a.lea(rax, qword_ptr(r9 + pcid))?;
                a.mov(cr3, rax)?;
                if pcid == 1 {
                    a.call(FUNCTION)?;
                    a.mov(rbx, rax)?;
                }
            }
            a.out(0x80, al)?;
            a.jmp(top)
        }),
    );
    machine.write(FUNCTION, &assemble(FUNCTION, |a| a.mov(rax, u64::MAX)));
    machine.write(IMMEDIATE + 8, &[0xc3]);
    let mut vcpu = machine.vcpu();
    for n in 0..60 {
        write(&ram, IMMEDIATE, version(n / 3));
        call_once(&mut vcpu, true);
        assert_eq!(vcpu.gpr(gpr::RBX), version(n / 3), "entry {n}");
    }
}

/// How the guest and the stranger tell each other how far they are.
const PATCHED: u64 = at::DATA;
const EXECUTED: u64 = at::DATA + 0x40;
/// What the guest saw in each round.
const LOG: u64 = at::LARGE;
const ROUNDS: u32 = 100;

/// Waits for a patch, serializes and calls: again and again, without ever coming out.
fn following(
    a: &mut CodeAssembler,
    serialize: fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let (mut wait, mut ready) = (a.create_label(), a.create_label());
    a.mov(r8d, 1)?;
    a.mov(r9d, LOG as u32)?;
    a.set_label(&mut wait)?;
    a.cmp(dword_ptr(PATCHED), r8d)?;
    a.je(ready)?;
    a.pause()?;
    a.jmp(wait)?;
    a.set_label(&mut ready)?;
    serialize(a)?;
    a.call(FUNCTION)?;
    a.mov(qword_ptr(r9 + r8 * 8), rax)?;
    a.mov(dword_ptr(EXECUTED), r8d)?;
    a.inc(r8d)?;
    a.cmp(r8d, ROUNDS + 1)?;
    a.jne(wait)?;
    a.hlt()
}

/// Patches, and waits until the guest has executed it, in each round; gives what it saw.
fn seen_after(
    options: Options,
    vcpus: usize,
    serialize: fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u64> {
    let (machine, ram) = machine(options, |a| following(a, serialize));
    let request = AtomicU32::new(0);
    let mut all: Vec<_> = (0..vcpus).map(|_| machine.vcpu()).collect();
    all[0].set_features(Features::default().with(Feature::Serialize, true));
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| all[0].enter(&Entry::default(), &request));
        let is_executed = |round| {
            write(&ram, IMMEDIATE, version(round));
            write(&ram, PATCHED, round);
            is_there(&ram, EXECUTED, round)
        };
        if !(1..=u64::from(ROUNDS)).all(is_executed) {
            request.store(1, Ordering::SeqCst);
            machine.engine.kick(0);
        }
        assert_eq!(runs.join().expect("no panic"), Intercept::Halt { len: 1 });
    });
    (1..=u64::from(ROUNDS)).map(|round| read(&ram, LOG + round * 8)).collect()
}

#[test]
fn a_serializing_instruction_is_enough_without_coming_out() {
    let expected: Vec<_> = (1..=u64::from(ROUNDS)).map(version).collect();
    for options in [interpreter(), jit(), uncounted(), traced()] {
        let got = seen_after(options, 1, |a| {
            a.mov(rax, cr3)?;
            a.mov(cr3, rax)
        });
        assert_eq!(got, expected, "CR3");
        // SERIALIZE looks for what others have written if there are other vCPUs.
        let got = seen_after(options, 2, |a| a.serialize());
        assert_eq!(got, expected, "SERIALIZE");
    }
}
