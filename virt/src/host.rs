//! The services that the core asks of the place it runs in: a process
//! (`host/user`) or the kernel (`host/kmod`).
//!
//! Every method names the context that it may be called in: *process* (may
//! sleep) or *atomic* (may not: interrupts may be off, a lock held).

use alloc::sync::Arc;

/// An error number of the host, as Linux numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Not permitted. It is also what -1 is, as a call's answer.
    pub const EPERM: Self = Self(1);
    /// Input or output failed: what it works with does not do what it should.
    pub const EIO: Self = Self(5);
    /// No such device or address: what is asked for is not there in this set-up.
    pub const ENXIO: Self = Self(6);
    /// What is passed is too long.
    pub const E2BIG: Self = Self(7);
    /// No such descriptor.
    pub const EBADF: Self = Self(9);
    /// There is no such call.
    pub const ENOTTY: Self = Self(25);
    /// Bad address.
    pub const EFAULT: Self = Self(14);
    /// Out of memory.
    pub const ENOMEM: Self = Self(12);
    /// A signal came in.
    pub const EINTR: Self = Self(4);
    /// In use, or under way.
    pub const EBUSY: Self = Self(16);
    /// There already.
    pub const EEXIST: Self = Self(17);
    /// No such device, or none that this can be done with.
    pub const ENODEV: Self = Self(19);
    /// Invalid argument.
    pub const EINVAL: Self = Self(22);
    /// No such thing.
    pub const ENOENT: Self = Self(2);
    /// There is no room left.
    pub const ENOSPC: Self = Self(28);
}

/// A host virtual address that can't be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress;

/// What the core needs of its host. A handle: cloning it is cheap.
pub trait Host: Clone + Send + Sync + 'static {
    /// The lock of what is shared between vCPUs and timers; in the kernel it
    /// turns interrupts off. Held for a bounded, short time only.
    type RawMutex: lock_api::RawMutex + Send + Sync + 'static;
    /// A one-shot timer.
    type Timer: Timer;
    /// Where a halted vCPU's thread waits.
    type Parker: Parker;
    /// What others signal and wait for: an eventfd.
    type Event: Event;
    /// That an event is watched. Dropped, it is not any more, unless its target is called right now.
    type Watch: Send + Sync + 'static;
    /// An open file of who makes a call.
    type File: File;

    /// Reads guest memory at a host virtual address. Process context.
    ///
    /// # Errors
    /// When any byte of it is not mapped; `buffer` may be partly written.
    fn read(&self, hva: u64, buffer: &mut [u8]) -> Result<(), BadAddress>;

    /// Writes guest memory at a host virtual address. Process context.
    ///
    /// # Errors
    /// When any byte of it is not mapped for writing; some may be written.
    fn write(&self, hva: u64, bytes: &[u8]) -> Result<(), BadAddress>;

    /// Reads the memory of who makes a call, at an address of its choice, of which nothing is known. Process context, on the
    /// thread that makes the call.
    ///
    /// # Errors
    /// When any byte of it cannot be read; `buffer` may be partly written.
    fn copy_from_caller(&self, address: u64, buffer: &mut [u8]) -> Result<(), BadAddress>;

    /// Whether `size` bytes from an address on can be memory of who makes a call, mapped or not: not the host's own, nor beyond what an
    /// address has. Process context.
    fn can_be_callers(&self, address: u64, size: u64) -> bool;

    /// Writes that memory. Process context, on the thread that makes the call.
    ///
    /// # Errors
    /// When any byte of it cannot be written; some may be.
    fn copy_to_caller(&self, address: u64, bytes: &[u8]) -> Result<(), BadAddress>;

    /// Compares and exchanges `size` (1, 2, 4, 8 or 16) bytes atomically; gives what
    /// was there, which equals `expected` if the exchange was made. `hva` is aligned to `size`.
    /// Process context.
    ///
    /// # Errors
    /// When it is not mapped for writing.
    fn compare_exchange(
        &self,
        hva: u64,
        size: u8,
        expected: u128,
        new: u128,
    ) -> Result<u128, BadAddress>;

    /// Monotonic time in nanoseconds. Atomic context.
    fn now(&self) -> u64;
    /// Nanoseconds since 1970, UTC. Atomic context.
    fn wall_clock(&self) -> u64;
    /// The processor's time stamp counter. Atomic context.
    fn tsc(&self) -> u64;
    /// Its frequency in kHz. Atomic context.
    fn tsc_khz(&self) -> u32;

    /// Lets others use the processor: this thread waits for one that does something short. Process context.
    fn yield_now(&self);

    /// Whether this thread has to leave the core: a signal came in, which is handled where the thread came from. What else the host wants
    /// of a thread now and then, it does here. Process context.
    fn is_interrupted(&self) -> bool;

    /// Makes a timer that calls `target`. Process context.
    ///
    /// # Errors
    /// When the host has none left.
    fn timer(&self, target: Arc<dyn Expire>) -> Result<Self::Timer, Errno>;

    /// Makes the waiting place of a vCPU. Process context.
    ///
    /// # Errors
    /// When the host has none left.
    fn parker(&self) -> Result<Self::Parker, Errno>;

    /// The event that a descriptor of who makes a call is of. Process context, on the thread that makes the call.
    ///
    /// # Errors
    /// `EBADF` if it is no descriptor, `EINVAL` if it is of something else, and what the host lacks.
    fn event(&self, descriptor: i32) -> Result<Self::Event, Errno>;

    /// Has `target` called when `event` is signalled, or has been before; what is signalled several times meanwhile
    /// may be one call. Of each event there is one watch at most. Process context.
    ///
    /// # Errors
    /// When the host lacks what it takes.
    fn watch(&self, event: &Self::Event, target: Arc<dyn Notify>) -> Result<Self::Watch, Errno>;

    /// The file that a descriptor of who makes a call is of. Process context, on the thread that makes the call.
    ///
    /// # Errors
    /// `EBADF` if it is no descriptor, and what the host lacks.
    fn file(&self, descriptor: i32) -> Result<Self::File, Errno>;
}

/// A handle of an open file, which stays open as long as there is one. It is equal to all handles of the same file, if that is a
/// VFIO group's; of others that need not be told.
pub trait File: Clone + PartialEq + Send + Sync + 'static {
    /// Whether it is that of a VFIO group: of devices that a process may have for itself. Process context.
    fn is_vfio_group(&self) -> bool;
}

/// A handle of an event. It is equal to all handles of the same event, and to nothing else.
pub trait Event: Clone + PartialEq + Send + Sync + 'static {
    /// Signals it. Atomic context.
    fn signal(&self);
}

/// What is called when an event was signalled.
pub trait Notify: Send + Sync + 'static {
    /// It was signalled. Called in atomic context, on any thread.
    fn signalled(&self);
}

/// A one-shot timer on [`Host::now`]'s clock. Dropped, it never fires again.
pub trait Timer: Send + Sync + 'static {
    /// Fires at `deadline`, at once if that has passed; replaces an earlier deadline. Atomic context.
    fn arm(&self, deadline: u64);
    /// Does not fire any more, unless it is firing right now. Atomic context.
    fn disarm(&self);
}

/// What a timer calls.
pub trait Expire: Send + Sync + 'static {
    /// The deadline has passed. Called in atomic context, on any thread.
    fn expired(&self);
}

/// Where one thread waits and any other wakes it. A wake-up before the wait counts.
pub trait Parker: Send + Sync + 'static {
    /// Waits until `ready` says so; `ready` is asked first, and after each wake-up.
    /// May also return early, as when a signal came in. Process context.
    fn park(&self, ready: &mut dyn FnMut() -> bool);
    /// Wakes the waiting thread. Atomic context.
    fn unpark(&self);
}
