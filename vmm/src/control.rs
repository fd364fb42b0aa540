//! The host's half of a command's session in a guest: what is said on the control line, and when stdin may flow.
//!
//! [`Session`] is a state machine without input or output of its own. Whoever owns the lines
//! gives it what comes from the control line ([`Session::receive`]), puts onto it what it wants to say
//! ([`Session::take_outgoing`]), and asks it before sending stdin on the data line
//! ([`Session::stdin_allowance`]). After each call to `receive` both answers may have changed.
//!
//! Neighbours: `guest-protocol` has the messages and the rules, `guest/init` is the other half, the
//! lines are the ports of `virtio/console.rs`, or the UARTs of `devices/serial.rs`.

use guest_protocol::{
    DecodeError, Decoder, EncodeError, FromGuest, Line, Message, OutputStream, Start, ToGuest,
    WINDOW, WindowSize, Written,
};

/// Linux's number for "no such file or directory".
const ENOENT: i32 = 2;

/// Why a session can't begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The command can't be handed to the guest.
    #[error("cannot pass the command to the guest: {0}")]
    Command(#[source] EncodeError),
    /// What came from the guest is no message.
    #[error("the guest's control channel carries {0}")]
    Decode(#[from] DecodeError),
    /// A message came at a point where it makes no sense.
    #[error("the guest's init said '{message}' out of turn")]
    Order {
        /// The message's name.
        message: &'static str,
    },
    /// Init says that it has received more than was sent, or less than before.
    #[error("the guest's init acknowledged {total} bytes of the {sent} that were sent")]
    Acknowledged {
        /// What it says.
        total: u64,
        /// What is true.
        sent: u64,
    },
}

/// What happens in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Init is up: the kernel has booted.
    Ready,
    /// The command runs. [`Session::stdin_allowance`] is no longer 0.
    Started,
    /// Something that the person should know; the guest goes on.
    Warning(String),
    /// The command doesn't read its stdin any more: the host's may be closed.
    StdinClosed,
    /// It is over; init powers the guest off.
    Ended(Ending),
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The command ended by itself.
    Exited {
        /// Its exit status.
        status: u8,
        /// How much there is of stdout and stderr: the session is complete when all of it has come.
        written: Written,
    },
    /// A signal ended the command.
    Killed {
        /// The signal's number.
        signal: u8,
        /// As for [`Self::Exited`].
        written: Written,
    },
    /// The command could not be started.
    NotStarted {
        /// Linux's error number.
        errno: i32,
        /// What init was doing and what went wrong.
        message: String,
    },
    /// Init could not go on.
    Failed {
        /// What init was doing and what went wrong.
        message: String,
    },
}

impl Ending {
    /// Returns the exit status that a shell would give for this; 125 where it is no fault of the command's.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Exited { status, .. } => *status,
            Self::Killed { signal, .. } => 128u8.saturating_add(*signal),
            Self::NotStarted { errno: ENOENT, .. } => 127,
            Self::NotStarted { .. } => 126,
            Self::Failed { .. } => 125,
        }
    }
}

/// A line to the guest: how much was sent and how much of it has been received.
#[derive(Debug, Default)]
struct Flow {
    sent: u64,
    received: u64,
}

impl Flow {
    fn allowance(&self) -> u64 {
        WINDOW.saturating_sub(self.sent - self.received)
    }

    fn acknowledge(&mut self, total: u64) -> Result<(), ControlError> {
        if total < self.received || total > self.sent {
            return Err(ControlError::Acknowledged { total, sent: self.sent });
        }
        self.received = total;
        Ok(())
    }
}

/// How far a session has come.
#[derive(Debug)]
enum Stage {
    /// The guest boots. What the command is to be waits here.
    Booting(Box<Start>),
    /// Init has been told what to run.
    Starting,
    /// The command runs.
    Running,
    /// The command, or init, has ended.
    Over,
}

/// The host's half of a session.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    decoder: Decoder<FromGuest>,
    /// Messages that wait for the guest to be ready, or for it to receive earlier ones.
    outgoing: Vec<u8>,
    control: Flow,
    stdin: Flow,
    stdin_open: bool,
}

impl Session {
    /// A session for this command, in a guest that has yet to boot.
    pub fn new(command: Start) -> Result<Self, ControlError> {
        let message = ToGuest::Start(command.into());
        // Said later, but checked now: nobody waits for a boot to learn of a typing error.
        message.encode(&mut Vec::new()).map_err(ControlError::Command)?;
        let ToGuest::Start(command) = message else { unreachable!("made above") };
        Ok(Self {
            stage: Stage::Booting(command),
            decoder: Decoder::default(),
            outgoing: Vec::new(),
            control: Flow::default(),
            stdin: Flow::default(),
            stdin_open: true,
        })
    }

    /// Takes what came from the control line, in pieces of any size, and returns what happened.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Vec<Event>, ControlError> {
        let mut events = Vec::new();
        while !matches!(self.stage, Stage::Over) {
            let Some(message) = self.decoder.decode(&mut bytes)? else { break };
            events.extend(self.handle(message)?);
        }
        Ok(events)
    }

    /// Takes what is to be put onto the control line now; often nothing.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        if matches!(self.stage, Stage::Booting(_)) {
            return Vec::new();
        }
        let allowance = usize::try_from(self.control.allowance()).unwrap_or(usize::MAX);
        let rest = self.outgoing.split_off(allowance.min(self.outgoing.len()));
        let bytes = std::mem::replace(&mut self.outgoing, rest);
        self.control.sent += bytes.len() as u64;
        bytes
    }

    /// Returns how many bytes of stdin, or of keys, may be put onto the data line now.
    pub fn stdin_allowance(&self) -> usize {
        match self.stage {
            Stage::Running if self.stdin_open => {
                usize::try_from(self.stdin.allowance()).unwrap_or(usize::MAX)
            }
            _ => 0,
        }
    }

    /// Says that so many bytes were put onto the data line.
    pub fn stdin_sent(&mut self, count: usize) {
        self.stdin.sent += count as u64;
    }

    /// Says that the host's stdin is at its end. Before the start this is allowed too.
    pub fn end_stdin(&mut self) {
        if self.stdin_open {
            self.stdin_open = false;
            self.send(&ToGuest::StdinEnd { total: self.stdin.sent });
        }
    }

    /// Says that the host's window has another size.
    pub fn resize(&mut self, size: WindowSize) {
        match &mut self.stage {
            Stage::Booting(start) => {
                if let Some(terminal) = &mut start.terminal {
                    terminal.size = size;
                }
            }
            _ => self.send(&ToGuest::WindowSize(size)),
        }
    }

    /// Sends the command's process group a signal, by Linux's number. Others than 1–64 are ignored.
    pub fn signal(&mut self, signal: u8) {
        self.send(&ToGuest::Signal(signal));
    }

    /// Says that nobody reads this output on the host any more. What the guest still sends of it is
    /// to be dropped.
    pub fn output_closed(&mut self, stream: OutputStream) {
        self.send(&ToGuest::OutputClosed(stream));
    }

    /// Queues a message; what comes before the start is sent right after it.
    fn send(&mut self, message: &ToGuest) {
        if !matches!(self.stage, Stage::Over) {
            // Short messages all: only a bad signal number can be refused.
            let _ = message.encode(&mut self.outgoing);
        }
    }

    fn handle(&mut self, message: FromGuest) -> Result<Option<Event>, ControlError> {
        let out_of_turn = |message| Err(ControlError::Order { message });
        let event = match (message, &mut self.stage) {
            (FromGuest::Ready, Stage::Booting(start)) => {
                let mut first = Vec::new();
                let start = ToGuest::Start(std::mem::take(start));
                start.encode(&mut first).map_err(ControlError::Command)?;
                first.append(&mut self.outgoing);
                self.outgoing = first;
                self.stage = Stage::Starting;
                Some(Event::Ready)
            }
            (FromGuest::Started, Stage::Starting) => {
                self.stage = Stage::Running;
                Some(Event::Started)
            }
            (FromGuest::ExecFailed { errno, message }, Stage::Starting) => {
                Some(self.end(Ending::NotStarted { errno, message }))
            }
            (FromGuest::Received { line, total }, Stage::Starting | Stage::Running) => {
                match line {
                    Line::Stdin => self.stdin.acknowledge(total)?,
                    Line::Control => self.control.acknowledge(total)?,
                }
                None
            }
            (FromGuest::StdinClosed, Stage::Running) => {
                // Not `end_stdin`: init knows.
                self.stdin_open = false;
                Some(Event::StdinClosed)
            }
            (FromGuest::Exited { status, written }, Stage::Running) => {
                Some(self.end(Ending::Exited { status, written }))
            }
            (FromGuest::Killed { signal, written }, Stage::Running) => {
                Some(self.end(Ending::Killed { signal, written }))
            }
            (FromGuest::Warning { message }, _) => Some(Event::Warning(message)),
            (FromGuest::Failed { message }, _) => Some(self.end(Ending::Failed { message })),
            (FromGuest::Ready, _) => return out_of_turn("ready"),
            (FromGuest::Started, _) => return out_of_turn("started"),
            (FromGuest::ExecFailed { .. }, _) => return out_of_turn("exec failed"),
            (FromGuest::Received { .. }, _) => return out_of_turn("received"),
            (FromGuest::StdinClosed, _) => return out_of_turn("stdin closed"),
            (FromGuest::Exited { .. }, _) => return out_of_turn("exited"),
            (FromGuest::Killed { .. }, _) => return out_of_turn("killed"),
        };
        Ok(event)
    }

    fn end(&mut self, ending: Ending) -> Event {
        self.stage = Stage::Over;
        self.outgoing = Vec::new();
        Event::Ended(ending)
    }
}

#[cfg(test)]
#[path = "control_test.rs"]
mod tests;
