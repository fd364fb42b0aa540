//! An engine that follows a script, and a host whose time passes only when everybody sleeps:
//! what the run loop is tested on, in user space and in the kernel.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use virt::dirty_ring::DirtyRing;
use virt::host::{BadAddress, Event as HostEvent, Expire, File, Host, Notify, Parker, Timer};
use virt::memory::Slot;
use virt::{Errno, Memory, Vm};

use super::Vcpu;
use crate::cpuid::{Instructions, Leaf};
use crate::engine::{Engine, EngineVcpu, Entry, Event, Features, Intercept};
use crate::machine::X86;
use crate::mmu::Limits;
use crate::regs::{Regs, State, forward_regs};

/// What the guest "does" at one entry: changes registers, and comes out.
pub type Step = Box<dyn FnMut(&mut State, &Entry) -> Intercept + Send>;

/// The engine.
#[derive(Clone, Default)]
pub struct Scripted {
    /// Guest-physical ranges that were invalidated.
    pub invalidated: Arc<spin::Mutex<Vec<(u64, u64)>>>,
    /// What it lacks.
    pub lacks: Arc<spin::Mutex<Instructions>>,
}

/// One vCPU of the engine.
pub struct ScriptedVcpu {
    state: Box<State>,
    /// What comes next.
    pub script: VecDeque<Step>,
    /// What each entry brought.
    pub entries: Vec<Entry>,
    /// The vectors whose exceptions come out.
    pub exception_intercepts: u32,
    /// The instructions that the guest is offered.
    pub features: Features,
    /// What it is told of addresses.
    pub limits: Limits,
    /// Whether the event of an entry is given back, as one that was not delivered.
    pub gives_back: bool,
    /// The guest's SPEC_CTRL.
    pub speculation_control: u64,
    /// How often branches were to be forgotten.
    pub barriers: u32,
    undelivered: Option<Event>,
    host: Option<TestHost>,
    offset: u64,
}

impl ScriptedVcpu {
    /// Adds a step to the script.
    pub fn then(&mut self, step: impl FnMut(&mut State, &Entry) -> Intercept + Send + 'static) {
        self.script.push_back(Box::new(step));
    }

    /// The events of all entries so far.
    #[must_use]
    pub fn injected(&self) -> Vec<Event> {
        self.entries.iter().filter_map(|entry| entry.inject).collect()
    }
}

impl Engine for Scripted {
    type Vcpu = ScriptedVcpu;

    fn create_vcpu(&self, _id: u32) -> Result<ScriptedVcpu, Errno> {
        Ok(ScriptedVcpu {
            state: Box::new(State::at_reset()),
            script: VecDeque::new(),
            entries: Vec::new(),
            exception_intercepts: 0,
            features: Features::default(),
            limits: Limits::default(),
            gives_back: false,
            speculation_control: 0,
            barriers: 0,
            undelivered: None,
            host: None,
            offset: 0,
        })
    }

    fn instructions(&self) -> Instructions {
        Instructions::default()
    }

    fn lacks(&self) -> Instructions {
        *self.lacks.lock()
    }

    fn invalidate(&self, start: u64, size: u64) {
        self.invalidated.lock().push((start, size));
    }

    fn kick(&self, _id: u32) {}
}

impl Regs for ScriptedVcpu {
    forward_regs!(state);
}

impl EngineVcpu for ScriptedVcpu {
    fn load(&mut self) {}

    fn put(&mut self) {}

    fn prepare(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    fn enter(&mut self, entry: &Entry, request: &AtomicU32) -> Intercept {
        self.entries.push(*entry);
        if self.gives_back {
            self.undelivered = entry.inject;
        }
        if request.load(Ordering::Acquire) != 0 {
            self.undelivered = entry.inject;
            return Intercept::Interrupted;
        }
        match self.script.pop_front() {
            Some(mut step) => step(&mut self.state, entry),
            // At the end of the script the guest is lost.
            None => Intercept::Shutdown,
        }
    }

    fn take_undelivered(&mut self) -> Option<Event> {
        self.undelivered.take()
    }

    fn set_exception_intercepts(&mut self, vectors: u32) {
        self.exception_intercepts = vectors;
    }

    fn set_features(&mut self, features: Features) {
        self.features = features;
    }

    fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.offset = offset;
    }

    fn set_speculation_control(&mut self, value: u64) {
        self.speculation_control = value;
    }

    fn forget_branches(&mut self) {
        self.barriers += 1;
    }

    // It writes no memory by itself.
    fn set_dirty_ring(&mut self, _ring: Arc<DirtyRing>) {}

    fn tsc(&self) -> u64 {
        self.host.as_ref().map_or(0, Host::tsc).wrapping_add(self.offset)
    }

    fn flush_tlb(&mut self) {}
}

/// The host: memory at host virtual address 0 and up, one TSC tick a nanosecond.
#[derive(Clone, Default)]
pub struct TestHost(Arc<Inner>);

#[derive(Default)]
struct Inner {
    memory: spin::Mutex<Vec<u8>>,
    now: AtomicU64,
    timers: spin::Mutex<Vec<Armed>>,
    next_timer: AtomicU64,
    events: spin::Mutex<Vec<TestEvent>>,
    interrupted: AtomicBool,
}

struct Armed {
    deadline: u64,
    number: u64,
    target: Arc<dyn Expire>,
}

impl TestHost {
    /// When it was started, on its own clock.
    pub const START: u64 = 1_000_000;
    /// One past what can be a caller's address.
    pub const CALLERS_END: u64 = 1 << 47;
    /// Descriptors below this are events.
    pub const EVENTS: usize = 4;
    /// A descriptor of something else.
    pub const OTHER: usize = 7;
    /// The first two descriptors of VFIO's groups; the second of each, too, is of the same file.
    pub const GROUPS: [i32; 2] = [10, 12];

    fn new(memory: usize) -> Self {
        let host = Self::default();
        *host.0.memory.lock() = vec![0; memory];
        host.0.now.store(Self::START, Ordering::Relaxed);
        host
    }

    /// Lets the earliest timer fire, at its time. Gives false if none is armed.
    pub fn let_time_pass(&self) -> bool {
        let mut timers = self.0.timers.lock();
        let earliest = (0..timers.len()).min_by_key(|at| timers[*at].deadline);
        let Some(at) = earliest else { return false };
        let due = timers.remove(at);
        drop(timers);
        self.0.now.fetch_max(due.deadline, Ordering::Relaxed);
        due.target.expired();
        true
    }

    /// Has a signal be there for the thread, or not any more.
    pub fn interrupt(&self, signal: bool) {
        self.0.interrupted.store(signal, Ordering::Relaxed);
    }

    fn range(&self, hva: u64, len: usize) -> Result<core::ops::Range<usize>, BadAddress> {
        let start = usize::try_from(hva).map_err(|_| BadAddress)?;
        let end = start.checked_add(len).ok_or(BadAddress)?;
        if end > self.0.memory.lock().len() { Err(BadAddress) } else { Ok(start..end) }
    }
}

impl Host for TestHost {
    type RawMutex = spin::Mutex<()>;
    type Timer = TestTimer;
    type Parker = TestParker;
    type Event = TestEvent;
    type Watch = TestWatch;
    type File = TestFile;

    fn read(&self, hva: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let range = self.range(hva, buffer.len())?;
        buffer.copy_from_slice(&self.0.memory.lock()[range]);
        Ok(())
    }

    fn write(&self, hva: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let range = self.range(hva, bytes.len())?;
        self.0.memory.lock()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn can_be_callers(&self, address: u64, size: u64) -> bool {
        Self::CALLERS_END.checked_sub(size).is_some_and(|last| address <= last)
    }

    fn copy_from_caller(&self, address: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.read(address, buffer)
    }

    fn copy_to_caller(&self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.write(address, bytes)
    }

    fn compare_exchange(
        &self,
        hva: u64,
        size: u8,
        expected: u128,
        new: u128,
    ) -> Result<u128, BadAddress> {
        let size = usize::from(size.min(16));
        let mut bytes = [0; 16];
        self.read(hva, &mut bytes[..size])?;
        let found = u128::from_le_bytes(bytes);
        if found == expected {
            self.write(hva, &new.to_le_bytes()[..size])?;
        }
        Ok(found)
    }

    fn now(&self) -> u64 {
        self.0.now.load(Ordering::Relaxed)
    }

    fn wall_clock(&self) -> u64 {
        1_700_000_000_000_000_000 + self.now()
    }

    fn tsc(&self) -> u64 {
        self.now()
    }

    fn tsc_khz(&self) -> u32 {
        1_000_000
    }

    fn yield_now(&self) {
        self.let_time_pass();
    }

    fn is_interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::Relaxed)
    }

    fn timer(&self, target: Arc<dyn Expire>) -> Result<TestTimer, Errno> {
        let number = self.0.next_timer.fetch_add(1, Ordering::Relaxed);
        Ok(TestTimer { host: self.clone(), number, target })
    }

    fn parker(&self) -> Result<TestParker, Errno> {
        Ok(TestParker(self.clone()))
    }

    fn event(&self, descriptor: i32) -> Result<TestEvent, Errno> {
        let mut events = self.0.events.lock();
        match usize::try_from(descriptor) {
            Ok(at) if at < Self::EVENTS => {
                events.resize_with(Self::EVENTS, TestEvent::default);
                Ok(events[at].clone())
            }
            Ok(at) if at == Self::OTHER => Err(Errno::EINVAL),
            _ => Err(Errno::EBADF),
        }
    }

    fn watch(&self, event: &TestEvent, target: Arc<dyn Notify>) -> Result<TestWatch, Errno> {
        *event.0.target.lock() = Some(target);
        event.tell();
        Ok(TestWatch(event.clone()))
    }

    fn file(&self, descriptor: i32) -> Result<TestFile, Errno> {
        match usize::try_from(descriptor) {
            Ok(at) if at < Self::EVENTS || at == Self::OTHER => Ok(TestFile(descriptor)),
            _ if Self::GROUPS.contains(&(descriptor & !1)) => Ok(TestFile(descriptor & !1)),
            _ => Err(Errno::EBADF),
        }
    }
}

/// A file of the test host, by its first descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TestFile(i32);

impl File for TestFile {
    fn is_vfio_group(&self) -> bool {
        TestHost::GROUPS.contains(&self.0)
    }
}

/// An event of the test host: counts, or calls who watches it at once.
#[derive(Clone, Default)]
pub struct TestEvent(Arc<Signals>);

#[derive(Default)]
struct Signals {
    count: AtomicU64,
    target: spin::Mutex<Option<Arc<dyn Notify>>>,
}

impl TestEvent {
    /// How often it was signalled since the last time.
    #[must_use]
    pub fn take(&self) -> u64 {
        self.0.count.swap(0, Ordering::Relaxed)
    }

    fn tell(&self) {
        let target = self.0.target.lock().clone();
        if let Some(target) = target
            && self.take() > 0
        {
            target.signalled();
        }
    }
}

impl PartialEq for TestEvent {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl HostEvent for TestEvent {
    fn signal(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }
}

/// That an event is watched.
pub struct TestWatch(TestEvent);

impl Drop for TestWatch {
    fn drop(&mut self) {
        *self.0.0.target.lock() = None;
    }
}

/// A timer of the test host.
pub struct TestTimer {
    host: TestHost,
    number: u64,
    target: Arc<dyn Expire>,
}

impl Timer for TestTimer {
    fn arm(&self, deadline: u64) {
        self.disarm();
        let armed = Armed { deadline, number: self.number, target: Arc::clone(&self.target) };
        self.host.0.timers.lock().push(armed);
    }

    fn disarm(&self) {
        self.host.0.timers.lock().retain(|armed| armed.number != self.number);
    }
}

impl Drop for TestTimer {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// A waiting place of the test host: waiting lets time pass.
pub struct TestParker(TestHost);

impl Parker for TestParker {
    fn park(&self, ready: &mut dyn FnMut() -> bool) {
        while !ready() && self.0.let_time_pass() {}
    }

    fn unpark(&self) {}
}

/// A machine to test the run loop with.
pub struct Fixture {
    /// The host.
    pub host: TestHost,
    /// The machine.
    pub vm: Vm<X86<Scripted, TestHost>>,
}

impl Fixture {
    /// Size of the guest's memory, at guest-physical 0.
    pub const MEMORY: u64 = 0x10_0000;

    /// A machine of `cpus` vCPUs with memory and all chips.
    ///
    /// # Errors
    /// What the core refuses.
    pub fn new(cpus: u32) -> Result<Self, Errno> {
        let fixture = Self::without_chips(cpus)?;
        fixture.vm.arch().create_irqchip()?;
        fixture.vm.arch().create_pit(true)?;
        Ok(fixture)
    }

    /// The same, without chips.
    ///
    /// # Errors
    /// What the core refuses.
    pub fn without_chips(cpus: u32) -> Result<Self, Errno> {
        fn nothing(_: u32, _: u32) -> Leaf {
            [0; 4]
        }
        let host = TestHost::new(Self::MEMORY as usize);
        let memory = Arc::new(Memory::default());
        let arch = X86::new(host.clone(), Scripted::default(), Arc::clone(&memory), nothing, cpus)?;
        let vm = Vm::new(memory, arch)?;
        vm.add_slot(Slot { size: Self::MEMORY, ..Slot::default() })?;
        Ok(Self { host, vm })
    }

    /// How often the engine was told that memory has changed.
    #[must_use]
    pub fn invalidations(&self) -> usize {
        self.vm.arch().machine().engine.invalidated.lock().len()
    }

    /// Makes a vCPU, in 64-bit mode without a script.
    ///
    /// # Errors
    /// What the core refuses.
    pub fn vcpu(&self, id: u32) -> Result<Box<Vcpu<Scripted, TestHost>>, Errno> {
        Ok(self.with_host(Box::new(Vcpu::new(self.vm.arch().machine(), id)?)))
    }

    /// The same in the place of one that is gone, as often as wanted: state goes from one to the next.
    ///
    /// # Errors
    /// What the core refuses.
    // A vCPU is made on the stack.
    #[inline(never)]
    pub fn vcpu_again(&self, id: u32) -> Result<Box<Vcpu<Scripted, TestHost>>, Errno> {
        let machine = self.vm.arch().machine();
        let published = machine.vcpu(id).ok_or(Errno::EINVAL)?;
        Ok(self.with_host(Box::new(Vcpu::make(machine, id, published)?)))
    }

    fn with_host(&self, mut vcpu: Box<Vcpu<Scripted, TestHost>>) -> Box<Vcpu<Scripted, TestHost>> {
        vcpu.engine_mut().host = Some(self.host.clone());
        vcpu
    }
}
