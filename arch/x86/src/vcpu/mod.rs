//! The run loop of a vCPU: drain the mailbox, inject, enter, handle what comes out.
//!
//! [`Vcpu`] lives on its thread. Its parts: [`inbox`], what others want of it; [`exit`], why
//! `run` returns; `events`, what is delivered to the guest next; `handle`, what an intercept needs; `cpuid`, what that
//! answers; `msr`, RDMSR and WRMSR; `paravirt`, hypercalls; `clock`, KVM's clocks; `access`, instructions that touch devices; `replay`, what those
//! have exchanged; `string_io`; `debug`, what a debugger wants; `state`, what there is to save beside registers; `tsc`; `vapic`, who sees the task priority; `translate`,
//! from linear to guest-physical addresses; [`accesses`], when it accesses guest memory by itself.
//!
//! See: ARCHITECTURE.md, the life of an exit.

mod access;
pub mod accesses;
mod clock;
mod cpuid;
mod debug;
mod events;
pub mod exit;
mod handle;
pub mod inbox;
mod msr;
mod paravirt;
mod replay;
mod state;
mod string_io;
mod translate;
mod tsc;
mod vapic;

#[cfg(feature = "selftest")]
pub mod accesses_test;
#[cfg(feature = "selftest")]
pub mod debug_test;
#[cfg(feature = "selftest")]
pub mod eventfd_test;
#[cfg(feature = "selftest")]
pub mod inbox_test;
#[cfg(feature = "selftest")]
pub mod run_test;
#[cfg(feature = "selftest")]
pub mod scripted;

use alloc::sync::Arc;
use core::sync::atomic::AtomicU32;

use virt::Errno;
use virt::dirty_ring::DirtyRing;
use virt::host::{Expire, Host, Timer};
use virt::ioeventfd::{self, IoAddress};
use virt::memory::{Unreached, View};

use crate::cpuid::{Table, default_table};
use crate::engine::{Engine, EngineVcpu, Features};
use crate::irqchip::lapic::{Config, Effect, LocalApic};
use crate::irqchip::lapic_timer::Deadline;
use crate::irqchip::vectors::Vectors;
use crate::machine::{Machine, Published};
use crate::machine_check::MachineCheck;
use crate::msr::Stored;
use crate::regs::State;
use crate::setup::Setup;
use crate::statistics::{VcpuStatistic, VcpuStatistics};

use accesses::Accesses;
use clock::Clock;
use debug::Debugger;
use handle::Completion;
use inbox::request;
use replay::Replay;
use vapic::TaskPriorityWatch;

pub use events::{Activity, Pending};
pub use exit::{Answer, Awaited, Data, Exit};

/// One vCPU: everything about it that is not the engine's.
pub struct Vcpu<E: Engine, H: Host> {
    // Fixed.
    id: u32,
    machine: Arc<Machine<E, H>>,
    timer: H::Timer,
    cpuid: Table,
    // The guest's state.
    engine: E::Vcpu,
    lapic: LocalApic,
    msrs: Stored,
    machine_check: MachineCheck,
    clock: Clock,
    tsc_offset: u64,
    tsc_adjust: u64,
    activity: Activity,
    pending: Pending,
    completion: Completion,
    /// Vectors of ended interrupts that an I/O APIC of the VMM's is to be told of.
    ended: Vectors,
    replay: Replay,
    debugger: Debugger,
    task_priority: TaskPriorityWatch,
    // Derived, or for the next entry only.
    view: View,
    accesses: Accesses,
    statistics: Arc<VcpuStatistics>,
    ioeventfds: ioeventfd::View<H::Event>,
    fresh: bool,
    serialized: bool,
    stuck: bool,
    /// The VMM wants to be told when it can inject an interrupt.
    window: bool,
    /// It has been in the guest.
    has_run: bool,
    /// KVM's registers and hypercalls are there only if CPUID says so.
    enforces_pv: bool,
    /// Those of the machine's quirks that it had when the vCPU was run last.
    quirks: u64,
    /// The instructions that the guest has: what the engine was told.
    features: Features,
}

/// The local APIC of vCPU `id` as the machine has it, and CPUID offers it.
fn lapic_config(id: u32, setup: &Setup, cpuid: &Table) -> Config {
    let leaf1_ecx = cpuid.get(1, 0).unwrap_or_default()[2];
    Config {
        id,
        bootstrap: id == setup.boot_cpu(),
        absent: !setup.has_local_apics(),
        x2apic: leaf1_ecx >> 21 & 1 != 0,
        tsc_deadline: leaf1_ecx >> 24 & 1 != 0,
        physical_bits: cpuid.physical_bits() as u8,
    }
}

/// Wakes a vCPU when its local APIC's timer is due.
struct TimerExpiry<E, H: Host> {
    machine: alloc::sync::Weak<Machine<E, H>>,
    id: u32,
}

impl<E: Engine, H: Host> Expire for TimerExpiry<E, H> {
    fn expired(&self) {
        if let Some(machine) = self.machine.upgrade() {
            machine.post(self.id, request::TIMER);
        }
    }
}

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// Makes vCPU `id` in its state at reset: the one that boots runs, the others wait for start-up. Without local APICs all run.
    ///
    /// # Errors
    /// `EINVAL` for an `id` that the machine has no place for, `EEXIST` for one that it has made, and what the host lacks.
    pub fn new(machine: &Arc<Machine<E, H>>, id: u32) -> Result<Self, Errno> {
        let allowed = machine.vcpu(id).filter(|_| machine.setup.allows(id));
        let published = allowed.ok_or(Errno::EINVAL)?;
        published.make_once(|| Self::make(machine, id, published))
    }

    fn make(
        machine: &Arc<Machine<E, H>>,
        id: u32,
        published: &Published<H>,
    ) -> Result<Self, Errno> {
        let host = &machine.host;
        let khz = host.tsc_khz();
        let instructions = machine.engine.instructions();
        let mut cpuid = default_table(&**machine, instructions, id, machine.cpus(), khz)?;
        cpuid.withhold(&machine.engine.lacks());
        let expiry = TimerExpiry { machine: Arc::downgrade(machine), id };
        let lapic = LocalApic::new(lapic_config(id, &machine.setup, &cpuid));
        published.publish(lapic.address());
        machine.setup.note_made(id);
        let mut engine = machine.engine.create_vcpu(id)?;
        State::at_reset().write(&mut engine);
        let features = cpuid.features();
        engine.set_features(features);
        engine.set_limits(cpuid.limits());
        let tsc_offset = machine.tsc.get();
        engine.set_tsc_offset(tsc_offset);
        Ok(Self {
            id,
            timer: host.timer(Arc::new(expiry))?,
            machine: Arc::clone(machine),
            cpuid,
            engine,
            activity: Activity::at_reset(lapic.config()),
            lapic,
            msrs: Stored::default(),
            machine_check: MachineCheck::default(),
            clock: Clock::default(),
            tsc_offset,
            tsc_adjust: 0,
            pending: Pending::default(),
            completion: Completion::None,
            ended: Vectors::new(),
            replay: Replay::default(),
            debugger: Debugger::default(),
            task_priority: TaskPriorityWatch::default(),
            view: machine.memory.view(),
            accesses: published.accesses.clone(),
            statistics: Arc::clone(&published.statistics),
            ioeventfds: machine.ioeventfds.view(),
            fresh: true,
            serialized: false,
            stuck: false,
            window: false,
            has_run: false,
            enforces_pv: false,
            // Seen when it is run.
            quirks: 0,
            features,
        })
    }

    /// Runs the guest until it needs the VMM. `answer` is to the last exit. Process context,
    /// always on the same thread.
    pub fn run(&mut self, answer: Answer) -> Exit {
        self.fresh = true;
        self.follow_quirks();
        self.complete(answer);
        let machine = Arc::clone(&self.machine);
        let Some(published) = machine.vcpu(self.id) else { return Exit::Shutdown };
        self.engine.load();
        let exit = self.run_loop(published);
        self.engine.put();
        exit
    }

    /// Completes what waits for `answer`, and runs nothing else. Gives an exit if that takes one more. Process context, on
    /// the same thread as [`run`](Self::run).
    pub fn finish(&mut self, answer: Answer) -> Option<Exit> {
        let reads = matches!(self.completion, Completion::Mmio { .. });
        self.complete(answer);
        self.engine.load();
        // With what was read the instruction is executed.
        let next = if reads { self.emulate() } else { None };
        let exit = next.or_else(|| self.finish_writes()).or_else(|| self.debug_exit());
        self.engine.put();
        exit
    }

    fn run_loop(&mut self, published: &Published<H>) -> Exit {
        loop {
            if let Some(exit) = self.finish_writes() {
                return exit;
            }
            if let Some(vector) = self.ended.highest() {
                self.ended.remove(vector);
                return Exit::EndOfInterrupt { vector };
            }
            if let Some(exit) = self.task_priority.take() {
                return exit;
            }
            if let Some(exit) = self.debug_exit() {
                return exit;
            }
            if published.inbox.is_full() && self.drain(&published.inbox) {
                return Exit::Interrupted;
            }
            if let Some(ring) = self.view.ring()
                && ring.is_nearly_full()
            {
                // A page that had no room would be lost without a word.
                let lost = ring.has_overflowed();
                return if lost { Exit::Failed(Errno::ENOSPC) } else { Exit::DirtyRingFull };
            }
            if core::mem::take(&mut self.pending.triple_fault) {
                self.activity = Activity::Shutdown;
                return Exit::Shutdown;
            }
            if self.machine.host.is_interrupted() {
                return Exit::Interrupted;
            }
            if !self.is_running() {
                if let Some(exit) = self.idle(published) {
                    return exit;
                }
                continue;
            }
            if self.window && self.is_open() {
                return Exit::InterruptWindow;
            }
            self.has_run = true;
            if let Err(errno) = self.engine.prepare() {
                return Exit::Failed(errno);
            }
            let request = published.inbox.request();
            let exit = if self.debugger.needs_registers() {
                self.enter_debugged(request)
            } else {
                self.enter(request)
            };
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    /// Goes into the guest, and handles what comes out. Gives an exit if the VMM is needed.
    #[inline(always)]
    fn enter(&mut self, request: &AtomicU32) -> Option<Exit> {
        let entry = self.next_entry();
        self.write_task_priority_word();
        let intercept = self.engine.enter(&entry, request);
        self.read_task_priority_word();
        if let Some(event) = self.engine.take_undelivered() {
            self.put_back(event);
        } else {
            self.statistics.injected(entry.inject);
        }
        self.statistics.came_out(&intercept);
        self.handle(intercept)
    }

    /// Waits, halted, until there is mail. Gives an exit when the guest can't be woken
    /// by an interrupt any more, once.
    fn idle(&mut self, published: &Published<H>) -> Option<Exit> {
        let deaf = self.activity == Activity::Halted && !self.interrupts_enabled();
        if deaf && !self.stuck {
            self.stuck = true;
            return Some(Exit::Halted);
        }
        self.statistics.set(VcpuStatistic::Blocking, 1);
        published.wait();
        self.statistics.set(VcpuStatistic::Blocking, 0);
        None
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The engine, which owns the registers.
    pub fn engine(&self) -> &E::Vcpu {
        &self.engine
    }

    /// The same, to be changed: only while `run` does not run, which the borrow says.
    pub fn engine_mut(&mut self) -> &mut E::Vcpu {
        &mut self.engine
    }

    /// Has pages that the guest writes to put into a ring. Before it has run.
    pub fn set_dirty_ring(&mut self, ring: Arc<DirtyRing>) {
        self.view.set_ring(Arc::clone(&ring));
        self.engine.set_dirty_ring(ring);
    }

    /// The local APIC.
    pub fn lapic(&self) -> &LocalApic {
        &self.lapic
    }

    /// Carries out what a write to the local APIC set off.
    #[inline(never)]
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Send(message) => {
                self.machine.deliver(&message, Some(self.lapic.config().id));
            }
            Effect::EndOfInterrupt(vector) => {
                if self.machine.setup.has_shared_chips() {
                    self.machine.with_chips(|chips, _| ((), chips.eoi(vector)));
                } else {
                    self.ended.insert(vector);
                }
            }
            Effect::EndOfEdge(vector) => {
                if self.machine.is_tick(vector) {
                    self.machine.with_chips(|chips, _| ((), chips.eoi(vector)));
                }
            }
            Effect::Timer => self.arm_timer(),
            Effect::Address => {
                if let Some(published) = self.machine.vcpu(self.id) {
                    published.publish(self.lapic.address());
                }
                self.arm_timer();
            }
        }
    }

    /// Asks the host for a wake-up when the local APIC's timer is due.
    fn arm_timer(&mut self) {
        match self.lapic.deadline() {
            Deadline::None => self.timer.disarm(),
            Deadline::At(time) => self.timer.arm(time),
            Deadline::Tsc(value) => {
                let ticks = value.saturating_sub(self.engine.tsc());
                let khz = u128::from(self.machine.host.tsc_khz().max(1));
                let wait = u128::from(ticks) * 1_000_000 / khz;
                let wait = u64::try_from(wait).unwrap_or(u64::MAX / 2);
                self.timer.arm(self.machine.host.now().saturating_add(wait));
            }
        }
    }

    /// Accesses guest memory by the slots as they are. When who changes them goes on this is done, or sees the change.
    #[inline]
    fn with_memory<T>(&mut self, work: impl FnOnce(&View, &H) -> T) -> T {
        let (machine, view) = (&*self.machine, &mut self.view);
        self.accesses.during(|| {
            view.refresh(&machine.memory);
            work(view, &machine.host)
        })
    }

    /// Whether a write is for an event, which then is signalled: it is no exit.
    fn signal(&mut self, at: IoAddress, bytes: &[u8]) -> bool {
        self.ioeventfds.write(&self.machine.ioeventfds, at, bytes)
    }

    /// Reads guest-physical memory.
    fn read_memory(&mut self, gpa: u64, buffer: &mut [u8]) -> Result<(), Unreached> {
        self.with_memory(|view, host| view.read(host, gpa, buffer))
    }

    /// Whether there is a slot at an address, whatever is behind it.
    pub fn has_slot(&mut self, gpa: u64) -> bool {
        !matches!(self.read_memory(gpa, &mut [0]), Err(Unreached::NoSlot { .. }))
    }

    /// Writes guest-physical memory.
    fn write_memory(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), Unreached> {
        self.with_memory(|view, host| view.write(host, gpa, bytes))?;
        // Seen when the engine is entered next, which is no exit to the VMM.
        self.machine.engine.wrote(gpa, bytes.len() as u64);
        self.fresh = true;
        Ok(())
    }
}
