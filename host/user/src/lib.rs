//! The host's services in a process: implements [`virt::Host`].
//!
//! - [`Process`]: the handle, with the clocks;
//! - [`memory`]: guest memory at host virtual addresses;
//! - [`caller`]: memory at addresses that an ioctl is called with;
//! - [`fixup`]: accesses to memory that may not be there, under both;
//! - [`own_descriptor`]: descriptors of the hypervisor's own, which a program is not to close;
//! - [`own_process`]: which process this is;
//! - [`scheduling`]: what the scheduler is told of a thread;
//! - [`timer`]: one thread that serves all timers of a machine;
//! - [`event`]: eventfds; [`watch`], one thread that waits for those of a machine that are watched;
//! - [`mod@file`]: open files of the program's;
//! - [`parker`]: where a halted vCPU's thread waits;
//! - [`thread`]: the threads of the above.

pub mod caller;
pub mod event;
pub mod file;
pub mod fixup;
#[cfg(test)]
mod fixup_test;
#[cfg(test)]
mod host_test;
pub mod memory;
pub mod own_descriptor;
pub mod own_process;
pub mod parker;
pub mod scheduling;
pub mod thread;
pub mod timer;
mod tsc;
pub mod watch;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use virt::Errno;
use virt::host::{BadAddress, Expire, Host, Notify};

use event::EventFd;
use file::OpenFile;
use parker::ThreadParker;
use timer::{QueuedTimer, Timers};
use watch::{QueuedWatch, Watches};

/// The services of this process for one machine.
#[derive(Clone)]
pub struct Process {
    start: Instant,
    tsc_khz: u32,
    timers: Arc<Timers>,
    watches: Arc<Watches>,
}

impl Process {
    /// The services. From the first timer on there is a thread for them; from the first event on that is watched, another one.
    #[must_use]
    pub fn new() -> Self {
        let start = Instant::now();
        let (timers, watches) = (Timers::new(start), Arc::default());
        Self { start, tsc_khz: tsc::frequency_khz(), timers, watches }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Host for Process {
    type RawMutex = parking_lot::RawMutex;
    type Timer = QueuedTimer;
    type Parker = ThreadParker;
    type Event = EventFd;
    type Watch = QueuedWatch;
    type File = OpenFile;

    fn read(&self, hva: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        memory::read(hva, buffer)
    }

    fn write(&self, hva: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        memory::write(hva, bytes)
    }

    fn can_be_callers(&self, address: u64, size: u64) -> bool {
        caller::can_be(address, size)
    }

    fn copy_from_caller(&self, address: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        caller::read(address, buffer)
    }

    fn copy_to_caller(&self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        caller::write(address, bytes)
    }

    fn compare_exchange(
        &self,
        hva: u64,
        size: u8,
        expected: u128,
        new: u128,
    ) -> Result<u128, BadAddress> {
        memory::compare_exchange(hva, size, expected, new)
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn wall_clock(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
    }

    fn tsc(&self) -> u64 {
        tsc::read()
    }

    fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    fn yield_now(&self) {
        std::thread::yield_now();
    }

    /// Never: a signal's handler has run by then, and posts what it wants of a vCPU.
    #[inline]
    fn is_interrupted(&self) -> bool {
        false
    }

    fn timer(&self, target: Arc<dyn Expire>) -> Result<QueuedTimer, Errno> {
        self.timers.timer(target).map_err(refused)
    }

    fn parker(&self) -> Result<ThreadParker, Errno> {
        Ok(ThreadParker::default())
    }

    fn event(&self, descriptor: i32) -> Result<EventFd, Errno> {
        EventFd::of(descriptor).map_err(refused)
    }

    fn watch(&self, event: &EventFd, target: Arc<dyn Notify>) -> Result<QueuedWatch, Errno> {
        self.watches.watch(event, target).map_err(refused)
    }

    fn file(&self, descriptor: i32) -> Result<OpenFile, Errno> {
        OpenFile::of(descriptor).map_err(refused)
    }
}

/// The host's own word on what it refused.
fn refused(error: std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(Errno::EIO.0))
}
