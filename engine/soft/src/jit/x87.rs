//! [`X87`]: x87 instructions that are translated by executing themselves, on the guest's x87 registers in the host's.
//!
//! They are those of [`crate::vector`] that compute, load or store, and some of the control instructions. Of the others
//! most show the last instruction's address, which here is the host's, or load what may unmask exceptions.

use iced_x86::{Code, Instruction, Mnemonic};

use super::shape::Encoding;
use crate::vector::{self, X87Operand};

/// How an x87 instruction is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As itself.
    Itself,
    /// Not at all: it waits for what is not there.
    Wait,
    /// It loads a control word, which has to be looked at.
    ControlWord,
}

/// What an x87 instruction does.
#[derive(Clone, Copy, Debug)]
pub(super) struct X87 {
    pub way: Way,
    pub operand: X87Operand,
    /// It may take some hundred cycles.
    pub is_long: bool,
}

impl X87 {
    /// A valid instruction, if it is one that is translated so.
    pub fn of(i: &Instruction, encoding: &Encoding<'_>) -> Option<Self> {
        if encoding.vex.is_some() || encoding.lock {
            return None;
        }
        let memory = |size, written| X87Operand { size, written };
        let (way, operand) = match i.code() {
            Code::Wait => (Way::Wait, memory(0, false)),
            Code::Fnop | Code::Fnclex | Code::Fnstsw_AX => (Way::Itself, memory(0, false)),
            Code::Fnstcw_m2byte | Code::Fnstsw_m2byte => (Way::Itself, memory(2, true)),
            Code::Fldcw_m2byte => (Way::ControlWord, memory(2, false)),
            _ => (Way::Itself, vector::x87_operand(i)?),
        };
        // How the registers are loaded: see `x87_registers`.
        let host_has = is_x86_feature_detected!("xsave");
        host_has.then_some(Self { way, operand, is_long: is_long(i.mnemonic()) })
    }

    /// Whether it executes as itself on an operand in memory.
    pub fn is_on_memory(&self) -> bool {
        self.way == Way::Itself && self.operand.size != 0
    }

    /// Whether it executes without memory.
    pub fn is_alone(&self) -> bool {
        self.operand.size == 0
    }
}

fn is_long(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{
        F2xm1, Fbld, Fbstp, Fcos, Fpatan, Fprem, Fprem1, Fptan, Fscale, Fsin, Fsincos, Fxtract,
        Fyl2x, Fyl2xp1,
    };
    matches!(
        mnemonic,
        F2xm1
            | Fbld
            | Fbstp
            | Fcos
            | Fpatan
            | Fprem
            | Fprem1
            | Fptan
            | Fscale
            | Fsin
            | Fsincos
            | Fxtract
            | Fyl2x
            | Fyl2xp1
    )
}
