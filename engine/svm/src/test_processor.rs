//! A processor for tests: a script plays the guest. And a machine on it: [`TestMachine`].

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use arch_x86::cpuid::Leaf;
use arch_x86::engine::{Engine, EngineVcpu, Entry, Features as Offered, Intercept};
use arch_x86::hardware::Virtualization;
use arch_x86::regs::efer;
use virt::memory::{Memory, Slot};

use crate::engine::SvmEngine;
use crate::exits::code;
use crate::processor::Processor;
use crate::test_platform::{Asked, TestPlatform};
use crate::vcpu::SvmVcpu;
use crate::virtualization::Svm;
use crate::vmcb::Vmcb;

/// What the guest "does" at one entry: changes the VMCB and registers, and comes out.
pub type Step = Box<dyn FnMut(&mut Vmcb, &mut [u64; 16]) + Send>;

/// What the processor has.
pub struct State {
    /// EDX of leaf 8000_000A.
    pub svm: u32,
    /// How many ASIDs there are.
    pub asids: u32,
    pub has_svm: bool,
    pub cr4: u64,
    pub vm_cr: u64,
    pub is_on: bool,
    pub save_area: u64,
    pub xcr0: u64,
    pub xss: u64,
    pub tsc_aux: u64,
    /// EBX of leaf 8000_0008, and EAX of leaf 8000_0021.
    pub speculation: [u32; 2],
    pub speculation_control: u64,
    pub dr: [u64; 8],
    pub barriers: u32,
    pub machine_checks: u32,
    pub script: VecDeque<Step>,
    /// What was in registers while the guest ran: XCR0, XSS, TSC_AUX, DR0, DR7, SPEC_CTRL.
    pub seen: Vec<[u64; 6]>,
    /// The physical addresses of VMCBs and of the host's page.
    pub at: Vec<(u64, u64)>,
}

/// Bits of [`State::svm`].
pub mod svm {
    pub const NESTED_PAGING: u32 = 1 << 0;
    pub const NEXT_RIP: u32 = 1 << 3;
    pub const CLEAN: u32 = 1 << 5;
    pub const FLUSH_BY_ASID: u32 = 1 << 6;
    pub const DECODE_ASSISTS: u32 = 1 << 7;
    pub const PAUSE_FILTER: u32 = 1 << 10;
    /// What a processor of today has.
    pub const ALL: u32 =
        NESTED_PAGING | NEXT_RIP | CLEAN | FLUSH_BY_ASID | DECODE_ASSISTS | PAUSE_FILTER | 1 << 12;
}

/// The host's registers.
pub const HOST: [u64; 3] = [0x207, 0x800, 0x55];

/// The processor. A handle.
#[derive(Clone)]
pub struct TestProcessor {
    pub state: Arc<spin::Mutex<State>>,
    asked: Arc<Asked>,
}

impl Default for TestProcessor {
    fn default() -> Self {
        Self::new(svm::ALL, Arc::default())
    }
}

impl TestProcessor {
    pub fn new(svm: u32, asked: Arc<Asked>) -> Self {
        let state = State {
            svm,
            asids: 8,
            has_svm: true,
            cr4: 0,
            vm_cr: 0,
            is_on: false,
            save_area: 0,
            xcr0: HOST[0],
            xss: HOST[1],
            tsc_aux: HOST[2],
            speculation: [1 << 12, 0],
            speculation_control: 0,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            barriers: 0,
            machine_checks: 0,
            script: VecDeque::new(),
            seen: Vec::new(),
            at: Vec::new(),
        };
        Self { state: Arc::new(spin::Mutex::new(state)), asked }
    }
}

impl Processor for TestProcessor {
    fn cpuid(&self, function: u32, index: u32) -> Leaf {
        let state = self.state.lock();
        match (function, index) {
            (0, _) => [
                0xd,
                u32::from_le_bytes(*b"Auth"),
                u32::from_le_bytes(*b"cAMD"),
                u32::from_le_bytes(*b"enti"),
            ],
            (1, _) => [0, 0, 1 << 26 | 1 << 27 | 1 << 28, !0],
            (7, 0) => [0, 1 << 10 | 1 << 5, 1 << 22, 0],
            (0xd, 1) => [1 << 3 | 1 << 0, 0, 0, 0],
            (0x8000_0000, _) => [0x8000_0021, 0, 0, 0],
            (0x8000_0001, _) => [0, 0, u32::from(state.has_svm) << 2 | 1, 1 << 27],
            (0x8000_0008, _) => [48, state.speculation[0], 0, 0],
            (0x8000_0021, _) => [state.speculation[1], 0, 0, 0],
            (0x8000_000a, _) => [1, state.asids, 0, state.svm],
            _ => [0; 4],
        }
    }

    fn cr4(&self) -> u64 {
        self.state.lock().cr4
    }

    fn vm_cr(&self) -> u64 {
        self.state.lock().vm_cr
    }

    fn is_on(&self) -> bool {
        self.state.lock().is_on
    }

    fn switch_on(&self, save_area: u64) {
        let mut state = self.state.lock();
        (state.is_on, state.save_area) = (true, save_area);
    }

    fn switch_off(&self) {
        self.state.lock().is_on = false;
    }

    fn xcr0(&self) -> u64 {
        self.state.lock().xcr0
    }

    fn set_xcr0(&self, value: u64) {
        self.state.lock().xcr0 = value;
    }

    fn xss(&self) -> u64 {
        self.state.lock().xss
    }

    fn set_xss(&self, value: u64) {
        self.state.lock().xss = value;
    }

    fn tsc_aux(&self) -> u64 {
        self.state.lock().tsc_aux
    }

    fn set_tsc_aux(&self, value: u64) {
        self.state.lock().tsc_aux = value;
    }

    fn dr(&self, n: u8) -> u64 {
        self.state.lock().dr[usize::from(n)]
    }

    fn set_dr(&self, n: u8, value: u64) {
        self.state.lock().dr[usize::from(n)] = value;
    }

    fn speculation_control(&self) -> u64 {
        self.state.lock().speculation_control
    }

    fn set_speculation_control(&self, value: u64) {
        self.state.lock().speculation_control = value;
    }

    fn forget_branches(&self) {
        self.state.lock().barriers += 1;
    }

    fn machine_check(&self) {
        self.state.lock().machine_checks += 1;
    }

    unsafe fn run(&self, vmcb: &mut Vmcb, physical: u64, host: u64, registers: &mut [u64; 16]) {
        assert!(self.asked.interrupts_off.load(Ordering::Relaxed), "interrupts are off");
        check(vmcb);
        let step = {
            let mut state = self.state.lock();
            assert!(state.is_on);
            let seen = [
                state.xcr0,
                state.xss,
                state.tsc_aux,
                state.dr[0],
                vmcb.dr7,
                state.speculation_control,
            ];
            state.seen.push(seen);
            state.at.push((physical, host));
            state.script.pop_front()
        };
        (vmcb.exit_int_info, vmcb.exit_info1, vmcb.exit_info2) = (0, 0, 0);
        match step {
            Some(mut step) => step(vmcb, registers),
            // At the end of the script the guest is lost.
            None => vmcb.exit_code = code::SHUTDOWN,
        }
        // As VMRUN's end does.
        let mut state = self.state.lock();
        (state.dr[6], state.dr[7]) = (vmcb.dr6, 0x400);
    }
}

/// What VMRUN refuses, and what a host must not let a guest have.
fn check(vmcb: &Vmcb) {
    assert_ne!(vmcb.asid, 0);
    assert_ne!(vmcb.efer & efer::SVME, 0);
    assert_eq!(vmcb.cr0 & 0x6000_0000, 0, "caches are the host's");
    assert_ne!(vmcb.cr4 & 1 << 6, 0, "a machine check is the host's");
    assert_ne!(vmcb.intercepts[0] & 0b11, 0, "interrupts and NMIs");
    assert_ne!(vmcb.intercepts[1] & 1, 0, "VMRUN");
    assert_eq!(vmcb.intercept_exceptions & 0x0006_0002, 0x0006_0002, "#DB, #AC, #MC");
    assert_eq!(vmcb.nested_paging, 1);
    assert_ne!(vmcb.nested_cr3, 0);
    assert_ne!(vmcb.virtual_interrupt & 1 << 24, 0);
    assert_ne!((vmcb.iopm_base, vmcb.msrpm_base), (0, 0));
}

/// The type of the engine under test.
pub type TestEngine = SvmEngine<TestPlatform, TestProcessor>;
/// The type of its vCPUs.
pub type TestVcpu = SvmVcpu<TestPlatform, TestProcessor>;

/// A machine with memory at guest-physical 0.
pub struct TestMachine {
    pub platform: TestPlatform,
    pub processor: TestProcessor,
    pub svm: Arc<Svm<TestPlatform, TestProcessor>>,
    pub memory: Arc<Memory<spin::Mutex<()>>>,
    pub engine: TestEngine,
}

impl TestMachine {
    /// Size of its memory.
    pub const MEMORY: u64 = 0x10_0000;

    /// On a processor with all there is.
    pub fn new() -> Self {
        Self::on(svm::ALL)
    }

    /// On one with some features.
    pub fn on(features: u32) -> Self {
        let memory = Arc::new(Memory::default());
        memory.insert(Slot { size: Self::MEMORY, ..Slot::default() }).expect("the first slot");
        Self::with(features, memory)
    }

    /// On one that was changed before.
    pub fn changed(change: impl FnOnce(&mut State)) -> Self {
        Self::make(svm::ALL, Arc::default(), change)
    }

    /// With memory of the caller's.
    pub fn with(features: u32, memory: Arc<Memory<spin::Mutex<()>>>) -> Self {
        Self::make(features, memory, |_| {})
    }

    fn make(
        features: u32,
        memory: Arc<Memory<spin::Mutex<()>>>,
        change: impl FnOnce(&mut State),
    ) -> Self {
        let platform = TestPlatform::new();
        let processor = TestProcessor::new(features, Arc::clone(&platform.asked));
        change(&mut processor.state.lock());
        let svm = Svm::on(platform.clone(), processor.clone()).expect("SVM");
        let svm = Arc::new(svm);
        for at in 0..2 {
            // All processors are one.
            processor.state.lock().is_on = false;
            svm.enable(at).expect("it was off");
        }
        let engine = svm.engine(Arc::clone(&memory)).expect("memory");
        Self { platform, processor, svm, memory, engine }
    }

    /// A vCPU whose vector registers are loaded.
    pub fn vcpu(&self) -> TestVcpu {
        let mut vcpu = self.engine.create_vcpu(0).expect("memory");
        vcpu.set_features(Offered::ALL);
        vcpu.load();
        vcpu
    }

    /// Adds a step to the script.
    pub fn then(&self, step: impl FnMut(&mut Vmcb, &mut [u64; 16]) + Send + 'static) {
        self.processor.state.lock().script.push_back(Box::new(step));
    }

    /// Adds one that only comes out.
    pub fn then_exit(&self, exit_code: u64) {
        self.then(move |vmcb, _| vmcb.exit_code = exit_code);
    }
}

/// Enters with nothing to deliver, and nothing asked for.
pub fn enter(vcpu: &mut TestVcpu) -> Intercept {
    enter_with(vcpu, &Entry::default())
}

/// Enters.
pub fn enter_with(vcpu: &mut TestVcpu, entry: &Entry) -> Intercept {
    vcpu.prepare().expect("memory");
    vcpu.enter(entry, &core::sync::atomic::AtomicU32::new(0))
}
