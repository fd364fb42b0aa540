//! The loop that serves a running command: bytes both ways, the host's messages, the end.

use std::os::fd::AsFd;

use guest_protocol::{FromGuest, Line as LineName, OutputStream, ToGuest, Written};

use crate::Error;
use crate::command::{Pty, Running};
use crate::control::Control;
use crate::lines::Line;
use crate::stream::{Input, Output};
use crate::sys::{self, ChildEvent, ChildEvents};

/// What a pipe takes by default: more at a time would not come.
const PIPE_BUFFER: usize = 64 * 1024;

/// A screen's worth: after Ctrl-C no more than this goes on scrolling by.
const TERMINAL_BUFFER: usize = 4096;

/// What a pseudo-terminal can hold at most, in the kernel's two buffers: there is no way to ask.
const TERMINAL_PENDING: u64 = 128 * 1024;

/// A command and all that belongs to it.
struct Session<'a> {
    control: &'a mut Control,
    children: &'a ChildEvents,
    data: Line,
    stderr_line: Line,
    pid: libc::pid_t,
    pty: Option<Pty>,
    stdin: Input,
    stdout: Output,
    stderr: Output,
    ended: Option<End>,
}

/// How the command ended.
#[derive(Clone, Copy)]
enum End {
    Exited(u8),
    Killed(u8),
}

/// Serves the command until it has ended and all that it wrote has left the UARTs; queues the
/// message that says so.
pub(crate) fn run(
    control: &mut Control,
    children: &ChildEvents,
    command: Running,
    data: Line,
    stderr_line: Line,
) -> Result<(), Error> {
    let buffer = if command.pty.is_some() { TERMINAL_BUFFER } else { PIPE_BUFFER };
    let mut session = Session {
        control,
        children,
        data,
        stderr_line,
        pid: command.pid,
        pty: command.pty,
        stdin: Input::new(command.stdin, buffer),
        stdout: Output::new(Some(command.stdout), buffer),
        stderr: Output::new(command.stderr, buffer),
        ended: None,
    };
    session.control.send(&FromGuest::Started);
    let end = session.serve()?;
    session.data.drain()?;
    session.stderr_line.drain()?;
    let written = Written { stdout: session.stdout.written(), stderr: session.stderr.written() };
    session.control.send(&match end {
        End::Exited(status) => FromGuest::Exited { status, written },
        End::Killed(signal) => FromGuest::Killed { signal, written },
    });
    Ok(())
}

impl Session<'_> {
    fn serve(&mut self) -> Result<End, Error> {
        loop {
            while let Some(message) = self.control.next_message() {
                self.handle(message)?;
            }
            if self.stdin.is_open() && self.stdin.is_at_end() {
                self.end_stdin();
            }
            if self.ended.is_some() {
                self.pass_rest()?;
            }
            self.control.write()?;
            if let Some(end) = self.ended
                && self.stdout.is_finished()
                && self.stderr.is_finished()
            {
                return Ok(end);
            }
            self.wait_and_move()?;
        }
    }

    /// Waits until something can be done, and does all that can.
    fn wait_and_move(&mut self) -> Result<(), Error> {
        const READ: libc::c_short = libc::POLLIN;
        const WRITE: libc::c_short = libc::POLLOUT;
        let when = |wanted, event| if wanted { event } else { 0 };
        let (sink, sink_wanted) = self.stdin.sink().unzip();
        let stdout = self.stdout.source();
        let stderr = self.stderr.source();
        let mut fds = [
            sys::poll_fd(Some(self.children.as_fd()), READ),
            sys::poll_fd(
                Some(self.control.as_fd()),
                READ | when(self.control.wants_to_write(), WRITE),
            ),
            sys::poll_fd(
                Some(self.data.as_fd()),
                when(self.stdin.wants_to_read(), READ) | when(self.stdout.wants_to_write(), WRITE),
            ),
            sys::poll_fd(Some(self.stderr_line.as_fd()), when(self.stderr.wants_to_write(), WRITE)),
            sys::poll_fd(sink.map(AsFd::as_fd), when(sink_wanted == Some(true), WRITE)),
            sys::poll_fd(stdout.map(AsFd::as_fd), READ),
            sys::poll_fd(stderr.map(AsFd::as_fd), READ),
        ];
        sys::poll(&mut fds).map_err(Error::of("wait for input"))?;
        let [children, control, data, _, sink, stdout, stderr] = fds.map(|fd| fd.revents);

        if control & READ != 0 {
            self.control.read()?;
        }
        self.move_input(data & READ != 0, sink != 0)?;
        if stdout != 0 {
            self.stdout.read();
        }
        if stderr != 0 {
            self.stderr.read();
        }
        self.write_output()?;
        // Last, so that what the command wrote before its end is not taken for later.
        if children != 0 {
            self.collect_children();
        }
        Ok(())
    }

    fn move_input(&mut self, readable: bool, sink_ready: bool) -> Result<(), Error> {
        if readable && self.stdin.wants_to_read() {
            let result = self.stdin.read(self.data.file());
            result.map_err(|error| self.data.read_failed(error))?;
            if let Some(total) = self.stdin.acknowledge() {
                self.control.send(&FromGuest::Received { line: LineName::Stdin, total });
            }
        }
        if (readable || sink_ready) && !self.stdin.write(sink_ready) {
            self.stdin.close();
            self.control.send(&FromGuest::StdinClosed);
        }
        Ok(())
    }

    fn write_output(&mut self) -> Result<(), Error> {
        let result = self.stdout.write(self.data.file());
        result.map_err(|error| self.data.write_failed(error))?;
        let result = self.stderr.write(self.stderr_line.file());
        result.map_err(|error| self.stderr_line.write_failed(error))
    }

    fn pass_rest(&mut self) -> Result<(), Error> {
        let result = self.stdout.pass_rest(self.data.file());
        result.map_err(|error| self.data.write_failed(error))?;
        let result = self.stderr.pass_rest(self.stderr_line.file());
        result.map_err(|error| self.stderr_line.write_failed(error))
    }

    fn handle(&mut self, message: ToGuest) -> Result<(), Error> {
        match message {
            ToGuest::Start(_) => return Err(Error::Order("a second command")),
            ToGuest::WindowSize(size) => {
                if let Some(pty) = &self.pty {
                    sys::set_window_size(pty.master.as_fd(), size)
                        .map_err(Error::of("set the terminal's size"))?;
                }
            }
            ToGuest::Signal(signal) => self.signal(signal.into()),
            ToGuest::StdinEnd { total } => self.stdin.end_at(total),
            ToGuest::OutputClosed(OutputStream::Stdout) => {
                self.stdout.close(self.pty.is_some());
                if self.pty.is_some() {
                    self.hang_up();
                }
            }
            ToGuest::OutputClosed(OutputStream::Stderr) => self.stderr.close(false),
        }
        Ok(())
    }

    /// Gives the command the end of its stdin.
    fn end_stdin(&mut self) {
        self.stdin.close();
        if self.pty.is_some() {
            self.hang_up();
        }
    }

    /// Tells the command that its terminal is gone.
    fn hang_up(&self) {
        self.signal(libc::SIGHUP);
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        // The process itself is collected: its number may soon be another's.
        if self.ended.is_none() {
            sys::signal_group(self.pid, signal);
        }
    }

    /// Takes note of processes that have ended: the command, and those that nobody else waits for.
    fn collect_children(&mut self) {
        self.children.clear();
        while let Some((pid, event)) = self.children.next() {
            if pid != self.pid {
                continue;
            }
            match event {
                ChildEvent::Exited(status) => self.end(End::Exited(status)),
                ChildEvent::Killed(signal) => self.end(End::Killed(signal)),
                // Ctrl-Z: there is no shell above that could go on with the command.
                ChildEvent::Stopped(libc::SIGTSTP) => self.signal(libc::SIGCONT),
                ChildEvent::Stopped(_) => {}
            }
        }
    }

    fn end(&mut self, end: End) {
        self.ended = Some(end);
        self.stdin.close();
        let terminal = self.pty.is_some().then_some(TERMINAL_PENDING);
        self.stdout.finish(terminal);
        self.stderr.finish(None);
    }
}
