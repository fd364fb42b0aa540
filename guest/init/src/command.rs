//! Starting the command: environment, working directory, pipes or a terminal.
//!
//! [`spawn`] makes a [`Running`] out of what the host asked for; `session` then serves it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::fchown;
use std::path::Path;
use std::process::{Command, Stdio};

use guest_protocol::{FromGuest, Start, Terminal};

use crate::sys;

/// What a guest is called if the host doesn't say.
const HOSTNAME: &[u8] = b"unibody";

/// The search path if the host doesn't give one; Debian's for root.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What runs if the host doesn't name a command.
const SHELL: [&str; 2] = ["/bin/sh", "-l"];

/// A command that has been started, and init's ends of its streams, which don't block.
pub(crate) struct Running {
    /// Its process, which is also its process group.
    pub pid: libc::pid_t,
    /// Where its stdin comes from.
    pub stdin: File,
    /// Where its stdout goes.
    pub stdout: File,
    /// Where its stderr goes, unless that is the terminal.
    pub stderr: Option<File>,
    /// Set if stdin and stdout are a terminal.
    pub pty: Option<Pty>,
}

/// The command's terminal.
pub(crate) struct Pty {
    /// Our end; `stdin` and `stdout` are further descriptors of it.
    pub master: File,
    /// The command's end, held so that ours never sees the end of file while init serves it.
    pub _slave: File,
}

/// Starts the command. The error is the message for the host.
pub(crate) fn spawn(start: &Start) -> Result<Running, FromGuest> {
    let hostname = if start.hostname.is_empty() { HOSTNAME } else { &start.hostname };
    sys::set_hostname(hostname).map_err(|error| failure("set the host name", &error))?;

    let argv = argv(start);
    let (program, arguments) = argv.split_first().expect("not empty by the lines above");
    let environment = environment(start);
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));

    // Entered by init itself, because `Command` doesn't tell which of chdir and exec has failed.
    let cwd = working_directory(start, &environment);
    std::env::set_current_dir(&cwd)
        .map_err(|error| failure(&format!("enter '{}'", cwd.display()), &error))?;
    if let Some(user) = &start.user {
        sys::as_user(&mut command, user);
    }

    let mut running = match start.terminal {
        Some(terminal) => with_terminal(&mut command, start, terminal),
        None => with_pipes(&mut command, start),
    }
    .map_err(|error| failure("make the command's streams", &error))?;
    let child = command
        .spawn()
        .map_err(|error| failure(&format!("run '{}'", program.display()), &error))?;
    running.pid = child.id().cast_signed();
    Ok(running)
}

/// What to run: a person's own shell in a person's own environment, if that has one.
fn argv(start: &Start) -> Vec<&OsStr> {
    if !start.argv.is_empty() {
        return start.argv.iter().map(|argument| OsStr::from_bytes(argument)).collect();
    }
    let own = start.env.iter().find(|(name, _)| name == b"SHELL");
    let own = own.map(|(_, path)| OsStr::from_bytes(path));
    match own.filter(|path| Path::new(path).is_file()) {
        Some(shell) => vec![shell],
        None => SHELL.iter().map(OsStr::new).collect(),
    }
}

/// Gives the command three pipes.
fn with_pipes(command: &mut Command, start: &Start) -> io::Result<Running> {
    let (stdin_reader, stdin) = io::pipe()?;
    let (stdout, stdout_writer) = io::pipe()?;
    command.stdin(handed_over(stdin_reader.into(), start)?);
    command.stdout(handed_over(stdout_writer.into(), start)?);
    let stderr = stderr_pipe(command, start)?;
    sys::in_new_session(command);
    Ok(Running {
        pid: 0,
        stdin: nonblocking(stdin.into())?,
        stdout: nonblocking(stdout.into())?,
        stderr: Some(stderr),
        pty: None,
    })
}

/// Gives the command a terminal.
///
/// It is a pseudo-terminal rather than the UART itself, for three reasons: bytes from the host are
/// acknowledged as init reads them, so that none is lost; the command can't spoil the line's
/// settings; and init, not the command, leads the session, because the end of a session's leader
/// throws away output that is still on its way.
fn with_terminal(command: &mut Command, start: &Start, terminal: Terminal) -> io::Result<Running> {
    let (master, slave) = sys::open_pty()?;
    sys::set_utf8(slave.as_fd())?;
    sys::set_window_size(slave.as_fd(), terminal.size)?;
    sys::control_terminal(slave.as_fd())?;
    let stdio = || -> io::Result<Stdio> { handed_over(slave.try_clone()?.into(), start) };
    command.stdin(stdio()?).stdout(stdio()?);
    let stderr = if terminal.stderr_apart {
        Some(stderr_pipe(command, start)?)
    } else {
        command.stderr(stdio()?);
        None
    };
    sys::in_foreground(command, slave.as_raw_fd());
    let master = nonblocking(master.into())?;
    Ok(Running {
        pid: 0,
        stdin: master.try_clone()?,
        stdout: master.try_clone()?,
        stderr,
        pty: Some(Pty { master, _slave: slave }),
    })
}

fn stderr_pipe(command: &mut Command, start: &Start) -> io::Result<File> {
    let (stderr, writer) = io::pipe()?;
    command.stderr(handed_over(writer.into(), start)?);
    nonblocking(stderr.into())
}

/// Makes the command's user the owner, so that opening `/dev/stdout` works for others than root.
fn handed_over(fd: OwnedFd, start: &Start) -> io::Result<Stdio> {
    if let Some(user) = &start.user {
        fchown(&fd, Some(user.uid), None)?;
    }
    Ok(fd.into())
}

fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    sys::set_nonblocking(fd.as_fd())?;
    Ok(fd.into())
}

/// Returns init's defaults with the host's variables on top.
pub(crate) fn environment(start: &Start) -> Vec<(OsString, OsString)> {
    let is_root = start.user.as_ref().is_none_or(|user| user.uid == 0);
    let mut variables: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), PATH.into()),
        ("HOME".into(), if is_root { "/root" } else { "/" }.into()),
        ("SHELL".into(), "/bin/sh".into()),
    ];
    if is_root {
        variables.push(("USER".into(), "root".into()));
    }
    if start.terminal.is_some() {
        variables.push(("TERM".into(), "vt100".into()));
    }
    for (name, value) in &start.env {
        let (name, value) = (OsString::from_vec(name.clone()), OsString::from_vec(value.clone()));
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => variables.push((name, value)),
        }
    }
    variables
}

/// Returns where the command starts: where the host says, or at home, if there is such a folder.
fn working_directory<'a>(
    start: &'a Start,
    environment: &'a [(OsString, OsString)],
) -> std::borrow::Cow<'a, Path> {
    if let Some(cwd) = &start.cwd {
        return Path::new(OsStr::from_bytes(cwd)).into();
    }
    let home = environment.iter().find(|(name, _)| name == "HOME").map(|(_, home)| Path::new(home));
    home.filter(|home| home.is_dir()).unwrap_or(Path::new("/")).into()
}

/// Makes the message for the host.
fn failure(action: &str, error: &io::Error) -> FromGuest {
    let reason = error.to_string();
    // std adds the number, which is a field of the message.
    let reason = reason.split(" (os error").next().unwrap_or_default();
    FromGuest::ExecFailed {
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        message: format!("cannot {action}: {reason}"),
    }
}
