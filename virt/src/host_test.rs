//! What must hold of every [`Host`]: test bodies that a host's crate runs on its own place, by [`host_contract!`](crate::host_contract).
//!
//! A process (`host/user`) and the kernel (`host/kmod`) have the same ones. What a body needs beside the host, as memory that is
//! mapped or an eventfd, is a [`Place`]'s. In the parts: [`clock`], time and timers; [`waiting`], parkers and the lock;
//! [`memory`], guest memory and a caller's; [`events`], events and who watches them.

pub mod clock;
pub mod events;
pub mod memory;
pub mod waiting;

use core::fmt::Debug;
use core::sync::atomic::{AtomicU32, Ordering};

use selftest::Failure;

use crate::host::{Expire, Host, Notify};

/// A millisecond.
pub const MS: u64 = 1_000_000;
/// Longer than anything here takes.
pub const LIMIT: u64 = 20_000 * MS;
/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Where a host is tried.
pub trait Place: Sized + 'static {
    /// The host.
    type Host: Host;

    /// The host, and whatever it takes here.
    fn host() -> Self::Host;

    /// Maps three pages for the process that this runs in, one after the other, and gives where: one that can be written, one that can
    /// only be read, and one that is nobody's.
    ///
    /// # Errors
    /// When the host has none.
    fn map() -> Result<u64, Failure>;

    /// Takes the three away.
    fn unmap(start: u64);

    /// A descriptor of a new eventfd, and one of something else.
    ///
    /// # Errors
    /// When the host has none.
    fn descriptors() -> Result<[i32; 2], Failure>;

    /// Closes one.
    fn close(descriptor: i32);

    /// How often an event was signalled since the last time, as whoever reads it finds.
    fn take(event: &<Self::Host as Host>::Event) -> u64;
}

/// Three pages of a place's, until this is dropped.
pub struct Mapped<P: Place> {
    /// Where they are.
    pub start: u64,
    place: core::marker::PhantomData<P>,
}

impl<P: Place> Mapped<P> {
    /// Maps them.
    ///
    /// # Errors
    /// When the host has none.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self { start: P::map()?, place: core::marker::PhantomData })
    }

    /// The page that can only be read.
    #[must_use]
    pub const fn read_only(&self) -> u64 {
        self.start + PAGE
    }

    /// The one that is nobody's.
    #[must_use]
    pub const fn none(&self) -> u64 {
        self.start + 2 * PAGE
    }
}

impl<P: Place> Drop for Mapped<P> {
    fn drop(&mut self) {
        P::unmap(self.start);
    }
}

/// Counts how often it was called.
#[derive(Debug, Default)]
pub struct Count(AtomicU32);

impl Count {
    /// How often.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Waits until it was called so often, or far too long.
    pub fn wait(&self, host: &impl Host, count: u32) {
        let limit = host.now() + LIMIT;
        while self.get() < count && host.now() < limit {
            host.yield_now();
        }
    }
}

impl Expire for Count {
    fn expired(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Notify for Count {
    fn signalled(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What the host gave, or that it refused.
///
/// # Errors
/// If it refused.
pub fn given<T, E: Debug>(result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| Failure {
        file: file!(),
        line: line!(),
        message: alloc::format!("the host refused: {error:?}"),
    })
}

/// Waits until a time of the host's has come.
pub fn wait_until(host: &impl Host, time: u64) {
    while host.now() < time {
        host.yield_now();
    }
}

/// Declares the bodies of [`host_test`](crate::host_test) for a [`Place`], as a list of [`selftest::cases!`].
#[macro_export]
macro_rules! host_contract {
    ($place:ty) => {
        $crate::host_contract! { $place:
            clock: clocks_go_forward, the_counter_has_its_frequency, a_timer_fires_once_and_not_before_its_time,
                a_timer_that_is_overdue_fires_at_once, a_timer_that_is_armed_again_has_one_deadline,
                a_timer_may_be_armed_by_what_it_calls, a_timer_that_is_disarmed_does_not_fire,
                a_timer_that_is_dropped_does_not_fire, a_timer_may_be_dropped_by_what_it_calls,
                a_timer_that_fires_often_is_armed_meanwhile;
            waiting: a_wait_for_what_is_there_ends_at_once, a_wake_up_before_the_wait_counts,
                a_wake_up_ends_the_wait, no_wake_up_is_lost, a_lock_excludes, a_lock_excludes_timers,
                nobody_is_interrupted_without_a_signal;
            memory: what_is_written_is_read_back, an_exchange_compares_all_bytes,
                memory_that_is_not_there_is_refused, memory_of_the_hosts_own_is_refused,
                a_callers_memory_is_copied, what_can_be_a_callers;
            events: an_event_is_equal_to_itself_alone, signals_are_counted, a_descriptor_of_something_else_is_refused,
                who_watches_is_called, what_was_signalled_before_counts, who_watches_no_more_is_not_called,
                an_event_outlives_its_descriptor;
        }
    };
    ($place:ty: $($part:ident: $($body:ident),+;)+) => {
        ::selftest::cases! {
            $($(fn $body() {
                $crate::host_test::$part::$body::<$place>()?;
            })+)+
        }
    };
}
