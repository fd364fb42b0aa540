//! Kicks, pauses and signals, as fast as a vCPU gets on: no exit is lost or comes twice, no answer goes astray, and what waits for the
//! host is made all the same.

mod signals;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::yield_now;
use std::time::{Duration, Instant};

use guests::programs::{end, report};
use guests::x86::{Answer, Data, Exit};
use guests::{Guest, IcedError, Memory, MemoryFlags, Vcpu, Vm, at, code_asm::*, port};
use hv::{Irqchip, VmConfig};

use signals::Target;

/// A port that is written to and read.
const PORT: u16 = port::FREE as u16;
/// One that says whether there is another round.
const MORE: u16 = PORT + 4;
/// An address that is written to; what is read is behind it.
const PLACE: u64 = at::NOWHERE;
/// What a string has, which is more than an exit does on some engines.
const STRING: usize = 20;
/// So often it has to have rained at least: kicks that the vCPU came out for, and signals.
const ENOUGH: u32 = 200;
/// And so many rounds.
const ROUNDS: u32 = 100;
/// How long a test may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Has each of `drops` fall once whenever the work has got on, which tells that by the number it is given: what comes faster than a
/// thread gets on is all that the thread does. `work` is done meanwhile.
fn in_a_storm<T>(drops: &[&(dyn Fn() + Sync)], work: impl FnOnce(&AtomicU32) -> T) -> T {
    let (got_on, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let rain = |drop: &(dyn Fn() + Sync)| {
        let mut seen = None;
        while !over.load(Ordering::SeqCst) {
            let now = got_on.load(Ordering::SeqCst);
            if seen.replace(now) != Some(now) {
                drop();
            }
            // Others are to have the processor, if there is one only.
            yield_now();
        }
    };
    std::thread::scope(|scope| {
        // Also if the work panics.
        let _end = End(&over);
        for drop in drops {
            scope.spawn(|| rain(*drop));
        }
        work(&got_on)
    })
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Adds EAX to a sum that depends on the order, in R12D.
fn add(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.imul_3(r12d, r12d, 31)?;
    a.add(r12d, eax)
}

fn added(sum: u32, value: u32) -> u32 {
    sum.wrapping_mul(31).wrapping_add(value)
}

/// Rounds of accesses of each kind, counted in EBX.
fn rounds(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut round, mut sum) = (a.create_label(), a.create_label());
    a.xor(ebx, ebx)?;
    a.xor(r12d, r12d)?;
    a.mov(r13, PLACE)?;
    a.cld()?;
    a.set_label(&mut round)?;
    a.inc(ebx)?;
    a.mov(eax, ebx)?;
    a.out(u32::from(PORT), eax)?;
    a.in_(eax, u32::from(PORT))?;
    add(a)?;
    a.mov(dword_ptr(r13), ebx)?;
    a.mov(eax, dword_ptr(r13 + 8))?;
    add(a)?;
    a.mov(edx, u32::from(PORT))?;
    a.mov(rdi, at::DATA)?;
    a.mov(ecx, STRING as u32)?;
    a.rep().insd()?;
    a.mov(rsi, at::DATA)?;
    a.mov(ecx, STRING as u32)?;
    a.rep().outsd()?;
    a.mov(rsi, at::DATA)?;
    a.mov(ecx, STRING as u32)?;
    a.set_label(&mut sum)?;
    a.lodsd()?;
    add(a)?;
    a.dec(ecx)?;
    a.jnz(sum)?;
    a.in_(eax, u32::from(MORE))?;
    a.test(eax, eax)?;
    a.jnz(round)?;
    a.mov(eax, r12d)?;
    report(a)?;
    end(a)
}

/// A doubleword that goes one way or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Out(u32),
    In(u32),
    Write(u64, u32),
    Read(u64, u32),
}

/// What a round has to do; `answer` gives what is read.
fn expected(round: u32, mut answer: impl FnMut() -> u32) -> Vec<Access> {
    let mut all = vec![Access::Out(round), Access::In(answer())];
    all.extend([Access::Write(PLACE, round), Access::Read(PLACE + 8, answer())]);
    let string: Vec<u32> = (0..STRING).map(|_| answer()).collect();
    all.extend(string.iter().copied().map(Access::In));
    all.extend(string.iter().copied().map(Access::Out));
    all
}

/// The host's side.
#[derive(Default)]
struct Host {
    accesses: Vec<Access>,
    rounds: u32,
    /// Exits for a kick.
    kicks: u32,
    /// The last value that was read: each is another one.
    given: u32,
    /// What the guest says at its end.
    sum: Option<u32>,
}

impl Host {
    fn give(&mut self) -> u32 {
        self.given += 1;
        self.given
    }

    /// Takes an exit; gives the answer, if it is not the last.
    fn take(&mut self, exit: &Exit, more: bool) -> Option<Answer> {
        match *exit {
            Exit::Interrupted => self.kicks += 1,
            Exit::Out { port: PORT, size: 4, data } => {
                self.accesses.extend(words(&data).map(Access::Out));
            }
            Exit::In { port: PORT, size: 4, count } => {
                let given: Vec<u32> = (0..count).map(|_| self.give()).collect();
                self.accesses.extend(given.iter().copied().map(Access::In));
                let bytes: Vec<u8> = given.iter().flat_map(|word| word.to_le_bytes()).collect();
                return Some(Answer::Data(Data::new(&bytes)));
            }
            Exit::MmioWrite { gpa, data } => {
                self.accesses.extend(words(&data).map(|word| Access::Write(gpa, word)));
            }
            Exit::MmioRead { gpa, size: 4 } => {
                let given = self.give();
                self.accesses.push(Access::Read(gpa, given));
                return Some(Answer::Data(Data::new(&given.to_le_bytes())));
            }
            Exit::In { port: MORE, size: 4, count: 1 } => {
                self.rounds += 1;
                return Some(Answer::Data(Data::new(&u32::from(more).to_le_bytes())));
            }
            Exit::Out { port, data, .. } if u32::from(port) == port::VALUE => {
                assert_eq!(self.sum.replace(data.word() as u32), None);
            }
            Exit::Out { port, .. } if u32::from(port) == port::END => return None,
            other => panic!("{other:x?} in round {}", self.rounds + 1),
        }
        Some(Answer::None)
    }
}

fn words(data: &Data) -> impl Iterator<Item = u32> + '_ {
    let words = data.as_slice().chunks_exact(4);
    words.map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

guests::on_every_engine! {
    fn each_exit_comes_once_and_in_order(engine) {
        let mut guest = Guest::with_program(engine, rounds);
        let vm = guest.vm.clone();
        let (before, start) = (signals::taken(), Instant::now());
        let mut host = Host::default();
        let target = Target::this_thread();
        let (signal, kick) = (|| target.signal(), || vm.interrupt_vcpus());
        let pause = || {
            vm.pause();
            vm.resume();
        };
        in_a_storm(&[&signal, &kick, &pause], |got_on| {
            let mut answer = Answer::None;
            loop {
                let exit = guest.vcpus[0].run(answer).expect("the host goes on");
                if exit != Exit::Interrupted {
                    got_on.fetch_add(1, Ordering::SeqCst);
                }
                let storms = host.kicks < ENOUGH || signals::taken() - before < ENOUGH;
                match host.take(&exit, storms || host.rounds < ROUNDS) {
                    Some(next) => answer = next,
                    None => break,
                }
                assert!(start.elapsed() < LIMIT, "round {}, {} kicks", host.rounds, host.kicks);
            }
        });
        let (mut given, mut sum) = (0, 0);
        let mut answer = || {
            given += 1;
            sum = added(sum, given);
            given
        };
        let all = (1..=host.rounds).flat_map(|round| expected(round, &mut answer));
        let all: Vec<Access> = all.collect();
        let differ = all.iter().zip(&host.accesses).position(|(right, is)| right != is);
        assert_eq!(differ.map(|n| (n, all[n], host.accesses[n])), None);
        assert_eq!((host.accesses.len(), host.sum), (all.len(), Some(sum)));
    }

    fn machines_are_made(engine) {
        let (before, start) = (signals::taken(), Instant::now());
        let (target, sent) = (Target::this_thread(), AtomicU32::new(0));
        let signal = || {
            // At another moment of each.
            let sent = sent.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_micros(u64::from(sent * 170 % 5000)));
            target.signal();
        };
        in_a_storm(&[&signal], |got_on| {
            while signals::taken() - before < 50 {
                let vm = engine.create_vm(VmConfig { cpus: 1, irqchip: Irqchip::default() }).expect("a machine");
                let memory = Memory::region(0, 1 << 20).to_region();
                vm.add_memory(memory, MemoryFlags::default()).expect("room");
                let mut vcpu = vm.create_vcpu(0).expect("a vCPU");
                let state = vcpu.state().expect("registers");
                vcpu.set_state(&state).expect("the same");
                let made = got_on.fetch_add(1, Ordering::SeqCst);
                assert!(start.elapsed() < LIMIT, "{made} machines");
            }
        });
    }
}
