//! A kernel whose code goes from page to page: other pages come to be there, or may not be executed any more, and what is
//! in them changes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU32;

use arch_x86::engine::{EngineVcpu, Entry, Intercept};
use arch_x86::exception;
use arch_x86::regs::{Regs, cr4, gpr};
use iced_x86::code_asm::*;

use crate::run_test::handler;
use crate::test_machine::{Machine, assemble, at, pte};
use crate::test_ways::{in_every_way, traced};
use crate::traces_random_test::Assembled;
use crate::{Options, SoftVcpu};

in_every_way! {
    code_goes_from_page_to_page,
    another_page_is_there_after_invlpg,
    another_page_is_there_after_all_was_dropped,
    a_page_that_may_not_be_executed_faults,
    pages_with_the_same_place_are_told_apart,
    a_page_at_two_addresses_is_the_same_code,
    what_the_host_writes_to_another_page_is_seen_with_a_fresh_entry,
    what_a_stranger_writes_to_a_function_is_seen_with_a_fresh_entry,
    a_patch_of_another_page_is_seen_at_once,
    a_function_may_patch_itself_in_another_page,
}

/// Where the kernel is: its pages, and where those are in RAM. The first one is the program's.
const KERNEL: u64 = at::UPPER + (1 << 30);
const FRAMES: u64 = 0x10_0000;
/// The tables.
const PD: u64 = 0xa_1000;
const PT: u64 = 0xa_2000;
/// A page's distance from one with the same place.
const SAME: u64 = 4096;
const CODE: u64 = pte::PRESENT | pte::WRITABLE | pte::GLOBAL;
const NO_EXECUTE: u64 = 1 << 63;
const SMEP: u64 = 1 << 20;
const ROUNDS: u64 = 40;

fn page(n: u64) -> u64 {
    KERNEL + n * 0x1000
}

fn frame(n: u64) -> u64 {
    FRAMES + n * 0x1000
}

/// The entry that maps a page.
fn entry(n: u64) -> u64 {
    PT + n / 512 * 0x1000 + n % 512 * 8
}

/// A kernel.
struct Kernel {
    machine: Machine,
    file: File,
    vcpu: SoftVcpu,
}

impl Kernel {
    fn new(options: Options) -> Self {
        let (machine, file) = Machine::with_file(options, &[]);
        machine.write_u64(at::PDPT + 8, PD | pte::RIGHTS);
        for n in 0..10 {
            machine.write_u64(PD + n * 8, (PT + n * 0x1000) | pte::RIGHTS);
        }
        for n in 0..8 {
            machine.write_u64(entry(n), frame(n) | CODE);
        }
        handler(&machine, exception::PF, |a| {
            a.mov(rdx, cr2)?;
            a.pop(rcx)?;
            a.hlt()
        });
        let vcpu = machine.vcpu();
        Self { machine, file, vcpu }
    }

    /// Writes a program for `linear` to RAM.
    fn write(
        &self,
        gpa: u64,
        linear: u64,
        program: impl FnOnce(&mut CodeAssembler) -> Assembled,
    ) -> usize {
        let code = assemble(linear, program);
        self.machine.write(gpa, &code);
        code.len()
    }

    /// Lets the start of a page be a function that adds `value` to RAX. The constant is aligned, at 4.
    fn function(&self, n: u64, value: u32) {
        let [a, b, c, d] = value.to_le_bytes();
        self.machine.write(frame(n), &[0x90, 0x90, 0x48, 0x05, a, b, c, d, 0xc3]);
    }

    /// Executes the program in the first page; it must halt there.
    fn run(&mut self, fresh: bool) -> u64 {
        self.vcpu.set_rip(page(0));
        self.vcpu.set_gpr(gpr::RSP, at::STACK);
        self.vcpu.set_gpr(gpr::RAX, 0);
        self.vcpu.set_gpr(gpr::RBP, ROUNDS);
        let entry = Entry { fresh, ..Entry::default() };
        let intercept = self.vcpu.enter(&entry, &AtomicU32::new(0));
        assert_eq!(intercept, Intercept::Halt { len: 1 }, "at {:#x}", self.vcpu.rip());
        self.vcpu.gpr(gpr::RAX)
    }
}

/// In each way of translating that has traces: once patiently, too.
fn kernels(options: Options) -> Vec<Kernel> {
    let patient = Options { patience: 3, ..options };
    let all = if options == traced() { vec![options, patient] } else { vec![options] };
    all.into_iter().map(Kernel::new).collect()
}

/// Goes round [`ROUNDS`] times, with `body` in it.
fn rounds(a: &mut CodeAssembler, body: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Assembled {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    a.nop()?;
    body(a)?;
    a.sub(ebp, 1)?;
    a.jnz(top)?;
    a.hlt()
}

/// In the round in which EBP is `when`.
fn once(
    a: &mut CodeAssembler,
    when: u32,
    body: impl FnOnce(&mut CodeAssembler) -> Assembled,
) -> Assembled {
    let mut over = a.create_label();
    a.cmp(ebp, when)?;
    a.jne(over)?;
    body(a)?;
    a.set_label(&mut over)?;
    a.nop()
}

/// Calls, and jumps there and back.
fn code_goes_from_page_to_page(options: Options) {
    for mut kernel in kernels(options) {
        let back = 0x800;
        kernel.write(frame(0), page(0), |a| {
            a.call(page(1))?;
            a.jmp(page(2) + 0x100)
        });
        kernel.write(frame(0) + back, page(0) + back, |a| {
            a.sub(ebp, 1)?;
            a.jnz(page(0))?;
            a.hlt()
        });
        kernel.function(1, 3);
        kernel.write(frame(2) + 0x100, page(2) + 0x100, |a| {
            a.add(rax, 0x1000)?;
            a.call(page(3))?;
            a.jmp(page(0) + back)
        });
        kernel.function(3, 0x50_0000);
        for fresh in [true, false, true] {
            assert_eq!(kernel.run(fresh), ROUNDS * 0x50_1003);
        }
        // Each fresh entry looks for the blocks that it meets, once.
        let lookups = kernel.vcpu.statistics().block_lookups;
        assert!(lookups < 60, "{lookups}");
    }
}

/// Calls a function in another page, and one that jumps to a third: either page becomes another one in the middle, or both.
fn remap(options: Options, flush: fn(&mut CodeAssembler, u64) -> Assembled) {
    for changed in [&[1][..], &[2], &[1, 2]] {
        for kernel in kernels(options) {
            remap_in(kernel, changed, flush);
        }
    }
}

fn remap_in(mut kernel: Kernel, changed: &[u64], flush: fn(&mut CodeAssembler, u64) -> Assembled) {
    kernel.write(frame(0), page(0), |a| {
        rounds(a, |a| {
            once(a, 20, |a| {
                for n in changed {
                    a.mov(rcx, frame(n + 2) | CODE)?;
                    a.mov(qword_ptr(entry(*n)), rcx)?;
                    flush(a, page(*n))?;
                }
                Ok(())
            })?;
            a.call(page(1))?;
            a.call(page(2) + 0x40)
        })
    });
    let jumps = |n, value| {
        kernel.write(frame(n) + 0x40, page(2) + 0x40, |a| {
            a.add(rax, value)?;
            a.jmp(page(5))
        });
    };
    jumps(2, 0x200);
    jumps(4, 0x5_0000);
    kernel.function(5, 0x100_0000);
    kernel.function(1, 1);
    kernel.function(3, 0x1000);
    for _ in 0..3 {
        for n in 1..3 {
            kernel.machine.write_u64(entry(n), frame(n) | CODE);
        }
        kernel.vcpu.flush_tlb();
        let later = |n, old: u64, new| 20 * if changed.contains(&n) { new } else { old };
        let sum = 20 * 0x201 + later(1, 1, 0x1000) + later(2, 0x200, 0x5_0000);
        assert_eq!(kernel.run(false), sum + ROUNDS * 0x100_0000, "{changed:?}");
    }
}

fn another_page_is_there_after_invlpg(options: Options) {
    remap(options, |a, page| {
        a.mov(rdx, page)?;
        a.invlpg(byte_ptr(rdx))
    });
}

fn another_page_is_there_after_all_was_dropped(options: Options) {
    // By CR4.PGE, and by INVPCID.
    remap(options, |a, _| {
        a.mov(rdx, cr4)?;
        a.xor(edx, cr4::PGE as i32)?;
        a.mov(cr4, rdx)?;
        a.xor(edx, cr4::PGE as i32)?;
        a.mov(cr4, rdx)
    });
    remap(options, |a, _| {
        a.mov(edx, 2)?;
        a.push(0)?;
        a.push(0)?;
        a.invpcid(rdx, xmmword_ptr(rsp))?;
        a.lea(rsp, qword_ptr(rsp + 16))
    });
}

/// Not there, not to be executed, and a program's: in the page of a function, and in one that is jumped to.
fn a_page_that_may_not_be_executed_faults(options: Options) {
    let faults = [(0, 0x10), (CODE | NO_EXECUTE, 0x11), (CODE | pte::USER, 0x11)];
    for (rights, error) in faults {
        for lost in [1, 2] {
            for mut kernel in kernels(options) {
                kernel.vcpu.set_cr4(kernel.vcpu.cr4() | SMEP);
                let handlers = at::PT + (at::HANDLERS >> 12) * 8;
                kernel.machine.write_u64(handlers, at::HANDLERS | pte::PRESENT);
                let gone = if rights == 0 { 0 } else { frame(lost) | rights };
                kernel.write(frame(0), page(0), |a| {
                    rounds(a, |a| {
                        once(a, 10, |a| {
                            a.mov(rcx, gone)?;
                            a.mov(qword_ptr(entry(lost)), rcx)
                        })?;
                        // In each round, so that what follows is translated by then.
                        a.mov(rdx, page(7))?;
                        a.mov(rcx, page(lost))?;
                        a.cmp(ebp, 10)?;
                        a.cmove(rdx, rcx)?;
                        a.invlpg(byte_ptr(rdx))?;
                        a.call(page(1))?;
                        a.call(page(3))
                    })
                });
                kernel.function(1, 1);
                kernel.write(frame(3), page(3), |a| a.jmp(page(2)));
                kernel.function(2, 0x100);
                // What was counted before the fault: of 30 rounds, or half of one more.
                let before = 30 * 0x101 + if lost == 2 { 1 } else { 0 };
                assert_eq!(kernel.run(true), before, "{rights:#x}");
                let vcpu = &kernel.vcpu;
                let found = [gpr::RDX, gpr::RCX].map(|n| vcpu.gpr(n));
                assert_eq!(found, [page(lost), error], "{rights:#x}");
                // The frame; the call has pushed its return address.
                let frame = vcpu.gpr(gpr::RSP);
                assert_eq!(kernel.machine.read_u64(frame), page(lost));
                assert_eq!(kernel.machine.read_u64(frame + 24), at::STACK - 8);
            }
        }
    }
}

fn pages_with_the_same_place_are_told_apart(options: Options) {
    for mut kernel in kernels(options) {
        let pages = [1, 1 + SAME, 1 + 512];
        kernel.write(frame(0), page(0), |a| {
            rounds(a, |a| {
                a.call(page(pages[0]))?;
                a.call(page(pages[1]))?;
                a.call(page(pages[2]))
            })
        });
        for (n, to) in pages.into_iter().zip(1..) {
            kernel.machine.write_u64(entry(n), frame(to) | CODE);
            kernel.function(to, 0x100 << (to * 4));
        }
        for fresh in [true, false] {
            assert_eq!(kernel.run(fresh), ROUNDS * 0x11_1000);
        }
    }
}

/// One frame, at two addresses: a change is seen at both, and the remapping of one at that only.
fn a_page_at_two_addresses_is_the_same_code(options: Options) {
    for mut kernel in kernels(options) {
        kernel.machine.write_u64(entry(2), frame(1) | CODE);
        kernel.write(frame(0), page(0), |a| {
            rounds(a, |a| {
                once(a, 30, |a| a.mov(dword_ptr(frame(1) + 4), 0x10))?;
                once(a, 20, |a| {
                    a.mov(rcx, frame(3) | CODE)?;
                    a.mov(qword_ptr(entry(2)), rcx)?;
                    a.mov(rdx, page(2))?;
                    a.invlpg(byte_ptr(rdx))
                })?;
                a.call(page(1))?;
                a.call(page(2))
            })
        });
        kernel.function(1, 1);
        kernel.function(3, 0x100);
        assert_eq!(kernel.run(true), 10 * 2 + 10 * 0x20 + 20 * 0x110);
    }
}

/// A program that calls a function in the page 1, jumps to 2 and goes through that to 3.
fn through_pages(kernel: &Kernel) {
    kernel.write(frame(0), page(0), |a| {
        rounds(a, |a| {
            a.call(page(1))?;
            a.call(page(2) + 0x40)
        })
    });
    kernel.write(frame(2) + 0x40, page(2) + 0x40, |a| {
        a.call(page(3))?;
        a.nop()?;
        a.ret()
    });
}

/// Writes the constants of two functions before some entries, by `write`.
fn written_between(options: Options, write: fn(&Kernel, u64, u32)) {
    for mut kernel in kernels(options) {
        through_pages(&kernel);
        let mut values = [1, 0x1000];
        kernel.function(1, values[0]);
        kernel.function(3, values[1]);
        for n in 0..24 {
            // A function stays what it is for a while, so that it is translated.
            if n % 3 == 2 {
                let which = n as usize / 3 % 2;
                values[which] += 1 << (which * 12);
                write(&kernel, frame([1, 3][which]) + 4, values[which]);
            }
            let sum = u64::from(values[0] + values[1]);
            assert_eq!(kernel.run(n % 3 == 2), ROUNDS * sum, "entry {n}");
        }
    }
}

fn what_the_host_writes_to_another_page_is_seen_with_a_fresh_entry(options: Options) {
    written_between(options, |kernel, gpa, value| {
        kernel.machine.write(gpa, &value.to_le_bytes());
    });
}

fn what_a_stranger_writes_to_a_function_is_seen_with_a_fresh_entry(options: Options) {
    written_between(options, |kernel, gpa, value| {
        kernel.file.write_all_at(&value.to_le_bytes(), gpa).expect("it is RAM");
    });
}

/// The program writes to its functions, by another address than they are executed at.
fn a_patch_of_another_page_is_seen_at_once(options: Options) {
    for mut kernel in kernels(options) {
        kernel.write(frame(0), page(0), |a| {
            rounds(a, |a| {
                // Every eighth round, right before the call.
                once(a, 32, |a| a.mov(dword_ptr(frame(1) + 4), 2))?;
                once(a, 24, |a| a.mov(dword_ptr(frame(3) + 4), 0x2000))?;
                a.mov(ecx, ebp)?;
                a.and(ecx, 1)?;
                a.add(ecx, 4)?;
                a.call(page(1))?;
                // In each of the last rounds, in the same block as the call.
                a.cmp(ebp, 8)?;
                a.cmovbe(ebx, r13d)?;
                a.mov(dword_ptr(rbx), ecx)?;
                a.call(page(2) + 0x40)
            })
        });
        kernel.write(frame(2) + 0x40, page(2) + 0x40, |a| {
            a.call(page(3))?;
            a.nop()?;
            a.ret()
        });
        for _ in 0..2 {
            kernel.function(1, 1);
            kernel.function(3, 0x1000);
            kernel.vcpu.set_gpr(gpr::RBX, at::DATA);
            kernel.vcpu.set_gpr(gpr::R13, frame(3) + 4);
            // EBP is 40 to 33, 32 to 1; 40 to 25, 24 to 9, and 8 to 1: what was written then is ECX, 4 or 5.
            let sum = 8 + 2 * 32 + 16 * 0x1000 + 16 * 0x2000 + 4 * 4 + 4 * 5;
            assert_eq!(kernel.run(true), sum);
        }
    }
}

/// A function adds one to its own constant, behind where it is.
fn a_function_may_patch_itself_in_another_page(options: Options) {
    for mut kernel in kernels(options) {
        kernel.write(frame(0), page(0), |a| rounds(a, |a| a.call(page(1))));
        kernel.write(frame(1), page(1), |a| {
            let mut constant = a.create_label();
            a.lea(rdx, qword_ptr(constant))?;
            a.add(dword_ptr(rdx + 2), 1)?;
            a.set_label(&mut constant)?;
            // add rax, imm32.
            a.db(&[0x48, 0x05, 0, 0, 0, 0])?;
            a.ret()
        });
        assert_eq!(kernel.run(true), (1..=ROUNDS).sum::<u64>());
    }
}
