//! The x87 and vector registers: [`FxArea`], and [`YmmHigh`] beyond it.

/// x87, MXCSR and XMM registers in the layout of FXSAVE64 (REX.W form).
/// See: AMD APM vol. 2, 11.4.4.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct FxArea(pub [u8; 512]);

impl FxArea {
    /// State after reset: FCW 0x37f, MXCSR 0x1f80, the rest zero.
    #[must_use]
    pub const fn at_reset() -> Self {
        let mut bytes = [0; 512];
        bytes[0] = 0x7f;
        bytes[1] = 0x03;
        bytes[24] = 0x80;
        bytes[25] = 0x1f;
        // The mask of MXCSR bits that may be set, with DAZ.
        bytes[28] = 0xff;
        bytes[29] = 0xff;
        Self(bytes)
    }

    /// XMM register `n` (masked to 0–15).
    #[must_use]
    pub fn xmm(&self, n: u8) -> u128 {
        let at = 160 + usize::from(n & 15) * 16;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[at..at + 16]);
        u128::from_le_bytes(bytes)
    }

    /// Sets XMM register `n` (masked to 0–15).
    pub fn set_xmm(&mut self, n: u8, value: u128) {
        let at = 160 + usize::from(n & 15) * 16;
        self.0[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }

    /// The SSE control and status register.
    #[must_use]
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes([self.0[24], self.0[25], self.0[26], self.0[27]])
    }

    /// Sets the SSE control and status register.
    pub fn set_mxcsr(&mut self, value: u32) {
        self.0[24..28].copy_from_slice(&value.to_le_bytes());
    }
}

impl core::fmt::Debug for FxArea {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FxArea").field("mxcsr", &self.mxcsr()).finish_non_exhaustive()
    }
}

/// The upper halves of the YMM registers, as XSAVE lays them out.
/// See: AMD APM vol. 2, 11.5.4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct YmmHigh(pub [u128; 16]);
