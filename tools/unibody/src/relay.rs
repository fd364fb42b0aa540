//! What lies between the guest's lines and this process's streams: [`Relay`].
//!
//! It holds the session with the guest's init, decides what may be sent to the guest and when, and
//! ends the machine when there is a reason on this side. The threads that read and write are in
//! `streams.rs`.
//!
//! Locks: `state` may be held while a [`Queue`](vmm::devices::stream::Queue) is filled, because no more than
//! [`guest_protocol::WINDOW`] bytes are ever in one that it fills, so nothing waits there.
//! [`Reach::receive`] takes a UART's lock, under which a vCPU may be waiting for stdout: it is called
//! without `state`, so that signals are served whatever the reader of stdout does.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use guest_protocol::{OutputStream, WindowSize};
use vmm::control::{ControlError, Ending, Event, Session};
use vmm::devices::stream::Ends;
use vmm::machine::Handle;

use crate::console::{Console, News};
use crate::error::say;

/// The kernel's console, and that of an init of a person's own.
pub(crate) const CONSOLE: usize = 0;
/// The command's stdin and stdout, or its terminal.
pub(crate) const DATA: usize = 1;
/// The command's stderr.
pub(crate) const STDERR: usize = 2;
/// Messages to and from init.
pub(crate) const CONTROL: usize = 3;

/// How long a command may take to end after a signal, and a guest to switch itself off.
const GRACE: Duration = Duration::from_secs(10);
/// More keys than anybody types while a guest boots.
const MAX_KEYS: usize = 64 << 10;

/// The host's ends of the four lines. Each is behind a UART, and behind a port of the virtio console if there is one: init uses one kind
/// of them, and nothing is sent before it has said on that kind that it is ready, so neither side need say which.
#[derive(Clone, Default)]
pub(crate) struct Lines(pub(crate) [Ends; 4]);

impl Lines {
    /// From now on nobody waits for any of them.
    pub(crate) fn close(&self) {
        self.0.iter().flat_map(|ends| [&ends.input, &ends.output]).for_each(|queue| queue.close());
    }
}

/// What the relay needs of a running machine.
pub(crate) trait Reach: Send + Sync {
    /// Bytes were put into the line's input.
    fn receive(&self, line: usize);
    /// The machine is to end.
    fn stop(&self);
}

impl<V: hv::Vm> Reach for Handle<V> {
    fn receive(&self, line: usize) {
        Handle::receive(self, line);
    }

    fn stop(&self) {
        Handle::stop(self);
    }
}

/// Why the machine was ended from this side.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A signal to this process.
    Signal(i32),
    /// The key for it.
    Quit,
    /// The kernel has panicked and does nothing any more.
    KernelDead,
    /// The guest has not switched itself off after its command's end.
    NoPowerOff,
    /// Init said what makes no sense.
    Protocol(ControlError),
    /// The command's output can't be written.
    Output(io::Error),
}

/// What is shared by the threads of `streams.rs`.
pub(crate) struct Relay {
    pub(crate) lines: Lines,
    machine: Box<dyn Reach>,
    /// Whether stdin and stdout are a terminal in raw mode.
    pub(crate) interactive: bool,
    /// Whether the kernel's messages are shown on stderr.
    verbose: bool,
    state: Mutex<State>,
    /// `state` has changed in a way that the reader of stdin may be waiting for.
    changed: Condvar,
    console: Mutex<Console>,
    stop: OnceLock<Stop>,
    /// The machine's run is over.
    over: AtomicBool,
    /// Called when init is up.
    booted: Box<dyn Fn() + Send + Sync>,
}

struct State {
    /// None if the guest has an init of a person's own.
    session: Option<Session>,
    started: bool,
    /// Read from stdin, not yet sent.
    input: Vec<u8>,
    input_ended: bool,
    input_unwanted: bool,
    ended: Option<Ending>,
}

/// How a relay behaves.
pub(crate) struct Manner {
    /// Whether stdin and stdout are a terminal in raw mode.
    pub(crate) interactive: bool,
    /// Whether the kernel's messages are shown.
    pub(crate) verbose: bool,
    /// Called when init is up.
    pub(crate) booted: Box<dyn Fn() + Send + Sync>,
}

impl Relay {
    /// A relay for a machine that has been made with `lines`. Without a session stdin and stdout are
    /// the kernel's console.
    pub(crate) fn new(
        lines: Lines,
        machine: impl Reach + 'static,
        session: Option<Session>,
        manner: Manner,
    ) -> Relay {
        // The console is shown already if it is stdout.
        let verbose = manner.verbose && session.is_some();
        let state = State {
            session,
            started: false,
            input: Vec::new(),
            input_ended: false,
            input_unwanted: false,
            ended: None,
        };
        Relay {
            lines,
            machine: Box::new(machine),
            interactive: manner.interactive,
            verbose,
            state: Mutex::new(state),
            changed: Condvar::new(),
            console: Mutex::default(),
            stop: OnceLock::new(),
            over: AtomicBool::new(false),
            booted: manner.booted,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the kernel has said.
    pub(crate) fn console(&self) -> MutexGuard<'_, Console> {
        self.console.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether stdin and stdout are the kernel's console.
    pub(crate) fn is_console(&self) -> bool {
        self.lock().session.is_none()
    }

    /// How the session has ended, if it has.
    pub(crate) fn session_end(&self) -> Option<Ending> {
        self.lock().ended.clone()
    }

    /// Ends the machine. The first reason counts.
    pub(crate) fn stop(&self, reason: Stop) {
        let _ = self.stop.set(reason);
        // A vCPU may be waiting for room there.
        self.lines.close();
        self.machine.stop();
        self.changed.notify_all();
    }

    /// Why the machine was ended from this side, if it was.
    pub(crate) fn stopped(&self) -> Option<&Stop> {
        self.stop.get()
    }

    /// Takes bytes from the control line.
    pub(crate) fn control(self: &Arc<Self>, bytes: &[u8]) {
        let mut state = self.lock();
        let received = match &mut state.session {
            Some(session) => session.receive(bytes),
            None => Ok(Vec::new()),
        };
        let events = match received {
            Ok(events) => events,
            Err(error) => {
                drop(state);
                return self.stop(Stop::Protocol(error));
            }
        };
        for event in events {
            match event {
                Event::Ready => (self.booted)(),
                Event::Started => state.started = true,
                Event::Warning(message) => say(&warning(&message, self.interactive)),
                Event::StdinClosed => state.input_unwanted = true,
                Event::Ended(ending) => {
                    state.ended = Some(ending);
                    self.stop_later(Stop::NoPowerOff);
                }
            }
        }
        drop(state);
        self.changed.notify_all();
        self.send_control();
        self.send_input();
    }

    /// Takes messages of the kernel.
    pub(crate) fn kernel_message(&self, bytes: &[u8]) {
        if self.verbose {
            let mut text = bytes.to_vec();
            if !self.interactive {
                text.retain(|byte| *byte != b'\r');
            }
            let _ = io::Write::write_all(&mut io::stderr(), &text);
        }
        let news = self.console().add(bytes);
        if news == News::Dead {
            self.stop(Stop::KernelDead);
        }
    }

    /// Takes bytes for the guest.
    pub(crate) fn input(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if state.session.is_none() {
            drop(state);
            // Here it may wait for room: the guest takes what it likes.
            self.lines.0[CONSOLE].input.push(bytes);
            return self.machine.receive(CONSOLE);
        }
        // Only keys come faster than they are asked for.
        if state.input.len() + bytes.len() <= MAX_KEYS {
            state.input.extend_from_slice(bytes);
        }
        drop(state);
        self.send_input();
    }

    /// There are no more bytes for the guest.
    pub(crate) fn end_input(&self) {
        self.lock().input_ended = true;
        self.send_input();
        self.send_control();
    }

    /// Waits until the guest can take input, and returns how much; None if it never will.
    pub(crate) fn wait_for_room(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if self.stopped().is_some() || state.ended.is_some() || state.input_unwanted {
                return None;
            }
            let Some(session) = &state.session else { return Some(MAX_KEYS) };
            let room = session.stdin_allowance();
            if state.input.is_empty() && room > 0 {
                return Some(room);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nobody reads this output any more, or it can't be written for another reason.
    pub(crate) fn output_failed(&self, stream: OutputStream, error: io::Error) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            return self.stop(Stop::Output(error));
        }
        const SIGPIPE: i32 = 13;
        match &mut self.lock().session {
            Some(session) => session.output_closed(stream),
            None => return self.stop(Stop::Signal(SIGPIPE)),
        }
        self.send_control();
    }

    /// The window has another size.
    pub(crate) fn resize(&self, size: WindowSize) {
        if let Some(session) = &mut self.lock().session {
            session.resize(size);
        }
        self.send_control();
    }

    /// This process is to end. A command that runs without a terminal is sent the signal, as it would
    /// be without a guest around it; everything else ends at once.
    pub(crate) fn signal(self: &Arc<Self>, signal: i32) {
        if self.over.load(Ordering::Acquire) {
            // The last output can't be written; nobody is to wait for that.
            crate::terminal::restore();
            std::process::exit(signal_status(signal).into());
        }
        let mut state = self.lock();
        let runs = state.started && state.ended.is_none() && !self.interactive;
        match (&mut state.session, u8::try_from(signal)) {
            (Some(session), Ok(number)) if runs => session.signal(number),
            _ => {
                drop(state);
                return self.stop(Stop::Signal(signal));
            }
        }
        drop(state);
        self.send_control();
        self.stop_later(Stop::Signal(signal));
    }

    /// The machine's run is over. What it has left may still come on the lines, until they are closed.
    pub(crate) fn set_over(&self) {
        self.over.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Ends the machine if it has not ended by itself until then.
    fn stop_later(self: &Arc<Self>, reason: Stop) {
        let relay = Arc::clone(self);
        let thread = std::thread::Builder::new().name("grace".into()).spawn(move || {
            std::thread::sleep(GRACE);
            // What has ended is not cut off while its output is written, however long that takes.
            if !relay.over.load(Ordering::Acquire) {
                relay.stop(reason);
            }
        });
        if thread.is_err() {
            say("unibody: warning: the guest is given no time limit to end: no thread to be had");
        }
    }

    /// Puts onto the control line what the session has to say.
    fn send_control(&self) {
        let mut state = self.lock();
        let Some(session) = &mut state.session else { return };
        let bytes = session.take_outgoing();
        if bytes.is_empty() {
            return;
        }
        // Under the lock, so that messages stay in order.
        self.lines.0[CONTROL].input.push(&bytes);
        drop(state);
        self.machine.receive(CONTROL);
    }

    /// Puts onto the data line as much input as the guest can take.
    fn send_input(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(session) = &mut state.session else { return };
        let count = session.stdin_allowance().min(state.input.len());
        if count > 0 {
            let bytes: Vec<u8> = state.input.drain(..count).collect();
            self.lines.0[DATA].input.push(&bytes);
            session.stdin_sent(count);
        }
        let all_sent = state.input.is_empty();
        if all_sent && state.input_ended {
            session.end_stdin();
        }
        drop(guard);
        if count > 0 {
            self.machine.receive(DATA);
        }
        if all_sent {
            self.changed.notify_all();
            self.send_control();
        }
    }
}

/// What the guest's init has to say, as the person is told it: one line, and nothing that a terminal obeys.
fn warning(message: &str, interactive: bool) -> String {
    let text: String = message.chars().filter(|letter| !letter.is_control()).collect();
    format!("unibody: {text}{}", if interactive { "\r" } else { "" })
}

/// The exit status that a shell gives for a process that a signal has ended.
pub(crate) fn signal_status(signal: i32) -> u8 {
    u8::try_from(signal).unwrap_or(0).saturating_add(128)
}

#[cfg(test)]
#[path = "relay_test.rs"]
mod relay_test;
