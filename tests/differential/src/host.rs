//! The processor that the test runs on: [`Host`] executes a case natively. All that is unsafe
//! of this crate is here and below.
//!
//! A case is entered by IRETQ, which serializes and thus sees the code just written, and left
//! through a signal: the INT3 behind it is one. The handler notes the registers and
//! continues at the exit. What guards the process:
//! - a random address hits nothing of it: it lies above 4 GiB, the regions below;
//! - code that went astray makes no system call: a seccomp filter turns those made from the
//!   code's addresses into signals;
//! - a timer on the thread's processor time ends loops, here and in the engine.

#![allow(unsafe_code, reason = "machine code, signals and mappings")]

mod mapping;
mod registers;
mod sandbox;
mod tables;

use std::arch::{asm, global_asm};
use std::cell::UnsafeCell;
use std::mem::{offset_of, zeroed};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{c_int, c_void, siginfo_t, ucontext_t};

pub use mapping::Mapping;
use registers::Area;
pub use tables::{PROCESSOR, descriptor};

use crate::case::{Case, End, Outcome};
use crate::forms::Permits;
use crate::layout::{BACKING, CODE, CODE_SIZE, REGIONS, Rights};
use crate::vector::Vector;
use crate::vendor::null_clears_base;

/// What enter, handler and exit share. The handler runs on the thread that entered.
#[repr(C)]
struct Context {
    /// R15 to RAX without RSP, in the order in which they are popped; behind them IRETQ's frame.
    gprs: [u64; 15],
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
    host_rsp: u64,
    host_fs: u64,
    /// FS's and GS's.
    bases: [u64; 2],
    /// Of ES, DS, FS and GS, as the case leaves them; it starts with null ones.
    selectors: [u64; 4],
    /// Not 0: the instructions for bases may be used.
    has_bases: u64,
    /// Not 0: XRSTOR loads the vector registers, else FXRSTOR.
    has_xsave: u64,
    /// The case's vector registers.
    area: Area,
    /// Not 0 while the case executes.
    inside: AtomicU64,
    /// In the order of the case.
    left: [u64; 16],
    left_rip: u64,
    left_rflags: u64,
    left_cr2: u64,
    left_end: End,
    /// Set by `Host::new`.
    left_vector: Option<Vector>,
}

struct Shared(UnsafeCell<Context>);

// SAFETY: used by one thread at a time, the one that holds `HOST`, and its signal handlers.
unsafe impl Sync for Shared {}

static CONTEXT: Shared = Shared(UnsafeCell::new(Context {
    gprs: [0; 15],
    rip: 0,
    cs: 0,
    rflags: 0,
    rsp: 0,
    ss: 0,
    host_rsp: 0,
    host_fs: 0,
    bases: [0; 2],
    selectors: [0; 4],
    has_bases: 0,
    has_xsave: 0,
    area: Area::INITIAL,
    inside: AtomicU64::new(0),
    left: [0; 16],
    left_rip: 0,
    left_rflags: 0,
    left_cr2: 0,
    left_end: End::Hang,
    left_vector: None,
}));

/// Which of the case's registers are popped, in this order.
const POPPED: [usize; 15] = [15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 3, 2, 1, 0];

/// The case that executes, natively or on the engine.
static CASE: AtomicU64 = AtomicU64::new(0);
/// The case that the timer saw last.
static SEEN: AtomicU64 = AtomicU64::new(u64::MAX);
/// The timer has interrupted the case that executes natively: the return from the signal keeps
/// not all of RFLAGS.
static DISTURBED: AtomicBool = AtomicBool::new(false);
/// The request word of the vCPU that executes.
static REQUEST: AtomicPtr<AtomicU32> = AtomicPtr::new(null_mut());

// SAFETY: the functions are the assembly's below.
unsafe extern "C" {
    fn differential_enter();
    fn differential_exit();
    fn differential_handler(signal: c_int, info: *mut siginfo_t, context: *mut c_void);
}

// The handler is entered with the case's RFLAGS: AC would make Rust code fault.
global_asm!(
    "differential_enter:",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "lea rax, [rip + {context}]",
    "mov [rax + {host_rsp}], rsp",
    "cmp qword ptr [rax + {has_bases}], 0",
    "je 2f",
    "rdfsbase rcx",
    "mov [rax + {host_fs}], rcx",
    "mov rcx, [rax + {bases}]",
    "wrfsbase rcx",
    "mov rcx, [rax + {bases} + 8]",
    "wrgsbase rcx",
    "2:",
    "mov rsi, rax",
    "cmp qword ptr [rsi + {has_xsave}], 0",
    "je 4f",
    "mov eax, {components}",
    "xor edx, edx",
    "xrstor64 [rsi + {area}]",
    "jmp 5f",
    "4:",
    "fxrstor64 [rsi + {area}]",
    "5:",
    "mov rax, rsi",
    "mov qword ptr [rax + {inside}], 1",
    "lea rsp, [rax + {gprs}]",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
    "pop rdi", "pop rsi", "pop rbp", "pop rbx", "pop rdx", "pop rcx", "pop rax",
    "iretq",
    "differential_exit:",
    "lea rax, [rip + {context}]",
    "cmp qword ptr [rax + {has_bases}], 0",
    "je 3f",
    "rdfsbase rcx",
    "mov [rax + {bases}], rcx",
    "rdgsbase rcx",
    "mov [rax + {bases} + 8], rcx",
    "mov [rax + {selectors}], es",
    "mov [rax + {selectors} + 8], ds",
    "mov [rax + {selectors} + 16], fs",
    "mov [rax + {selectors} + 24], gs",
    // Loads of FS and GS change the bases.
    "xor ecx, ecx",
    "mov es, ecx",
    "mov ds, ecx",
    "mov fs, ecx",
    "mov gs, ecx",
    "mov rcx, [rax + {host_fs}]",
    "wrfsbase rcx",
    "3:",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
    "ret",
    "differential_handler:",
    "pushfq",
    "and qword ptr [rsp], {flags}",
    "popfq",
    "jmp {handle}",
    context = sym CONTEXT,
    handle = sym handle,
    flags = const !0x44100_i32,
    host_rsp = const offset_of!(Context, host_rsp),
    host_fs = const offset_of!(Context, host_fs),
    bases = const offset_of!(Context, bases),
    selectors = const offset_of!(Context, selectors),
    has_bases = const offset_of!(Context, has_bases),
    has_xsave = const offset_of!(Context, has_xsave),
    components = const registers::COMPONENTS,
    area = const offset_of!(Context, area),
    inside = const offset_of!(Context, inside),
    gprs = const offset_of!(Context, gprs),
);

/// The registers of a signal's context, in the order of the case.
const GREGS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// The timer's signal.
const TICK: c_int = libc::SIGALRM;
/// The signals that exceptions become, and a forbidden system call.
const SIGNALS: [c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, TICK];

/// The signal handler. The case's FS may still be loaded: it uses nothing thread-local.
extern "C" fn handle(signal: c_int, _: *mut siginfo_t, context: *mut c_void) {
    let shared = CONTEXT.0.get();
    // SAFETY: the static, which lives for ever; `inside` is atomic.
    let inside = unsafe { (*shared).inside.load(Ordering::SeqCst) != 0 };
    if signal == TICK {
        let case = CASE.load(Ordering::SeqCst);
        if SEEN.swap(case, Ordering::SeqCst) != case {
            DISTURBED.store(inside, Ordering::SeqCst);
            return;
        }
        if !inside {
            let request = REQUEST.load(Ordering::SeqCst);
            if !request.is_null() {
                // SAFETY: set by `Watched` for as long as the word lives.
                unsafe { (*request).store(1, Ordering::SeqCst) };
            }
            return;
        }
    } else if !inside {
        // The test's own fault: as if there were no handler.
        // SAFETY: resetting a handler is always allowed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    // SAFETY: the kernel gives a valid context, and nobody else uses the shared one while the
    // thread is inside.
    unsafe {
        let shared = &mut *shared;
        let gregs = &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs;
        let get = |n: c_int| gregs[n as usize] as u64;
        for (to, from) in shared.left.iter_mut().zip(GREGS) {
            *to = get(from);
        }
        shared.left_rip = get(libc::REG_RIP);
        shared.left_rflags = get(libc::REG_EFL);
        let vector = get(libc::REG_TRAPNO) as u8;
        shared.left_cr2 = if vector == 14 { get(libc::REG_CR2) } else { 0 };
        // Linux says of any address that is the kernel's that it is protected, so as not to tell
        // which are mapped; to the processor it is not present.
        let hidden = vector == 14 && get(libc::REG_CR2) >= TASK_SIZE_MAX;
        let error = get(libc::REG_ERR) & !u64::from(hidden);
        shared.left_end = match signal {
            TICK => End::Hang,
            libc::SIGSYS => End::Astray,
            _ => End::Exception { vector, error },
        };
        if let Some(vector) = &mut shared.left_vector {
            registers::take(context.cast(), vector);
        }
        gregs[libc::REG_RIP as usize] = (differential_exit as *const ()).expose_provenance() as i64;
        gregs[libc::REG_RSP as usize] = shared.host_rsp as i64;
        gregs[libc::REG_EFL as usize] = 0x202;
        shared.inside.store(0, Ordering::SeqCst);
    }
}

/// First address that is not a process's. See: Linux, arch/x86/include/asm/page_64_types.h.
const TASK_SIZE_MAX: u64 = (1 << 47) - 0x1000;

/// One thread at a time has the host.
static HOST: Mutex<()> = Mutex::new(());

/// The host's processor, ready to execute cases on this thread.
pub struct Host {
    backing: Mapping,
    regions: Vec<Mapping>,
    timer: libc::timer_t,
    old_stack: libc::stack_t,
    stack: Vec<u8>,
    old_actions: Vec<libc::sigaction>,
    has_bases: bool,
    /// A processor's state belongs to its thread.
    _guard: MutexGuard<'static, ()>,
}

/// Flags in AT_HWCAP2: user space may use RDFSBASE and its kin.
const HWCAP2_FSGSBASE: u64 = 1 << 1;

impl Host {
    /// Prepares this thread and the regions.
    #[must_use]
    pub fn new() -> Self {
        let guard = HOST.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: plain system calls with valid arguments.
        let file = unsafe { libc::memfd_create(c"differential".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(file >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ftruncate(file, BACKING as i64) }, 0);
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let backing = Mapping::map(None, BACKING, both, file, 0);
        backing.write(0, &[0xcc; CODE_SIZE as usize]);
        let regions = REGIONS.iter().map(|region| {
            let protection = libc::PROT_READ
                | match region.rights {
                    Rights::Execute => libc::PROT_EXEC,
                    Rights::Write => libc::PROT_WRITE,
                    Rights::Read => 0,
                };
            let size = region.pages * crate::layout::PAGE;
            Mapping::map(Some(region.start), size, protection, file, region.offset)
        });
        let regions = regions.collect();
        // SAFETY: as above; the auxiliary vector is only read.
        let has_bases = unsafe {
            libc::close(file);
            libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0
        };
        let mut stack = vec![0; 128 << 10];
        let (old_stack, old_actions) = install_handlers(&mut stack);
        sandbox::forbid_system_calls();
        let timer = start_timer();
        let (cs, ss): (u64, u64);
        // SAFETY: reads two registers; and the thread has the shared context.
        unsafe {
            asm!("mov {}, cs", "mov {}, ss", out(reg) cs, out(reg) ss, options(nomem, nostack));
            let shared = &mut *CONTEXT.0.get();
            (shared.cs, shared.ss) = (cs & 0xffff, ss & 0xffff);
            shared.has_bases = has_bases.into();
            shared.has_xsave = registers::has_xsave().into();
            shared.left_vector = Some(Vector::default());
        }
        Self { backing, regions, timer, old_stack, stack, old_actions, has_bases, _guard: guard }
    }

    /// Whether FS and GS may have bases.
    #[must_use]
    pub fn has_bases(&self) -> bool {
        self.has_bases
    }

    /// What the kernel lets programs do.
    #[must_use]
    pub fn permits(&self) -> Permits {
        // FS's base is to be restored after a load of its selector; a null one may leave it as it is.
        let selectors = self.has_bases && null_clears_base() && tables::are_linuxs();
        Permits { bases: self.has_bases, selectors }
    }

    /// Executes a case on data that is `image` at first.
    pub fn run(&mut self, case: &Case, image: &[u8], outcome: &mut Outcome) {
        loop {
            DISTURBED.store(false, Ordering::SeqCst);
            self.run_once(case, image, outcome);
            if outcome.end == End::Hang || !DISTURBED.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    fn run_once(&mut self, case: &Case, image: &[u8], outcome: &mut Outcome) {
        let code = case.bytes();
        let at = case.rip - CODE;
        self.backing.write(at, &code);
        self.backing.write(CODE_SIZE, image);
        for (offset, bytes) in &case.patches {
            self.backing.write(CODE_SIZE + *offset as u64, bytes);
        }
        CASE.fetch_add(1, Ordering::SeqCst);
        // SAFETY: this thread has the shared context. What the case's code can do is said in
        // the module's description.
        unsafe {
            let shared = &mut *CONTEXT.0.get();
            shared.gprs = POPPED.map(|n| case.gprs[n]);
            (shared.rip, shared.rflags, shared.rsp) = (case.rip, case.rflags, case.gprs[4]);
            shared.bases = case.bases;
            shared.area.set(&case.vector);
            differential_enter();
            let shared = &*CONTEXT.0.get();
            outcome.gprs = shared.left;
            outcome.rip = shared.left_rip;
            outcome.rflags = shared.left_rflags;
            outcome.cr2 = shared.left_cr2;
            outcome.end = shared.left_end;
            if let Some(vector) = &shared.left_vector {
                outcome.vector.clone_from(vector);
            }
            outcome.selectors = shared.selectors;
            outcome.bases = if self.has_bases { shared.bases } else { case.bases };
        }
        self.backing.read(CODE_SIZE, &mut outcome.image[..]);
        self.backing.write(at, &vec![0xcc; code.len()]);
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: undoes what `new` has done; the regions are used by nobody any more.
        unsafe {
            libc::timer_delete(self.timer);
            for (signal, action) in SIGNALS.iter().zip(&self.old_actions) {
                libc::sigaction(*signal, action, null_mut());
            }
            libc::sigaltstack(&raw const self.old_stack, null_mut());
        }
        self.regions.drain(..).for_each(Mapping::unmap);
        self.stack.clear();
    }
}

/// Makes the timer interrupt the vCPU with request word `request` as well while `run` executes.
pub fn watched<T>(request: &AtomicU32, run: impl FnOnce() -> T) -> T {
    CASE.fetch_add(1, Ordering::SeqCst);
    request.store(0, Ordering::SeqCst);
    REQUEST.store(std::ptr::from_ref(request).cast_mut(), Ordering::SeqCst);
    let result = run();
    REQUEST.store(null_mut(), Ordering::SeqCst);
    result
}

fn install_handlers(stack: &mut [u8]) -> (libc::stack_t, Vec<libc::sigaction>) {
    let new = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    // SAFETY: plain data, for which zeros are valid; the stack lives as long as `Host`, and
    // the handler is one of the right type.
    unsafe {
        let mut old_stack: libc::stack_t = zeroed();
        assert_eq!(libc::sigaltstack(&raw const new, &raw mut old_stack), 0);
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = (differential_handler as *const ()).expose_provenance();
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigfillset(&raw mut action.sa_mask);
        let old = SIGNALS.map(|signal| {
            let mut old: libc::sigaction = zeroed();
            assert_eq!(libc::sigaction(signal, &raw const action, &raw mut old), 0);
            old
        });
        (old_stack, old.to_vec())
    }
}

/// A tick after every 8 ms of this thread's processor time.
fn start_timer() -> libc::timer_t {
    // SAFETY: plain data, for which zeros are valid, and system calls with valid arguments.
    unsafe {
        let mut event: libc::sigevent = zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = TICK;
        event.sigev_notify_thread_id = libc::gettid();
        let mut timer: libc::timer_t = null_mut();
        let clock = libc::CLOCK_THREAD_CPUTIME_ID;
        assert_eq!(libc::timer_create(clock, &raw mut event, &raw mut timer), 0);
        let period = libc::timespec { tv_sec: 0, tv_nsec: 8_000_000 };
        let setting = libc::itimerspec { it_interval: period, it_value: period };
        assert_eq!(libc::timer_settime(timer, 0, &raw const setting, null_mut()), 0);
        timer
    }
}
