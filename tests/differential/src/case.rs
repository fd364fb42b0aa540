//! [`Case`]: what is executed, and on what; [`Outcome`]: what came of it.

use iced_x86::Instruction;

use crate::layout::IMAGE;
use crate::vector::Vector;
use crate::vendor::Vendor;

/// A block of instructions and the state that it starts in.
#[derive(Clone)]
pub struct Case {
    /// What it was made from.
    pub seed: u64,
    /// Whose instructions they are.
    pub vendor: Vendor,
    /// Address of the first instruction.
    pub rip: u64,
    /// The instructions, one behind the other. Behind the last stands INT3.
    pub code: Vec<Vec<u8>>,
    /// The general-purpose registers.
    pub gprs: [u64; 16],
    /// RFLAGS.
    pub rflags: u64,
    /// The bases of FS and GS.
    pub bases: [u64; 2],
    /// The x87, MMX, SSE and AVX registers.
    pub vector: Vector,
    /// What of the data is not as always: an offset in the image, and the bytes there.
    pub patches: Vec<(usize, Vec<u8>)>,
}

impl Case {
    /// All bytes of the code.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.code.concat()
    }

    /// The instructions as decoded one by one.
    pub fn instructions(&self) -> impl Iterator<Item = Instruction> {
        let mut rip = self.rip;
        self.code.iter().map(move |bytes| {
            let instruction = self.vendor.decoder(bytes, rip).decode();
            rip += bytes.len() as u64;
            instruction
        })
    }
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an exception; INT3's at the latest.
    Exception {
        /// The vector.
        vector: u8,
        /// The error code, 0 for those without.
        error: u64,
    },
    /// Not at all.
    Hang,
    /// With a system call: code was executed that was not meant to be.
    Astray,
    /// The engine came out.
    CameOut(arch_x86::engine::Intercept),
}

/// The state after a case.
#[derive(Clone)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The general-purpose registers.
    pub gprs: [u64; 16],
    /// RIP, as the exception saved it.
    pub rip: u64,
    /// RFLAGS, as the exception saved it.
    pub rflags: u64,
    /// CR2; 0 unless the exception is a page fault.
    pub cr2: u64,
    /// The bases of FS and GS.
    pub bases: [u64; 2],
    /// The selectors of ES, DS, FS and GS.
    pub selectors: [u64; 4],
    /// The x87, MMX, SSE and AVX registers.
    pub vector: Vector,
    /// The data.
    pub image: Box<[u8; IMAGE]>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            end: End::Hang,
            gprs: [0; 16],
            rip: 0,
            rflags: 0,
            cr2: 0,
            bases: [0; 2],
            selectors: [0; 4],
            vector: Vector::default(),
            image: Box::new([0; IMAGE]),
        }
    }
}
