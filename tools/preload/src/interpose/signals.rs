//! Setting signals' handlers: each handler of the program's gets one of this library's around it, which brings out the vCPU that this
//! thread runs, after the program's has run.
//!
//! The kernel is given the program's flags and mask, so that all else of a handler is as it wants it, and what it asks for it gets as
//! it was set. Around the handler the stack is changed if it interrupts translated code, whose stack pointer is elsewhere: a
//! handler of a stranger's finds a thread's stack.
//!
//! SIGSEGV and SIGBUS are handled from the time on that the device is open, whether the program does or not (`guard`): an argument of
//! an ioctl may be where nothing is mapped. So is a signal from the time on that it is blocked before KVM_RUN and not during it
//! (KVM_SET_SIGNAL_MASK): it ends that, and stays pending. The program finds them as it set them.
//!
//! Deviations: a handler of those two that is to be called once (SA_RESETHAND) is the last, and a thread that blocks them is ended by an
//! argument that is not there.
//!
//! Not seen: `sigset`, `sigignore`, and the C library's own handlers (for `setuid`; of `pthread_cancel` see
//! `cancels`). Such run by themselves, and KVM_RUN goes on.
//!
//! See: sigaction(2); Linux, arch/x86/kernel/signal.c.

use std::arch::naked_asm;
use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use host_user::fixup;
use libc::{c_int, c_void, sigaction as Action, sighandler_t, siginfo_t};

use super::fail;
use crate::next::Next;
use crate::running::{SignalSet, bit, change_mask, current};

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

/// The signals that are handled whether the program does or not: bit N - 1 is signal N.
static IN_ANY_CASE: AtomicU64 = AtomicU64::new(0);

/// What an access is answered with that cannot be made.
const FAULTS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Handles [`FAULTS`] from now on.
pub(super) fn guard() {
    if !is_guarded() {
        FAULTS.into_iter().for_each(handle_in_any_case);
    }
}

/// Whether it does: from the first time on that the device was open.
pub(super) fn is_guarded() -> bool {
    is_in_any_case(FAULTS[1])
}

/// Handles those signals from now on that this thread blocks, and KVM_RUN with this mask does not: they end it, and stay pending.
pub(super) fn handle_unblocked(mask: SignalSet) {
    let mut new = change_mask(None) & !mask & !IN_ANY_CASE.load(Ordering::Acquire);
    new &= !(bit(libc::SIGKILL) | bit(libc::SIGSTOP));
    while new != 0 {
        handle_in_any_case(new.trailing_zeros() as c_int + 1);
        new &= new - 1;
    }
}

fn handle_in_any_case(signal: c_int) {
    // SAFETY: all of it may be zero: no signals are blocked.
    let mut now: Action = unsafe { zeroed() };
    IN_ANY_CASE.fetch_or(bit(signal), Ordering::AcqRel);
    // SAFETY: the first call writes what is set, which the second sets again, wrapped.
    unsafe {
        if sigaction(signal, null_mut(), &raw mut now) == 0 {
            sigaction(signal, &raw const now, null_mut());
        }
    }
}

fn is_in_any_case(signal: c_int) -> bool {
    IN_ANY_CASE.load(Ordering::Acquire) & bit(signal) != 0
}

/// Whether a signal is handled with this handler of the program's, or word.
fn is_wrapped(signal: c_int, handler: sighandler_t) -> bool {
    is_handler(handler) || is_in_any_case(signal)
}

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
    let wrapped =
        unsafe { new.as_ref() }.filter(|new| is_wrapped(signal, new.sa_sigaction)).map(|new| {
            let given =
                Program { handler: new.sa_sigaction, info: new.sa_flags & libc::SA_SIGINFO };
            given.keep(number);
            // What is ignored interrupts no call.
            let more = if is_handler(new.sa_sigaction) { 0 } else { libc::SA_RESTART };
            let flags = new.sa_flags | libc::SA_SIGINFO | more;
            Action {
                sa_sigaction: trampoline as *const () as sighandler_t,
                sa_flags: flags,
                ..*new
            }
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
            let ours = if is_handler(self.handler) { 0 } else { libc::SA_RESTART };
            action.sa_flags = action.sa_flags & !(libc::SA_SIGINFO | ours) | self.info;
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
    let (mut new, mut old): (Action, Action) = unsafe { zeroed() };
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
    // SAFETY: this is the handler.
    if FAULTS.contains(&signal) && unsafe { fixup::resume(context) } {
        return;
    }
    let running = current();
    if !running.is_some_and(|running| running.keeps(signal, info)) {
        let handler = HANDLERS.get(signal as usize).map_or(0, |at| at.load(Ordering::Acquire));
        if is_handler(handler) {
            // SAFETY: the program has set it for this; one that wants the number alone does not look at the others.
            unsafe {
                let handler: Handler = std::mem::transmute(handler);
                handler(signal, info, context);
            }
        } else if is_in_any_case(signal) {
            // SAFETY: the kernel gives it.
            unsafe { without_handler(signal, info, handler) };
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

/// What is ignored by default.
const HARMLESS: [c_int; 4] = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];

/// Does what the kernel does with a signal that the program does not handle: its action is the default, or to ignore it.
unsafe fn without_handler(signal: c_int, info: *const siginfo_t, action: sighandler_t) {
    // SAFETY: the caller's promise.
    let is_sent = unsafe { (*info).si_code <= 0 } || !FAULTS.contains(&signal);
    if is_sent && (action == libc::SIG_IGN || HARMLESS.contains(&signal)) {
        return;
    }
    // SAFETY: all of it may be zero, which is the default.
    let default: Action = unsafe { zeroed() };
    if let Some(next) = SIGACTION.get() {
        // SAFETY: it is one.
        unsafe { next(signal, &raw const default, null_mut()) };
    }
    // A fault comes again when the handler returns; what somebody has sent does not.
    if is_sent {
        // SAFETY: a signal to this thread, which it has had already.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal) };
    }
}
