//! Several vCPUs, each on a thread of its own.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arch_x86::engine::{Engine, EngineVcpu, Entry, Intercept};
use arch_x86::regs::{Regs, gpr};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::Options;
use crate::test_machine::{Machine, at, machine, run_to_halt};
use crate::test_ways::in_both_ways;

in_both_ways! {
    locked_updates_lose_nothing,
    cmpxchg16b_is_atomic,
    a_lock_and_plain_stores_keep_their_order,
    invalidate_returns_although_vcpus_run,
}

/// Two vCPUs run the same code at the same time, with RDI 0 and 1.
fn both(
    options: Options,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Machine {
    let machine = machine(options, program);
    std::thread::scope(|scope| {
        for n in 0..2 {
            let mut vcpu = machine.vcpu();
            vcpu.set_gpr(gpr::RDI, n);
            vcpu.set_gpr(gpr::RSP, at::STACK - n * 0x1000);
            scope.spawn(move || run_to_halt(&mut vcpu));
        }
    });
    machine
}

const TIMES: u32 = 200_000;

fn locked_updates_lose_nothing(options: Options) {
    // Aligned, misaligned within a line, across a line, across a page. A lock across lines is the
    // whole machine's, and takes a host that is virtual itself as long as hundreds of others.
    for (address, times) in [
        (at::DATA, TIMES),
        (at::DATA + 0x11, TIMES),
        (at::DATA + 0x3d, TIMES / 100),
        (at::DATA + 0xffd, TIMES / 4),
    ] {
        let machine = both(options, |a| {
            let mut top = a.create_label();
            a.mov(ecx, times)?;
            a.set_label(&mut top)?;
            a.lock().inc(qword_ptr(address))?;
            a.mov(eax, 1)?;
            a.lock().xadd(qword_ptr(address), rax)?;
            a.dec(ecx)?;
            a.jnz(top)?;
            a.hlt()
        });
        assert_eq!(machine.read_u64(address), u64::from(times) * 4, "{address:#x}");
    }
}

fn cmpxchg16b_is_atomic(options: Options) {
    let machine = both(options, |a| {
        let mut top = a.create_label();
        let mut again = a.create_label();
        a.mov(esi, TIMES)?;
        a.set_label(&mut top)?;
        a.mov(rax, qword_ptr(at::DATA))?;
        a.mov(rdx, qword_ptr(at::DATA + 8))?;
        a.set_label(&mut again)?;
        a.lea(rbx, qword_ptr(rax + 1))?;
        a.lea(rcx, qword_ptr(rdx + 3))?;
        a.lock().cmpxchg16b(xmmword_ptr(at::DATA))?;
        a.jnz(again)?;
        a.dec(esi)?;
        a.jnz(top)?;
        a.hlt()
    });
    let total = u64::from(TIMES) * 2;
    assert_eq!((machine.read_u64(at::DATA), machine.read_u64(at::DATA + 8)), (total, total * 3));
}

fn a_lock_and_plain_stores_keep_their_order(options: Options) {
    let machine = both(options, |a| {
        let mut top = a.create_label();
        let mut wait = a.create_label();
        a.mov(ecx, 20_000)?;
        a.set_label(&mut top)?;
        a.mov(eax, 1)?;
        a.set_label(&mut wait)?;
        a.xchg(dword_ptr(at::DATA), eax)?;
        a.pause()?;
        a.test(eax, eax)?;
        a.jnz(wait)?;
        a.inc(qword_ptr(at::DATA + 0x100))?;
        a.mov(dword_ptr(at::DATA), 0)?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    assert_eq!(machine.read_u64(at::DATA + 0x100), 40_000);
}

fn invalidate_returns_although_vcpus_run(options: Options) {
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.inc(qword_ptr(at::DATA))?;
        a.jmp(top)
    });
    let request = AtomicU32::new(0);
    let started = AtomicBool::new(false);
    let mut vcpu = machine.vcpu();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            started.store(true, Ordering::SeqCst);
            vcpu.enter(&Entry::default(), &request)
        });
        while !started.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        for _ in 0..100 {
            machine.engine.invalidate(0, 0x1000);
        }
        request.store(1, Ordering::SeqCst);
        machine.engine.kick(0);
        assert_eq!(running.join().expect("no panic"), Intercept::Interrupted);
    });
}
