//! The table of AVX's stubs, as the build script made it.
//!
//! [`VEX_FORMS`] is sorted by [`Code`]; [`super::vex_stub`] calls what it describes.

use iced_x86::Code;

use super::Extension;

/// What a form uses besides its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing.
    Packed,
    /// MXCSR.
    Float,
    /// The arithmetic flags.
    Flags,
    /// VPCMPxSTRx: also general-purpose registers and XMM0.
    String,
}

/// The registers that an operand may be in. It may be memory instead: the instruction tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// There is none, or it is memory only.
    None,
    /// XMM or YMM register.
    Vector,
    /// General-purpose register.
    Gpr,
}

/// Where the stub has its first operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In YMM0.
    Vector,
    /// In RAX.
    Gpr,
    /// In memory.
    Memory,
}

/// One form of an instruction. Only this module makes one: what [`super::vex_stub`] calls is
/// certain to be such a stub.
#[derive(Debug)]
pub struct Form {
    code: Code,
    class: Class,
    operands: [Operand; 4],
    extensions: &'static [Extension],
    memory: u8,
    aligned: bool,
    place: Place,
    written: bool,
    flags: bool,
    is4: bool,
    stub: u32,
    stride: u8,
}

include!(concat!(env!("OUT_DIR"), "/vex_forms.rs"));

impl Form {
    /// The form of `code`, with its place in the table.
    pub fn find(code: Code) -> Option<(u16, &'static Form)> {
        let index = VEX_FORMS.binary_search_by_key(&(code as u16), |form| form.code as u16).ok()?;
        Some((u16::try_from(index).ok()?, &VEX_FORMS[index]))
    }

    /// The form at `index` of the table.
    #[inline(always)]
    pub fn at(index: u16) -> Option<&'static Form> {
        VEX_FORMS.get(usize::from(index))
    }

    /// iced's name for it.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// What it uses besides its operands.
    #[inline(always)]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The kind of operand `n`, below 4.
    #[inline(always)]
    pub const fn operand(&self, n: usize) -> Operand {
        self.operands[n]
    }

    /// Whether the host executes it.
    pub fn host_has(&self) -> bool {
        self.extensions.iter().all(|extension| extension.host_has())
    }

    /// Size of the memory operand that it has, or may have: at most 32.
    #[inline(always)]
    pub const fn memory(&self) -> usize {
        self.memory as usize
    }

    /// Whether a memory operand must be aligned to its size.
    #[inline(always)]
    pub const fn aligned(&self) -> bool {
        self.aligned
    }

    /// Where the stub has its first operand.
    #[inline(always)]
    pub const fn place(&self) -> Place {
        self.place
    }

    /// Whether the first operand is written.
    #[inline(always)]
    pub const fn written(&self) -> bool {
        self.written
    }

    /// Whether it sets the arithmetic flags.
    #[inline(always)]
    pub const fn flags(&self) -> bool {
        self.flags
    }

    /// Whether its last operand is a register in the immediate.
    #[inline(always)]
    pub const fn is4(&self) -> bool {
        self.is4
    }

    /// Where the stub for an immediate is.
    #[inline(always)]
    pub const fn stub(&self, immediate: u8) -> usize {
        self.stub as usize + self.stride as usize * immediate as usize
    }
}
