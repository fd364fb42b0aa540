//! What lies in memory for instructions that load registers or state from there.

use iced_x86::{Code, Instruction, MemorySize, Mnemonic};

use super::Builder;
use super::values::{self, Element};
use crate::vector::Vector;

/// Offset of XSAVE's header, and of the upper halves of the YMM registers in the standard form.
const HEADER: usize = 512;
const UPPER: usize = 576;

impl Builder {
    /// What is at `address`, for an instruction that is no integer one. Gives whether it has chosen it.
    pub(super) fn fill_vector_memory(&mut self, i: &Instruction, address: u64) -> bool {
        use Mnemonic as M;
        let random = &mut self.random;
        let bytes = match i.mnemonic() {
            M::Fxrstor | M::Fxrstor64 => self.fxsave_image(),
            M::Xrstor | M::Xrstor64 => self.xsave_image(),
            M::Frstor | M::Fldenv => self.environment(i.code()),
            M::Fldcw => {
                let odd = random.chance(10);
                let word = if odd { random.bits() as u16 } else { values::control_word(random) };
                word.to_le_bytes().to_vec()
            }
            M::Ldmxcsr | M::Vldmxcsr => {
                let odd = if random.chance(8) { 1 << random.below(32) } else { 0 };
                (values::mxcsr(random) | odd).to_le_bytes().to_vec()
            }
            _ => {
                let size = i.code().op_code().memory_size();
                let Some(element) = Element::of(size) else { return false };
                let floating = !matches!(element, Element::Integer(_));
                if !floating && !is_vector(size) || random.chance(15) {
                    return false;
                }
                let mut bytes = vec![0; size.size().min(32)];
                element.fill(random, &mut bytes);
                bytes
            }
        };
        self.patch(address, &bytes);
        true
    }

    /// Any registers, also such as the processor would not have saved.
    fn any_vector(&mut self) -> Vector {
        let random = &mut self.random;
        let mut vector = Vector::default();
        let fcw =
            if random.chance(10) { random.bits() as u16 } else { values::control_word(random) };
        let fsw =
            if random.chance(15) { random.bits() as u16 } else { values::status_word(random, fcw) };
        vector.set_control(fcw, fsw);
        vector.set_tags(values::tags(random));
        let odd = if random.chance(6) { 1 << random.below(32) } else { 0 };
        vector.fx.set_mxcsr(values::mxcsr(random) | odd);
        for n in 0..8 {
            vector.set_st(n, Element::F80.value(random));
        }
        for n in 0..16 {
            let mut bytes = [0; 32];
            Element::any(random).fill(random, &mut bytes);
            vector.set_ymm(n, &bytes);
        }
        vector
    }

    fn fxsave_image(&mut self) -> Vec<u8> {
        self.any_vector().fx.0[..416].to_vec()
    }

    /// An area of the standard form, with components that any processor with XSAVE and AVX has.
    fn xsave_image(&mut self) -> Vec<u8> {
        let vector = self.any_vector();
        let mut bytes = vec![0; UPPER + 256];
        bytes[..416].copy_from_slice(&vector.fx.0[..416]);
        bytes[HEADER] = self.random.below(8) as u8;
        if self.random.chance(5) {
            bytes[HEADER + 8 + self.random.below(56) as usize] = 1 << self.random.below(8);
        }
        for (to, half) in bytes[UPPER..].chunks_mut(16).zip(vector.upper) {
            to.copy_from_slice(&half.to_le_bytes());
        }
        bytes
    }

    /// What FNSTENV or FNSAVE stores. See: Intel SDM vol. 1, 8.1.10.
    fn environment(&mut self, code: Code) -> Vec<u8> {
        let vector = self.any_vector();
        let short = matches!(code, Code::Fldenv_m14byte | Code::Frstor_m94byte);
        let tags = self.random.bits() as u16 & self.random.bits() as u16;
        let mut bytes = Vec::new();
        for word in [vector.fcw(), vector.fsw(), tags, 0, 0, 0, 0] {
            bytes.extend(word.to_le_bytes());
            if !short {
                bytes.extend((self.random.bits() as u16).to_le_bytes());
            }
        }
        if matches!(code, Code::Frstor_m94byte | Code::Frstor_m108byte) {
            for n in 0..8 {
                bytes.extend(&vector.st(n).to_le_bytes()[..10]);
            }
        }
        bytes
    }
}

/// Whether the operand is longer than a general-purpose register, or consists of several elements.
fn is_vector(size: MemorySize) -> bool {
    size.size() > 8 || size.is_packed()
}
