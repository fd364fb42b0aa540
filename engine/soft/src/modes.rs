//! [`Modes`]: other ways to execute the same code, for tests.
//!
//! They are slower, and give the same: what goes wrong under one of them was wrong before, and rare. A mode acts
//! where the run loop looks at `attention::MODE` between two blocks, where blocks are made (`fetch`), where the TLB is
//! filled, and at the start and the end of a translated block.

use std::str::FromStr;

use iced_x86::{Decoder, DecoderOptions};

use arch_x86::emulate::{Mode, Status};
use arch_x86::regs::rflags;

use crate::jit;
use crate::polled::ALWAYS;
use crate::status_bits::status_bits;
use crate::vcpu::{SoftVcpu, attention};

/// How code is executed otherwise than usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// A block is one instruction.
    pub step: bool,
    /// Translated code comes back to the run loop after so many blocks; 0: when it must.
    pub every: u32,
    /// Whenever it comes back so, all translations are dropped.
    pub flush: bool,
    /// How many entries the TLB for data keeps; 0: all.
    pub tlb: usize,
    /// Flags that an instruction leaves undefined are random. Everything is interpreted, one by one.
    pub poison: bool,
}

impl Modes {
    /// As usual.
    pub const USUAL: Self = Self { step: false, every: 0, flush: false, tlb: 0, poison: false };

    /// What [`FromStr`] reads.
    pub const FORM: &str = "modes are, with commas between them: step, nochain, irq=N (at each Nth block), flush=N, \
                            flush=always, tlb=N (entries), tlb=tiny, flags=poison";

    /// Whether the run loop has something to do between all blocks, for good.
    const fn at_every_block(self) -> bool {
        self.every == 1 || self.poison
    }
}

/// A number above 0.
fn positive<T: FromStr + PartialOrd + Default>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| *number > T::default());
    number.ok_or_else(|| Modes::FORM.to_string())
}

impl FromStr for Modes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut modes = Self::USUAL;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.split_once('=').unwrap_or((word, "")) {
                ("step", "") => modes.step = true,
                ("nochain", "") => modes.every = 1,
                ("irq", every) => modes.every = positive(every)?,
                ("flush", "always") => (modes.flush, modes.every) = (true, 1),
                ("flush", every) => (modes.flush, modes.every) = (true, positive(every)?),
                ("tlb", "tiny") => modes.tlb = 8,
                ("tlb", entries) => modes.tlb = positive(entries)?,
                ("flags", "poison") => modes.poison = true,
                _ => return Err(Self::FORM.to_string()),
            }
        }
        Ok(modes)
    }
}

impl SoftVcpu {
    /// What the modes do between two blocks.
    pub(crate) fn attend_modes(&mut self) {
        let modes = self.shared.options.modes;
        // When it is to be done once more, after so many blocks, translated code says: it then looks at `ALWAYS`.
        self.aside.blocks_left = modes.every.into();
        let always = modes.at_every_block();
        self.set_attention(attention::MODE, always);
        self.aside.always = ALWAYS.address();
        self.jit.polled = if always { self.aside.always } else { self.sync.polled().address() };
        if modes.flush {
            self.flush_translations();
        }
    }

    /// Sets flags that were left undefined to anything. `undefined` are bits of RFLAGS.
    pub(crate) fn poison(&mut self, undefined: u64) {
        // Xorshift: it need not be good.
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        let bits = self.status.bits() & !undefined | self.noise & undefined;
        self.status = Status::from_bits(bits & rflags::STATUS);
    }
}

/// The arithmetic flags that an instruction always leaves undefined, as bits of RFLAGS.
pub(crate) fn undefined_flags(bytes: &[u8], mode: Mode) -> u64 {
    let bits = match mode {
        Mode::Bits16 => 16,
        Mode::Bits32 => 32,
        Mode::Bits64 => 64,
    };
    let instruction = Decoder::new(bits, bytes, DecoderOptions::NONE).decode();
    if instruction.is_invalid() || jit::reads_count(&instruction) {
        // A shift by a count that may be 0 then leaves them all as they are.
        return 0;
    }
    status_bits(instruction.rflags_undefined())
}
