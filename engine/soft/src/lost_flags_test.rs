//! Flags that nothing looks at but a fault: they have to be right in its frame.

use arch_x86::regs::{Regs, gpr, rflags};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::Options;
use crate::test_code::Random;
use crate::test_machine::{Machine, assemble, at, run_to_halt};
use crate::test_ways::{interpreter, jit};

/// An instruction that makes flags.
type Producer = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const PRODUCERS: [Producer; 20] = [
    |a| a.add(rax, rcx),
    |a| a.add(ecx, eax),
    |a| a.add(rax, 0x7fff_ffff),
    |a| a.add(ecx, -3),
    |a| a.sub(rax, rcx),
    |a| a.sub(ecx, eax),
    |a| a.sub(rsi, 0x1234_5678),
    |a| a.sub(esi, 1),
    |a| a.cmp(rax, rcx),
    |a| a.cmp(ecx, 0x80),
    |a| a.test(eax, ecx),
    |a| a.test(rax, -0x100),
    |a| a.and(rax, rcx),
    |a| a.or(ecx, 0x10),
    |a| a.xor(eax, eax),
    |a| a.add(rax, rax),
    |a| a.sub(rcx, rcx),
    // Not all of these can be made again: an operand is in memory, or the flags are not all theirs.
    |a| a.adc(rax, rcx),
    |a| a.neg(rax),
    |a| a.add(r10, rcx),
];

/// RFLAGS in the frame of a page fault behind `producer` and what comes `between`, with some registers.
fn in_the_frame(
    options: Options,
    producer: Producer,
    between: Producer,
    random: &mut Random,
) -> u64 {
    let code = assemble(at::CODE, |a| {
        a.add(rdx, rdx)?;
        producer(a)?;
        between(a)?;
        a.mov(rdi, qword_ptr(rbx))?;
        a.mov(rdi, qword_ptr(rbx + 8))?;
        a.cmp(rdi, rdi)?;
        a.hlt()
    });
    let machine = Machine::with(options, &code);
    machine.handle(14, &[0xf4]);
    machine.write_u64(at::PT + ((at::DATA + 0x1000) >> 12) * 8, 0);
    let mut vcpu = machine.vcpu();
    for n in (0..16).filter(|n| *n != gpr::RSP) {
        let bits = random.bits();
        vcpu.set_gpr(n, if bits.is_multiple_of(3) { bits % 17 } else { bits });
    }
    // The first access faults, or the second.
    vcpu.set_gpr(gpr::RBX, at::DATA + 0x1000 - 8 * random.below(2));
    vcpu.set_gpr(gpr::RBP, at::DATA + 0x80);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.cr2(), at::DATA + 0x1000);
    machine.read_u64(vcpu.gpr(gpr::RSP) + 24)
}

#[test]
fn flags_that_are_overwritten_are_right_in_a_frame() {
    // Nothing; an access; one that changes another register; one that changes the producers' operands.
    let between: [Producer; 5] = [
        |_| Ok(()),
        |a| a.mov(qword_ptr(rbp), r12),
        |a| a.mov(r8, qword_ptr(rbp + 8)),
        |a| a.mov(rax, qword_ptr(rbp + 16)),
        |a| a.lea(rcx, qword_ptr(rcx + 1)),
    ];
    for (n, producer) in PRODUCERS.into_iter().enumerate() {
        for (m, between) in between.into_iter().enumerate() {
            for seed in 0..24 {
                let [expected, found] = [interpreter(), jit()]
                    .map(|options| in_the_frame(options, producer, between, &mut Random(seed)))
                    .map(|flags| flags & !rflags::AF);
                assert_eq!(found, expected, "producer {n}, {m} between, seed {seed}");
            }
        }
    }
}
