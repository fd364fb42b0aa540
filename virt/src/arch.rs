//! What an architecture gives the core.

use alloc::sync::{Arc, Weak};

use crate::coalesced::Coalesced;
use crate::host::Host;
use crate::ioeventfd::IoEventFds;
use crate::irqfd::Ended;
use crate::routing::{Pin, Reached, Routes, Source};
use crate::statistics::Statistics;

/// An architecture's part of one virtual machine.
pub trait Arch: Send + Sync + Sized + 'static {
    /// The host that it runs on.
    type Host: Host;

    /// How many bits a guest-physical address has at most.
    const ADDRESS_BITS: u32;

    /// The routes of a machine that asked for no others.
    ///
    /// # Errors
    /// When memory is short.
    fn default_routes() -> Result<Routes, crate::Errno>;

    /// The host's services.
    fn host(&self) -> &Self::Host;

    /// Where the vCPUs look whether a write is for an event.
    fn ioeventfds(
        &self,
    ) -> &IoEventFds<<Self::Host as Host>::RawMutex, <Self::Host as Host>::Event>;

    /// Which writes of the guest's may wait.
    fn coalesced(&self) -> &Coalesced<<Self::Host as Host>::RawMutex>;

    /// What is counted of the machine.
    fn statistics(&self) -> Arc<dyn Statistics>;

    /// Whether a vCPU has been made.
    fn has_vcpus(&self) -> bool;

    /// Whether there are interrupt chips here, or local APICs at least: else nothing is routed to any.
    fn has_irqchip(&self) -> bool;

    /// The input `pin` of a chip, by the number that KVM has for it. None if there is no such one here.
    fn irqchip_pin(&self, irqchip: u32, pin: u32) -> Option<Pin>;

    /// Sets the level that one who moves a chip's input has it at. Atomic context.
    fn set_pin(&self, pin: Pin, source: Source, level: bool) -> Reached;

    /// Whether chips with inputs are here, so that it is seen when the guest ends their interrupts.
    fn has_pins(&self) -> bool;

    /// Has `target` told of interrupts of chips' inputs that the guest has ended; when it is, the input is not active by
    /// [`Source::Irqfd`] any more. Process context.
    fn tell_ended(&self, target: Weak<dyn Ended>);

    /// Whether a message may be for this address. Any context.
    fn is_msi(&self, address: u64) -> bool;

    /// Delivers a message-signalled interrupt. Atomic context.
    fn send_msi(&self, address: u64, data: u32) -> Reached;

    /// The mapping of guest-physical memory from `start` on, `size` bytes, has changed, or which of its pages were written to
    /// was just taken. Returns when no vCPU uses the old one any more, nor an address that it was given to write to
    /// ([`View::host_address`](crate::memory::View::host_address)) before. Process context; not on a vCPU's
    /// thread that executes guest code.
    fn memory_changed(&self, start: u64, size: u64);
}
