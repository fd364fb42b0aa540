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
}

/// All jumps of one vCPU's translated code, by where they lead.
#[derive(Default)]
pub(super) struct Links {
    by_target: AddressMap<Place, Vec<Link>>,
}

impl Links {
    /// Adds a jump to the block at `target`, which is at `code` if it is there.
    pub fn add(&mut self, memory: &mut CodeMemory, target: Place, link: Link, code: Option<u64>) {
        self.by_target.entry(target).or_default().push(link);
        if let Some(code) = code {
            memory.redirect(link.at, code);
        }
    }

    /// The block at `target` is at `code` from now on.
    pub fn connect(&self, memory: &mut CodeMemory, target: &Place, code: u64) {
        for link in self.by_target.get(target).into_iter().flatten() {
            memory.redirect(link.at, code);
        }
    }

    /// The block at `target` is not there any more.
    pub fn disconnect(&self, memory: &mut CodeMemory, target: &Place) {
        let links = self.by_target.get(target).into_iter().flatten();
        let mut any = false;
        for link in links {
            memory.redirect(link.at, link.otherwise);
            any = true;
        }
        if any {
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
