//! What a debugger on the host does: [`steps`], [`breakpoints`], and events of its [`injection`].
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 4.32, 4.64, 4.87; AMD APM vol. 2, 13.1.

use guests::x86::{Answer, Breakpoint, DebugCause, Exception, Exit, GuestDebug, State, Watch};
use guests::{Guest, Hypervisor, IcedError, Log, Vcpu, at, code_asm::*, port};

pub mod breakpoints;
pub mod injection;
pub mod steps;

const STEP: GuestDebug = GuestDebug { single_step: true, ..NOTHING };
const INT3: GuestDebug = GuestDebug { software_breakpoints: true, ..NOTHING };
const NOTHING: GuestDebug = GuestDebug {
    single_step: false,
    software_breakpoints: false,
    hardware: [None; 4],
    register_accesses: false,
    blocks_interrupts: false,
};
/// A port that nobody answers for but the test.
const PORT: u16 = port::FREE as u16;

/// A debugger of a guest.
struct Debugger<H: Hypervisor> {
    guest: Guest<H>,
    log: Log,
}

impl<H: Hypervisor> Debugger<H> {
    /// One that wants something of a guest.
    fn new(guest: Guest<H>, wanted: &GuestDebug) -> Self {
        let mut debugger = Self { guest, log: Log::default() };
        debugger.want(wanted);
        debugger
    }

    fn want(&mut self, wanted: &GuestDebug) {
        self.guest.vcpus[0].set_debug(wanted).expect("a vCPU that can be debugged");
    }

    fn inject(&mut self, exception: Exception) {
        self.guest.vcpus[0].inject(exception).expect("an exception that can be injected");
    }

    fn nmi(&mut self) {
        self.guest.vcpus[0].nmi().expect("an NMI");
    }

    /// Runs the guest to its next exit.
    fn go(&mut self) -> Exit {
        self.answer(Answer::None)
    }

    fn answer(&mut self, answer: Answer) -> Exit {
        self.guest.run_to_exit(answer, &mut self.log)
    }

    /// Steps: where it comes to.
    fn step(&mut self) -> u64 {
        match self.go() {
            Exit::Debug { cause, address } => {
                assert_eq!(cause, STEPPED, "at {address:#x}");
                assert_eq!(self.guest.state().rip, address);
                address
            }
            exit => panic!("{exit:?}; {:x?}", self.guest.state()),
        }
    }

    /// Steps `N` times.
    fn steps<const N: usize>(&mut self) -> [u64; N] {
        std::array::from_fn(|_| self.step())
    }

    /// Goes on, with nothing wanted, to the guest's end; gives what it reported.
    fn finish(mut self) -> Log {
        self.want(&NOTHING);
        let exit = self.go();
        assert!(is_end(&exit), "{exit:?}; {:x?}", self.guest.state());
        self.log
    }
}

const STEPPED: DebugCause = DebugCause::Exception { stepped: true, breakpoints: 0 };

fn is_end(exit: &Exit) -> bool {
    matches!(exit, Exit::Out { port, .. } if u32::from(*port) == port::END)
}

/// Breakpoint `n` is met, and there was no step.
fn met(n: u8, address: u64) -> Exit {
    let cause = DebugCause::Exception { stepped: false, breakpoints: 1 << n };
    Exit::Debug { cause, address }
}

fn breakpoint(n: usize, address: u64, watch: Watch) -> GuestDebug {
    let mut wanted = NOTHING;
    wanted.hardware[n] = Some(Breakpoint { address, watch });
    wanted
}

/// A guest whose program's labels are known, and stepped.
fn stepping<H: Hypervisor, const N: usize>(
    engine: &H,
    program: impl FnOnce(&mut CodeAssembler) -> Result<[CodeLabel; N], IcedError>,
) -> (Debugger<H>, [u64; N]) {
    let guest = Guest::new(engine);
    let labels = guest.labelled(at::CODE, program);
    (Debugger::new(guest, &STEP), labels)
}

/// So many labels, to be set one after the other.
struct Labels<const N: usize>([CodeLabel; N], usize);

impl<const N: usize> Labels<N> {
    fn new(a: &mut CodeAssembler) -> Self {
        Self(std::array::from_fn(|_| a.create_label()), 0)
    }

    /// Here is the next one.
    fn here(&mut self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        self.1 += 1;
        a.set_label(&mut self.0[self.1 - 1])
    }
}

fn set(state: &mut State, register: u8, value: u64) {
    state.gprs[usize::from(register)] = value;
}

/// The address of the handler that reports exceptions of `vector`.
fn handler(vector: u64) -> u64 {
    at::STUBS + vector * 16
}
