//! The table of the stubs, as the build script made it.
//!
//! [`FORMS`] is sorted by [`Code`]; [`super::stub`] calls what it describes.

use iced_x86::Code;

use super::Extension;

/// What a form is executed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Packed integers and everything else that has no use for MXCSR.
    Packed,
    /// SSE floating point: reads and writes MXCSR.
    Float,
    /// PCMPxSTRx, with its implicit operands.
    String,
    /// x87.
    X87,
}

/// The registers that an operand may be in. All but a first operand in `Xmm` or `Mm`
/// may be memory instead: the instruction tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// There is none, or it is memory only, or on the x87 stack.
    None,
    /// XMM register.
    Xmm,
    /// MMX register.
    Mm,
    /// General-purpose register.
    Gpr,
}

/// One form of an instruction. Only this module makes one: what [`super::stub`] calls is
/// certain to be a stub of the given class.
#[derive(Debug)]
pub struct Form {
    code: Code,
    class: Class,
    first: Operand,
    second: Operand,
    extension: Extension,
    /// Size of the memory operand that it has, or may have.
    memory: u8,
    /// Whether a memory operand must be aligned (to 16 bytes).
    aligned: bool,
    /// x87: whether the memory operand is written, rather than read.
    memory_written: bool,
    /// Whether it reads or writes the arithmetic flags.
    flags: bool,
    /// Whether it reads XMM0 besides its operands.
    xmm0: bool,
    /// Where its first stub is, from the first of all.
    stub: u32,
    /// Size of each of its stubs, if it has several.
    stride: u16,
    /// How many stubs it has, less one: a mask for the immediate or the ST(i) that
    /// chooses between them.
    selector_mask: u8,
}

include!(concat!(env!("OUT_DIR"), "/forms.rs"));

impl Form {
    /// The form of `code`, with its place in the table.
    pub fn find(code: Code) -> Option<(u16, &'static Form)> {
        let index = FORMS.binary_search_by_key(&(code as u16), |form| form.code as u16).ok()?;
        Some((u16::try_from(index).ok()?, &FORMS[index]))
    }

    /// The form at `index` of the table.
    #[inline(always)]
    pub fn at(index: u16) -> Option<&'static Form> {
        FORMS.get(usize::from(index))
    }

    /// iced's name for it.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// What it is executed by.
    #[inline(always)]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The first operand.
    pub const fn first(&self) -> Operand {
        self.first
    }

    /// The second operand.
    pub const fn second(&self) -> Operand {
        self.second
    }

    /// Which extension of the instruction set it belongs to.
    pub const fn extension(&self) -> Extension {
        self.extension
    }

    /// Size of the memory operand that it has, or may have.
    #[inline(always)]
    pub const fn memory(&self) -> u8 {
        self.memory
    }

    /// Whether a memory operand must be aligned to 16 bytes.
    #[inline(always)]
    pub const fn aligned(&self) -> bool {
        self.aligned
    }

    /// x87: whether the memory operand is written, rather than read.
    pub const fn memory_written(&self) -> bool {
        self.memory_written
    }

    /// Whether it reads or writes the arithmetic flags.
    pub const fn flags(&self) -> bool {
        self.flags
    }

    /// Whether it reads XMM0 besides its operands.
    pub const fn xmm0(&self) -> bool {
        self.xmm0
    }

    /// Whether it works on its two operands alone, in XMM or MMX registers.
    #[inline(always)]
    pub const fn has_no_context(&self) -> bool {
        matches!(self.class, Class::Packed) && !self.flags && !self.xmm0
    }

    /// Where the stub for `selector` (the immediate, or the number of ST(i)) is.
    #[inline(always)]
    pub fn stub(&self, selector: u8) -> usize {
        let variant = usize::from(selector & self.selector_mask);
        self.stub as usize + variant * usize::from(self.stride)
    }
}
