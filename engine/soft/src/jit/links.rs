//! [`Links`]: jumps from block to block.
//!
//! A block may be entered by such a jump without a look at the jump cache. While the page that the jump is
//! in may be executed, so may the rest of it, in the same mode; and what ends that is seen at the end
//! of a block (see `translate`). Of another page the code before the jump has looked at the mark. A jump to a block that is not there leads to the dispatcher.

use crate::blocks::{AddressMap, Place};
use crate::jit::memory::CodeMemory;

/// A jump from one block to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Address of its distance.
    pub at: u64,
    /// Where it leads while the other block is not there.
    pub otherwise: u64,
    /// Flags are yet to be stored.
    pub storing: Option<Storing>,
}

/// A jump that leads to a block with flags that were not stored, unless the block overwrites them before anything looks at
/// them: then to code that stores them, and jumps there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storing {
    /// Address of the code.
    pub start: u64,
    /// Of the distance of its jump, and where that leads while the other block is not there.
    pub at: u64,
    pub otherwise: u64,
}

/// A block's translation, for what leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub code: u64,
    /// It looks at no flags that it was entered with.
    pub ignores_flags: bool,
}

impl Link {
    /// Lets the jump lead to a block, or elsewhere.
    fn lead(&self, memory: &mut CodeMemory, target: Option<Target>) {
        let code = |otherwise| target.map_or(otherwise, |target| target.code);
        match self.storing {
            None => memory.redirect(self.at, code(self.otherwise)),
            Some(storing) => {
                memory.redirect(storing.at, code(storing.otherwise));
                let ignores = target.filter(|target| target.ignores_flags);
                memory.redirect(self.at, ignores.map_or(storing.start, |target| target.code));
            }
        }
    }
}

/// A place that jumps lead to.
#[derive(Default)]
struct Known {
    links: Vec<Link>,
    target: Option<Target>,
}

/// All jumps of one vCPU's translated code, by where they lead.
#[derive(Default)]
pub(super) struct Links {
    by_target: AddressMap<Place, Known>,
}

impl Links {
    /// Adds a jump to the block at a place.
    pub fn add(&mut self, memory: &mut CodeMemory, place: Place, link: Link) {
        let known = self.by_target.entry(place).or_default();
        known.links.push(link);
        if known.target.is_some() {
            link.lead(memory, known.target);
        }
    }

    /// Whether the block at a place ignores flags; `None` if it is not there.
    pub fn ignores_flags(&self, place: &Place) -> Option<bool> {
        let target = self.by_target.get(place).and_then(|known| known.target);
        target.map(|target| target.ignores_flags)
    }

    /// The block at a place is there from now on.
    pub fn connect(&mut self, memory: &mut CodeMemory, place: Place, target: Target) {
        let known = self.by_target.entry(place).or_default();
        known.target = Some(target);
        known.links.iter().for_each(|link| link.lead(memory, known.target));
    }

    /// The block at a place is not there any more.
    pub fn disconnect(&mut self, memory: &mut CodeMemory, place: &Place) {
        let Some(known) = self.by_target.get_mut(place) else { return };
        known.target = None;
        known.links.iter().for_each(|link| link.lead(memory, None));
        if !known.links.is_empty() {
            // Code that was executed has changed, at another address than it is executed at: without a
            // serialising instruction the processor may still have the old one.
            // See: Intel SDM vol. 3, 8.1.3.
            crate::host::serialize();
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.by_target.clear();
    }
}
