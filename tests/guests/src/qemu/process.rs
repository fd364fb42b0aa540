//! QEMU's process: [`Process`], and what its trace tells: [`Event`].
//!
//! The guest's ports are unassigned in QEMU's machine; its trace of writes to devices shows them, in
//! their order, on standard error. [`super::monitor`] reports by the same way, so that there is one
//! stream. A byte on standard input, which is the machine's serial port, starts a run.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use hv::x86::Data;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::FileOffset;

use super::area::place;
use super::monitor;
use crate::layout::RAM;

/// The program.
const PROGRAM: &str = "qemu-system-x86_64";

/// Something that the machine did.
#[derive(Debug)]
pub enum Event {
    /// The guest wrote to a port that is not intercepted.
    Out {
        /// The port.
        port: u16,
        /// What.
        data: Data,
    },
    /// The guest came out.
    Exit,
    /// The process has ended; what it said.
    End(String),
}

/// Ends a process, from any thread.
#[derive(Clone)]
pub struct Killer(Arc<Mutex<Child>>);

impl Killer {
    /// Ends it.
    pub fn kill(&self) {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An error says that it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A process with a machine whose RAM is a file.
pub struct Process {
    killer: Killer,
    input: ChildStdin,
    trace: BufReader<ChildStderr>,
    /// What came that was no trace.
    said: String,
    /// QEMU opens it by its number here.
    _rom: File,
}

impl Process {
    /// Starts it.
    pub fn start(ram: &FileOffset) -> io::Result<Self> {
        let mut rom = File::from(memfd_create("rom", MemfdFlags::CLOEXEC)?);
        rom.write_all(&monitor::rom())?;
        let size = RAM + place::SIZE;
        let memory = format!(
            "memory-backend-file,id=ram,size={size},share=on,mem-path={}",
            path(ram.file()).display()
        );
        let mut command = Command::new(PROGRAM);
        command
            .args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-machine", "pc,memory-backend=ram,hpet=off", "-accel", "tcg,thread=single"])
            .args(["-cpu", "max", "-m", &format!("{size}B"), "-object", &memory])
            .arg("-bios")
            .arg(path(&rom))
            .args(["-chardev", "stdio,id=host,signal=off", "-device", "isa-serial,chardev=host"])
            .args(["-trace", "memory_region_ops_write"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            let hint = "`cargo xtask setup` installs it";
            io::Error::new(error.kind(), format!("cannot start {PROGRAM} ({hint}): {error}"))
        })?;
        let missing = || io::Error::other("a pipe is missing");
        let input = child.stdin.take().ok_or_else(missing)?;
        let trace = BufReader::new(child.stderr.take().ok_or_else(missing)?);
        let killer = Killer(Arc::new(Mutex::new(child)));
        Ok(Self { killer, input, trace, said: String::new(), _rom: rom })
    }

    /// What ends it.
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Starts a run.
    pub fn go(&mut self) -> io::Result<()> {
        self.input.write_all(b"r")?;
        self.input.flush()
    }

    /// Waits for what happens next.
    pub fn event(&mut self) -> io::Result<Event> {
        loop {
            let mut line = String::new();
            if self.trace.read_line(&mut line)? == 0 {
                return Ok(Event::End(self.end()));
            }
            match parse(&line) {
                Line::Event(event) => return Ok(event),
                Line::OtherDevice => {}
                Line::Message => self.said.push_str(&line),
            }
        }
    }

    fn end(&mut self) -> String {
        self.killer.kill();
        format!("{PROGRAM} has ended: {}", self.said.trim())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.killer.kill();
    }
}

/// A path by which a child opens a file that has no name.
fn path(file: &impl AsRawFd) -> std::path::PathBuf {
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    OsString::from(path).into()
}

/// A line of standard error.
#[derive(Debug)]
enum Line {
    Event(Event),
    /// A write to a device of the machine.
    OtherDevice,
    Message,
}

/// Understands `memory_region_ops_write cpu 0 mr 0x… addr 0xe4 value 0x1 size 4 name 'io'`; `io` is
/// what is behind the ports that no device has.
fn parse(line: &str) -> Line {
    let words: Vec<&str> = line.split_whitespace().collect();
    if words.first() != Some(&"memory_region_ops_write") {
        return Line::Message;
    }
    let field = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    let number = |name| {
        let word: &str = field(name)?;
        match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => word.parse().ok(),
        }
    };
    if field("name") != Some("'io'") {
        return Line::OtherDevice;
    }
    let (Some(port), Some(value), Some(size)) = (number("addr"), number("value"), number("size"))
    else {
        return Line::Message;
    };
    let (Ok(port), Some(bytes)) =
        (u16::try_from(port), value.to_le_bytes().get(..size as usize).map(Data::new))
    else {
        return Line::Message;
    };
    if u32::from(port) == monitor::DOORBELL {
        Line::Event(Event::Exit)
    } else {
        Line::Event(Event::Out { port, data: bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Line, parse};

    #[test]
    fn the_trace_is_understood() {
        let line =
            "memory_region_ops_write cpu 0 mr 0x55 addr 0xe4 value 0x12345678 size 4 name 'io'\n";
        let Line::Event(Event::Out { port: 0xe4, data }) = parse(line) else { panic!("{line}") };
        assert_eq!(data.as_slice(), [0x78, 0x56, 0x34, 0x12]);
        let line = "memory_region_ops_write cpu 0 mr 0x55 addr 0x21 value 0xff size 1 name 'pic'";
        assert!(matches!(parse(line), Line::OtherDevice));
        let line = "memory_region_ops_write cpu 0 mr 0x55 addr 0xec value 0x0 size 1 name 'io'";
        assert!(matches!(parse(line), Line::Event(Event::Exit)));
        assert!(matches!(parse("qemu-system-x86_64: no such CPU"), Line::Message));
    }
}
