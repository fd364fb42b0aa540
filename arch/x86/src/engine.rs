//! What runs guest code: [`Engine`], implemented by the software CPU, SVM, VMX and,
//! in tests, a scripted engine.
//!
//! [`crate::vcpu`] drives it: it delivers events through [`Entry`], and handles what
//! comes out as an [`Intercept`]. While a vCPU exists its engine owns its live
//! state and shows it as [`Regs`].

use alloc::sync::Arc;
use core::sync::atomic::AtomicU32;

use virt::Errno;
use virt::dirty_ring::DirtyRing;

use crate::cpuid::Instructions;
use crate::emulate::Feature;
use crate::exception::Exception;
use crate::mmu::Limits;
use crate::regs::Regs;

/// Runs the vCPUs of one VM.
///
/// One value per VM, shared by its vCPUs' threads.
pub trait Engine: Send + Sync + Sized + 'static {
    /// One vCPU's live state and the means to run it. Lives on its vCPU's thread.
    type Vcpu: EngineVcpu;

    /// Makes the live state of a vCPU, at reset. Process context.
    ///
    /// # Errors
    /// Whatever the host lacks for it, as an errno.
    fn create_vcpu(&self, id: u32) -> Result<Self::Vcpu, Errno>;

    /// The instructions that it can run, whether or not the host's processor has them; for
    /// the CPUID policy.
    fn instructions(&self) -> Instructions;

    /// What the engine cannot run here, of what CPUID offers whatever the host's processor has, and what a VMM might offer: no guest is
    /// offered that. Nothing, if it executes all of that itself.
    fn lacks(&self) -> Instructions {
        Instructions::default()
    }

    /// The mapping of guest-physical `start..start + size` has changed, or which of its pages are dirty was taken. Returns
    /// only when no vCPU can still use the old one, nor an address that
    /// [`View::host_address`](virt::memory::View::host_address) gave to write to. Process context; not called on a
    /// vCPU's thread that is inside [`EngineVcpu::enter`].
    fn invalidate(&self, start: u64, size: u64);

    /// Guest-physical `start..start + size` was written to, otherwise than by guest code. A vCPU sees it as code at its next
    /// [`Entry`] that is [`fresh`](Entry::fresh), at the latest. For who keeps code that was decoded. Any thread.
    fn wrote(&self, _start: u64, _size: u64) {}

    /// Makes the vCPU `id`, if it is in guest code, notice that its request word is set.
    /// Any context.
    fn kick(&self, id: u32);
}

/// One vCPU of an engine.
pub trait EngineVcpu: Regs + Send {
    /// The vCPU's thread comes to run on a processor (kernel: with preemption off).
    fn load(&mut self);
    /// The vCPU's thread leaves the processor.
    fn put(&mut self);
    /// Makes ready what `enter` may need and may not allocate. May sleep.
    ///
    /// # Errors
    /// As an errno.
    fn prepare(&mut self) -> Result<(), Errno>;
    /// Runs guest code until it must come out, and says why.
    ///
    /// `request` is the vCPU's request word: as soon as it is not zero the
    /// engine comes out with [`Intercept::Interrupted`], at an instruction boundary,
    /// at the latest at the end of the current block. It checks again after it
    /// can no longer be missed (interrupts off, or the block boundary).
    fn enter(&mut self, entry: &Entry, request: &AtomicU32) -> Intercept;
    /// The event of the last [`Entry`] if an intercept kept it from being delivered: the
    /// run loop injects it again.
    fn take_undelivered(&mut self) -> Option<Event>;
    /// Exceptions of these vectors, a bit each, that instructions and traps raise come out as [`Intercept::Exception`]
    /// instead of being delivered; none at first. Not what an [`Entry`] brings, and not INT n.
    /// See: AMD APM vol. 2, 15.12.
    fn set_exception_intercepts(&mut self, vectors: u32);
    /// What the guest's CPUID offers changed.
    fn set_features(&mut self, features: Features);
    /// What the guest's CPUID says of addresses and pages changed: which bits of its tables' entries are reserved.
    fn set_limits(&mut self, limits: Limits);
    /// Sets what is added to the host's time stamp counter to make the guest's.
    fn set_tsc_offset(&mut self, offset: u64);
    /// Has pages that the guest writes to put into a ring. Where it is nearly full, `enter` comes out with [`Intercept::Interrupted`], no
    /// later than it would for `request`.
    fn set_dirty_ring(&mut self, ring: Arc<DirtyRing>);
    /// The guest's time stamp counter.
    fn tsc(&self) -> u64;
    /// All translations of the guest's own tables are dropped.
    fn flush_tlb(&mut self);
    /// The guest has written SPEC_CTRL. See: AMD APM vol. 2, 3.2.9.
    fn set_speculation_control(&mut self, value: u64);
    /// None of the guest's indirect branches is to be predicted by what ran before (IBPB). See: AMD APM vol. 2, 3.2.9.
    fn forget_branches(&mut self);
}

/// What a vCPU is entered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The event to deliver before the first instruction.
    pub inject: Option<Event>,
    /// Come out with [`Intercept::InterruptWindow`] as soon as the guest can take
    /// an external interrupt.
    pub interrupt_window: bool,
    /// Come out with [`Intercept::NmiWindow`] as soon as IRET has ended the blocking of NMIs.
    pub nmi_window: bool,
    /// The VMM was in control, or an interrupt was posted, since the last entry: code that was written from outside the machine is to
    /// be seen from now on (ARCHITECTURE.md: writes from the host's side).
    pub fresh: bool,
    /// The guest has executed what serialises, or an interrupt was posted: code that another vCPU has written is to be seen.
    pub serialized: bool,
}

/// An event delivered through the guest's IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A fault or trap.
    Exception(Exception),
    /// A non-maskable interrupt.
    Nmi,
    /// An external interrupt.
    Interrupt {
        /// Its vector.
        vector: u8,
    },
}

/// Why an engine came out: what the guest did that is not its own to finish.
///
/// Unless said otherwise RIP is still at the instruction, whose length is known to
/// the handler by `len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercept {
    /// The request word was set.
    Interrupted,
    /// The guest can take an external interrupt.
    InterruptWindow,
    /// The guest can take an NMI.
    NmiWindow,
    /// An exception of a vector that [`EngineVcpu::set_exception_intercepts`] names. RIP is what its frame would show, but for
    /// INT1 (a #DB without payload), INT3 and INTO, which it is still at. CR2, DR6 and DR7 are as before: what they
    /// would become is the payload.
    Exception(Exception),
    /// HLT; `len` bytes long.
    Halt {
        /// Length of the instruction.
        len: u8,
    },
    /// CPUID.
    Cpuid {
        /// Length of the instruction.
        len: u8,
    },
    /// RDMSR, with the number in ECX.
    ReadMsr {
        /// Length of the instruction.
        len: u8,
    },
    /// WRMSR, with the number in ECX.
    WriteMsr {
        /// Length of the instruction.
        len: u8,
    },
    /// MOV from CR8 to a general-purpose register.
    ReadCr8 {
        /// The register.
        gpr: u8,
        /// Length of the instruction.
        len: u8,
    },
    /// MOV to CR8 from a general-purpose register.
    WriteCr8 {
        /// The register.
        gpr: u8,
        /// Length of the instruction.
        len: u8,
    },
    /// IN to AL, AX or EAX.
    In {
        /// The port.
        port: u16,
        /// 1, 2 or 4.
        size: u8,
        /// Length of the instruction.
        len: u8,
    },
    /// OUT from AL, AX or EAX.
    Out {
        /// The port.
        port: u16,
        /// 1, 2 or 4.
        size: u8,
        /// Length of the instruction.
        len: u8,
    },
    /// INS or OUTS: the run loop emulates it.
    StringIo,
    /// VMCALL or VMMCALL.
    Hypercall {
        /// Length of the instruction.
        len: u8,
    },
    /// An access to a guest-physical address that no memory slot backs (or
    /// that may not be written): the run loop emulates the instruction.
    NestedFault {
        /// The guest-physical address.
        gpa: u64,
        /// Whether it was a write.
        write: bool,
    },
    /// An instruction that the engine leaves to the run loop, which emulates it.
    Emulate,
    /// An instruction that the processor has not: another maker's hypercall, or none.
    Undefined,
    /// The guest's memory could not be reached although a slot is there: the
    /// host's mapping is bad.
    BadMemory {
        /// The guest-physical address.
        gpa: u64,
    },
    /// A triple fault.
    Shutdown,
    /// The processor refuses to go into the guest: its state is none that there can be.
    EntryRefused {
        /// What it says, in its own words.
        reason: u64,
        /// Which processor it is.
        processor: u32,
    },
    /// The engine can't go on; what it knows of the reason is asked there.
    Failed(Errno),
    /// An instruction that the engine lacks.
    Unsupported {
        /// Its first bytes.
        bytes: [u8; 15],
        /// How many of them could be fetched.
        len: u8,
    },
}

/// A set of [`Feature`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// Every feature.
    pub const ALL: Self = Self(u64::MAX);

    /// With `feature`, or without it.
    #[must_use]
    pub const fn with(self, feature: Feature, on: bool) -> Self {
        let bit = 1 << feature as u8;
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }

    /// Whether `feature` is in the set.
    #[must_use]
    #[inline]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 >> feature as u8 & 1 != 0
    }
}
