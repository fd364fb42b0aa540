//! What the end of a guest means: [`status`] gives the exit status, or the error to tell.

use guest_protocol::Written;
use hv::x86::{Attr, Seg, State, efer};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use vmm::control::Ending as SessionEnd;
use vmm::machine::Ending;

use crate::console::Console;
use crate::error::{self, Error};
use crate::relay::{Stop, signal_status};

/// All that is known of a guest when it has ended.
pub(crate) struct Ended<'a> {
    /// What the machine says.
    pub(crate) machine: Ending,
    /// What init has said, if it came to that.
    pub(crate) session: Option<SessionEnd>,
    /// Why the machine was ended from outside, if it was.
    pub(crate) stop: Option<&'a Stop>,
    /// The kernel's messages.
    pub(crate) console: &'a Console,
    /// How much output has come.
    pub(crate) received: Written,
    /// The guest had no init of Unibody's, which says what becomes of it: a person's own, or none.
    pub(crate) without_init: bool,
}

/// The exit status of `unibody run`.
pub(crate) fn status(ended: &Ended<'_>) -> Result<u8, Error> {
    match ended.stop {
        Some(Stop::Signal(signal)) if ended.session.is_none() => return Ok(signal_status(*signal)),
        Some(Stop::Quit) if ended.session.is_none() => return Ok(0),
        Some(Stop::Protocol(error)) => {
            return Err(Error::new("lost touch with the guest's init", error)
                .quote(ended.console.last_lines()));
        }
        Some(Stop::Output(error)) => {
            return Err(Error::new("cannot write the command's output", error::reason(error)));
        }
        _ => {}
    }
    if let Ending::Exit { value } = ended.machine {
        return Ok(debug_exit_status(value));
    }
    match &ended.session {
        Some(end) => session_status(end, ended),
        None => machine_status(ended),
    }
}

/// As QEMU's: never 0, which it keeps for a machine that was switched off.
fn debug_exit_status(value: u32) -> u8 {
    (value << 1 | 1) as u8
}

/// Init has said how the command ended: that counts, whatever the guest did after it.
fn session_status(end: &SessionEnd, ended: &Ended<'_>) -> Result<u8, Error> {
    match end {
        SessionEnd::Exited { written, .. } | SessionEnd::Killed { written, .. } => {
            check_output(*written, ended)?;
        }
        SessionEnd::NotStarted { message, .. } => {
            // As a shell does: the status is the command's, the message ours.
            error::say(&format!("unibody: in the guest: {message}"));
        }
        SessionEnd::Failed { message } => {
            return Err(
                Error::new("the guest's init failed", message).quote(ended.console.last_lines())
            );
        }
    }
    Ok(end.exit_status())
}

/// Nothing that the command wrote may be missing, unless a person has cut it off.
fn check_output(written: Written, ended: &Ended<'_>) -> Result<(), Error> {
    if matches!(ended.stop, Some(Stop::Signal(_) | Stop::Quit)) || written == ended.received {
        return Ok(());
    }
    let reason = format!(
        "{} of {} bytes of stdout and {} of {} bytes of stderr came",
        ended.received.stdout, written.stdout, ended.received.stderr, written.stderr
    );
    Err(Error::new("the command's output is not complete", reason).advise(REPORT))
}

const REPORT: &str = "This is a mistake in unibody: please report it";
const BEFORE: &str = "the guest ended before its command did";

fn machine_status(ended: &Ended<'_>) -> Result<u8, Error> {
    if let Some(panic) = ended.console.panic() {
        return Err(
            Error::new("the guest's kernel panicked", panic).quote(ended.console.last_lines())
        );
    }
    let error = match &ended.machine {
        Ending::PowerOff | Ending::Reset if ended.without_init => return Ok(0),
        Ending::Exit { value } => return Ok(debug_exit_status(*value)),
        Ending::PowerOff => Error::new(BEFORE, "it switched itself off"),
        Ending::Reset => Error::new(BEFORE, "it reset itself"),
        Ending::Panicked => {
            Error::new("the guest's kernel panicked", "nothing on its console says why")
        }
        Ending::TripleFault { state } => {
            Error::new("the guest's processor shut down", triple_fault(state))
        }
        Ending::Halted { state } => Error::new(
            "the guest stopped for good",
            format!("its processors are halted with interrupts off, at RIP {:#x}", state.rip),
        ),
        Ending::Unsupported { bytes, state } => unsupported(bytes, state),
        Ending::Failed(error @ hv::Error::Diverged { .. }) => {
            Error::new("the guest's code was translated wrongly", error).advise(REPORT)
        }
        Ending::Failed(error @ hv::Error::Stuck { .. }) => {
            Error::new("cannot go on with the guest", error)
                .advise("The host's kernel may say more (dmesg)")
        }
        Ending::Failed(error) => Error::new("cannot go on with the guest", error),
        Ending::Stopped => Error::new(BEFORE, "it was stopped").advise(REPORT),
    };
    Err(error.quote(ended.console.last_lines()))
}

/// What AMD's processors save of a guest that shuts down is undefined, so Linux's KVM has reset the vCPU: a guest never comes
/// to where that starts. See: AMD APM vol. 2, 15.14.3.
fn triple_fault(state: &State) -> String {
    let start = State::at_reset();
    let place = |state: &State| (state.segments[Seg::Cs as usize].base, state.rip);
    if place(state) == place(&start) {
        return "triple fault; this host's KVM does not tell where".into();
    }
    format!("triple fault at RIP {:#x}, CR2 {:#x}", state.rip, state.cr2)
}

fn unsupported(bytes: &[u8], state: &State) -> Error {
    if bytes.is_empty() {
        return Error::new(
            "the guest's processor went astray",
            format!("there is no memory to execute at RIP {:#x}", state.rip),
        );
    }
    let hexadecimal: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Error::new(
        "the guest uses an instruction that this engine lacks",
        format!(
            "{} ({}) at RIP {:#x}",
            disassemble(bytes, state),
            hexadecimal.join(" "),
            state.rip
        ),
    )
    .advise(format!(
        "Please report this line, with the program that was running and what unibody --version prints ({})",
        env!("CARGO_PKG_VERSION")
    ))
}

/// The first instruction of `bytes`, in the mode that the processor was in.
fn disassemble(bytes: &[u8], state: &State) -> String {
    let code = state.segments[Seg::Cs as usize].attr;
    let bits = if state.efer & efer::LMA != 0 && code.has(Attr::L) {
        64
    } else if code.has(Attr::DB) {
        32
    } else {
        16
    };
    let mut decoder = Decoder::with_ip(bits, bytes, state.rip, DecoderOptions::NONE);
    if !decoder.can_decode() {
        return "unknown bytes".into();
    }
    let mut text = String::new();
    IntelFormatter::new().format(&decoder.decode(), &mut text);
    text
}

#[cfg(test)]
#[path = "ending_test.rs"]
mod ending_test;
