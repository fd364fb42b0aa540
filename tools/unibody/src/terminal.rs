//! The terminal that Unibody runs on: raw mode, its size, and the signals that concern it.
//!
//! [`RawMode`] is what a guest's terminal session holds. The terminal is put back however that ends:
//! when it is dropped, before a panic's message is printed, and by the signals that
//! [`SignalWatch`] handles. What the keys mean is `escape.rs`.

use std::io::{self, IsTerminal};
use std::panic;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread::JoinHandle;

use guest_protocol::WindowSize;
use hv::host_error::explain;
use rustix::termios::{OptionalActions, Termios};
use signal_hook::consts::signal::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level;

/// What can go wrong with a terminal.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// Its settings can't be read or changed.
    #[error("cannot set the terminal to raw mode: {0}")]
    RawMode(#[source] io::Error),
    /// Signals can't be caught.
    #[error("cannot watch for signals: {}", explain(.0))]
    Signals(#[source] io::Error),
}

/// The settings from before raw mode. There is one terminal, and a panic on any thread and a signal
/// must find them.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

fn before() -> MutexGuard<'static, Option<Termios>> {
    // A panic between lock and unlock leaves a whole value all the same.
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether stdin and stdout are a terminal, so that a command in a guest gets one too.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Returns the size of the terminal that stdout is, unless it doesn't know.
pub fn window_size() -> Option<WindowSize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0)
        .then_some(WindowSize { rows: size.ws_row, cols: size.ws_col })
}

/// Raw mode of the terminal that stdin is: each byte as it is typed, none interpreted.
#[derive(Debug)]
#[must_use = "the terminal is put back when this is dropped"]
pub struct RawMode(());

impl RawMode {
    /// Sets raw mode. Only one may be held at a time.
    pub fn enter() -> Result<Self, TerminalError> {
        restore_before_panic_messages();
        let settings = rustix::termios::tcgetattr(io::stdin())
            .map_err(|error| TerminalError::RawMode(error.into()))?;
        *before() = Some(settings.clone());
        if let Err(error) = set_raw(settings) {
            *before() = None;
            return Err(TerminalError::RawMode(error));
        }
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back. Harmless when it isn't in raw mode; to be called before
/// `std::process::exit`, which drops nothing.
pub fn restore() {
    if let Some(settings) = before().take() {
        set(&settings);
    }
}

fn set_raw(mut settings: Termios) -> io::Result<()> {
    settings.make_raw();
    Ok(rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &settings)?)
}

/// Sets the terminal without waiting for output, which Ctrl-S may have stopped. A terminal that is
/// gone needs no settings.
fn set(settings: &Termios) {
    let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, settings);
}

fn restore_before_panic_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            print(info);
        }));
    });
}

/// A signal that the program has to do something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The window has this size now.
    Resized(WindowSize),
    /// Unibody is to end: SIGINT, SIGTERM, SIGHUP or SIGQUIT, by its number. When a second one comes
    /// the program is ended at once.
    End(i32),
}

/// Handles signals on a thread of its own until it is dropped.
#[derive(Debug)]
pub struct SignalWatch {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalWatch {
    /// Calls `on_signal`, on the watch's thread, for each signal that is the program's affair.
    ///
    /// Being stopped and going on is handled here: the terminal is put back for the shell.
    pub fn new(on_signal: impl FnMut(Signal) + Send + 'static) -> Result<Self, TerminalError> {
        let signals = [SIGWINCH, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT];
        let signals = Signals::new(signals).map_err(TerminalError::Signals)?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || watch(signals, on_signal))
            .map_err(TerminalError::Signals)?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It has panicked if this fails, and has said so.
            let _ = thread.join();
        }
    }
}

fn watch(mut signals: Signals, mut on_signal: impl FnMut(Signal)) {
    let mut ending = false;
    for signal in signals.forever() {
        match signal {
            SIGWINCH => {
                if let Some(size) = window_size() {
                    on_signal(Signal::Resized(size));
                }
            }
            SIGTSTP => {
                if let Some(settings) = &*before() {
                    set(settings);
                }
                let _ = low_level::emulate_default_handler(signal);
            }
            SIGCONT => {
                if let Some(settings) = before().clone() {
                    // In the background now, or without a terminal: the next key tells.
                    let _ = set_raw(settings);
                }
                if let Some(size) = window_size() {
                    on_signal(Signal::Resized(size));
                }
            }
            _ if ending => {
                restore();
                let _ = low_level::emulate_default_handler(signal);
            }
            _ => {
                ending = true;
                on_signal(Signal::End(signal));
            }
        }
    }
}
