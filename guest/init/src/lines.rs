//! The UARTs between this guest and its host: [`Lines::open`] finds COM2 to COM4 and makes them
//! plain paths for bytes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::{Error, sys};

/// One UART, non-blocking and raw.
pub(crate) struct Line {
    file: File,
    path: &'static str,
}

/// The three lines that a session uses.
pub(crate) struct Lines {
    /// COM2: stdin and stdout, or the terminal.
    pub data: Line,
    /// COM3: stderr.
    pub stderr: Line,
    /// COM4: the control channel.
    pub control: Line,
}

impl Lines {
    /// Opens all three.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            data: Line::open("/dev/ttyS1")?,
            stderr: Line::open("/dev/ttyS2")?,
            control: Line::open("/dev/ttyS3")?,
        })
    }
}

impl Line {
    fn open(path: &'static str) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
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
        Ok(Self { file, path })
    }

    /// Waits until all that was written has left the UART.
    pub fn drain(&self) -> Result<(), Error> {
        sys::drain(self.file.as_fd()).map_err(Error::of(format!("send on {}", self.path)))
    }

    /// Returns the error for a failed read.
    pub fn read_failed(&self, error: io::Error) -> Error {
        Error::of(format!("read {}", self.path))(error)
    }

    /// Returns the error for a failed write.
    pub fn write_failed(&self, error: io::Error) -> Error {
        Error::of(format!("write {}", self.path))(error)
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
