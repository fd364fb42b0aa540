//! A platform for tests: the memory of [`TestHost`], pages whose physical addresses are their addresses, and what was asked of it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arch_x86::hardware::{GuestFpu, HostPage, Pages, Platform, Trace};
use arch_x86::regs::{FxArea, YmmHigh};
use arch_x86::vcpu::scripted::{
    Fixture, TestEvent, TestFile, TestHost, TestParker, TestTimer, TestWatch,
};
use virt::Errno;
use virt::host::{BadAddress, Expire, Host, Notify};

/// What is added to a host virtual address to make the physical one. Of 2 MiB.
pub const PHYSICAL: u64 = 0x1_0000_0000;

/// A page of the test's.
#[repr(C, align(4096))]
pub struct TestPage([AtomicU64; 512]);

/// Pages of the test's.
pub struct TestPages(Box<[TestPage]>);

impl Pages for TestPages {
    fn address(&self) -> *mut u8 {
        self.0.as_ptr().cast_mut().cast()
    }

    fn physical(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }
}

/// What is called when a page of the host's is asked for.
pub type OnPage = Box<dyn FnMut(u64, bool) + Send>;

/// What was asked of the platform, and what it is to answer.
#[derive(Default)]
pub struct Asked {
    /// The number of the processor that all runs on.
    pub processor: AtomicU32,
    /// Whether interrupts are off.
    pub interrupts_off: AtomicBool,
    /// So often the thread is wanted for something else.
    pub wanted: AtomicU32,
    /// Who was interrupted, and who was waited for.
    pub interrupted: spin::Mutex<Vec<u32>>,
    pub waited: spin::Mutex<Vec<u32>>,
    /// How often others were let run.
    pub yields: AtomicU32,
    /// The host's pages are of this size; 0: 4 KiB.
    pub page_size: AtomicU64,
    /// The host's pages may not be written when they are only read.
    pub shares: AtomicBool,
    /// The host has none.
    pub has_none: AtomicBool,
    pub on_page: spin::Mutex<Option<OnPage>>,
    /// What page was asked for last, and whether to write.
    pub pages: spin::Mutex<Vec<(u64, bool)>>,
    /// How often the FPU was restored.
    pub restored: AtomicU32,
    /// What was told of vCPUs.
    pub traced: spin::Mutex<Vec<Trace>>,
}

/// The platform. A handle.
#[derive(Clone)]
pub struct TestPlatform {
    pub host: TestHost,
    pub asked: Arc<Asked>,
}

impl TestPlatform {
    pub fn new() -> Self {
        let fixture = Fixture::without_chips(1).expect("memory");
        Self { host: fixture.host, asked: Arc::default() }
    }
}

impl Platform for TestPlatform {
    type Pages = TestPages;
    type Fpu = TestFpu;

    fn pages(&self, count: usize) -> Result<TestPages, Errno> {
        let page = |_| TestPage([const { AtomicU64::new(0) }; 512]);
        Ok(TestPages((0..count).map(page).collect()))
    }

    fn host_page(&self, hva: u64, write: bool) -> Result<HostPage, BadAddress> {
        assert!(!self.asked.interrupts_off.load(Ordering::Relaxed), "it may sleep");
        self.asked.pages.lock().push((hva, write));
        let on_page = self.asked.on_page.lock().take();
        if let Some(mut on_page) = on_page {
            on_page(hva, write);
            self.asked.on_page.lock().get_or_insert(on_page);
        }
        if self.asked.has_none.load(Ordering::Relaxed) {
            return Err(BadAddress);
        }
        let size = self.asked.page_size.load(Ordering::Relaxed).max(4096);
        let writable = write || !self.asked.shares.load(Ordering::Relaxed);
        Ok(HostPage { physical: (hva & !0xfff) + PHYSICAL, writable, size })
    }

    fn fpu(&self) -> Result<TestFpu, Errno> {
        Ok(TestFpu {
            fx: FxArea::at_reset(),
            ymm: YmmHigh::default(),
            loaded: false,
            asked: Arc::clone(&self.asked),
        })
    }

    fn processors(&self) -> u32 {
        4
    }

    fn on_processor<T>(&self, work: impl FnOnce(u32) -> T) -> T {
        work(self.asked.processor.load(Ordering::Relaxed))
    }

    fn without_interrupts<T>(&self, work: impl FnOnce() -> T) -> T {
        assert!(!self.asked.interrupts_off.swap(true, Ordering::Relaxed), "not nested");
        let result = work();
        self.asked.interrupts_off.store(false, Ordering::Relaxed);
        result
    }

    fn is_wanted(&self) -> bool {
        let wanted = &self.asked.wanted;
        wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
    }

    fn interrupt(&self, processor: u32) {
        self.asked.interrupted.lock().push(processor);
    }

    fn interrupt_and_wait(&self, processor: u32) {
        self.asked.waited.lock().push(processor);
    }

    fn trace(&self, event: Trace) {
        self.asked.traced.lock().push(event);
    }
}

/// The vector registers of the test's guest.
pub struct TestFpu {
    fx: FxArea,
    ymm: YmmHigh,
    loaded: bool,
    asked: Arc<Asked>,
}

impl GuestFpu for TestFpu {
    fn load(&mut self) {
        self.loaded = true;
    }

    fn put(&mut self) {
        self.loaded = false;
    }

    fn restore(&mut self) {
        assert!(self.loaded, "between load and put");
        assert!(self.asked.interrupts_off.load(Ordering::Relaxed));
        self.asked.restored.fetch_add(1, Ordering::Relaxed);
    }

    fn registers(&self) -> (&FxArea, &YmmHigh) {
        (&self.fx, &self.ymm)
    }

    fn registers_mut(&mut self) -> (&mut FxArea, &mut YmmHigh) {
        (&mut self.fx, &mut self.ymm)
    }
}

impl Host for TestPlatform {
    type RawMutex = <TestHost as Host>::RawMutex;
    type Timer = TestTimer;
    type Parker = TestParker;
    type Event = TestEvent;
    type Watch = TestWatch;
    type File = TestFile;

    fn read(&self, hva: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.host.read(hva, buffer)
    }

    fn write(&self, hva: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.host.write(hva, bytes)
    }

    fn copy_from_caller(&self, address: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.host.copy_from_caller(address, buffer)
    }

    fn can_be_callers(&self, address: u64, size: u64) -> bool {
        self.host.can_be_callers(address, size)
    }

    fn copy_to_caller(&self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.host.copy_to_caller(address, bytes)
    }

    fn compare_exchange(
        &self,
        hva: u64,
        size: u8,
        expected: u128,
        new: u128,
    ) -> Result<u128, BadAddress> {
        self.host.compare_exchange(hva, size, expected, new)
    }

    fn now(&self) -> u64 {
        self.host.now()
    }

    fn wall_clock(&self) -> u64 {
        self.host.wall_clock()
    }

    fn tsc(&self) -> u64 {
        self.host.tsc()
    }

    fn tsc_khz(&self) -> u32 {
        self.host.tsc_khz()
    }

    fn yield_now(&self) {
        self.asked.yields.fetch_add(1, Ordering::Relaxed);
        self.host.yield_now();
    }

    fn is_interrupted(&self) -> bool {
        self.host.is_interrupted()
    }

    fn timer(&self, target: Arc<dyn Expire>) -> Result<TestTimer, Errno> {
        self.host.timer(target)
    }

    fn parker(&self) -> Result<TestParker, Errno> {
        self.host.parker()
    }

    fn event(&self, descriptor: i32) -> Result<TestEvent, Errno> {
        self.host.event(descriptor)
    }

    fn watch(&self, event: &TestEvent, target: Arc<dyn Notify>) -> Result<TestWatch, Errno> {
        self.host.watch(event, target)
    }

    fn file(&self, descriptor: i32) -> Result<TestFile, Errno> {
        self.host.file(descriptor)
    }
}
