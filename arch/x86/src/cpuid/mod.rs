//! CPUID: what the guest is told about its processor.
//!
//! [`Table`] is what a vCPU answers from; [`default_table`] makes the default one from the host's
//! own processor and what the engine runs.

mod kernel;
#[cfg(feature = "selftest")]
pub mod kernel_test;
mod model;
#[cfg(feature = "selftest")]
pub mod model_test;
mod policy;
#[cfg(feature = "selftest")]
pub mod policy_test;

use alloc::vec::Vec;

use virt::Errno;

use crate::emulate::Feature;
use crate::engine::Features;
use crate::mmu::Limits;

pub use kernel::kernel_table;
pub use model::Model;
pub use policy::{Hardware, Instructions, default_table};

/// EAX, EBX, ECX and EDX.
pub type Leaf = [u32; 4];

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// EAX of the question.
    pub function: u32,
    /// ECX of the question, where it matters: otherwise any ECX gets this answer.
    pub index: Option<u32>,
    /// The answer.
    pub leaf: Leaf,
}

/// The answers of one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(Vec<Entry>);

impl Table {
    /// How many answers a table may hold.
    pub const MAX: usize = 256;

    /// Adds an answer, or replaces the one to the same question.
    ///
    /// # Errors
    /// `EINVAL` when there are too many, `ENOMEM`.
    pub fn set(&mut self, function: u32, index: Option<u32>, leaf: Leaf) -> Result<(), Errno> {
        let same = |e: &&mut Entry| e.function == function && e.index == index;
        if let Some(entry) = self.0.iter_mut().find(same) {
            entry.leaf = leaf;
            return Ok(());
        }
        if self.0.len() >= Self::MAX {
            return Err(Errno::EINVAL);
        }
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.0.push(Entry { function, index, leaf });
        Ok(())
    }

    /// Removes the answers of a leaf.
    pub fn remove(&mut self, function: u32) {
        self.0.retain(|entry| entry.function != function);
    }

    /// Offers these instructions no more.
    pub fn withhold(&mut self, lacks: &Instructions) {
        for Entry { function, index, leaf: [eax, ebx, ecx, edx] } in &mut self.0 {
            match (*function, index.unwrap_or(0)) {
                (1, _) => (*ecx, *edx) = (*ecx & !lacks.leaf1_ecx, *edx & !lacks.leaf1_edx),
                (7, 0) => {
                    *ebx &= !lacks.leaf7_ebx;
                    (*ecx, *edx) = (*ecx & !lacks.leaf7_ecx, *edx & !lacks.leaf7_edx);
                }
                (0xd, 1) => *eax &= !lacks.leaf_d1_eax,
                (0x8000_0008, _) => *ebx &= !lacks.extended8_ebx,
                (0x8000_0021, _) => *eax &= !lacks.extended21_eax,
                (0x8000_0001, _) => {
                    (*ecx, *edx) = (*ecx & !lacks.extended1_ecx, *edx & !lacks.extended1_edx);
                }
                _ => {}
            }
        }
    }

    /// All answers.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The stored answer, without what depends on the vCPU's state.
    #[must_use]
    pub fn get(&self, function: u32, index: u32) -> Option<Leaf> {
        self.0
            .iter()
            .find(|e| e.function == function && e.index.is_none_or(|i| i == index))
            .map(|e| e.leaf)
    }

    /// The answer to a question that has no entry of its own: above the highest
    /// basic leaf Intel answers with that leaf, AMD with zeros; everything else is zeros.
    /// See: Intel SDM vol. 2, CPUID; AMD APM vol. 3, CPUID.
    #[must_use]
    pub fn answer(&self, function: u32, index: u32) -> Leaf {
        if let Some(leaf) = self.get(function, index) {
            return leaf;
        }
        let known = self.0.iter().any(|e| e.function == function);
        let Some(first) = self.get(0, 0) else { return [0; 4] };
        let basic = function < 0x4000_0000;
        if !known && basic && function > first[0] && Vendor::of(first) == Vendor::Intel {
            return self.get(first[0], index).unwrap_or([0; 4]);
        }
        [0; 4]
    }

    fn bit(&self, function: u32, register: usize, bit: u32) -> bool {
        self.get(function, 0).is_some_and(|leaf| leaf[register] >> bit & 1 != 0)
    }

    /// The vendor that the table names.
    #[must_use]
    pub fn vendor(&self) -> Vendor {
        self.get(0, 0).map_or(Vendor::Other, Vendor::of)
    }

    /// Width of a guest-physical address in bits.
    #[must_use]
    pub fn physical_bits(&self) -> u32 {
        self.get(0x8000_0008, 0).map_or(36, |leaf| leaf[0] & 0xff).clamp(32, 52)
    }

    /// What the table says of addresses and pages.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let gib_pages = self.bit(0x8000_0001, 3, 26);
        Limits { phys_bits: self.physical_bits() as u8, gib_pages }
    }

    /// Which of the integer and system instructions the table offers.
    #[must_use]
    pub fn features(&self) -> Features {
        let amd = self.vendor() == Vendor::Amd;
        let by_vendor = Features::default()
            .with(Feature::LegacySyscall, amd)
            .with(Feature::LongSysenter, !amd)
            .with(Feature::AmdEncodings, amd);
        BITS.iter().fold(by_vendor, |set, (feature, function, register, bit)| {
            set.with(*feature, self.bit(*function, *register, *bit))
        })
    }
}

/// Who made the processor, as leaf 0 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// `AuthenticAMD`, or `HygonGenuine`, whose processors behave alike.
    Amd,
    /// `GenuineIntel`.
    Intel,
    /// Anyone else.
    Other,
}

impl Vendor {
    /// The vendor that leaf 0 names.
    #[must_use]
    pub fn of(leaf0: Leaf) -> Self {
        match [leaf0[1], leaf0[3], leaf0[2]].map(u32::to_le_bytes).concat().as_slice() {
            b"AuthenticAMD" | b"HygonGenuine" => Self::Amd,
            b"GenuineIntel" => Self::Intel,
            _ => Self::Other,
        }
    }
}

const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// What offers a feature: leaf, register and bit.
const BITS: [(Feature, u32, usize, u32); 25] = [
    (Feature::Monitor, 1, ECX, 3),
    (Feature::Cmpxchg16b, 1, ECX, 13),
    (Feature::Pcid, 1, ECX, 17),
    (Feature::Sse42, 1, ECX, 20),
    (Feature::Movbe, 1, ECX, 22),
    (Feature::Popcnt, 1, ECX, 23),
    (Feature::Xsave, 1, ECX, 26),
    (Feature::Avx, 1, ECX, 28),
    (Feature::Rdrand, 1, ECX, 30),
    (Feature::Fsgsbase, 7, EBX, 0),
    (Feature::Bmi1, 7, EBX, 3),
    (Feature::Smep, 7, EBX, 7),
    (Feature::Bmi2, 7, EBX, 8),
    (Feature::Invpcid, 7, EBX, 10),
    (Feature::Rdseed, 7, EBX, 18),
    (Feature::Adx, 7, EBX, 19),
    (Feature::Smap, 7, EBX, 20),
    (Feature::Clflushopt, 7, EBX, 23),
    (Feature::Clwb, 7, EBX, 24),
    (Feature::Umip, 7, ECX, 2),
    (Feature::La57, 7, ECX, 16),
    (Feature::Rdpid, 7, ECX, 22),
    (Feature::Serialize, 7, EDX, 14),
    (Feature::Lzcnt, 0x8000_0001, ECX, 5),
    (Feature::Rdtscp, 0x8000_0001, EDX, 27),
];

/// All features, but for those of instructions that an engine lacks.
#[must_use]
pub fn all_but(lacks: &Instructions) -> Features {
    let is_lacking = |function, register, bit| lacks.word(function, register) >> bit & 1 != 0;
    BITS.iter().fold(Features::ALL, |set, (feature, function, register, bit)| {
        if is_lacking(*function, *register, *bit) { set.with(*feature, false) } else { set }
    })
}
