//! Lockstep: the interpreter and the JIT execute each translated block, one after the other from the same
//! state, and have to agree on what comes of it.
//!
//! - `comparable`: which instructions can be executed twice, and where blocks end because of that;
//! - `journal`: what the interpreter wrote to memory, and how it is undone;
//! - `outcome`: the registers and all else that is compared;
//! - `divergence`: the first instruction on which they do not agree.
//!
//! While the interpreter executes a block its accesses are kept from the fast way ([`Rights::Watched`]), so that all
//! writes come through [`crate::translate`], where they are noted. The slow way uses the TLB's real tables:
//! both executions see the same translations, even where the guest has changed a page table and not yet said so.
//!
//! What the JIT writes elsewhere than the interpreter is not seen itself; what it fails to write is.

mod comparable;
mod divergence;
mod journal;
mod outcome;

use std::sync::atomic::Ordering;

use arch_x86::emulate::{Access, Mode, Stop};
use arch_x86::engine::Intercept;
use virt::Errno;

use crate::blocks::{Blocks, Found};
use crate::ram::Page;
use crate::tlb::Rights;
use crate::vcpu::{SoftVcpu, attention};
use comparable::Comparable;
pub use divergence::{Difference, Divergence};
use journal::Journal;
use outcome::{Outcome, Registers};

/// One in so many executions of a block by the JIT finds no access in the TLB: the slow ways are
/// otherwise hardly ever taken, as the interpreter has just filled it.
const ALL_MISS: u64 = 8;

/// A vCPU's part of lockstep.
pub(crate) struct Lockstep {
    on: bool,
    /// With whose rights operands and processor structures are accessed, while no access is to take the fast way.
    behind: Option<[Rights; 2]>,
    journal: Journal,
    /// A walk has set accessed or dirty bits in the guest's page tables, which is not undone.
    pub marked: bool,
    /// How many blocks were executed twice.
    count: u64,
    divergence: Option<Box<Divergence>>,
}

impl Lockstep {
    /// On, or off for good.
    pub fn new(on: bool) -> Self {
        Self {
            on,
            behind: None,
            journal: Journal::default(),
            marked: false,
            count: 0,
            divergence: None,
        }
    }

    /// Whether translated blocks are to be executed in lockstep.
    #[inline(always)]
    pub const fn is_on(&self) -> bool {
        self.on
    }

    /// On what the two did not agree.
    pub fn divergence(&self) -> Option<&Divergence> {
        self.divergence.as_deref()
    }

    /// What an access would look into, if it is kept from the fast way.
    pub fn behind(&self, access: Access) -> Option<Rights> {
        let [operand, system] = self.behind?;
        Some(if access == Access::Operand { operand } else { system })
    }

    /// Whether no access is to take the fast way, with whatever rights.
    #[inline(always)]
    pub const fn keeps_from_fast_way(&self) -> bool {
        self.behind.is_some()
    }

    /// `size` bytes of a page are about to be written, or nothing comes of it.
    pub fn about_to_write(&mut self, page: Page, offset: u64, size: u64) {
        self.journal.note(page, offset, size);
    }

    /// A block that is about to be decoded.
    pub const fn block(&self, mode: Mode) -> Comparable {
        Comparable::new(self.on && matches!(mode, Mode::Bits64))
    }
}

/// What came of a block that was executed twice.
struct Twice {
    /// As the second execution ended.
    ended: Result<(), Stop>,
    differences: Vec<Difference>,
}

impl SoftVcpu {
    /// Executes a translated block in both ways. Goes on with what the JIT has come to, or comes out
    /// if that is not what the interpreter has.
    #[cold]
    pub(crate) fn execute_in_lockstep(
        &mut self,
        blocks: &mut Blocks,
        found: Found,
    ) -> Result<(), Stop> {
        if self.shared.vcpus.load(Ordering::Relaxed) > 1 {
            return self.execute_translated(blocks, found.code);
        }
        // What the last instruction of the block before has asked for is done.
        self.leave_block = false;
        let before = Registers::of(self);
        let all_miss = self.lockstep.count % ALL_MISS == ALL_MISS - 1;
        self.lockstep.count += 1;
        let twice = self.execute_twice(blocks, found, &before, all_miss);
        if twice.differences.is_empty() {
            return twice.ended;
        }
        self.undo(&before);
        let divergence = self.find_divergence(blocks, found, &before, all_miss, twice.differences);
        self.lockstep.divergence = Some(Box::new(divergence));
        Err(self.come_out(Intercept::Failed(Errno::EIO)))
    }

    /// Executes a block by the interpreter and then, from the same state, by the JIT.
    fn execute_twice(
        &mut self,
        blocks: &mut Blocks,
        found: Found,
        before: &Registers,
        all_miss: bool,
    ) -> Twice {
        self.keep_from_fast_way();
        self.lockstep.marked = false;
        self.lockstep.journal.start();
        let ended = self.execute(blocks.ops(found.run), found.run.bytes);
        self.lockstep.journal.stop();
        self.let_fast_way();
        if self.lockstep.marked {
            // Page tables are no longer what they were, as the next execution would see.
            return Twice { ended, differences: Vec::new() };
        }
        let interpreted = Outcome::take(self, ended);
        self.undo(before);
        let ended = self.execute_one_translated(blocks, found.code, all_miss);
        let place = blocks.place(found.block);
        let offset = (place.rip % crate::ram::SIZE) as usize;
        let bytes = self.code_pages.kept(place.page, offset, found.run.bytes.into());
        let undefined = || comparable::undefined_flags(bytes, interpreted.instructions(before));
        let differences = interpreted.differences(self, ended, undefined);
        self.statistics.compared += u64::from(differences.is_empty());
        Twice { ended, differences }
    }

    /// Executes one block's translation.
    fn execute_one_translated(
        &mut self,
        blocks: &mut Blocks,
        code: u64,
        all_miss: bool,
    ) -> Result<(), Stop> {
        if all_miss {
            self.keep_from_fast_way();
        }
        let ended = self.execute_translated(blocks, code);
        self.let_fast_way();
        ended
    }

    /// The registers, and the memory that the interpreter wrote to, are what they were.
    fn undo(&mut self, before: &Registers) {
        self.lockstep.journal.undo();
        before.restore(self);
        self.leave_block = false;
        self.intercept = None;
        self.code_writes.clear();
        self.set_attention(attention::CODE_WRITTEN, false);
    }

    /// No access hits the TLB.
    pub(crate) fn keep_from_fast_way(&mut self) {
        self.lockstep.behind = Some([self.operand_rights, self.system_rights]);
        self.operand_rights = Rights::Watched;
        self.system_rights = Rights::Watched;
        self.use_rights([Rights::Watched; 2]);
    }

    /// Accesses hit the TLB again.
    fn let_fast_way(&mut self) {
        if self.lockstep.behind.take().is_some() {
            self.update_rights();
        }
    }
}
