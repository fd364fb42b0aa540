//! [`AddressSpaces`]: which PCIDs have translations kept for them, and where.
//!
//! The TLBs have room for the translations of a few address spaces side by side; a PCID that has been left is
//! found again when CR3 is written without a flush. See: AMD APM vol. 2, 5.5.1.

/// How many address spaces are kept. Linux uses six PCIDs, and 0 until it does.
pub const SPACES: usize = 7;

/// No PCID: they have 12 bits.
const NONE: u16 = u16::MAX;

/// Number of an address space, less than [`SPACES`].
pub type Space = usize;

/// The address spaces of one vCPU.
#[derive(Clone, Debug)]
pub struct AddressSpaces {
    pcids: [u16; SPACES],
    /// When each was last switched to.
    used: [u64; SPACES],
    now: u64,
    current: Space,
}

/// What a switch of address spaces leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switched {
    /// The one that is current now.
    pub space: Space,
    /// What it has is the PCID's; otherwise nothing of it may be used.
    pub known: bool,
}

impl AddressSpaces {
    /// Only `pcid` has one, and it is current.
    pub const fn new(pcid: u16) -> Self {
        let mut pcids = [NONE; SPACES];
        pcids[0] = pcid;
        Self { pcids, used: [0; SPACES], now: 0, current: 0 }
    }

    /// Makes `pcid` current, instead of the one that was so longest ago if it has none.
    pub fn switch(&mut self, pcid: u16) -> Switched {
        let found = self.pcids.iter().position(|known| *known == pcid);
        let space = found.unwrap_or_else(|| self.oldest());
        self.now += 1;
        self.used[space] = self.now;
        self.pcids[space] = pcid;
        self.current = space;
        Switched { space, known: found.is_some() }
    }

    /// The one to be given up: what has no PCID first.
    fn oldest(&self) -> Space {
        let age = |space: &Space| (self.pcids[*space] != NONE, self.used[*space]);
        (0..SPACES).min_by_key(age).unwrap_or(0)
    }

    /// Whether `pcid` is current.
    pub fn is_current(&self, pcid: u16) -> bool {
        self.pcids[self.current] == pcid
    }

    /// The current one.
    pub const fn current(&self) -> Space {
        self.current
    }

    /// A PCID that is not current has nothing any more that may be used.
    pub fn forget(&mut self, pcid: u16) {
        for (space, known) in self.pcids.iter_mut().enumerate() {
            if *known == pcid && space != self.current {
                *known = NONE;
            }
        }
    }

    /// No PCID but the current one has anything any more.
    pub fn forget_others(&mut self) {
        let pcid = self.pcids[self.current];
        self.pcids = [NONE; SPACES];
        self.pcids[self.current] = pcid;
    }
}
