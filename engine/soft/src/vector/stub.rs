//! The stubs themselves, and the calls into them: the unsafe part of `vector`.
//!
//! The build script assembles them; they lie in the text section, which nothing can
//! write. Each is called as a function of System V's convention with pointers to its
//! operands, and touches nothing but those and registers that a function may
//! destroy. MXCSR and the x87 control word are on return what they were, and the x87
//! stack is empty.

use std::arch::global_asm;

use arch_x86::regs::FxArea;

use super::table::{Class, Form, STUBS_SIZE};

global_asm!(
    ".pushsection .text.unibody_vector_stubs,\"ax\",@progbits",
    ".balign 64",
    ".hidden unibody_vector_stubs",
    ".globl unibody_vector_stubs",
    "unibody_vector_stubs:",
    concat!(".incbin \"", env!("OUT_DIR"), "/stubs.bin\""),
    ".popsection",
    options(raw)
);

// SAFETY: the symbol is the assembly's above, as many bytes as the build script has counted.
unsafe extern "C" {
    static unibody_vector_stubs: [u8; STUBS_SIZE];
}

type Stub = unsafe extern "sysv64" fn(first: *mut u8, second: *const u8, context: *mut Context);

/// What a stub reads and writes besides its two operands. The offsets are the build script's.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct Context {
    /// XMM0, where it is an implicit operand.
    pub xmm0: u128,
    /// The guest's MXCSR, for SSE floating point.
    pub mxcsr: u32,
    host_mxcsr: u32,
    /// The arithmetic flags in, RFLAGS out.
    pub flags: u64,
    /// RAX, for PCMPESTRx.
    pub rax: u64,
    /// RDX, for PCMPESTRx.
    pub rdx: u64,
    /// RCX, from PCMPxSTRI.
    pub rcx: u64,
    host_fcw: u16,
}

impl Context {
    /// For SSE floating point.
    #[inline(always)]
    pub fn with_mxcsr(mxcsr: u32) -> Self {
        Self { mxcsr, ..Self::default() }
    }
}

const _: () = {
    assert!(std::mem::offset_of!(Context, xmm0) == 0);
    assert!(std::mem::offset_of!(Context, mxcsr) == 16);
    assert!(std::mem::offset_of!(Context, host_mxcsr) == 20);
    assert!(std::mem::offset_of!(Context, flags) == 24);
    assert!(std::mem::offset_of!(Context, rax) == 32);
    assert!(std::mem::offset_of!(Context, rdx) == 40);
    assert!(std::mem::offset_of!(Context, rcx) == 48);
    assert!(std::mem::offset_of!(Context, host_fcw) == 56);
    assert!(align_of::<u128>() == 16);
};

/// MXCSR's exception masks.
pub(super) const MASKS: u32 = 0x1f80;
/// MXCSR's bits that every x86-64 processor has.
pub(super) const MXCSR_BITS: u32 = 0xffff;

/// Where the stub at `offset` is.
#[inline(always)]
pub(super) fn address(offset: usize) -> *const u8 {
    // An address is all that is wanted of it.
    (&raw const unibody_vector_stubs).cast::<u8>().wrapping_add(offset)
}

/// The stub of `form` for `selector`.
#[inline(always)]
fn stub(form: &'static Form, selector: u8) -> Stub {
    // SAFETY: a `Form` is made by the table alone, whose offsets lie within the stubs and are
    // each the start of one.
    unsafe { std::mem::transmute::<*const u8, Stub>(address(form.stub(selector))) }
}

/// Runs an SSE or MMX form on operands of 16 bytes. `context.mxcsr` is taken with
/// all exceptions masked.
///
/// # Panics
/// For x87 forms.
#[inline(always)]
pub fn run(
    form: &'static Form,
    selector: u8,
    first: &mut u128,
    second: &u128,
    context: &mut Context,
) {
    assert!(form.class() != Class::X87);
    context.mxcsr = context.mxcsr & MXCSR_BITS | MASKS;
    context.flags = 0;
    // SAFETY: such a stub accesses at most 16 bytes behind either operand's pointer, both aligned, and
    // the context. It raises no exception: MXCSR is valid and masks all.
    unsafe {
        stub(form, selector)(
            std::ptr::from_mut(first).cast(),
            std::ptr::from_ref(second).cast(),
            context,
        );
    }
}

/// A second operand.
#[derive(Clone, Copy)]
pub enum Second<'a> {
    /// 16 bytes of the register file, by their place.
    Slot(u8),
    /// A value from elsewhere.
    Value(&'a u128),
}

/// Runs a form without a context in the register file itself. The operands are places
/// there, in units of 16 bytes (see [`super::image`]).
///
/// # Panics
/// For forms that need a context.
#[inline(always)]
pub fn run_in_place(
    form: &'static Form,
    selector: u8,
    fx: &mut FxArea,
    first: u8,
    second: Second<'_>,
) {
    assert!(form.has_no_context());
    let base = fx.0.as_mut_ptr();
    // SAFETY: both offsets, below 512 and multiples of 16, lie within the area, which is aligned to
    // 16. Such a stub accesses 16 bytes behind either pointer, which may be the same,
    // and does not use the context.
    unsafe {
        let first = base.add(usize::from(first & 31) * 16);
        let second = match second {
            Second::Slot(n) => base.add(usize::from(n & 31) * 16).cast_const(),
            Second::Value(value) => std::ptr::from_ref(value).cast(),
        };
        stub(form, selector)(first, second, std::ptr::null_mut());
    }
}

/// Runs an x87 form on an image of the registers. Exceptions that the image's control word
/// does not mask are then pending in the image.
///
/// # Panics
/// For other forms, and with an exception pending in `image`.
pub fn run_x87(
    form: &'static Form,
    selector: u8,
    image: &mut FxArea,
    memory: &mut u128,
    context: &mut Context,
) {
    assert!(form.class() == Class::X87 && !super::image::pending(image));
    image.set_mxcsr(MASKS);
    // SAFETY: such a stub accesses the 512 bytes of the image, aligned to 16, at most 10 bytes of
    // `memory`, and the context. Loading the image does not fault: its MXCSR is valid, and
    // nothing else of it is checked. No exception is pending before the
    // instruction, and one that it leaves is cleared by FNINIT, which does not raise it.
    // The flags that it loads are arithmetic ones.
    unsafe {
        context.flags &= arch_x86::regs::rflags::STATUS;
        let memory = std::ptr::from_mut(memory).cast::<u8>();
        stub(form, selector)(image.0.as_mut_ptr(), memory, context);
    }
}
