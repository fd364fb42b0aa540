//! The x87 and MMX fields of the register file, which has FXSAVE64's layout.
//!
//! See: AMD APM vol. 2, 11.4.4; vol. 1, 6.2 and 5.4 (how MMX registers alias).

use arch_x86::regs::FxArea;

/// Place of XMM0, in units of 16 bytes.
pub const XMM0: u8 = 10;

/// Offset of ST(0).
pub const ST0: usize = 32;

/// Bits of the status word.
pub mod fsw {
    /// The exception flags that the control word masks.
    pub const EXCEPTIONS: u16 = 0x3f;
    /// Precision.
    pub const PE: u16 = 1 << 5;
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    /// Exception summary.
    pub const ES: u16 = 1 << 7;
    /// Busy: a copy of ES since the 287.
    pub const B: u16 = 1 << 15;
}

/// Bits of the control word that can be set; bit 6 reads as one.
const FCW_BITS: u16 = 0x1f3f;
const FCW_ONE: u16 = 0x40;

fn word(fx: &FxArea, at: usize) -> u16 {
    u16::from_le_bytes([fx.0[at], fx.0[at + 1]])
}

fn set_word(fx: &mut FxArea, at: usize, value: u16) {
    fx.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// The control word.
pub fn fcw(fx: &FxArea) -> u16 {
    word(fx, 0)
}

/// The status word.
pub fn fsw(fx: &FxArea) -> u16 {
    word(fx, 2)
}

/// The tag byte: a bit for each register that is not empty, by the registers' physical numbers.
pub fn tags(fx: &FxArea) -> u8 {
    fx.0[4]
}

/// Sets the tag byte.
pub fn set_tags(fx: &mut FxArea, tags: u8) {
    fx.0[4] = tags;
}

/// The opcode of the last instruction.
pub fn fop(fx: &FxArea) -> u16 {
    word(fx, 6)
}

/// Sets the last opcode.
pub fn set_fop(fx: &mut FxArea, value: u16) {
    set_word(fx, 6, value & 0x7ff);
}

/// The address of the last instruction.
pub fn fip(fx: &FxArea) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&fx.0[8..16]);
    u64::from_le_bytes(bytes)
}

/// Sets the last instruction's address.
pub fn set_fip(fx: &mut FxArea, value: u64) {
    fx.0[8..16].copy_from_slice(&value.to_le_bytes());
}

/// The address of the last memory operand.
pub fn fdp(fx: &FxArea) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&fx.0[16..24]);
    u64::from_le_bytes(bytes)
}

/// Sets the last memory operand's address.
pub fn set_fdp(fx: &mut FxArea, value: u64) {
    fx.0[16..24].copy_from_slice(&value.to_le_bytes());
}

/// Sets control and status words, the summary bits made to fit.
pub fn set_control_and_status(fx: &mut FxArea, fcw: u16, fsw: u16) {
    let fcw = fcw & FCW_BITS | FCW_ONE;
    let summary = fsw::ES | fsw::B;
    let pending = fsw & !fcw & fsw::EXCEPTIONS != 0;
    set_word(fx, 0, fcw);
    set_word(fx, 2, if pending { fsw | summary } else { fsw & !summary });
}

/// Whether an exception is pending that the control word does not mask.
#[inline(always)]
pub fn pending(fx: &FxArea) -> bool {
    fsw(fx) & !fcw(fx) & fsw::EXCEPTIONS != 0
}

/// The physical number of ST(0).
pub fn top(fx: &FxArea) -> u8 {
    (fsw(fx) >> 11) as u8 & 7
}

/// ST(i): its significand, and its exponent with the sign.
pub fn st(fx: &FxArea, i: u8) -> (u64, u16) {
    let at = ST0 + usize::from(i & 7) * 16;
    let mut significand = [0; 8];
    significand.copy_from_slice(&fx.0[at..at + 8]);
    (u64::from_le_bytes(significand), word(fx, at + 8))
}

/// Sets ST(i)'s significand and exponent.
pub fn set_st(fx: &mut FxArea, i: u8, significand: u64, exponent: u16) {
    let at = ST0 + usize::from(i & 7) * 16;
    fx.0[at..at + 8].copy_from_slice(&significand.to_le_bytes());
    set_word(fx, at + 8, exponent);
}

/// The tag word in its full form, as FNSTENV stores it: two bits for each register.
pub fn full_tags(fx: &FxArea) -> u16 {
    let top = top(fx);
    let mut full = 0;
    for physical in 0..8u8 {
        let (significand, exponent) = st(fx, physical.wrapping_sub(top) & 7);
        let tag = match (exponent & 0x7fff, significand) {
            _ if tags(fx) & 1 << physical == 0 => 3,
            (0, 0) => 1,
            (0 | 0x7fff, _) => 2,
            _ if significand >> 63 == 0 => 2,
            _ => 0,
        };
        full |= tag << (2 * physical);
    }
    full
}

/// Sets the tag byte from the full form: all but `11` are not empty.
pub fn set_full_tags(fx: &mut FxArea, full: u16) {
    let tags = (0..8).filter(|n| full >> (2 * n) & 3 != 3).fold(0, |tags, n| tags | 1 << n);
    set_tags(fx, tags);
}

/// Makes physical register `new` ST(0). As ST(i) is stored relative to TOP, the
/// registers move.
pub fn set_top(fx: &mut FxArea, new: u8) {
    let by = new.wrapping_sub(top(fx)) & 7;
    if by != 0 {
        fx.0[ST0..ST0 + 128].rotate_left(usize::from(by) * 16);
        let status = fsw(fx) & !(7 << 11) | u16::from(new & 7) << 11;
        set_word(fx, 2, status);
    }
}

/// What every MMX instruction does first: TOP is 0, and no register is empty.
pub fn enter_mmx(fx: &mut FxArea) {
    set_top(fx, 0);
    set_tags(fx, 0xff);
}

/// MMX register `n`, after [`enter_mmx`].
pub fn mm(fx: &FxArea, n: u8) -> u64 {
    st(fx, n).0
}

/// Sets MMX register `n`, after [`enter_mmx`].
pub fn set_mm(fx: &mut FxArea, n: u8, value: u64) {
    set_st(fx, n, value, 0xffff);
}
