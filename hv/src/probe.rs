//! [`probe`]: tries a hypervisor with a small guest, since what it says of itself is not enough.
//!
//! The guest starts in ring 0 of 64-bit mode and tries one thing after the other; it tells what it finds
//! by writing to ports, and what it has to find is written down. Then it goes round in a loop, and it is
//! looked how far it comes. A device can open, answer every query, and still execute ring 0 an
//! instruction at a time, or some of them wrongly.
//!
//! - `program`: what the guest executes;
//! - `script`: what it has to do to be right;
//! - `layout`: its memory, and the state in which it starts;
//! - `run`: takes a vCPU through it, on a thread of its own;
//! - `clock`: what tells the time, and waits;
//! - here: when the time is up, and what came of it ([`Outcome`]).

mod clock;
mod layout;
mod program;
mod run;
mod script;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use self::clock::{Clock, HostClock};
use self::run::Event;
use crate::{Error, Hypervisor, Irqchip, MemoryFlags, Vm, VmConfig};

/// How many instructions a second a hypervisor must execute to be fit.
///
/// Between what is seen: a processor that virtualizes executes more than 500 million a second of the timed
/// loop, even one that has something else to do at the same time, and emulation by the host's kernel one.
pub const SPEED_FLOOR: u64 = 30_000_000;

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Control registers, segments and model-specific registers.
    Ring0,
    /// Page tables, and a page fault.
    Paging,
    /// The local APIC.
    Interrupt,
    /// Port I/O.
    Ports,
    /// CMPXCHG16B.
    Atomic,
    /// The timed loop.
    Loop,
}

impl Check {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 6] =
        [Self::Ring0, Self::Paging, Self::Interrupt, Self::Ports, Self::Atomic, Self::Loop];

    /// In a few words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring0 => "ring 0",
            Self::Paging => "paging",
            Self::Interrupt => "interrupt",
            Self::Ports => "port I/O",
            Self::Atomic => "cmpxchg16b",
            Self::Loop => "loop",
        }
    }
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was right.
    Right,
    /// It was not, and this is how.
    Wrong(String),
    /// It did not come that far, or not in time.
    Nothing,
}

/// A check, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub check: Check,
    /// What came of it.
    pub seen: Seen,
}

/// What a probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Of each of [`Check::ALL`], in that order.
    pub findings: Vec<Finding>,
    /// Instructions a second in the timed loop, if it came to that.
    pub speed: Option<u64>,
    /// How long all took.
    pub elapsed: Duration,
}

/// Why a hypervisor is not fit to run guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw<'a> {
    /// It executes so many instructions a second.
    Slow(u64),
    /// It does something wrongly.
    Wrong(Check, &'a str),
    /// It was not done when its time was up.
    Late,
}

impl Outcome {
    /// Nothing was tried yet.
    fn empty() -> Self {
        let findings = Check::ALL.map(|check| Finding { check, seen: Seen::Nothing });
        Self { findings: findings.into(), speed: None, elapsed: Duration::ZERO }
    }

    fn note(&mut self, finding: Finding) {
        let known = self.findings.iter_mut().find(|known| known.check == finding.check);
        known.expect("all checks have a place").seen = finding.seen;
    }

    /// Why guests should not be run here; none if they may be.
    #[must_use]
    pub fn flaw(&self) -> Option<Flaw<'_>> {
        let wrong = self.findings.iter().find_map(|finding| match &finding.seen {
            Seen::Wrong(what) => Some(Flaw::Wrong(finding.check, what.as_str())),
            _ => None,
        });
        let all_right = self.findings.iter().all(|finding| finding.seen == Seen::Right);
        match self.speed {
            Some(speed) if speed < SPEED_FLOOR => Some(Flaw::Slow(speed)),
            Some(_) if all_right => None,
            _ => Some(wrong.unwrap_or(Flaw::Late)),
        }
    }

    /// All was right, and fast enough.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.flaw().is_none()
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// The vCPU's making. That is the host's work, and says nothing about how it runs guests.
    making: Duration,
    /// From then to the loop's begin.
    checks: Duration,
    /// The loop: then it is cut short.
    looping: Duration,
    /// From the request to come out until it is given up.
    grace: Duration,
}

const LIMITS: Limits = Limits {
    making: Duration::from_millis(100),
    checks: Duration::from_millis(20),
    looping: Duration::from_millis(6),
    grace: Duration::from_millis(10),
};

/// Tries a hypervisor. Takes what it takes to make a machine, and 26 ms at most: some 7 if all is well. If the vCPU does
/// not come out when it is told to, that are 10 ms more, and it is left to itself.
///
/// # Errors
/// When no machine can be made.
pub fn probe<H: Hypervisor>(hypervisor: &H) -> Result<Outcome, Error> {
    probe_by(hypervisor, &HostClock::start())
}

/// The same, by this clock.
fn probe_by<H: Hypervisor>(hypervisor: &H, clock: &(impl Clock + Clone)) -> Result<Outcome, Error> {
    let begin = clock.now();
    let vm = Arc::new(hypervisor.create_vm(VmConfig { cpus: 1, irqchip: Irqchip::default() })?);
    let memory =
        layout::memory().ok_or_else(|| Error::Start(std::io::ErrorKind::OutOfMemory.into()))?;
    vm.add_memory(memory, MemoryFlags::default())?;
    let (sender, events) = mpsc::channel();
    let stopped = Arc::new(AtomicBool::new(false));
    let watch = Watch { vm: Arc::downgrade(&vm), stopped: Arc::clone(&stopped), clock };
    // The machine is the thread's: nobody waits until it is taken apart, or for one that is stuck.
    let times = clock.clone();
    let body = move || run::run(&*vm, stopped, sender, times);
    thread::Builder::new().name("probe".into()).spawn(body).map_err(Error::Start)?;
    let mut outcome = Outcome::empty();
    watch.until_end(&events, &mut outcome)?;
    outcome.elapsed = clock.now().saturating_sub(begin);
    Ok(outcome)
}

/// Looks at the clock while a vCPU is taken through the program.
struct Watch<'a, V, C> {
    vm: Weak<V>,
    stopped: Arc<AtomicBool>,
    clock: &'a C,
}

impl<V: Vm, C: Clock> Watch<'_, V, C> {
    fn until_end(&self, events: &Receiver<Event>, outcome: &mut Outcome) -> Result<(), Error> {
        let mut until = self.clock.now() + LIMITS.making;
        loop {
            match self.clock.wait(events, until) {
                Ok(Event::NoVcpu(error)) => return Err(error),
                Ok(Event::Begins) => until = self.clock.now() + LIMITS.checks,
                Ok(Event::Tried(finding)) => outcome.note(finding),
                Ok(Event::LoopBegins) => until = self.clock.now() + LIMITS.looping,
                Ok(Event::Looped { instructions, time }) => {
                    outcome.speed = Some(speed(instructions, time));
                }
                Err(RecvTimeoutError::Timeout) if !self.stopped.load(Ordering::Acquire) => {
                    self.stop();
                    until = self.clock.now() + LIMITS.grace;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(vm) = self.vm.upgrade() {
            vm.interrupt_vcpus();
        }
    }
}

fn speed(instructions: u64, time: Duration) -> u64 {
    // What takes no time at all takes less than the clock shows.
    let nanoseconds = time.as_nanos().max(1);
    (u128::from(instructions) * 1_000_000_000 / nanoseconds) as u64
}

#[cfg(test)]
#[path = "probe/probe_test.rs"]
mod probe_test;

#[cfg(test)]
pub(crate) mod scripted;
