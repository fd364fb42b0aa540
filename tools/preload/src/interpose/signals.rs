//! Setting signals' handlers: each handler of the program's gets one of this library's around it, which brings out the vCPU that this
//! thread runs, after the program's has run.
//!
//! The kernel is given the program's flags and mask, so that all else of a handler is as it wants it, and what it asks for it gets as
//! it was set. Around the handler the stack is changed if it interrupts translated code, whose stack pointer is elsewhere: a
//! handler of a stranger's finds a thread's stack.
//!
//! Not seen: `sigset`, `sigignore`, and the C library's own handlers (for `pthread_cancel` and `setuid`). Such run by themselves, and
//! KVM_RUN goes on.
//!
//! See: sigaction(2); Linux, arch/x86/kernel/signal.c.

use std::arch::naked_asm;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libc::{c_int, c_void, sigaction as Action, sighandler_t, siginfo_t};

use super::fail;
use crate::next::Next;
use crate::running::current;

type SetAction = unsafe extern "C" fn(c_int, *const Action, *mut Action) -> c_int;
type Handler = unsafe extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

// SAFETY: as the C library declares it.
pub(super) static SIGACTION: Next<SetAction> = unsafe { Next::new(c"sigaction") };

/// Linux has signals 1 to 64.
const SIGNALS: usize = 65;

/// The program's handlers, by signal. Of one that is set to none of the program's, the last.
static HANDLERS: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(0) }; SIGNALS];

/// Those of them that were set with SA_SIGINFO.
static WANT_INFO: AtomicU64 = AtomicU64::new(0);

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    // Nobody sets one while memory is allocated.
    let Some(next) = SIGACTION.look_up() else { return fail(libc::ENOSYS) };
    let number = usize::try_from(signal).ok().filter(|number| (1..SIGNALS).contains(number));
    let Some(number) = number else {
        // SAFETY: the caller's promise; it is refused.
        return unsafe { next(signal, new, old) };
    };
    let before = Program::of(number);
    // SAFETY: if there is one it can be read.
    let wrapped = unsafe { new.as_ref() }.filter(|new| is_handler(new.sa_sigaction)).map(|new| {
        let given = Program { handler: new.sa_sigaction, info: new.sa_flags & libc::SA_SIGINFO };
        given.keep(number);
        let flags = new.sa_flags | libc::SA_SIGINFO;
        Action { sa_sigaction: trampoline as *const () as sighandler_t, sa_flags: flags, ..*new }
    });
    let to_set = wrapped.as_ref().map_or(new, std::ptr::from_ref);
    // SAFETY: an action of the program's, but for the handler, which is one that can be called so.
    let done = unsafe { next(signal, to_set, old) };
    if done != 0 && wrapped.is_some() {
        before.keep(number);
    }
    // SAFETY: if there is one it has been written, or is as it was.
    let old = unsafe { old.as_mut() };
    if let Some(old) = old.filter(|_| done == 0) {
        before.show(old);
    }
    done
}

/// A handler of the program's, and whether it wants the information.
#[derive(Clone, Copy)]
struct Program {
    handler: sighandler_t,
    /// SA_SIGINFO, or 0.
    info: c_int,
}

impl Program {
    fn of(number: usize) -> Self {
        let handler = HANDLERS[number].load(Ordering::Acquire);
        let wants = WANT_INFO.load(Ordering::Relaxed) >> (number - 1) & 1 != 0;
        Self { handler, info: if wants { libc::SA_SIGINFO } else { 0 } }
    }

    fn keep(self, number: usize) {
        let bit = 1 << (number - 1);
        if self.info != 0 {
            WANT_INFO.fetch_or(bit, Ordering::Relaxed);
        } else {
            WANT_INFO.fetch_and(!bit, Ordering::Relaxed);
        }
        HANDLERS[number].store(self.handler, Ordering::Release);
    }

    /// What the program has set, in place of what the kernel was given.
    fn show(self, action: &mut Action) {
        if action.sa_sigaction == trampoline as *const () as sighandler_t {
            action.sa_sigaction = self.handler;
            action.sa_flags = action.sa_flags & !libc::SA_SIGINFO | self.info;
        }
    }
}

/// Whether it is a function, and no word.
const fn is_handler(handler: sighandler_t) -> bool {
    !matches!(handler, libc::SIG_DFL | libc::SIG_IGN)
}

/// Sets a handler as the older functions do, with these flags and this signal blocked, or none; gives the one that was set.
unsafe fn set(signal: c_int, handler: sighandler_t, flags: c_int, blocked: bool) -> sighandler_t {
    // SAFETY: all of it may be zero: no signals are blocked.
    let (mut new, mut old): (Action, Action) = unsafe { std::mem::zeroed() };
    (new.sa_sigaction, new.sa_flags) = (handler, flags);
    if blocked {
        // SAFETY: it is a set.
        unsafe { libc::sigaddset(&mut new.sa_mask, signal) };
    }
    // SAFETY: both are actions; what the handler does is the caller's promise.
    let done = unsafe { sigaction(signal, &raw const new, &raw mut old) };
    if done == 0 { old.sa_sigaction } else { libc::SIG_ERR }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's promise.
    unsafe { set(signal, handler, libc::SA_RESTART, true) }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn bsd_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's promise.
    unsafe { signal(number, handler) }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn ssignal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's promise.
    unsafe { signal(number, handler) }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn __sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's promise.
    unsafe { set(number, handler, libc::SA_RESETHAND | libc::SA_NODEFER, false) }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's promise.
    unsafe { __sysv_signal(number, handler) }
}

/// The handler that the kernel calls: changes the stack, if it has to, and goes on in [`handle`].
#[unsafe(naked)]
unsafe extern "C" fn trampoline(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    naked_asm!(
        // So that who looks for callers from within a handler finds them.
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "mov ebx, edi",
        "mov r12, rsi",
        "mov r13, rdx",
        "mov rdi, rsp",
        "call {stack}",
        "mov rsp, rax",
        "mov edi, ebx",
        "mov rsi, r12",
        "mov rdx, r13",
        "call {handle}",
        "lea rsp, [rbp - 32]",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        stack = sym stack,
        handle = sym handle,
    )
}

/// Where the handler goes on, which is called with this stack pointer.
extern "C" fn stack(pointer: u64) -> u64 {
    current().map_or(pointer, |running| running.stack(pointer))
}

/// Runs the program's handler, and brings out the vCPU that this thread runs.
unsafe extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let running = current();
    if !running.is_some_and(|running| running.keeps(signal, info)) {
        let handler = HANDLERS.get(signal as usize).map_or(0, |at| at.load(Ordering::Acquire));
        if is_handler(handler) {
            // SAFETY: the program has set it for this; one that wants the number alone does not look at the others.
            unsafe {
                let handler: Handler = std::mem::transmute(handler);
                handler(signal, info, context);
            }
        }
    }
    if let Some(running) = running {
        // SAFETY: it is this thread's own.
        let errno = unsafe { *libc::__errno_location() };
        running.end();
        // SAFETY: likewise.
        unsafe { *libc::__errno_location() = errno };
    }
}
