//! [`Host`]: the devices that there are, and what the host has of them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmm::devices::stream::Ends;
use vmm::disk::{Disk, Format, Options};
use vmm::virtio::Device;
use vmm::virtio::balloon::Balloon;
use vmm::virtio::blk::Blk;
use vmm::virtio::console::{Console, PortConfig};
use vmm::virtio::rng::Rng;
use vmm::virtio::vsock::Vsock;
use vmm::virtio::vsock::listener::{Listener, SocketFile};

use crate::input::Input;

/// Bytes of the disk.
const DISK_SIZE: u64 = 64 << 10;

/// The disk's image, in memory.
static IMAGE: LazyLock<OwnedFd> = LazyLock::new(|| {
    let image = memfd_create("disk", MemfdFlags::CLOEXEC).expect("the host has memory");
    ftruncate(&image, DISK_SIZE).expect("it is ours");
    image
});

/// The port that a program on the host listens for.
const PORT: u32 = 1;

/// What the host has of a device.
pub enum Host {
    /// Of most it has nothing.
    Nothing,
    /// A console's other side.
    Console(Arc<Console>, [Ends; 2]),
    /// Where programs connect.
    Sockets(Sockets),
}

impl Host {
    /// A device, and what the host has of it.
    pub fn with_device(which: u8) -> (Self, Arc<dyn Device>) {
        let rng = || Rng::new(Arc::new(fill)).expect("there are files left");
        match which % 5 {
            0 => Self::with_console(),
            1 => (Self::Nothing, Arc::new(rng())),
            2 => (Self::Nothing, Arc::new(disk())),
            3 => (Self::Nothing, Arc::new(Balloon::new().expect("there are files left"))),
            _ => {
                let (sockets, listener) = Sockets::new();
                let device = Vsock::new(listener).expect("there are files left");
                (Self::Sockets(sockets), Arc::new(device))
            }
        }
    }

    /// A console of two ports.
    fn with_console() -> (Self, Arc<dyn Device>) {
        let all: [Ends; 2] = Default::default();
        let port = |(ends, name): (&Ends, &str)| PortConfig {
            name: name.into(),
            is_console: name == "first",
            ends: ends.clone(),
        };
        let ports = all.iter().zip(["first", "second"]).map(port).collect();
        let console = Console::new(ports, Some(Default::default()));
        let console = Arc::new(console.expect("there are files left"));
        (Self::Console(Arc::clone(&console), all), console)
    }

    /// Does something while somebody takes what is written to a console: a reset waits for that.
    pub fn during(&self, work: impl FnOnce()) {
        let Self::Console(console, all) = self else { return work() };
        std::thread::scope(|scope| {
            for ends in all {
                scope.spawn(|| while ends.output.serve(|_| {}) {});
            }
            work();
            console.flush();
            all.iter().for_each(|ends| ends.output.close());
        });
    }

    /// Does what the host does to a device.
    pub fn step(&self, input: &mut Input<'_>) {
        match self {
            Self::Nothing => {}
            Self::Console(console, ends) => use_console(console, ends, input),
            Self::Sockets(sockets) => sockets.step(input),
        }
    }
}

fn fill(bytes: &mut [u8]) -> bool {
    bytes.fill(0x5a);
    true
}

/// A disk that forgets what is written to it.
fn disk() -> Blk {
    let path = PathBuf::from(format!("/proc/self/fd/{}", IMAGE.as_raw_fd()));
    let format = Some(Format::Raw);
    let options = Options { path, format, read_only: false, ephemeral: true, direct: false };
    let disk = Disk::open(&options).expect("nobody else has it");
    Blk::new(Arc::new(disk), "fuzz", 2, true).expect("there are files left")
}

/// Gives a console bytes, takes some, resizes it.
fn use_console(console: &Console, all: &[Ends; 2], input: &mut Input<'_>) {
    let ends = &all[usize::from(input.u8() % 2)];
    match input.u8() % 3 {
        0 => drop(ends.input.offer(&vec![0x11; input.u16().into()])),
        1 => drop(ends.output.take(input.u32() as usize)),
        _ => console.resize(guest_protocol::WindowSize { rows: input.u16(), cols: input.u16() }),
    }
}

/// The host's programs: one that listens, and some that connect.
pub struct Sockets {
    folder: PathBuf,
    _file: SocketFile,
    program: UnixListener,
    callers: Vec<UnixStream>,
}

impl Sockets {
    fn new() -> (Self, Listener) {
        let folder = std::env::temp_dir().join(format!("unibody-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder can be written");
        let path = folder.join("socket");
        let (listener, file) = Listener::bind(&path).expect("nobody else is there");
        let program = folder.join(format!("socket_{PORT}"));
        let program = UnixListener::bind(program).expect("nobody else is there");
        program.set_nonblocking(true).expect("it is a socket");
        let callers = (0..2).map(|_| caller(&path)).collect();
        (Self { folder, _file: file, program, callers }, listener)
    }

    /// A program says something, hears something, or goes; or one accepts what the guest has asked for, and goes.
    fn step(&self, input: &mut Input<'_>) {
        let mut caller = &self.callers[usize::from(input.u8() % 2)];
        // Nobody waits, and each may fail.
        let _ = match input.u8() % 5 {
            0 => caller.write(format!("CONNECT {}\n", input.u8()).as_bytes()),
            1 => caller.write(input.bytes(24)),
            2 => caller.read(&mut vec![0; input.u16().into()]),
            3 => caller.shutdown(std::net::Shutdown::Both).map(|()| 0),
            _ => self.program.accept().map(|_| 0),
        };
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // What is left is in the temporary folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn caller(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("it listens");
    stream.set_nonblocking(true).expect("it is a socket");
    stream
}
