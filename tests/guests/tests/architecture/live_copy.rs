//! Memory that is copied while the guest writes to it, as to send it elsewhere: the dirty log, taken again and again, loses no write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guests::programs::end;
use guests::{Guest, IcedError, Memory, MemoryId, Vm, at, code_asm::*, port};

use crate::dirty_log::{NOBODY, PAGE, PLACE, PLAIN, SIZE, pages, region, round};
use crate::memory_slots::wait_until;
use crate::smp;

/// How many times the log is taken while the guest runs.
const ROUNDS: usize = 40;

/// Writes all over the region, at random, in several ways: the numbers are R8's, the stack is in it, and RBX is its start.
fn scatter(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let next = |a: &mut CodeAssembler| {
        a.imul_2(r8, r9)?;
        a.add(r8, 12345)?;
        a.mov(rax, r8)?;
        a.shr(rax, 33)?;
        a.and(eax, SIZE as i32 - 64)
    };
    a.mov(r9, 6_364_136_223_846_793_005_u64)?;
    next(a)?;
    a.mov(qword_ptr(rbx + rax), r8)?;
    next(a)?;
    a.lock().add(dword_ptr(rbx + rax + 4), r8d)?;
    next(a)?;
    a.xor(qword_ptr(rbx + rax + 8), r8)?;
    next(a)?;
    a.movq(xmm0, r8)?;
    a.movups(xmmword_ptr(rbx + rax + 0x10), xmm0)?;
    a.push(r8)?;
    a.push(rax)?;
    a.pop(rdx)?;
    a.pop(rdx)?;
    next(a)?;
    a.lea(rdi, qword_ptr(rbx + rax))?;
    a.mov(ecx, 40)?;
    a.rep().stosb()?;
    a.inc(dword_ptr(at::DATA))
}

/// A copy of a region that follows what the guest does to it, as one that is sent elsewhere while the guest runs.
struct Copy<V> {
    vm: Arc<V>,
    memory: Memory,
    id: MemoryId,
    bytes: Vec<[u8; PAGE as usize]>,
}

impl<V: Vm> Copy<V> {
    /// Has it be logged, and copies all.
    fn start(vm: Arc<V>, memory: Memory, id: MemoryId) -> Self {
        vm.log_dirty(id, true).expect("room for a log");
        let bytes = (0..SIZE / PAGE).map(|n| memory.read(n * PAGE)).collect();
        Self { vm, memory, id, bytes }
    }

    /// Copies what was written to. Gives how many pages that were.
    fn follow(&mut self) -> usize {
        let taken = self.vm.take_dirty(self.id).expect("it is logged");
        let dirty = pages(&taken);
        for n in &dirty {
            self.bytes[*n as usize] = self.memory.read(n * PAGE);
        }
        dirty.len()
    }

    /// Does so while the guest runs.
    fn follow_for_long(&mut self) {
        let mut rounds = 0;
        wait_until(|| {
            rounds += usize::from(self.follow() > 0);
            rounds == ROUNDS
        });
    }

    /// The pages that are not the same.
    fn differences(&self) -> Vec<u64> {
        let differs = |n: &u64| self.bytes[*n as usize] != self.memory.read(n * PAGE);
        (0..SIZE / PAGE).filter(differs).collect()
    }
}

guests::on_every_engine! {
    /// The log is switched on, and taken again and again, while the guest writes. In the end the copy is the memory.
    fn no_write_is_lost_while_the_log_is_taken(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            let (mut again, mut inner) = (a.create_label(), a.create_label());
            a.mov(rbx, PLACE)?;
            a.lea(rsp, qword_ptr(rbx + 0x1f_3010))?;
            a.set_label(&mut again)?;
            a.mov(ebp, 20)?;
            a.set_label(&mut inner)?;
            scatter(a)?;
            a.dec(ebp)?;
            a.jnz(inner)?;
            // By the run loop.
            a.mov(rsi, NOBODY)?;
            a.movsb()?;
            a.out(port::FREE, al)?;
            a.jmp(again)
        });
        let (memory, id) = region(&guest, PLAIN);
        let (vm, ram, done) = (guest.vm.clone(), guest.memory.clone(), AtomicBool::new(false));
        let mut copy = std::thread::scope(|scope| {
            let copying = scope.spawn(|| {
                wait_until(|| ram.read_u32(at::DATA) > 500);
                let mut copy = Copy::start(vm, memory.clone(), id);
                copy.follow_for_long();
                done.store(true, Ordering::SeqCst);
                copy
            });
            while !done.load(Ordering::SeqCst) && !copying.is_finished() {
                round(&mut guest);
            }
            copying.join().expect("no panic")
        });
        copy.follow();
        assert_eq!(copy.differences(), [0; 0]);
        assert_eq!(copy.follow(), 0);
    }

    /// The same for two vCPUs that never come out.
    fn no_write_of_two_vcpus_is_lost(engine) {
        const STOP: u64 = at::DATA + 0x400;
        let work = |a: &mut CodeAssembler, stack: u64, seed: u64| {
            let mut again = a.create_label();
            a.mov(r8, seed)?;
            a.mov(rbx, PLACE)?;
            a.lea(rsp, qword_ptr(rbx + stack))?;
            a.set_label(&mut again)?;
            scatter(a)?;
            a.cmp(dword_ptr(STOP), 0)?;
            a.je(again)?;
            a.lock().inc(dword_ptr(STOP + 8))
        };
        let mut guest = smp::guest_with(engine, 2, |a| {
            work(a, 0x1f_3010, 5)?;
            smp::halt(a)
        });
        guest.code(at::CODE, |a| {
            smp::start(a, 1)?;
            work(a, 0x1f_7020, 6)?;
            smp::spin_until(a, STOP + 8, 2)?;
            end(a)
        });
        let (memory, id) = region(&guest, PLAIN);
        let (vm, ram) = (guest.vm.clone(), guest.memory.clone());
        let mut copy = std::thread::scope(|scope| {
            let copying = scope.spawn(|| {
                wait_until(|| ram.read_u32(at::DATA) > 500);
                let mut copy = Copy::start(vm, memory.clone(), id);
                copy.follow_for_long();
                ram.write(STOP, &[1]);
                copy
            });
            guest.run_all();
            copying.join().expect("no panic")
        });
        copy.follow();
        assert_eq!(copy.differences(), [0; 0]);
    }
}
