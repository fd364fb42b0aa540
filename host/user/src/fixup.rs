//! Accesses to memory that may not be there: each either is made, or is found not to be possible.
//!
//! An access where nothing is mapped is a fault, for which the kernel sends the thread a signal (SIGSEGV; SIGBUS for a file that is
//! too short). All instructions that may meet such memory stand between two labels here, keep no state on the stack, and have one
//! way out when they fail. So the signal's handler only asks whether it interrupts one of them, and goes on at that way out:
//! [`resume`]. It is what a kernel's exception table does, and costs an access that succeeds nothing, where a system call that copies
//! costs a microsecond.
//!
//! Who has the process's handlers calls [`resume`] in them, or lets [`install`] set them. Without that, a fault here is one like any
//! other. The same is so where the thread blocks the signal: the kernel then ends the process.
//!
//! See: signal(7); sigaction(2); System V ABI, AMD64 supplement, 3.2.

use std::arch::global_asm;
use std::ffi::{c_int, c_void};
use std::mem::zeroed;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{sighandler_t, siginfo_t, ucontext_t};
use virt::host::BadAddress;

/// What an access gives: the value in RAX, and in RDX whether it failed.
#[repr(C)]
struct Outcome {
    value: u64,
    failed: u64,
}

impl Outcome {
    const fn result(self) -> Result<u64, BadAddress> {
        if self.failed == 0 { Ok(self.value) } else { Err(BadAddress) }
    }
}

/// The start of a function of `global_asm`'s, of this name.
macro_rules! function {
    ($name:expr) => {
        concat!(
            ".globl ",
            $name,
            "\n.hidden ",
            $name,
            "\n.type ",
            $name,
            ", @function\n",
            $name,
            ":\n.cfi_startproc\n",
        )
    };
}

/// Its end.
macro_rules! end {
    ($name:expr) => {
        concat!(".cfi_endproc\n.size ", $name, ", . - ", $name)
    };
}

/// A label that Rust knows.
macro_rules! place {
    ($name:expr) => {
        concat!(".globl ", $name, "\n.hidden ", $name, "\n", $name, ":")
    };
}

/// The three accesses of so many bits: the instruction that loads them, and what they are called in RAX and RDX.
macro_rules! accesses {
    ($bits:expr, $load:expr, $a:expr, $d:expr) => {
        concat!(
            function!(concat!("unibody_fixup_load_", $bits)),
            $load,
            " [rdi]\nxor edx, edx\nret\n",
            end!(concat!("unibody_fixup_load_", $bits)),
            "\n",
            function!(concat!("unibody_fixup_store_", $bits)),
            "mov rax, rsi\nmov [rdi], ",
            $a,
            "\nxor edx, edx\nret\n",
            end!(concat!("unibody_fixup_store_", $bits)),
            "\n",
            function!(concat!("unibody_fixup_exchange_", $bits)),
            "mov rax, rsi\nlock cmpxchg [rdi], ",
            $d,
            "\nxor edx, edx\nret\n",
            end!(concat!("unibody_fixup_exchange_", $bits)),
        )
    };
}

// Arguments are in RDI, RSI and RDX. RSP and what is to be preserved are never touched, but RBX, which CMPXCHG16B needs: that one
// has a way out of its own, which restores it from R9.
global_asm!(
    ".pushsection .text.unibody_fixup, \"ax\", @progbits",
    // What is between this label and the next may fault.
    place!("unibody_fixup_start"),
    // To RDI from RSI, RDX bytes. The string instruction takes long to begin.
    function!("unibody_fixup_copy"),
    "cmp rdx, 512",
    "jb 2f",
    "mov rcx, rdx",
    "rep movsb",
    "xor edx, edx",
    "ret",
    "2:",
    "sub rdx, 8",
    "jb 3f",
    "mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "jmp 2b",
    "3:",
    "add rdx, 8",
    "jz 5f",
    "4:",
    "mov al, [rsi]",
    "mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec rdx",
    "jnz 4b",
    "5:",
    "ret",
    end!("unibody_fixup_copy"),
    // Of a power of two of bytes, each in one access; the exchange has the old value in RSI, and the new one in RDX.
    accesses!("8", "movzx eax, byte ptr", "al", "dl"),
    accesses!("16", "movzx eax, word ptr", "ax", "dx"),
    accesses!("32", "mov eax, dword ptr", "eax", "edx"),
    accesses!("64", "mov rax, qword ptr", "rax", "rdx"),
    place!("unibody_fixup_end"),
    // The way out.
    place!("unibody_fixup_failed"),
    ".cfi_startproc",
    "mov edx, 1",
    "ret",
    ".cfi_endproc",
    // At RDI; the old value, in and out, is at RSI, the new one at RDX.
    function!("unibody_fixup_exchange_128"),
    "mov r8, rdx",
    "mov r9, rbx",
    ".cfi_register rbx, r9",
    "mov rax, [rsi]",
    "mov rdx, [rsi + 8]",
    "mov rbx, [r8]",
    "mov rcx, [r8 + 8]",
    place!("unibody_fixup_wide"),
    "lock cmpxchg16b [rdi]",
    "mov [rsi], rax",
    "mov [rsi + 8], rdx",
    "mov rbx, r9",
    "xor edx, edx",
    "ret",
    // Its way out.
    place!("unibody_fixup_wide_failed"),
    "mov rbx, r9",
    "mov edx, 1",
    "ret",
    end!("unibody_fixup_exchange_128"),
    ".popsection",
);

unsafe extern "C" {
    fn unibody_fixup_start();
    fn unibody_fixup_end();
    fn unibody_fixup_failed();
    fn unibody_fixup_wide();
    fn unibody_fixup_wide_failed();

    fn unibody_fixup_copy(to: *mut u8, from: *const u8, len: usize) -> Outcome;
    fn unibody_fixup_load_8(at: *const u8) -> Outcome;
    fn unibody_fixup_load_16(at: *const u8) -> Outcome;
    fn unibody_fixup_load_32(at: *const u8) -> Outcome;
    fn unibody_fixup_load_64(at: *const u8) -> Outcome;
    fn unibody_fixup_store_8(at: *mut u8, value: u64) -> Outcome;
    fn unibody_fixup_store_16(at: *mut u8, value: u64) -> Outcome;
    fn unibody_fixup_store_32(at: *mut u8, value: u64) -> Outcome;
    fn unibody_fixup_store_64(at: *mut u8, value: u64) -> Outcome;
    fn unibody_fixup_exchange_8(at: *mut u8, old: u64, new: u64) -> Outcome;
    fn unibody_fixup_exchange_16(at: *mut u8, old: u64, new: u64) -> Outcome;
    fn unibody_fixup_exchange_32(at: *mut u8, old: u64, new: u64) -> Outcome;
    fn unibody_fixup_exchange_64(at: *mut u8, old: u64, new: u64) -> Outcome;
    fn unibody_fixup_exchange_128(at: *mut u8, old: *mut u128, new: *const u128) -> Outcome;
}

/// Copies, in an order and in pieces that nobody is promised.
///
/// # Errors
/// When any byte cannot be reached; some may have been copied.
///
/// # Safety
/// What is mapped at either place may be read, or written, so.
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> Result<(), BadAddress> {
    // SAFETY: the caller's promise; it does no harm where nothing is mapped, if the handlers are there.
    unsafe { unibody_fixup_copy(to, from, len) }.result().map(|_| ())
}

/// Reads 1, 2, 4 or 8 bytes in one access.
///
/// # Errors
/// When there is nothing that can be read, and for another size.
///
/// # Safety
/// What is mapped there may be read by one thread while others write to it.
pub unsafe fn load(at: *const u8, size: usize) -> Result<u64, BadAddress> {
    // SAFETY: as in `copy`.
    unsafe {
        match size {
            1 => unibody_fixup_load_8(at),
            2 => unibody_fixup_load_16(at),
            4 => unibody_fixup_load_32(at),
            8 => unibody_fixup_load_64(at),
            _ => return Err(BadAddress),
        }
    }
    .result()
}

/// Writes 1, 2, 4 or 8 bytes, `value`'s lowest, in one access.
///
/// # Errors
/// When there is nothing that can be written, and for another size.
///
/// # Safety
/// What is mapped there may be written.
pub unsafe fn store(at: *mut u8, size: usize, value: u64) -> Result<(), BadAddress> {
    // SAFETY: as in `copy`.
    unsafe {
        match size {
            1 => unibody_fixup_store_8(at, value),
            2 => unibody_fixup_store_16(at, value),
            4 => unibody_fixup_store_32(at, value),
            8 => unibody_fixup_store_64(at, value),
            _ => return Err(BadAddress),
        }
    }
    .result()
    .map(|_| ())
}

/// Writes 1, 2, 4, 8 or 16 bytes, the lowest of `new`, if `old`'s are there, in one step; gives what was there.
///
/// # Errors
/// When there is nothing that can be written, and for another size.
///
/// # Safety
/// What is mapped there may be written; for 16 bytes the address is aligned to them, and the processor has CMPXCHG16B.
pub unsafe fn compare_exchange(
    at: *mut u8,
    size: usize,
    old: u128,
    new: u128,
) -> Result<u128, BadAddress> {
    let [low, value] = [old as u64, new as u64];
    // SAFETY: as in `copy`.
    let (outcome, mask) = unsafe {
        match size {
            1 => (unibody_fixup_exchange_8(at, low, value), u64::from(u8::MAX)),
            2 => (unibody_fixup_exchange_16(at, low, value), u64::from(u16::MAX)),
            4 => (unibody_fixup_exchange_32(at, low, value), u64::from(u32::MAX)),
            8 => (unibody_fixup_exchange_64(at, low, value), u64::MAX),
            16 => {
                let mut was = old;
                unibody_fixup_exchange_128(at, &raw mut was, &raw const new).result()?;
                return Ok(was);
            }
            _ => return Err(BadAddress),
        }
    };
    outcome.result().map(|was| u128::from(was & mask))
}

/// If what a signal's handler interrupts is an access of this module's, has it go on as one that failed, and gives true.
///
/// # Safety
/// `context` is what the kernel gave the handler of a SIGSEGV or SIGBUS, as its third argument.
pub unsafe fn resume(context: *mut c_void) -> bool {
    // SAFETY: the caller's promise.
    let context = unsafe { &mut *context.cast::<ucontext_t>() };
    let place = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    let address = |label: unsafe extern "C" fn()| label as usize as i64;
    *place = match *place {
        at if (address(unibody_fixup_start)..address(unibody_fixup_end)).contains(&at) => {
            address(unibody_fixup_failed)
        }
        at if at == address(unibody_fixup_wide) => address(unibody_fixup_wide_failed),
        _ => return false,
    };
    true
}

/// The signals of such faults.
const FAULTS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// The handlers, or words, that the process had for them.
static BEFORE: [AtomicUsize; 2] = [const { AtomicUsize::new(libc::SIG_DFL) }; 2];

/// Sets handlers of both signals that do this: for programs in which nobody else does. Any other fault goes to what the process has had
/// for it.
pub fn install() {
    let ours: Handler = handle;
    for (signal, before) in FAULTS.into_iter().zip(&BEFORE) {
        let had = set(signal, ours as sighandler_t, libc::SA_SIGINFO | libc::SA_ONSTACK);
        if had != ours as sighandler_t {
            before.store(had, Ordering::Relaxed);
        }
    }
}

type Handler = unsafe extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

unsafe extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: this is the handler.
    if unsafe { resume(context) } {
        return;
    }
    let before = BEFORE[usize::from(signal == libc::SIGBUS)].load(Ordering::Relaxed);
    if matches!(before, libc::SIG_DFL | libc::SIG_IGN) {
        // SAFETY: the kernel gives it.
        unsafe { give_up(signal, info) };
    } else {
        // SAFETY: it was the process's handler of this signal; one that wants the number alone does not look at the others.
        unsafe { std::mem::transmute::<usize, Handler>(before)(signal, info, context) };
    }
}

/// Has a SIGSEGV or SIGBUS do by default what it does: called in a handler that has nothing to do for it, and then returns.
///
/// # Safety
/// `info` is what the kernel gave the handler of `signal`.
unsafe fn give_up(signal: c_int, info: *const siginfo_t) {
    set(signal, libc::SIG_DFL, 0);
    // A fault comes again when the handler returns; what somebody has sent does not.
    // SAFETY: the caller's promise; a signal to this thread, which it may have.
    unsafe {
        if (*info).si_code <= 0 {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal);
        }
    }
}

/// Sets a signal's handler, or word; gives the one that was set.
fn set(signal: c_int, handler: sighandler_t, flags: c_int) -> sighandler_t {
    // SAFETY: all of them may be zero: no signals are blocked.
    let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { zeroed() };
    (action.sa_sigaction, action.sa_flags) = (handler, flags);
    // SAFETY: the handler is one, or a word for the default.
    let done = unsafe { libc::sigaction(signal, &raw const action, &raw mut before) };
    debug_assert_eq!(done, 0, "both signals can be handled");
    before.sa_sigaction
}
