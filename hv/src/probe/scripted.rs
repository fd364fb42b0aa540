//! A hypervisor for tests that executes nothing: its vCPU comes out with what a script says, and time is what it says,
//! too ([`Simulated`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use vm_memory::GuestRegionMmap;

use super::clock::Clock;
use super::layout::start;
use super::program::{ROUNDS, port};
use super::run::Event;
use super::script::{Direction, LOOP_ENTRY, SECTIONS, Step};
use super::{Outcome, probe_by};
use crate::x86::{Answer, Data, Exception, Exit, GuestDebug, State, gpr};
use crate::{
    Counts, Error, EventFd, Hypervisor, IoEventFd, MemoryFlags, MemoryId, Vcpu, Vm, VmConfig,
};

/// What the vCPU does when it is run.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// It comes out.
    Exit(Exit),
    /// It goes round in the loop, as fast as this, until it is done or told to come out.
    Loop { rounds_a_second: u64 },
    /// It does not come out until it is told to.
    Hang,
    /// It does not even come out then.
    Stuck,
    /// The host fails.
    Fail,
}

/// What the vCPU does in each section, of which the loop is the last.
#[derive(Clone, Debug)]
pub(crate) struct Scripted {
    pub(crate) sections: Vec<Vec<Act>>,
    clock: Simulated,
}

/// Tries it, by its own clock.
pub(crate) fn tried(scripted: &Scripted) -> Result<Outcome, Error> {
    probe_by(scripted, &scripted.clock)
}

impl Scripted {
    pub(crate) fn new(sections: Vec<Vec<Act>>) -> Self {
        Self { sections, clock: Simulated::default() }
    }

    /// All that is right, with a loop of this speed.
    pub(crate) fn right(rounds_a_second: u64) -> Self {
        let sections = SECTIONS.iter().map(|section| section.steps.iter().map(right).collect());
        let begin = Act::Exit(out(port::LOOP, 1, &[0]));
        let looping = vec![begin, Act::Loop { rounds_a_second }];
        Self::new(sections.chain([looping]).collect())
    }
}

fn right(step: &Step) -> Act {
    let Step { port, size, bytes, .. } = *step;
    Act::Exit(match step.direction {
        Direction::In => Exit::In { port, size, count: (bytes.len() / usize::from(size)) as u8 },
        Direction::Out => out(port, size, bytes),
    })
}

/// An access to a port.
pub(super) fn out(port: u16, size: u8, bytes: &[u8]) -> Exit {
    Exit::Out { port, size, data: Data::new(bytes) }
}

/// A clock that stands still but while a vCPU loops or hangs.
#[derive(Clone, Debug, Default)]
pub(super) struct Simulated {
    nanoseconds: Arc<AtomicU64>,
}

/// By so much it goes on at a time.
const STEP: Duration = Duration::from_micros(100);
/// And so long that takes, so that those who look at it have a chance.
const PACE: Duration = Duration::from_micros(20);

impl Simulated {
    fn advance(&self) {
        self.nanoseconds.fetch_add(STEP.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for Simulated {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::SeqCst))
    }

    fn wait(&self, events: &Receiver<Event>, until: Duration) -> Result<Event, RecvTimeoutError> {
        loop {
            // Before: what was sent by then is received first.
            let is_over = self.now() >= until;
            match events.recv_timeout(PACE) {
                Err(RecvTimeoutError::Timeout) if !is_over => {}
                result => return result,
            }
        }
    }
}

#[derive(Debug, Default)]
struct Told {
    come_out: Mutex<bool>,
    changed: Condvar,
}

impl Told {
    /// Lets time go by until the vCPU is told to come out, or something is done. Gives how much did.
    fn wait(&self, clock: &Simulated, is_done: impl Fn(Duration) -> bool) -> Duration {
        let begin = clock.now();
        let mut come_out = self.come_out.lock();
        while !*come_out && !is_done(clock.now() - begin) {
            clock.advance();
            self.changed.wait_for(&mut come_out, PACE);
        }
        *come_out = false;
        clock.now() - begin
    }
}

impl Hypervisor for Scripted {
    type Vm = ScriptedVm;

    fn name(&self) -> &'static str {
        "scripted"
    }

    fn create_vm(&self, config: VmConfig) -> Result<ScriptedVm, Error> {
        assert_eq!(config.cpus, 1);
        Ok(ScriptedVm { script: self.clone(), told: Arc::default() })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ScriptedVm {
    script: Scripted,
    told: Arc<Told>,
}

impl Vm for ScriptedVm {
    type Vcpu = ScriptedVcpu;

    fn add_memory(&self, _: Arc<GuestRegionMmap>, _: MemoryFlags) -> Result<MemoryId, Error> {
        Ok(MemoryId::new(0, 0))
    }

    fn move_memory(&self, _: MemoryId, _: u64) -> Result<(), Error> {
        panic!("the probe moves no memory");
    }

    fn remove_memory(&self, _: MemoryId) -> Result<(), Error> {
        panic!("the probe removes no memory");
    }

    fn log_dirty(&self, _: MemoryId, _: bool) -> Result<(), Error> {
        panic!("the probe logs no memory");
    }

    fn take_dirty(&self, _: MemoryId) -> Result<Vec<u64>, Error> {
        panic!("the probe logs no memory");
    }

    fn create_vcpu(&self, id: u32) -> Result<ScriptedVcpu, Error> {
        if self.script.sections.is_empty() {
            return Err(Error::Vcpu { id, error: std::io::Error::other("no room") });
        }
        let state = State::at_reset();
        let (script, told) = (self.script.clone(), Arc::clone(&self.told));
        Ok(ScriptedVcpu { script, told, state, section: 0, act: 0 })
    }

    fn set_irq(&self, _: u32, _: bool) {}

    fn add_ioeventfd(&self, _: IoEventFd) -> Result<(), Error> {
        Ok(())
    }

    fn remove_ioeventfd(&self, _: &IoEventFd) -> Result<(), Error> {
        Ok(())
    }

    fn add_irqfd(&self, _: u32, _: &EventFd) -> Result<(), Error> {
        Ok(())
    }

    fn remove_irqfd(&self, _: u32, _: &EventFd) -> Result<(), Error> {
        Ok(())
    }

    fn send_msi(&self, _: u64, _: u32) {}

    fn pause(&self) {}

    fn resume(&self) {}

    fn interrupt_vcpus(&self) {
        *self.told.come_out.lock() = true;
        self.told.changed.notify_all();
    }
}

#[derive(Debug)]
pub(crate) struct ScriptedVcpu {
    script: Scripted,
    told: Arc<Told>,
    state: State,
    section: usize,
    act: usize,
}

impl Vcpu for ScriptedVcpu {
    fn run(&mut self, _: Answer) -> Result<Exit, Error> {
        while self.act == self.script.sections[self.section].len() {
            (self.section, self.act) = (self.section + 1, 0);
        }
        let act = self.script.sections[self.section][self.act].clone();
        self.act += 1;
        let clock = &self.script.clock;
        match act {
            Act::Exit(exit) => Ok(exit),
            Act::Loop { rounds_a_second } => {
                let rounds =
                    |time: Duration| u128::from(rounds_a_second) * time.as_nanos() / 1_000_000_000;
                let time = self.told.wait(clock, |time| rounds(time) >= ROUNDS.into());
                let left = ROUNDS.saturating_sub(rounds(time) as u64);
                self.state.gprs[usize::from(gpr::RBX)] = left;
                Ok(if left == 0 { out(port::END, 1, &[0]) } else { Exit::Interrupted })
            }
            Act::Hang => {
                self.told.wait(clock, |_| false);
                Ok(Exit::Interrupted)
            }
            Act::Stuck => loop {
                self.told.wait(clock, |_| false);
            },
            Act::Fail => Err(Error::Run { error: std::io::Error::other("out of order") }),
        }
    }

    fn state(&self) -> Result<State, Error> {
        Ok(self.state.clone())
    }

    fn set_state(&mut self, state: &State) -> Result<(), Error> {
        let entries = SECTIONS.iter().map(|section| section.entry).chain([LOOP_ENTRY]);
        let section = entries.into_iter().position(|entry| start(entry) == *state);
        (self.section, self.act) = (section.expect("a section's start"), 0);
        self.state = state.clone();
        Ok(())
    }

    fn set_msr(&mut self, _: u32, _: u64) -> Result<(), Error> {
        Ok(())
    }

    fn inject(&mut self, _: Exception) -> Result<(), Error> {
        Ok(())
    }

    fn nmi(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn set_debug(&mut self, _: &GuestDebug) -> Result<(), Error> {
        Ok(())
    }

    fn counts(&self) -> Option<Counts> {
        None
    }
}
