//! The project's own core in this process: `virt` and `arch/x86` over the software CPU.
//!
//! Calls the typed methods of the core directly; the ioctl interface decodes onto the same ones.

use std::io;
use std::sync::Arc;

use arch_x86::cpuid::{Leaf, Table};
use arch_x86::engine::Engine as _;
use arch_x86::exception::Exception;
use arch_x86::guest_debug::GuestDebug;
use arch_x86::machine::{MAX_CPUS, X86};
use arch_x86::quirks::MWAIT_NEVER_FAULTS;
use arch_x86::regs::State;
use arch_x86::vcpu::inbox::request;
use arch_x86::vcpu::{Answer, Exit, Vcpu as CoreVcpu};
pub use engine_soft::Modes;
use engine_soft::{Options, SoftEngine};
use host_user::Process;
use virt::arch::Arch;
use virt::memory::{Slot, Slots};
use virt::{Errno, Memory};
use vm_memory::GuestRegionMmap;

use crate::pause::{Gate, Pass};
use crate::regions::{Place, Regions};
use crate::{
    Counts, Error, EventFd, Hypervisor, IoEventFd, MemoryFlags, MemoryId, Vcpu, Vm, VmConfig,
};

type Engine = SoftEngine;
type CoreVm = virt::Vm<X86<Engine, Process>>;

/// The software CPU: any x86-64 Linux machine, no privilege, no device.
#[derive(Clone, Copy, Debug)]
pub struct InProcess {
    /// Bytes of translated code that all vCPUs together may keep; 0: the interpreter executes all.
    pub jit_cache: usize,
    /// How many times a block of code is interpreted before it is translated.
    pub patience: u32,
    /// Translated code counts instructions, and it is measured how long translating takes, at some cost. The
    /// interpreter always counts.
    pub counted: bool,
    /// Each translated block is executed by the interpreter, too, and has to do the same: [`Error::Diverged`] if it
    /// does not. With one vCPU only: others could change memory in between, so nothing is checked.
    pub lockstep: bool,
    /// For tests: how code is executed otherwise than usual.
    pub modes: Modes,
}

impl InProcess {
    /// Nothing is translated.
    pub const INTERPRETER: Self =
        Self { jit_cache: 0, patience: 0, counted: false, lockstep: false, modes: Modes::USUAL };

    /// Why the interpreter executes all although code was to be translated; `None` if it does not.
    #[must_use]
    pub fn lacks_jit(self) -> Option<io::Error> {
        if self.jit_cache == 0 { None } else { SoftEngine::can_translate().err() }
    }
}

impl Default for InProcess {
    /// With the JIT, and its usual room.
    fn default() -> Self {
        let options = Options::default();
        Self {
            jit_cache: options.translated,
            patience: options.patience,
            counted: options.counted,
            lockstep: options.lockstep,
            modes: options.modes,
        }
    }
}

impl Hypervisor for InProcess {
    type Vm = InProcessVm;

    fn name(&self) -> &'static str {
        "soft"
    }

    fn create_vm(&self, config: VmConfig) -> Result<InProcessVm, Error> {
        if config.cpus > MAX_CPUS {
            return Err(Error::TooManyCpus { asked: config.cpus, most: MAX_CPUS as usize });
        }
        let host = Process::new();
        let memory = Arc::new(Memory::default());
        let options = Options {
            translated: self.jit_cache,
            patience: self.patience,
            counted: self.counted,
            lockstep: self.lockstep,
            writes_are_told: true,
            modes: self.modes,
            ..Options::default()
        };
        // SAFETY: slots come from `add_memory` alone. Its regions are mapped for reading, and for writing unless the slot is
        // read-only, which `Regions` checks; they are held in `Shared::regions` until `remove_slot` has returned, which has
        // the engine invalidate, or until the machine and its vCPUs are gone; and `vm-memory` gives out no references to
        // their bytes, only volatile accesses.
        let engine = unsafe { SoftEngine::new(Arc::clone(&memory), options) };
        let start = |errno| Error::Start(os_error(errno));
        let arch =
            X86::new(host, engine, Arc::clone(&memory), host_cpuid, config.cpus).map_err(start)?;
        arch.create_irqchip().map_err(start)?;
        arch.create_pit(true).map_err(start)?;
        // A guest finds a processor that has what CPUID says. The hypercalls of either maker it may use.
        arch.machine().quirks.disable(MWAIT_NEVER_FAULTS);
        let core = CoreVm::new(memory, arch).map_err(start)?;
        Ok(InProcessVm(Arc::new(Shared {
            core,
            cpus: config.cpus,
            gate: Gate::default(),
            regions: Regions::new(Slots::MAX),
        })))
    }
}

/// The processor's own CPUID.
pub(crate) fn host_cpuid(function: u32, index: u32) -> Leaf {
    let answer = core::arch::x86_64::__cpuid_count(function, index);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

fn os_error(Errno(number): Errno) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// Why an ioeventfd or an irqfd is refused.
fn refused(action: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Event { action, error: os_error(errno) }
}

struct Shared {
    core: CoreVm,
    cpus: u32,
    gate: Gate,
    regions: Regions,
}

impl Shared {
    /// Makes every vCPU come out of guest code.
    fn kick(&self) {
        for id in 0..self.cpus {
            self.core.arch().machine().post(id, request::EXIT);
        }
    }
}

/// A machine in this process.
#[derive(Clone)]
pub struct InProcessVm(Arc<Shared>);

impl Vm for InProcessVm {
    type Vcpu = InProcessVcpu;

    const CHEAP_EXITS: bool = true;

    fn add_memory(
        &self,
        region: Arc<GuestRegionMmap>,
        flags: MemoryFlags,
    ) -> Result<MemoryId, Error> {
        self.0.regions.add(region, flags, |Place { slot: id, gpa, size, hva, flags }| {
            let MemoryFlags { read_only, log_dirty } = flags;
            let slot = Slot { id, gpa, size, hva, read_only, log_dirty };
            self.0.core.add_slot(slot).map_err(os_error)
        })
    }

    fn move_memory(&self, id: MemoryId, gpa: u64) -> Result<(), Error> {
        let set = |place: Place| self.0.core.move_slot(place.slot, place.gpa).map_err(os_error);
        self.0.regions.relocate(id, gpa, set)
    }

    fn remove_memory(&self, id: MemoryId) -> Result<(), Error> {
        let remove = |place: Place| self.0.core.remove_slot(place.slot).map_err(os_error);
        self.0.regions.remove(id, remove)
    }

    fn log_dirty(&self, id: MemoryId, on: bool) -> Result<(), Error> {
        let set = |place: Place| {
            self.0.core.log_dirty(place.slot, place.flags.log_dirty).map_err(os_error)
        };
        self.0.regions.log_dirty(id, on, set)
    }

    fn take_dirty(&self, id: MemoryId) -> Result<Vec<u64>, Error> {
        let take = |place: Place| self.0.core.take_dirty(place.slot).map_err(os_error);
        self.0.regions.take_dirty(id, take)
    }

    fn create_vcpu(&self, id: u32) -> Result<InProcessVcpu, Error> {
        let core = CoreVcpu::new(self.0.core.arch().machine(), id)
            .map_err(|errno| Error::Vcpu { id, error: os_error(errno) })?;
        Ok(InProcessVcpu {
            core,
            vm: Arc::clone(&self.0),
            pass: self.0.gate.pass(),
            held: Answer::None,
        })
    }

    fn set_irq(&self, gsi: u32, level: bool) {
        self.0.core.set_irq(gsi, level);
    }

    fn add_ioeventfd(&self, new: IoEventFd) -> Result<(), Error> {
        self.0.core.add_ioeventfd(new).map_err(refused("add an ioeventfd"))
    }

    fn remove_ioeventfd(&self, old: &IoEventFd) -> Result<(), Error> {
        self.0.core.remove_ioeventfd(old).map_err(refused("remove an ioeventfd"))
    }

    fn add_irqfd(&self, gsi: u32, event: &EventFd) -> Result<(), Error> {
        self.0.core.add_irqfd(gsi, event).map_err(refused("add an irqfd"))
    }

    fn remove_irqfd(&self, gsi: u32, event: &EventFd) -> Result<(), Error> {
        self.0.core.remove_irqfd(gsi, event).map_err(refused("remove an irqfd"))
    }

    fn send_msi(&self, address: u64, data: u32) {
        // Whether somebody was there is nothing to a device.
        let _ = self.0.core.arch().send_msi(address, data);
    }

    fn wrote(&self, start: u64, size: u64) {
        self.0.core.arch().machine().engine.wrote(start, size);
    }

    fn pause(&self) {
        self.0.gate.pause(|| self.0.kick());
    }

    fn resume(&self) {
        self.0.gate.resume();
    }

    fn interrupt_vcpus(&self) {
        self.0.gate.interrupt(|| self.0.kick());
    }
}

/// A vCPU in this process.
pub struct InProcessVcpu {
    core: CoreVcpu<Engine, Process>,
    vm: Arc<Shared>,
    pass: Pass,
    /// An answer that came in when the vCPU was just asked to return.
    held: Answer,
}

impl InProcessVcpu {
    /// What the guest is told about its processor.
    pub(crate) fn cpuid(&self) -> &Table {
        self.core.cpuid()
    }

    /// Why the vCPU can't go on.
    fn failure(&self, errno: Errno) -> Error {
        match self.core.engine().divergence() {
            Some(divergence) => Error::Diverged { report: divergence.to_string() },
            None => Error::Run { error: os_error(errno) },
        }
    }
}

impl Vcpu for InProcessVcpu {
    fn run(&mut self, mut answer: Answer) -> Result<Exit, Error> {
        if answer == Answer::None {
            answer = std::mem::replace(&mut self.held, Answer::None);
        }
        loop {
            if !self.vm.gate.enter(&mut self.pass) {
                self.held = answer;
                return Ok(Exit::Interrupted);
            }
            let exit = self.core.run(answer);
            self.vm.gate.leave(&self.pass);
            match exit {
                // Paused, or to return: the gate knows.
                Exit::Interrupted => answer = Answer::None,
                Exit::Failed(errno) => return Err(self.failure(errno)),
                Exit::BadMemory { gpa } => return Err(Error::BadMemory { gpa }),
                exit => return Ok(exit),
            }
        }
    }

    fn state(&self) -> Result<State, Error> {
        Ok(State::read(self.core.engine()))
    }

    fn set_state(&mut self, state: &State) -> Result<(), Error> {
        state.write(self.core.engine_mut());
        Ok(())
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<(), Error> {
        self.core.set_msr(index, value).map_err(|_| Error::Msr { index, value })
    }

    fn inject(&mut self, exception: Exception) -> Result<(), Error> {
        let vector = exception.vector;
        self.core
            .inject(exception)
            .map_err(|errno| Error::Inject { vector, error: os_error(errno) })
    }

    fn nmi(&mut self) -> Result<(), Error> {
        self.core.nmi();
        Ok(())
    }

    fn set_debug(&mut self, debug: &GuestDebug) -> Result<(), Error> {
        self.core.set_debug(debug);
        Ok(())
    }

    fn counts(&self) -> Option<Counts> {
        let engine = self.core.engine();
        let statistics = engine.statistics();
        engine.instructions().map(|instructions| Counts {
            instructions,
            translated: statistics.translated_instructions,
            translation_time: statistics.translation_time,
            code_size: statistics.code_size,
        })
    }
}
