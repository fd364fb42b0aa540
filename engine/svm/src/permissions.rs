//! [`Permissions`]: the maps of ports and model-specific registers that a guest may access by itself. It is none: one pair of maps
//! serves all guests.
//!
//! Ports are devices'. Of the registers the VMCB has some, which could pass through: FS, GS and their kin. But which accesses a VMM
//! denies ([`arch_x86::msr_policy`]), and which values are none, the run loop knows, and an engine is not told. A guest
//! writes FS's and GS's bases by WRFSBASE and WRGSBASE.
//!
//! See: AMD APM vol. 2, 15.10.1, 15.11.

use arch_x86::hardware::{Pages, Platform};
use virt::Errno;

use crate::nested::table;

/// Pages of the map of ports: a bit each, and one page for accesses at the end.
const PORT_PAGES: usize = 3;
/// Pages of the map of registers: two bits each, for three ranges of 8192.
const REGISTER_PAGES: usize = 2;

/// The maps.
pub struct Permissions<G> {
    ports: G,
    registers: G,
}

impl<G: Pages> Permissions<G> {
    /// Maps that intercept all. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(platform: &impl Platform<Pages = G>) -> Result<Self, Errno> {
        let filled = |pages: usize| {
            let map = platform.pages(pages)?;
            (0..pages).for_each(|page| table::fill(&map, page, u64::MAX));
            Ok(map)
        };
        Ok(Self { ports: filled(PORT_PAGES)?, registers: filled(REGISTER_PAGES)? })
    }

    /// Where the map of ports is for the processor.
    pub fn ports(&self) -> u64 {
        self.ports.physical()
    }

    /// Where the map of registers is for the processor.
    pub fn registers(&self) -> u64 {
        self.registers.physical()
    }

    /// Both maps, for tests.
    #[cfg(test)]
    pub fn maps(&self) -> (&G, &G) {
        (&self.ports, &self.registers)
    }
}
