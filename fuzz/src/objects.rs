//! What calls are made on: [`Object`], of [`preload`] in this process, or a descriptor of a device's in the kernel.
//!
//! Which of the two is chosen when the program starts, by [`DEVICE`]. What is done differently:
//! - No more is made than there is room for. In this process who makes it is told so when the descriptor is asked for; the kernel itself
//!   has none left for the time of the call (`NoneLeft`).
//! - A run is ended by a call in this process; by a flag in the vCPU's pages and a signal, if it is the kernel's ([`Vcpu::end_run`]).

use std::cell::RefCell;
use std::env;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use abi::device::{CREATE_DEVICE_TEST, CreateDevice};
use abi::encoding::Encoded;
use abi::ioctl;
use host_user::memory;
use preload::device::Device;
use preload::object;
use preload::options::Options;
use preload::pages::SharedPages;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use virt::Errno;
use virt::ioctl::{Mapping, VCPU_MMAP_SIZE};

use crate::signals;

/// The variable that has the path of a device's node. Without it all is in this process.
pub const DEVICE: &str = "UNIBODY_FUZZ_DEVICE";
/// Bytes of translated code.
const JIT_CACHE: usize = 1 << 20;
/// In a vCPU's pages: what asks a run to come out at once.
pub(crate) const IMMEDIATE_EXIT: usize = 1;

/// A device, a VM, a vCPU, or what else a call has made.
pub enum Object {
    /// In this process, with the descriptor that a program has of it.
    Here(object::Object, Option<OwnedFd>),
    /// In the kernel.
    Kernel(OwnedFd),
}

/// The device's path, if it is one in the kernel.
pub(crate) fn chosen() -> Option<PathBuf> {
    env::var_os(DEVICE).map(PathBuf::from)
}

impl Object {
    /// The device that was chosen.
    ///
    /// # Panics
    /// When there is none, or it may not be opened.
    #[must_use]
    pub fn device() -> Self {
        let Some(path) = chosen() else {
            let options = Options { jit_cache: Some(JIT_CACHE), ..Options::default() };
            return Self::Here(object::Object::device(Device::new(options)), None);
        };
        match File::options().read(true).write(true).open(&path) {
            Ok(file) => Self::Kernel(file.into()),
            Err(error) => panic!("cannot open '{}': {error}", path.display()),
        }
    }

    /// Whether it is in the kernel.
    #[must_use]
    pub fn is_kernels(&self) -> bool {
        matches!(self, Self::Kernel(_))
    }

    /// Makes a call, with the answer and what it has made. `room`: whether that may have a descriptor.
    pub fn ioctl(
        &self,
        number: u32,
        argument: u64,
        room: bool,
    ) -> (Result<u32, Errno>, Option<Self>) {
        match self {
            Self::Here(object, _) => {
                let made = RefCell::new(None);
                let answer = object.ioctl(number, argument, |new| {
                    if !room {
                        return Err(Errno(libc::EMFILE));
                    }
                    made.replace(Some(Self::Here(new.object, Some(new.descriptor))));
                    Ok(3)
                });
                (answer, made.into_inner())
            }
            Self::Kernel(descriptor) => {
                let limit = (!room).then(NoneLeft::new);
                let answer = call(descriptor, number, argument);
                drop(limit);
                let made = answer.ok().and_then(|value| made(number, argument, value));
                (answer, made.map(Self::Kernel))
            }
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Here(_, descriptor) => descriptor.as_ref().map(AsFd::as_fd),
            Self::Kernel(descriptor) => Some(descriptor.as_fd()),
        }
    }
}

/// A system call.
fn call(descriptor: &OwnedFd, number: u32, argument: u64) -> Result<u32, Errno> {
    // SAFETY: the numbers are KVM's, or one bit beside one of them, which the kernel asks nobody else about for a descriptor of KVM's.
    // What the argument names may be read and written (`crate`), or is nobody's.
    let answer = unsafe { libc::ioctl(descriptor.as_raw_fd(), number.into(), argument) };
    u32::try_from(answer).map_err(|_| {
        let error = io::Error::last_os_error();
        Errno(error.raw_os_error().unwrap_or_default())
    })
}

/// The descriptor of what a call has made that has answered `value`.
fn made(number: u32, argument: u64, value: u32) -> Option<OwnedFd> {
    let descriptor = match number {
        ioctl::CREATE_VM | ioctl::CREATE_VCPU | ioctl::GET_STATS_FD => value,
        ioctl::CREATE_DEVICE => {
            let mut bytes = [0; CreateDevice::SIZE];
            memory::read(argument, &mut bytes).ok()?;
            let device = CreateDevice::decode(&bytes);
            // It was only asked whether there is such a one.
            if device.flags & CREATE_DEVICE_TEST != 0 {
                return None;
            }
            device.fd
        }
        _ => return None,
    };
    // SAFETY: the call has just made it, and nobody else knows it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

/// The kernel gives this process no descriptor until this is dropped.
struct NoneLeft(Rlimit);

impl NoneLeft {
    fn new() -> Self {
        let usual = getrlimit(Resource::Nofile);
        // Who else is in this process waits for the case to end.
        let none = Rlimit { current: Some(0), maximum: usual.maximum };
        setrlimit(Resource::Nofile, none).expect("it is less");
        Self(usual)
    }
}

impl Drop for NoneLeft {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Nofile, self.0);
    }
}

/// A vCPU, and what it shares.
pub struct Vcpu {
    /// What calls are made on.
    pub object: Object,
    /// Its pages.
    pub pages: SharedPages,
}

impl Vcpu {
    /// Maps what it shares.
    ///
    /// # Panics
    /// When that is refused.
    #[must_use]
    pub fn new(object: Object) -> Self {
        let pages = SharedPages::new(
            object.descriptor().expect("it was made by a call"),
            VCPU_MMAP_SIZE as usize,
        );
        Self { pages: pages.expect("memory"), object }
    }

    /// Has the run end that `thread` is about to make, or is in. It may have to be said again.
    pub fn end_run(&self, thread: signals::Thread) {
        match &self.object {
            Object::Here(vcpu, _) => vcpu.end_run(),
            Object::Kernel(_) => {
                // First: a signal that comes just before the call is none of its.
                self.pages.store(IMMEDIATE_EXIT, &[1]);
                thread.interrupt();
            }
        }
    }
}
