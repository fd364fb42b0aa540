//! Takes a vCPU through the probe's program, on a thread of its own, and tells what it sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::clock::Clock;
use super::layout::start;
use super::program::{INSTRUCTIONS_A_ROUND, ROUNDS, port};
use super::script::{Direction, LOOP_ENTRY, SECTIONS, Section, Step};
use super::{Check, Finding, Seen};
use crate::x86::{Answer, Data, Exit, gpr};
use crate::{Error, Vcpu, Vm};

/// What the prober is told.
pub(super) enum Event {
    /// The machine has no vCPU: it could not be made.
    NoVcpu(Error),
    /// The vCPU is made, and enters the guest.
    Begins,
    /// Something was tried.
    Tried(Finding),
    /// From now on the vCPU is in the timed loop.
    LoopBegins,
    /// It is over.
    Looped {
        /// Executed in the loop.
        instructions: u64,
        /// How long that took.
        time: Duration,
    },
}

/// Makes the vCPU and takes it through the program, until `stopped`.
pub(super) fn run<V: Vm>(
    vm: &V,
    stopped: Arc<AtomicBool>,
    events: Sender<Event>,
    clock: impl Clock,
) {
    let vcpu = match vm.create_vcpu(0) {
        Ok(vcpu) => vcpu,
        Err(error) => return drop(events.send(Event::NoVcpu(error))),
    };
    let mut runner = Runner { vcpu, answer: Answer::None, stopped, events, clock };
    // Whoever ends early has told why.
    let _ = runner.through_all();
}

struct Runner<V, C> {
    vcpu: V,
    answer: Answer,
    /// The time is up.
    stopped: Arc<AtomicBool>,
    events: Sender<Event>,
    clock: C,
}

/// Why the guest is not where it should be.
enum Stray {
    /// The vCPU can go on from elsewhere.
    Lost(String),
    /// The vCPU can't go on.
    Dead(String),
    /// The time is up.
    Stopped,
}

/// There is nothing more to be tried.
struct End;

impl<V: Vcpu, C: Clock> Runner<V, C> {
    fn through_all(&mut self) -> Result<(), End> {
        let begin = self.vcpu.set_state(&start(SECTIONS[0].entry));
        if let Err(error) = begin {
            return self.tell(SECTIONS[0].check, Err(Stray::Dead(error.to_string())), 0);
        }
        self.events.send(Event::Begins).map_err(|_| End)?;
        let next_entries = SECTIONS.iter().skip(1).map(|section| section.entry);
        for (section, next) in SECTIONS.iter().zip(next_entries.chain([LOOP_ENTRY])) {
            let result = self.section(section);
            self.tell(section.check, result, next)?;
        }
        let result = self.timed_loop();
        self.tell(Check::Loop, result, LOOP_ENTRY)
    }

    /// Tells what came of a check, and brings a vCPU that went astray to what is `next`.
    fn tell(&mut self, check: Check, result: Result<Seen, Stray>, next: u64) -> Result<(), End> {
        let tell = |seen| self.events.send(Event::Tried(Finding { check, seen })).map_err(|_| End);
        match result {
            Ok(seen) => tell(seen),
            Err(Stray::Lost(what)) => {
                tell(Seen::Wrong(what))?;
                self.answer = Answer::None;
                self.vcpu.set_state(&start(next)).map_err(|_| End)
            }
            Err(Stray::Dead(what)) => tell(Seen::Wrong(what)).and(Err(End)),
            Err(Stray::Stopped) => Err(End),
        }
    }

    fn section(&mut self, section: &Section) -> Result<Seen, Stray> {
        let mut seen = Seen::Right;
        for step in section.steps {
            let found = self.step(step)?;
            if found != step.bytes && seen == Seen::Right {
                seen = Seen::Wrong(different(step, &found));
            }
        }
        Ok(seen)
    }

    /// Carries out a step; gives what was read or written.
    fn step(&mut self, step: &Step) -> Result<Vec<u8>, Stray> {
        let mut done = Vec::new();
        while done.len() < step.bytes.len() {
            let left = &step.bytes[done.len()..];
            match (self.next_exit()?, step.direction) {
                (Exit::In { port, size, count }, Direction::In)
                    if (port, size) == (step.port, step.size)
                        && (1..=left.len()).contains(&(usize::from(size) * usize::from(count))) =>
                {
                    let piece = &left[..usize::from(size) * usize::from(count)];
                    self.answer = Answer::Data(Data::new(piece));
                    done.extend_from_slice(piece);
                }
                (Exit::Out { port, size, data }, Direction::Out)
                    if (port, size) == (step.port, step.size)
                        && (1..=left.len()).contains(&data.as_slice().len()) =>
                {
                    done.extend_from_slice(data.as_slice());
                }
                (exit, _) => return Err(stray(&exit)),
            }
        }
        Ok(done)
    }

    fn timed_loop(&mut self) -> Result<Seen, Stray> {
        match self.next_exit()? {
            Exit::Out { port: port::LOOP, .. } => {}
            exit => return Err(stray(&exit)),
        }
        self.events.send(Event::LoopBegins).map_err(|_| Stray::Stopped)?;
        let begin = self.clock.now();
        let rounds = match self.next_exit() {
            Ok(Exit::Out { port: port::END, .. }) => ROUNDS,
            Err(Stray::Stopped) => {
                let state = self.vcpu.state().map_err(|error| Stray::Dead(error.to_string()))?;
                let left = state.gprs[usize::from(gpr::RBX)];
                let done = ROUNDS.checked_sub(left);
                done.ok_or_else(|| Stray::Dead(format!("its counter is {left:#x}")))?
            }
            Ok(exit) => return Err(stray(&exit)),
            Err(error) => return Err(error),
        };
        let time = self.clock.now().saturating_sub(begin);
        let instructions = rounds * INSTRUCTIONS_A_ROUND;
        let told = self.events.send(Event::Looped { instructions, time });
        told.map(|()| Seen::Right).map_err(|_| Stray::Stopped)
    }

    /// Runs the vCPU until it comes out for another reason than a signal that nobody means.
    fn next_exit(&mut self) -> Result<Exit, Stray> {
        loop {
            let answer = std::mem::replace(&mut self.answer, Answer::None);
            match self.vcpu.run(answer) {
                Ok(Exit::Interrupted) if self.stopped.load(Ordering::Acquire) => {
                    return Err(Stray::Stopped);
                }
                Ok(Exit::Interrupted) => {}
                Ok(exit) => return Ok(exit),
                Err(error) => return Err(Stray::Dead(error.to_string())),
            }
        }
    }
}

fn different(step: &Step, found: &[u8]) -> String {
    let (found, right) = (Data::new(found).word(), Data::new(step.bytes).word());
    format!("{} is {found:#x} instead of {right:#x}", step.what)
}

/// An exit that is not the one that had to come.
fn stray(exit: &Exit) -> Stray {
    match exit {
        Exit::Out { port: port::FAULT, data, .. } => {
            Stray::Lost(format!("there was exception {}", data.word()))
        }
        Exit::Out { port, .. } => Stray::Lost(format!("it wrote to port {port:#x} unasked")),
        Exit::MmioWrite { gpa, .. } => Stray::Lost(format!("{gpa:#x} is taken for a device")),
        Exit::Halted => Stray::Lost("it halted".into()),
        Exit::Shutdown => Stray::Lost("it shut down".into()),
        Exit::Unsupported { bytes, len } => {
            let bytes = &bytes[..usize::from(*len).min(bytes.len())];
            let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Stray::Lost(format!("it can't execute an instruction ({})", bytes.join(" ")))
        }
        // What waits for an answer can't be set to another place.
        Exit::In { port, .. } => Stray::Dead(format!("it read port {port:#x} unasked")),
        Exit::MmioRead { gpa, .. } => Stray::Dead(format!("{gpa:#x} is taken for a device")),
        Exit::BadMemory { gpa } => Stray::Dead(format!("it can't reach memory at {gpa:#x}")),
        Exit::EntryRefused { reason, .. } => {
            Stray::Dead(format!("the processor refuses to enter it, with reason {reason:#x}"))
        }
        Exit::Failed(errno) => Stray::Dead(format!("it failed with error {}", errno.0)),
        Exit::EndOfInterrupt { vector } => {
            Stray::Dead(format!("it ended interrupt {vector:#x} unasked"))
        }
        Exit::InterruptWindow
        | Exit::TaskPriority { .. }
        | Exit::TaskPriorityLowered
        | Exit::DirtyRingFull
        | Exit::ReadMsr { .. }
        | Exit::WriteMsr { .. } => Stray::Dead(format!("it came out unasked: {exit:?}")),
        Exit::Debug { .. } => Stray::Dead("it came out for a debugger".into()),
        Exit::Interrupted => Stray::Dead("it was interrupted".into()),
    }
}
