//! [`Kernel`]: the services of the kernel, as [`Host`] for the core, and as [`Platform`] for engines on the processor's virtualization.

use alloc::sync::Arc;

use arch_x86::hardware::{HostPage, Platform, Trace};
use virt::Errno;
use virt::host::{BadAddress, Expire, Host, Notify};

use crate::event::EventFd;
use crate::file::OpenFile;
use crate::fpu::KernelFpu;
use crate::lock::SpinLock;
use crate::pages::{self, KernelPages};
use crate::parker::ThreadParker;
use crate::timer::KernelTimer;
use crate::watch::Watch;
use crate::{deferred, memory, processor, thread, time, trace};

/// The kernel that this runs in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Host for Kernel {
    type RawMutex = SpinLock;
    type Timer = KernelTimer;
    type Parker = ThreadParker;
    type Event = EventFd;
    type Watch = Watch;
    type File = OpenFile;

    fn read(&self, hva: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        memory::read(hva, buffer)
    }

    fn write(&self, hva: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        memory::write(hva, bytes)
    }

    fn copy_from_caller(&self, address: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        memory::read(address, buffer)
    }

    fn can_be_callers(&self, address: u64, size: u64) -> bool {
        memory::can_be_callers(address, size)
    }

    fn copy_to_caller(&self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        memory::write(address, bytes)
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
        time::now()
    }

    fn wall_clock(&self) -> u64 {
        time::wall_clock()
    }

    fn tsc(&self) -> u64 {
        time::tsc()
    }

    fn tsc_khz(&self) -> u32 {
        time::tsc_khz()
    }

    fn yield_now(&self) {
        deferred::yield_now();
    }

    #[inline]
    fn is_interrupted(&self) -> bool {
        thread::is_interrupted()
    }

    fn timer(&self, target: Arc<dyn Expire>) -> Result<KernelTimer, Errno> {
        KernelTimer::new(target)
    }

    fn parker(&self) -> Result<ThreadParker, Errno> {
        Ok(ThreadParker::new())
    }

    fn event(&self, descriptor: i32) -> Result<EventFd, Errno> {
        EventFd::of(descriptor)
    }

    fn watch(&self, event: &EventFd, target: Arc<dyn Notify>) -> Result<Watch, Errno> {
        Watch::new(event, target)
    }

    fn file(&self, descriptor: i32) -> Result<OpenFile, Errno> {
        OpenFile::of(descriptor)
    }
}

impl Platform for Kernel {
    type Pages = KernelPages;
    type Fpu = KernelFpu;

    fn pages(&self, count: usize) -> Result<KernelPages, Errno> {
        KernelPages::new(count)
    }

    fn host_page(&self, hva: u64, write: bool) -> Result<HostPage, BadAddress> {
        pages::host_page(hva, write)
    }

    fn fpu(&self) -> Result<KernelFpu, Errno> {
        KernelFpu::new()
    }

    fn processors(&self) -> u32 {
        processor::count()
    }

    fn on_processor<T>(&self, work: impl FnOnce(u32) -> T) -> T {
        processor::stay(work)
    }

    fn without_interrupts<T>(&self, work: impl FnOnce() -> T) -> T {
        processor::without_interrupts(work)
    }

    fn is_wanted(&self) -> bool {
        thread::is_wanted()
    }

    fn interrupt(&self, processor: u32) {
        processor::interrupt(processor);
    }

    fn interrupt_and_wait(&self, processor: u32) {
        processor::interrupt_and_wait(processor);
    }

    #[inline]
    fn trace(&self, event: Trace) {
        trace::trace(event);
    }
}
