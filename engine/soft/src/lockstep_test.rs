//! Lockstep finds nothing where there is nothing, and a wrong translation where there is one.

use arch_x86::engine::Intercept;
use arch_x86::regs::{Regs, gpr};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use virt::Errno;

use crate::jit::sabotage;
use crate::test_code::{Code, Random};
use crate::test_machine::{Machine, at, machine, run, run_to_halt};
use crate::test_ways::{in_every_way, lockstep};
use crate::{Difference, Divergence, Options, SoftVcpu};

in_every_way! { every_access_to_memory_is_made_once }

/// Across the end of a page.
const FUNCTIONS: u64 = at::USER_CODE + 0x1000 - 0x500;

#[test]
fn random_code_does_the_same_in_both() {
    for seed in 100..130 {
        let mut random = Random(seed);
        let code = Code::new(&mut random, FUNCTIONS, true);
        let main = code.calls(&mut random);
        let machine = Machine::with(lockstep(), &main);
        let mut vcpu = machine.vcpu();
        vcpu.set_gpr(gpr::RBP, at::DATA + 0x80);
        let mut patches = code.all(&mut random);
        for round in 0..30 {
            for (at, bytes) in &patches {
                machine.write(*at, bytes);
            }
            vcpu.set_rip(at::CODE);
            for n in (0..16).filter(|n| !matches!(*n, gpr::RSP | gpr::RBP)) {
                vcpu.set_gpr(n, random.bits());
            }
            let intercept = run(&mut vcpu);
            assert_eq!(intercept, Intercept::Halt { len: 1 }, "{seed}, {round}: {}", told(&vcpu));
            vcpu.set_rip(vcpu.rip() + 1);
            patches = (0..random.below(6)).map(|_| code.any(&mut random)).collect();
        }
        assert!(vcpu.statistics().compared > 1000, "{:?}", vcpu.statistics());
    }
}

fn told(vcpu: &SoftVcpu) -> String {
    vcpu.divergence().map(ToString::to_string).unwrap_or_default()
}

/// Runs a program that the JIT translates wrongly, until lockstep has found it.
fn found(
    right: &[u8],
    wrong: &[u8],
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Divergence {
    sabotage::replace(right, wrong);
    let machine = machine(lockstep(), program);
    let mut vcpu = machine.vcpu();
    assert_eq!(run(&mut vcpu), Intercept::Failed(Errno::EIO));
    vcpu.divergence().expect("it was found").clone()
}

#[test]
fn a_wrong_register_is_found_and_the_instruction_named() {
    // In a loop, whose first round is right: SUB instead of SBB.
    let divergence = found(&[0x48, 0x19, 0xd8], &[0x48, 0x29, 0xd8], |a| {
        let mut top = a.create_label();
        a.mov(rax, 100_u64)?;
        a.mov(ebx, 1)?;
        a.mov(ecx, 0)?;
        a.set_label(&mut top)?;
        a.mov(qword_ptr(at::DATA), rax)?;
        a.cmp(ecx, 2)?;
        a.cmc()?;
        a.sbb(rax, rbx)?;
        a.inc(ecx)?;
        a.cmp(ecx, 10)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(divergence.bytes, [0x48, 0x19, 0xd8]);
    assert!(divergence.found);
    let of_rax = Difference { what: "RAX".into(), interpreter: "0x60".into(), jit: "0x61".into() };
    assert_eq!(divergence.differences[0], of_rax);
    let start = "interpreter and JIT disagree on sbb rax,rbx (48 19 d8) at RIP 0x10022: ";
    let text = divergence.to_string();
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains(": RAX is 0x60 by the interpreter, 0x61 by the JIT; RFLAGS"), "{text}");
}

#[test]
fn wrong_memory_flags_and_vectors_are_found() {
    // MOV of another register.
    let divergence = found(&[0x48, 0x89, 0x07], &[0x48, 0x89, 0x17], |a| {
        a.mov(edi, at::DATA as u32)?;
        a.mov(eax, 0x1234)?;
        a.mov(qword_ptr(rdi), rax)?;
        a.mov(qword_ptr(rdi + 8), rbx)?;
        a.jmp(at::CODE)
    });
    assert_eq!(divergence.bytes, [0x48, 0x89, 0x07]);
    assert_eq!(divergence.differences[0].what, "memory at offset 0x0 of its page");
    // CLC instead of STC.
    let divergence = found(&[0x90, 0xf9], &[0x90, 0xf8], |a| {
        a.nop()?;
        a.stc()?;
        a.mov(eax, 5)?;
        a.jmp(at::CODE)
    });
    assert_eq!((divergence.bytes.as_slice(), divergence.rip), (&[0xf9][..], at::CODE + 1));
    // PADDQ instead of PADDD.
    let divergence = found(&[0x66, 0x0f, 0xfe, 0xc1], &[0x66, 0x0f, 0xd4, 0xc1], |a| {
        a.mov(eax, u32::MAX)?;
        a.movq(xmm0, rax)?;
        a.movq(xmm1, rax)?;
        a.paddd(xmm0, xmm1)?;
        a.pxor(xmm1, xmm1)?;
        a.jmp(at::CODE)
    });
    assert_eq!(divergence.bytes, [0x66, 0x0f, 0xfe, 0xc1]);
    assert_eq!(divergence.differences[0].what, "XMM0");
}

fn every_access_to_memory_is_made_once(options: Options) {
    // Read, changed and written; by strings, upwards and onto themselves; across pages, and locked.
    let counter = at::DATA + 0x10;
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.mov(r12d, 100)?;
        a.set_label(&mut top)?;
        a.inc(qword_ptr(counter))?;
        a.add(qword_ptr(at::DATA + 0xffc), 3)?;
        a.mov(ebx, 1)?;
        a.lock().xadd(qword_ptr(counter + 8), rbx)?;
        a.push(rbx)?;
        a.pop(rdx)?;
        a.mov(esi, counter as u32)?;
        a.mov(edi, counter as u32 + 0x20)?;
        a.mov(ecx, 0x40)?;
        a.rep().movsb()?;
        a.dec(r12d)?;
        a.jnz(top)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    let words = [0x10, 0x18, 0x30, 0x38, 0x50].map(|at| machine.read_u64(at::DATA + at));
    assert_eq!(words, [100, 100, 100, 100, 100]);
    assert_eq!(machine.read_u64(at::DATA + 0xffc), 300);
    assert_eq!(vcpu.statistics().compared > 100, options.lockstep);
}
