//! The seam of engines on the processor's own virtualization: what they need of the kernel beyond [`Host`], which is [`Platform`]
//! with [`Pages`] and [`GuestFpu`]; and what they are for the kernel beyond [`Engine`], which is [`Virtualization`] and [`HostPages`].
//!
//! Whoever is the kernel here knows none of them by name, and they don't know it. See: [`crate::engine`].

use alloc::sync::Arc;

use virt::host::{BadAddress, Host};
use virt::{Errno, Memory};

use crate::engine::{Engine, Event};
use crate::regs::{FxArea, YmmHigh};

/// What an engine on the processor's virtualization asks of the kernel.
pub trait Platform: Host {
    /// Memory with physical addresses.
    type Pages: Pages;
    /// The x87 and vector registers of a guest.
    type Fpu: GuestFpu;

    /// `count` pages, one after the other in physical memory too, zeroed, charged to who makes the call. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn pages(&self, count: usize) -> Result<Self::Pages, Errno>;

    /// The page behind an address of the VM's process, found or brought in; with `write` one that may be written, and that counts
    /// as written from now on. Nothing holds it: whoever maps it has to know of [`HostPages`]. Process context, on a thread of that process.
    ///
    /// # Errors
    /// When there is none to be had, or not for this access.
    fn host_page(&self, hva: u64, write: bool) -> Result<HostPage, BadAddress>;

    /// A guest's registers, as at reset. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn fpu(&self) -> Result<Self::Fpu, Errno>;

    /// How many processors there can be: all their numbers are below.
    fn processors(&self) -> u32;

    /// Does `work` on one processor, whose number it is told: the thread is not moved meanwhile. It must not sleep. Any context.
    fn on_processor<T>(&self, work: impl FnOnce(u32) -> T) -> T;

    /// Does `work` with interrupts off. Inside of [`on_processor`](Self::on_processor).
    fn without_interrupts<T>(&self, work: impl FnOnce() -> T) -> T;

    /// Whether this thread has something to do that is not the guest: a signal came, or another thread is to run. Atomic context.
    ///
    /// The vCPU comes out then, as interrupted, and the run loop asks [`Host::is_interrupted`], in process context: that is where another
    /// thread is let run, and a signal ends `run`.
    fn is_wanted(&self) -> bool;

    /// Makes a processor take an interrupt, and so come out of guest code. It may be the one that this runs on. Atomic context.
    fn interrupt(&self, processor: u32);

    /// The same, and returns when it has taken it. Where it may wait: process context, or where [`HostPages`] is called; not with
    /// interrupts off.
    fn interrupt_and_wait(&self, processor: u32);

    /// Tells what a vCPU does to whoever traces it. Mostly nobody does, and it costs a call then. Any context.
    fn trace(&self, event: Trace);
}

/// What is told of a vCPU, which is named by its number in its VM: what is injected, then the entry, then the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Guest code is executed from here on.
    Entry {
        /// Whose.
        vcpu: u32,
        /// The next instruction's address in CS.
        rip: u64,
    },
    /// It is not any more.
    Exit {
        /// Whose.
        vcpu: u32,
        /// As at the entry.
        rip: u64,
        /// Why, as the processor numbers it.
        reason: u64,
        /// What the processor says besides, which depends on the reason.
        info1: u64,
        /// More of that.
        info2: u64,
    },
    /// The next entry begins with the delivery of an event.
    Injection {
        /// To whom.
        vcpu: u32,
        /// In real mode it is delivered without its error code.
        event: Event,
    },
}

/// Pages of the kernel's own. Dropped, they are given back.
pub trait Pages: Send + Sync + 'static {
    /// Where they are for the kernel; valid, and for nobody else's use, until they are dropped.
    fn address(&self) -> *mut u8;
    /// Where they are for the processor: as in an entry of its page tables, with the bit of memory encryption where the host has that on.
    fn physical(&self) -> u64;
}

/// A page of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPage {
    /// Its physical address, of the 4 KiB at the address that was asked for; as in an entry of page tables, as
    /// [`Pages::physical`] is.
    pub physical: u64,
    /// Whether it may be written.
    pub writable: bool,
    /// The host maps it as part of so many bytes, aligned in virtual and physical memory alike: 4 KiB, 2 MiB or 1 GiB.
    pub size: u64,
}

/// A guest's x87 and vector registers, which are the processor's while its thread is in `run`.
pub trait GuestFpu: Send + 'static {
    /// The thread's registers are the guest's from now on. Process context.
    fn load(&mut self);
    /// The thread's registers are its own again. Process context.
    fn put(&mut self);
    /// Makes sure that what the processor has is the guest's: between [`load`](Self::load) and [`put`](Self::put), with interrupts off.
    fn restore(&mut self);
    /// The registers as they are, also between [`load`](Self::load) and [`put`](Self::put), where the processor may have newer ones than
    /// memory: INIT and XGETBV look at them.
    fn registers(&self) -> (&FxArea, &YmmHigh);
    /// The same, to be changed: what the processor has of them counts no more, and [`restore`](Self::restore) loads them.
    fn registers_mut(&mut self) -> (&mut FxArea, &mut YmmHigh);
}

/// The processors' virtualization, while the module is loaded.
pub trait Virtualization<P: Platform>: Send + Sync + Sized + 'static {
    /// What runs a VM.
    type Engine: Engine + HostPages;

    /// Whether all of it that is needed is there, and what it needs itself. Process context.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn new(platform: P) -> Result<Self, Unusable>;

    /// Switches it on for the processor that this runs on, with interrupts off.
    ///
    /// # Errors
    /// Why it cannot be used there: another hypervisor has it.
    fn enable(&self, processor: u32) -> Result<(), Unusable>;

    /// Switches it off for the processor that this runs on, with interrupts off; also on the way to a reboot, at any moment.
    fn disable(&self, processor: u32);

    /// Switches it off, if it is on, for the processor that this runs on, which does nothing else any more: the kernel has crashed.
    /// That may have been anywhere, and this may be an NMI that came anywhere, also in [`enable`](Self::enable) and [`disable`](Self::disable): so it looks
    /// at the processor alone, and at nothing in memory.
    fn crash();

    /// An engine for a VM. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn engine(self: &Arc<Self>, memory: Arc<Memory<P::RawMutex>>) -> Result<Self::Engine, Errno>;
}

/// Why the processor's virtualization cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The processor has none, or lacks a part that is needed: its name.
    Lacks(&'static str),
    /// The firmware has locked it.
    Locked,
    /// Another hypervisor uses it.
    InUse,
    /// The host failed.
    Host(Errno),
}

/// What the kernel tells an engine of the pages behind guest memory, which it may take away at any time. All in atomic context, but
/// for that it may wait for other processors: so with interrupts on.
pub trait HostPages {
    /// From now on, until [`changed`](Self::changed), no page behind `start..end` of the VM's process is mapped; returns when no vCPU
    /// can still use one that was.
    fn change(&self, start: u64, end: u64);
    /// What [`change`](Self::change) began is over.
    fn changed(&self, start: u64, end: u64);
}
