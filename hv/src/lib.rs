//! What a VMM sees of a hypervisor: [`Hypervisor`] → [`Vm`] → [`Vcpu`], and one back end
//! for each way to run a guest.
//!
//! - [`discard`](mod@discard): memory of a machine's that goes back to the host;
//! - [`huge_pages`]: memory for a machine in large pages;
//! - [`io_ring`]: what the host's kernel reads and writes of a machine's memory by itself;
//! - [`in_process`]: the project's own core in this process, over the software CPU;
//! - [`kvm`]: Linux's own KVM;
//! - [`host`]: what this host offers to run guests on;
//! - [`host_error`]: what it means that the host refuses something, and what to do;
//! - [`pause`]: how a machine's vCPUs are brought to a halt and go on;
//! - [`probe`](mod@probe): whether one really runs guests;
//! - `regions`: the memory that machines were given.
//!
//! An exit is a value, and so is its answer; the types of both, and of a vCPU's state, are
//! those of `arch/x86`, re-exported as [`x86`].

pub mod discard;
pub mod host;
pub mod host_error;
pub mod huge_pages;
pub mod in_process;
pub mod io_ring;
pub mod kvm;
pub mod pause;
pub mod probe;
mod regions;

use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

pub use regions::{MemoryFlags, MemoryId, Refused};
use vm_memory::GuestRegionMmap;

use host_error::{explain, explain_taken, explain_vcpu};

pub use host_user::event::EventFd;
pub use virt::host::Event;
pub use virt::ioeventfd::IoAddress;

/// Which of the guest's writes signal which eventfd.
pub type IoEventFd = virt::ioeventfd::IoEventFd<EventFd>;

/// The architecture's values that pass through the interface.
pub mod x86 {
    pub use arch_x86::cpuid::Table as Cpuid;
    pub use arch_x86::exception::{self, Exception};
    pub use arch_x86::guest_debug::{Breakpoint, DebugCause, GuestDebug, Length, Watch};
    pub use arch_x86::msr::index as msr;
    pub use arch_x86::regs::{
        Attr, Seg, Segment, State, SysReg, Table, cr0, cr4, efer, gpr, rflags,
    };
    pub use arch_x86::vcpu::{Answer, Data, Exit};
}

/// What KVM's interface has here that programs get from `unibody with-kvm`, as lists.
pub mod interface {
    pub use arch_x86::cpuid::{Model, default_table};
    pub use arch_x86::ioctl::capability::{CAPABILITIES, Capability};
    pub use arch_x86::ioctl::offered::{Descriptor, OFFERED, Offered};

    use crate::in_process::host_cpuid;

    /// The processor that a program's guests are offered if nothing else is asked.
    #[must_use]
    pub fn best_model() -> Model {
        Model::best(&host_cpuid, engine_soft::instructions())
    }

    /// Whether this host can offer it.
    #[must_use]
    pub fn can_offer(model: &Model) -> bool {
        model.runs(&host_cpuid, engine_soft::instructions())
    }
}

/// What can go wrong on the host's side. A guest's mistakes are not errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hypervisor's own services could not be started.
    #[error("cannot start the hypervisor's services: {}", explain(.0))]
    Start(#[source] std::io::Error),
    /// KVM refuses something.
    #[error("KVM cannot {action}: {}", explain(error))]
    Kvm {
        /// What was tried.
        action: &'static str,
        /// Why.
        error: std::io::Error,
    },
    /// Another hypervisor has the processor's virtualization.
    #[error("cannot make a virtual machine on {engine}: {}", explain_taken(engine))]
    Taken {
        /// The name that `--engine` knows the one by that was asked for.
        engine: &'static str,
    },
    /// There is no place for so many vCPUs.
    #[error("a guest has at most {most} processors here, and not {asked}: give it fewer")]
    TooManyCpus {
        /// How many were asked for.
        asked: u32,
        /// How many there may be.
        most: usize,
    },
    /// The guest can't go on, and KVM or the processor says why.
    #[error(
        "processor {vcpu} of the guest cannot go on at {rip:#x} (instruction bytes: {bytes}): {why}"
    )]
    Stuck {
        /// The vCPU.
        vcpu: u32,
        /// Why.
        why: String,
        /// Where.
        rip: u64,
        /// What is there, as far as it can be read.
        bytes: kvm::vcpu::Bytes,
    },
    /// Something can't be done to the guest's memory.
    #[error("cannot {action} memory of the guest at {gpa:#x} ({size} bytes): {reason}")]
    Memory {
        /// What was tried.
        action: &'static str,
        /// Guest-physical start.
        gpa: u64,
        /// Size in bytes.
        size: u64,
        /// Why, and what to do.
        reason: Refused,
    },
    /// A region was named that the machine has not.
    #[error(
        "cannot {action} memory of the guest that it does not have: name what was added, and not removed since"
    )]
    NoMemory {
        /// What was tried.
        action: &'static str,
    },
    /// An ioeventfd or an irqfd was refused.
    #[error("cannot {action}: {error}")]
    Event {
        /// What was tried.
        action: &'static str,
        /// Why.
        error: std::io::Error,
    },
    /// A vCPU could not be made.
    #[error("cannot make vCPU {id}: {}", explain_vcpu(error))]
    Vcpu {
        /// Its number.
        id: u32,
        /// Why.
        error: std::io::Error,
    },
    /// The guest's memory went away under it.
    #[error("the memory behind guest-physical address {gpa:#x} can't be reached")]
    BadMemory {
        /// The address.
        gpa: u64,
    },
    /// The host lacks what it takes to go on running.
    #[error("cannot go on running the guest: {}", explain(error))]
    Run {
        /// Why.
        error: std::io::Error,
    },
    /// Two ways of executing the guest's code, one of which checks the other, did not agree.
    #[error("{report}")]
    Diverged {
        /// On which instruction, and what came of it in each.
        report: String,
    },
    /// An exception could not be injected.
    #[error("cannot inject exception {vector} into the guest: {error}")]
    Inject {
        /// Its vector.
        vector: u8,
        /// Why.
        error: std::io::Error,
    },
    /// An MSR does not exist, or does not take the value.
    #[error("MSR {index:#x} does not take the value {value:#x}")]
    Msr {
        /// Its number.
        index: u32,
        /// The value.
        value: u64,
    },
}

/// What a machine is to be made with.
#[derive(Clone, Copy, Debug)]
pub struct VmConfig {
    /// How many vCPUs it may have.
    pub cpus: u32,
    /// Where its interrupt controllers are.
    pub irqchip: Irqchip,
}

/// Where a machine's interrupt controllers are, if the hypervisor leaves that open. The guest sees the same. The software
/// CPU has all of them in this process in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Irqchip {
    /// All of them are the hypervisor's.
    #[default]
    Kernel,
    /// The local APICs are the hypervisor's; the I/O APIC, the 8259s and the 8254 are in this process.
    Split,
}

/// A way to run guests.
pub trait Hypervisor {
    /// Its machines.
    type Vm: Vm;

    /// The name that `--engine` knows it by.
    fn name(&self) -> &'static str;

    /// Makes a machine without memory and vCPUs.
    ///
    /// # Errors
    /// When the host lacks what it takes.
    fn create_vm(&self, config: VmConfig) -> Result<Self::Vm, Error>;
}

/// One virtual machine. Shared by the threads of its vCPUs and devices, each of which may have a handle of it.
pub trait Vm: Clone + Send + Sync + 'static {
    /// Its vCPUs.
    type Vcpu: Vcpu;

    /// Whether an exit is a return from a function: then a device's short work is done at once, on the vCPU's thread. Where it is more
    /// than that, an ioeventfd has another thread do it, and the vCPU goes on.
    const CHEAP_EXITS: bool = false;

    /// Gives the guest a region of memory, at the region's own guest address. It is held until it is removed, or the
    /// machine is gone.
    ///
    /// Any thread may call this and the other methods about memory, also while vCPUs run: what they change holds when they
    /// return, for every access from then on.
    ///
    /// # Errors
    /// [`Error::Memory`]: when it overlaps another, is not of whole pages, or is one too many.
    fn add_memory(
        &self,
        region: Arc<GuestRegionMmap>,
        flags: MemoryFlags,
    ) -> Result<MemoryId, Error>;

    /// Moves a region to another guest-physical address. It keeps its bytes, and its log. A vCPU that runs may for a moment
    /// find it at neither.
    ///
    /// # Errors
    /// As [`add_memory`](Self::add_memory), and it stays where it was; [`Error::NoMemory`].
    fn move_memory(&self, id: MemoryId, gpa: u64) -> Result<(), Error>;

    /// Takes a region from the guest: its accesses are exits. Nothing of the machine uses it any more when this returns.
    ///
    /// # Errors
    /// [`Error::NoMemory`]; [`Error::Memory`] when the host is out of memory.
    fn remove_memory(&self, id: MemoryId) -> Result<(), Error>;

    /// Has it be noted from now on which pages of a region the guest writes to, or no longer. A log that there is already
    /// goes on.
    ///
    /// # Errors
    /// [`Error::NoMemory`]; [`Error::Memory`] when the host is out of memory.
    fn log_dirty(&self, id: MemoryId, on: bool) -> Result<(), Error>;

    /// Takes the log of a region: a bitmap, 64 pages of 4096 bytes a word from the lowest bit on. A bit is set if
    /// the guest has written to the page since the log was switched on or taken. It may be set without, for an access
    /// that faulted half-way; on KVM, for a page that was read for the first time. What this process writes is not noted.
    ///
    /// Who copies the dirty pages after each time that the log was taken has the same as the guest when that has stopped, and
    /// this was done once more.
    ///
    /// # Errors
    /// [`Error::NoMemory`]; [`Error::Memory`] if it is not logged.
    fn take_dirty(&self, id: MemoryId) -> Result<Vec<u64>, Error>;

    /// Makes the vCPU `id`, with its default CPUID table, in its state at reset: vCPU 0 runs, the
    /// others wait for INIT and start-up.
    ///
    /// # Errors
    /// When the host lacks what it takes, or `id` is not below the machine's number of vCPUs.
    fn create_vcpu(&self, id: u32) -> Result<Self::Vcpu, Error>;

    /// Sets the level of a global system interrupt. Any thread.
    fn set_irq(&self, gsi: u32, level: bool);

    /// From now on a write of the guest's that `new` is for signals its event, and is no exit. Each element of a
    /// string of port accesses is a write.
    ///
    /// # Errors
    /// [`Error::Event`]: `EINVAL` for a size that there is not, a value without a size, or a range that wraps around;
    /// `EEXIST` if a write would be for another one, too.
    fn add_ioeventfd(&self, new: IoEventFd) -> Result<(), Error>;

    /// Ends that.
    ///
    /// # Errors
    /// [`Error::Event`]: `ENOENT` if it is not so.
    fn remove_ioeventfd(&self, old: &IoEventFd) -> Result<(), Error>;

    /// From now on a signal of `event`, or one that it had before, raises an edge on a global system interrupt: its
    /// level goes up and down. Several that come at a time may be one. A GSI that is wired to nothing interrupts nobody.
    ///
    /// Not there yet: a level that stays until the guest has ended the interrupt (KVM's resample).
    ///
    /// # Errors
    /// [`Error::Event`]: `EBUSY` if the event raises one already.
    fn add_irqfd(&self, gsi: u32, event: &EventFd) -> Result<(), Error>;

    /// Ends that, if it is so: what is signalled from now on raises nothing.
    ///
    /// # Errors
    /// [`Error::Event`].
    fn remove_irqfd(&self, gsi: u32, event: &EventFd) -> Result<(), Error>;

    /// Sends a message-signalled interrupt: what a device would write, and to where. One that is for nobody is lost. Any thread.
    fn send_msi(&self, address: u64, data: u32);

    /// Says that this process has written to the guest's memory, at these guest-physical addresses. The guest sees it as data
    /// at once, and as code from its next exit or interrupt on. Who writes before the first vCPU runs need not say so. Any thread.
    fn wrote(&self, _start: u64, _size: u64) {}

    /// Brings every vCPU out of guest code and keeps it out. When this returns none runs. Not
    /// called on a vCPU's thread.
    fn pause(&self);

    /// Lets the vCPUs go on.
    fn resume(&self);

    /// Makes `run` of every vCPU return [`x86::Exit::Interrupted`], now or when next called,
    /// paused or not.
    fn interrupt_vcpus(&self);
}

/// One vCPU. It lives on the thread that calls [`run`](Self::run).
pub trait Vcpu: Send + 'static {
    /// Runs the guest until it needs the VMM. `answer` is to the last exit.
    ///
    /// # Errors
    /// When the host fails; the vCPU can't go on then.
    fn run(&mut self, answer: x86::Answer) -> Result<x86::Exit, Error>;

    /// The registers.
    ///
    /// # Errors
    /// When the host does not tell.
    fn state(&self) -> Result<x86::State, Error>;

    /// Sets the registers.
    ///
    /// # Errors
    /// When the host does not take them.
    fn set_state(&mut self, state: &x86::State) -> Result<(), Error>;

    /// Sets a model-specific register, as the host.
    ///
    /// # Errors
    /// [`Error::Msr`].
    fn set_msr(&mut self, index: u32, value: u64) -> Result<(), Error>;

    /// Has an exception delivered to the guest when it is run next. What goes with it in CR2, DR6 and DR7 is set before, by
    /// [`set_state`](Self::set_state): its payload does not count. RIP is what the guest's handler sees, but for #BP and #OF, which are
    /// taken as those of INT3 and INTO at RIP.
    ///
    /// # Errors
    /// [`Error::Inject`], if there is no such exception, or another event is on its way.
    fn inject(&mut self, exception: x86::Exception) -> Result<(), Error>;

    /// Makes an NMI pending. It ends a halt. While one is handled, until IRET, another one waits.
    ///
    /// # Errors
    /// When the host does not take it.
    fn nmi(&mut self) -> Result<(), Error>;

    /// Sets what a debugger wants from now on: [`x86::Exit::Debug`]. [`state`](Self::state) shows the guest's registers, not the
    /// debugger's.
    ///
    /// An execute breakpoint that RIP is at is met again, and so is INT3. To go on, it is taken away for a step; INT3 that
    /// is the guest's own is [`inject`](Self::inject)ed as #BP.
    ///
    /// # Errors
    /// When the host does not take it.
    fn set_debug(&mut self, debug: &x86::GuestDebug) -> Result<(), Error>;

    /// What was done here so far, where the engine counts it.
    fn counts(&self) -> Option<Counts>;
}

/// What was done to run a guest, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions that the guest has retired.
    pub instructions: u64,
    /// Instructions that were translated to the host's code, each time that they were.
    pub translated: u64,
    /// How long that took.
    pub translation_time: Duration,
    /// Bytes of the host's code that are kept.
    pub code_size: u64,
}

impl Add for Counts {
    type Output = Self;

    /// What was done by both of two vCPUs.
    fn add(self, other: Self) -> Self {
        Self {
            instructions: self.instructions + other.instructions,
            translated: self.translated + other.translated,
            translation_time: self.translation_time + other.translation_time,
            code_size: self.code_size + other.code_size,
        }
    }
}
