//! The lines between this guest and its host: [`Lines::open`] finds them, as ports of the host's console or as UARTs, and makes them plain
//! paths for bytes.
//!
//! A port carries thousands of bytes for each exit from the guest, a UART one. That is why even a command's terminal is not the port but a
//! pseudo-terminal ([`crate::command`]): nothing is lost by copying once more in the guest.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{Error, ports, sys};

/// One line, non-blocking and raw.
pub(crate) struct Line {
    file: File,
    path: PathBuf,
    is_uart: bool,
}

/// The three lines that a session uses.
pub(crate) struct Lines {
    /// Stdin and stdout, or the terminal.
    pub data: Line,
    /// Stderr.
    pub stderr: Line,
    /// The control channel.
    pub control: Line,
}

impl Lines {
    /// Opens all three.
    pub fn open() -> Result<Self, Error> {
        match ports::find() {
            Some([data, stderr, control]) => Ok(Self {
                data: Line::open_port(data)?,
                stderr: Line::open_port(stderr)?,
                control: Line::open_port(control)?,
            }),
            None => Ok(Self {
                data: Line::open_uart("/dev/ttyS1")?,
                stderr: Line::open_uart("/dev/ttyS2")?,
                control: Line::open_uart("/dev/ttyS3")?,
            }),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

impl Line {
    fn open_port(path: PathBuf) -> Result<Self, Error> {
        let file = open(&path).map_err(Error::of(format!("open {}", path.display())))?;
        Ok(Self { file, path, is_uart: false })
    }

    fn open_uart(path: &str) -> Result<Self, Error> {
        let file = open(path.as_ref()).map_err(|error| match error.raw_os_error() {
            // A kernel sets aside CONFIG_SERIAL_8250_RUNTIME_UARTS ports, 4 in most distributions.
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Error::of(format!(
                "open {path} (this kernel offers too few serial ports; \
                 '8250.nr_uarts=4' on its command line may help)"
            ))(error),
            _ => Error::of(format!("open {path}"))(error),
        })?;
        // The node exists for each port that the kernel sets aside; one without a UART fails here.
        sys::set_raw(file.as_fd()).map_err(Error::of(format!(
            "set up {path} (is there a 16550 UART at its I/O port?)"
        )))?;
        Ok(Self { file, path: path.into(), is_uart: true })
    }

    /// Waits until all that was written has left the UART. What was written to a port is the host's already, which reads it out of the
    /// driver's buffers.
    pub fn drain(&self) -> Result<(), Error> {
        if !self.is_uart {
            return Ok(());
        }
        let action = || format!("send on {}", self.path.display());
        sys::drain(self.file.as_fd()).map_err(|error| Error::of(action())(error))
    }

    /// Returns the error for a failed read.
    pub fn read_failed(&self, error: io::Error) -> Error {
        Error::of(format!("read {}", self.path.display()))(error)
    }

    /// Returns the error for a failed write.
    pub fn write_failed(&self, error: io::Error) -> Error {
        Error::of(format!("write {}", self.path.display()))(error)
    }

    /// The open device.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
