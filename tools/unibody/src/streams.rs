//! The threads that read and write this process's stdin, stdout and stderr: [`Threads`].
//!
//! Neighbour: `relay.rs` decides; these wait.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use guest_protocol::{OutputStream, Written};
use rustix::event::{PollFd, PollFlags, poll};

use crate::escape::{self, Action, EscapeFilter};
use crate::relay::{CONSOLE, CONTROL, DATA, Relay, STDERR, Stop};

/// How much is read at once.
const BUFFER: usize = 64 << 10;

/// The threads that write. The one that reads is not waited for: there is no way to call it back
/// from a read.
pub(crate) struct Threads {
    console: JoinHandle<u64>,
    control: JoinHandle<()>,
    stdout: JoinHandle<u64>,
    stderr: JoinHandle<u64>,
}

impl Threads {
    /// Starts them.
    pub(crate) fn start(relay: &Arc<Relay>) -> io::Result<Threads> {
        let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let reader = if relay.interactive { read_keys } else { read_pipe };
        spawn("stdin", relay, move |relay| reader(relay, stdin))?;
        let console_output = if relay.is_console() { Some(stdout.try_clone()?) } else { None };
        Ok(Threads {
            console: spawn("console", relay, move |relay| write_console(relay, console_output))?,
            control: spawn("control", relay, serve_control)?,
            stdout: spawn("stdout", relay, move |relay| {
                write_output(relay, DATA, OutputStream::Stdout, stdout)
            })?,
            stderr: spawn("stderr", relay, move |relay| {
                write_output(relay, STDERR, OutputStream::Stderr, stderr)
            })?,
        })
    }

    /// Waits, when no more bytes come from the guest, until all that came was served, and returns
    /// how much there was. If the machine was ended by a person, output that is stuck is left.
    pub(crate) fn finish(self, relay: &Relay) -> Written {
        // A thread that panicked has ended the process.
        let _ = self.control.join();
        if matches!(relay.stopped(), Some(Stop::Signal(_) | Stop::Quit)) {
            return Written::default();
        }
        let _ = self.console.join();
        Written {
            stdout: self.stdout.join().unwrap_or_default(),
            stderr: self.stderr.join().unwrap_or_default(),
        }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    relay: &Arc<Relay>,
    work: impl FnOnce(&Arc<Relay>) -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let relay = Arc::clone(relay);
    Builder::new().name(name.into()).spawn(move || work(&relay))
}

/// Reads stdin as the guest asks for it: what is left is for whoever reads next.
fn read_pipe(relay: &Arc<Relay>, mut stdin: File) {
    let mut buffer = vec![0; BUFFER];
    while let Some(room) = relay.wait_for_room() {
        match read(&mut stdin, &mut buffer[..room.min(BUFFER)]) {
            // A stdin that can't be read (a directory, say) is as good as empty.
            Ok(0) | Err(_) => return relay.end_input(),
            Ok(count) => relay.input(&buffer[..count]),
        }
    }
}

/// Reads keys at all times: some are ours.
fn read_keys(relay: &Arc<Relay>, mut stdin: File) {
    const SIGHUP: i32 = 1;
    let mut filter = EscapeFilter::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match read(&mut stdin, &mut buffer) {
            Ok(0) | Err(_) => return relay.stop(Stop::Signal(SIGHUP)),
            Ok(count) => count,
        };
        let mut rest = &buffer[..count];
        loop {
            let mut keys = Vec::new();
            let action = filter.filter(rest, &mut keys);
            if !keys.is_empty() {
                relay.input(&keys);
            }
            match action {
                None => break,
                Some((Action::Quit, _)) => return relay.stop(Stop::Quit),
                Some((Action::Help, after)) => {
                    let _ = io::stderr().write_all(escape::HELP.as_bytes());
                    rest = after;
                }
            }
        }
    }
}

fn serve_control(relay: &Arc<Relay>) {
    while relay.lines.0[CONTROL].output.serve(|bytes| relay.control(bytes)) {}
}

/// Serves the kernel's console; `output` is given if that is also what the person sees.
fn write_console(relay: &Arc<Relay>, mut output: Option<File>) -> u64 {
    let mut total = 0;
    let work = |bytes: &[u8]| {
        total += bytes.len() as u64;
        if let Some(file) = &mut output
            && let Err(error) = write_all(file, bytes)
        {
            output = None;
            relay.output_failed(OutputStream::Stdout, error);
        }
        relay.kernel_message(bytes);
    };
    serve(relay, CONSOLE, work);
    total
}

/// Writes what comes on a line; after a failure it is dropped. Returns how much came.
fn write_output(relay: &Arc<Relay>, line: usize, stream: OutputStream, file: File) -> u64 {
    let mut file = Some(file);
    let mut total = 0;
    let work = |bytes: &[u8]| {
        total += bytes.len() as u64;
        if let Some(open) = &mut file
            && let Err(error) = write_all(open, bytes)
        {
            file = None;
            relay.output_failed(stream, error);
        }
    };
    serve(relay, line, work);
    total
}

fn serve(relay: &Relay, line: usize, mut work: impl FnMut(&[u8])) {
    while relay.lines.0[line].output.serve(&mut work) {}
}

/// Reads; waits, also if someone has made the file non-blocking.
fn read(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(file.as_fd(), PollFlags::IN)?;
            }
            result => return result,
        }
    }
}

/// Writes all; waits, also if someone has made the file non-blocking.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(file.as_fd(), PollFlags::OUT)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
