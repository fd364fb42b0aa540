//! From a global system interrupt (GSI) to what it is wired to.

use alloc::vec::Vec;

use crate::host::Errno;

/// An input of an interrupt chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The chip, as the architecture numbers its own.
    pub chip: u32,
    /// The input.
    pub number: u32,
}

/// Who moves an input of a chip. It is active as long as any of them has it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A line: what moves it up moves it down.
    Line,
    /// An irqfd of a level: it is up until the guest has ended the interrupt.
    Irqfd,
}

/// How many CPUs an interrupt is for: none if it waits already, and nothing if it is masked or leads to nobody.
pub type Reached = Option<u32>;

/// What several ways of one interrupt have reached together.
#[must_use]
pub fn reached_by_both(one: Reached, other: Reached) -> Reached {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        _ => one.or(other),
    }
}

/// What a GSI leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A chip's input.
    Pin(Pin),
    /// A message: each rising edge sends it.
    Msi {
        /// Where it is written.
        address: u64,
        /// What is written.
        data: u32,
    },
}

/// The routes of a machine. A GSI may have several.
#[derive(Clone, Debug, Default)]
pub struct Routes(Vec<(u32, Route)>);

impl Routes {
    /// How many routes a machine may have.
    pub const MAX: usize = 4096;

    /// Adds a route.
    ///
    /// # Errors
    /// `EINVAL` when there are too many, `ENOMEM` when memory is short.
    pub fn add(&mut self, gsi: u32, route: Route) -> Result<(), Errno> {
        if self.0.len() >= Self::MAX {
            return Err(Errno::EINVAL);
        }
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = self.0.partition_point(|(other, _)| *other <= gsi);
        self.0.insert(at, (gsi, route));
        Ok(())
    }

    /// The GSIs that lead to a chip's input.
    pub fn to(&self, pin: Pin) -> impl Iterator<Item = u32> + '_ {
        let there = self.0.iter().filter(move |(_, route)| *route == Route::Pin(pin));
        there.map(|(gsi, _)| *gsi)
    }

    /// The routes of one GSI.
    pub fn of(&self, gsi: u32) -> impl Iterator<Item = Route> + '_ {
        let from = self.0.partition_point(|(other, _)| *other < gsi);
        self.0[from..].iter().take_while(move |(other, _)| *other == gsi).map(|(_, route)| *route)
    }
}
