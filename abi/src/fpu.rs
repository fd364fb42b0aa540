//! x87, SSE and what else XSAVE saves. Neighbours: [`crate::regs`].
//!
//! See: api.rst 4.22 (`KVM_GET_FPU`), 4.42 (`KVM_GET_XSAVE`), 4.44 (`KVM_GET_XCRS`).

/// x87 and SSE state: `struct kvm_fpu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fpu {
    /// The x87 registers, 10 bytes of each used.
    pub fpr: [[u8; 16]; 8],
    /// Control word.
    pub fcw: u16,
    /// Status word.
    pub fsw: u16,
    /// Tag word as FXSAVE abridges it.
    pub ftwx: u8,
    /// Zero.
    pub pad1: u8,
    /// Opcode of the last instruction.
    pub last_opcode: u16,
    /// Address of the last instruction.
    pub last_ip: u64,
    /// Address of its operand.
    pub last_dp: u64,
    /// XMM0–XMM15.
    pub xmm: [[u8; 16]; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// Zero.
    pub pad2: u32,
}

/// The XSAVE area in its standard form: `struct kvm_xsave`.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xsave {
    /// The area.
    pub region: [u32; 1024],
}

/// Extended control registers that fit in [`Xcrs`].
pub const MAX_XCRS: usize = 16;

/// An extended control register: `struct kvm_xcr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Xcr {
    /// Its number.
    pub xcr: u32,
    /// Zero.
    pub reserved: u32,
    /// Its value.
    pub value: u64,
}

/// The extended control registers: `struct kvm_xcrs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Xcrs {
    /// How many of [`Self::xcrs`] count.
    pub nr_xcrs: u32,
    /// Zero.
    pub flags: u32,
    /// The registers.
    pub xcrs: [Xcr; MAX_XCRS],
    /// Zero.
    pub padding: [u64; 16],
}
