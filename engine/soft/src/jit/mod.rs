//! The JIT: blocks of 64-bit code, translated to the host's own code.
//!
//! - [`Jit`]: one vCPU's translated code;
//! - `translate`: a block's translation; `shape`, `vector`, `x87`: which instructions are executed as themselves;
//! - `assembler`: the bytes of the host's instructions; `stubs`: the code that blocks share, `vector_registers`,
//!   `x87_registers`: of it, what loads and saves these;
//! - `context`: what translated code finds around its stack pointer; `enter`: the ways in and out;
//! - `memory`: where it lies; `links`: jumps from block to block; `sites`: indirect branches that know where they have led.
//!
//! Decoded blocks ([`crate::blocks`]) stay: what is not translated is executed by the interpreter's functions, and
//! all that is said there of keys, code pages and writes to code holds for translated code, too. The ways
//! from one block to the next are a look into the jump cache where the branch is, and links: within a page, and to a
//! kernel's other pages behind a look at their marks ([`crate::page_marks`]). A block that is dropped leaves both.

mod assembler;
#[cfg(test)]
mod assembler_test;
#[cfg(test)]
mod bounds_test;
pub(crate) mod context;
mod enter;
mod links;
mod memory;
#[cfg(test)]
mod memory_test;
#[cfg(test)]
pub(crate) mod sabotage;
mod shape;
#[cfg(test)]
mod shape_test;
mod sites;
#[cfg(test)]
mod sites_test;
mod stubs;
mod translate;
mod vector;
mod vector_registers;
#[cfg(test)]
mod vector_test;
mod x87;
mod x87_registers;
#[cfg(test)]
mod x87_registers_test;

use std::io;

use arch_x86::engine::Features;

use crate::blocks::Place;
use links::{Links, Target};
use memory::CodeMemory;
use stubs::Stubs;
use translate::{Marked, Source, Translation};
pub(crate) use translate::{Part, reads_count};

/// A block to be translated, and what is to be with it.
pub(crate) struct Unit<'a> {
    pub place: Place,
    /// It ends in another page than it starts in: no jump leads to it without a look at the jump cache.
    pub crosses: bool,
    /// Itself, and what is translated with it: see [`crate::traces`].
    pub parts: &'a [Part<'a>],
    /// What the guest is offered.
    pub features: Features,
    /// What page is at an address, and its mark: see [`crate::page_marks`].
    pub marked: Marked<'a>,
}

/// More than either part of any translation takes: what is executed mostly, and what seldom is.
const MAX_TRANSLATION: usize = 24 << 10;

/// The translated code of one vCPU.
pub(crate) struct Jit {
    memory: CodeMemory,
    stubs: Stubs,
    links: Links,
    /// How many bytes the stubs are.
    kept: usize,
    /// Blocks lead to each other, and not back to Rust each time.
    chained: bool,
    /// Each block counts itself and may come back: see [`crate::modes`].
    polls: bool,
    /// Each block counts its instructions.
    counts: bool,
}

impl Jit {
    /// Room for `size` bytes of code. Unless it is to be `chained`, each block leads back to Rust.
    ///
    /// # Errors
    /// If the host denies executable memory.
    pub fn new(size: usize, chained: bool) -> io::Result<Self> {
        let mut memory = CodeMemory::new(size.max(4 * MAX_TRANSLATION))?;
        let (stubs, code) = Stubs::assemble(memory.next());
        memory.add(&code, &[]);
        let kept = memory.used();
        Ok(Self {
            memory,
            stubs,
            links: Links::default(),
            kept,
            chained,
            polls: false,
            counts: false,
        })
    }

    /// The same, in which each block counts itself and may come back, if `on`.
    pub fn polling(self, on: bool) -> Self {
        Self { polls: on, ..self }
    }

    /// The same, which counts instructions if `on`.
    pub fn counting(self, on: bool) -> Self {
        Self { counts: on, ..self }
    }

    /// Whether blocks are translated together: what counts, or looks for requests at each block's end, is a block.
    pub const fn follows(&self) -> bool {
        self.chained && !self.polls && !self.counts
    }

    /// Whether there may be no room for another block.
    pub fn is_full(&self) -> bool {
        // While it is assembled neither part may lie where the other is: by its address it is known which one it is.
        self.memory.room() < 2 * MAX_TRANSLATION
    }

    /// How many bytes of code there are.
    pub fn size(&self) -> usize {
        self.memory.used()
    }

    /// Drops all translations.
    pub fn clear(&mut self) {
        self.memory.truncate(self.kept);
        self.links.clear();
    }

    /// The shared code.
    pub const fn stubs(&self) -> &Stubs {
        &self.stubs
    }

    /// Translates a block. Gives the code's address, or 0 if it can't be had.
    pub fn translate(&mut self, unit: &Unit<'_>) -> u64 {
        let &Unit { place, crosses, parts, features, marked } = unit;
        #[cfg(test)]
        let corrupted: Vec<_> = parts.iter().map(|part| sabotage::corrupted(part.bytes)).collect();
        #[cfg(test)]
        let parts: &Vec<_> =
            &parts.iter().zip(&corrupted).map(|(part, bytes)| Part { bytes, ..*part }).collect();
        let source = Source {
            parts,
            cpl: place.cpl,
            features,
            marked,
            ignores: &|page, rip| self.links.ignores_flags(&Place { page, rip, ..place }),
            chained: self.chained,
            polls: self.polls,
            counts: self.counts,
        };
        let places = (self.memory.next(), self.memory.next_cold(MAX_TRANSLATION));
        if places.1.start - places.0 < MAX_TRANSLATION as u64 {
            return 0;
        }
        let translation = translate::translate(&source, &self.stubs, places);
        let Some(Translation { code, exits, ignores_flags }) = translation else { return 0 };
        let Some(code) = self.memory.add(&code.hot, &code.cold) else { return 0 };
        for exit in exits {
            let target = Place { rip: exit.target, page: exit.page, ..place };
            self.links.add(&mut self.memory, target, exit.link);
        }
        if !crosses {
            self.links.connect(&mut self.memory, place, Target { code, ignores_flags });
        }
        code
    }

    /// The site of an indirect branch has led to `code`, which it did not know.
    pub fn meet(&mut self, site: u64, code: u64) {
        sites::meet(&mut self.memory, site, code);
    }

    /// The block at `place` is dropped.
    pub fn forget(&mut self, place: &Place) {
        self.links.disconnect(&mut self.memory, place);
    }
}
