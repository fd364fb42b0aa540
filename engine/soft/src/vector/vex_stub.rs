//! The calls into AVX's stubs: unsafe code.
//!
//! A stub is an instruction and a return (see the build script's `vex`). What is here loads the
//! operands that it may have, and saves what it may have changed.

use std::arch::asm;

use super::stub;
use super::vex_table::{Class, Form};

/// What a stub works on. The offsets are the assembly's.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub struct Slots {
    /// The operands: registers, or memory.
    pub operands: [[u128; 2]; 4],
    /// YMM0 afterwards.
    pub result: [u128; 2],
    /// RAX, before and afterwards.
    pub rax: u64,
    /// RDX, before.
    pub rdx: u64,
    /// RCX, afterwards.
    pub rcx: u64,
    /// RFLAGS, afterwards.
    pub flags: u64,
    /// The guest's MXCSR, before and afterwards.
    pub mxcsr: u32,
    host_mxcsr: u32,
}

const _: () = {
    assert!(std::mem::offset_of!(Slots, operands) == 0);
    assert!(std::mem::offset_of!(Slots, result) == 128);
    assert!(std::mem::offset_of!(Slots, rax) == 160);
    assert!(std::mem::offset_of!(Slots, rdx) == 168);
    assert!(std::mem::offset_of!(Slots, rcx) == 176);
    assert!(std::mem::offset_of!(Slots, flags) == 184);
    assert!(std::mem::offset_of!(Slots, mxcsr) == 192);
    assert!(std::mem::offset_of!(Slots, host_mxcsr) == 196);
    assert!(align_of::<Slots>() == 32);
};

/// Runs a form that the host has. Of `slots`, the operands that are read are taken, and `mxcsr`
/// (with all exceptions masked), `rax` and `rdx` if the class says so; the result is in
/// [`Slots::result`], [`Slots::rax`] or the first operand, as [`Form::place`] says.
///
/// # Panics
/// If the host does not have AVX.
#[inline(always)]
pub fn run(form: &'static Form, immediate: u8, slots: &mut Slots) {
    assert!(std::arch::is_x86_feature_detected!("avx"));
    let stub = stub::address(form.stub(immediate));
    let slots = std::ptr::from_mut(slots);
    if form.class() == Class::Packed {
        // SAFETY: the stub is one of AVX's: it reads and writes YMM0 to YMM3, RAX, and at most 32
        // bytes at each of the four operands' places behind RDI, which are `slots`'; it returns.
        // The host has AVX. All registers that a function may change are given up.
        unsafe {
            asm!(
                "vmovdqa ymm0, [rdi]",
                "vmovdqa ymm1, [rdi + 32]",
                "vmovdqa ymm2, [rdi + 64]",
                "vmovdqa ymm3, [rdi + 96]",
                "call r11",
                "vmovdqa [rdi + 128], ymm0",
                "mov [rdi + 160], rax",
                "vzeroupper",
                inout("rdi") slots => _,
                inout("r11") stub => _,
                inout("rax") 0_u64 => _,
                clobber_abi("sysv64"),
            );
        }
        return;
    }
    // SAFETY: as above. The MXCSR that is loaded is valid and masks all exceptions, so that none is
    // raised, and the host's is restored. Of the class `String` the stub also reads RAX and RDX, and
    // writes RCX and YMM0.
    unsafe {
        (*slots).mxcsr = (*slots).mxcsr & stub::MXCSR_BITS | stub::MASKS;
        asm!(
            "stmxcsr [rdi + 196]",
            "ldmxcsr [rdi + 192]",
            "vmovdqa ymm0, [rdi]",
            "vmovdqa ymm1, [rdi + 32]",
            "vmovdqa ymm2, [rdi + 64]",
            "vmovdqa ymm3, [rdi + 96]",
            "mov rax, [rdi + 160]",
            "mov rdx, [rdi + 168]",
            "call r11",
            "mov [rdi + 160], rax",
            "mov [rdi + 176], rcx",
            "pushfq",
            "pop qword ptr [rdi + 184]",
            "vmovdqa [rdi + 128], ymm0",
            "stmxcsr [rdi + 192]",
            "ldmxcsr [rdi + 196]",
            "vzeroupper",
            inout("rdi") slots => _,
            inout("r11") stub => _,
            clobber_abi("sysv64"),
        );
    }
}
