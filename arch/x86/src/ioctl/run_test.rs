//! Test bodies of `run` and `sync_regs`.

use core::mem::offset_of;

use abi::cap;
use abi::debug::GuestDebug;
use abi::encoding::Encoded;
use abi::events::Events;
use abi::exit;
use abi::ioctl::{GET_REGS, SET_GUEST_DEBUG};
use abi::regs::{Regs as AbiRegs, Sregs};
use abi::run::{Details, Io, Mmio, Msr, Run, SYNC_EVENTS, SYNC_REGS, SYNC_SREGS};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use selftest::{Failure, cases, check, check_eq};
use virt::dirty_ring::{DirtyRing, Entries, RESERVED};
use virt::host::{Expire, Timer};
use virt::ioctl::VCPU_MMAP_SIZE;
use virt::memory::Slot;
use virt::{Errno, Host};

use super::Mapping;
use super::caller::Caller;
use super::interface_test::Random;
use super::run::{load, run, store};
use crate::engine::{Event, Intercept};
use crate::exception::Exception;
use crate::machine::Machine;
use crate::regs::{Regs, gpr};
use crate::vcpu::inbox::request;
use crate::vcpu::run_test::{CODE, TestVcpu, engine, host_error, long_mode, out, set_if};
use crate::vcpu::scripted::{Scripted, TestHost};

/// What a vCPU shares with the test.
pub(super) struct Shared(pub spin::Mutex<Vec<u8>>);

impl Mapping for Shared {
    fn load(&self, offset: usize, bytes: &mut [u8]) {
        let memory = self.0.lock();
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = memory.get(offset + n).copied().unwrap_or(0);
        }
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        let mut memory = self.0.lock();
        for (n, byte) in bytes.iter().enumerate() {
            if let Some(to) = memory.get_mut(offset + n) {
                *to = *byte;
            }
        }
    }
}

impl Shared {
    pub fn new() -> Self {
        Self(spin::Mutex::new(vec![0; VCPU_MMAP_SIZE as usize]))
    }

    pub fn reason(&self) -> u32 {
        load(self, offset_of!(Run, exit_reason))
    }

    pub fn details(&self) -> Details {
        let mut details = Details::new();
        self.load(offset_of!(Run, exit), &mut details.0);
        details
    }

    fn answer(&self, change: impl FnOnce(&mut Details)) {
        let mut details = self.details();
        change(&mut details);
        self.store(offset_of!(Run, exit), &details.0);
    }

    fn set<T: Encoded>(&self, offset: usize, value: T) {
        store(self, offset, value);
    }

    /// Shared registers.
    fn put<T: Encoded>(&self, offset: usize, value: &T) {
        let mut bytes = vec![0; T::SIZE];
        value.encode(&mut bytes);
        self.store(offset_of!(Run, sync_regs) + offset, &bytes);
    }

    fn at<T: Encoded>(&self, offset: usize) -> T {
        let mut bytes = vec![0; T::SIZE];
        self.load(offset_of!(Run, sync_regs) + offset, &mut bytes);
        T::decode(&bytes)
    }
}

/// Sends an NMI when time passes, which it does when the vCPU waits.
struct Nmi(Arc<Machine<Scripted, TestHost>>);

impl Expire for Nmi {
    fn expired(&self) {
        self.0.post(0, request::NMI);
    }
}

const SREGS: usize = AbiRegs::SIZE;
const EVENTS: usize = SREGS + Sregs::SIZE;
const IMMEDIATE: usize = offset_of!(Run, immediate_exit);
const WINDOW: usize = offset_of!(Run, request_interrupt_window);

fn with_vcpu() -> Result<(Caller, TestVcpu, Shared), Failure> {
    let (caller, vcpu) = Caller::with_vcpu()?;
    Ok((caller, vcpu, Shared::new()))
}

/// A vCPU of a machine without chips, in 64-bit mode.
fn without_chips() -> Result<(Caller, TestVcpu, Shared), Failure> {
    let caller = Caller::without_chips()?;
    let mut vcpu = host_error(caller.fixture.vcpu(0))?;
    long_mode(&caller.fixture, &mut vcpu)?;
    Ok((caller, vcpu, Shared::new()))
}

/// Runs, and checks why it comes out.
fn comes_out(vcpu: &mut TestVcpu, shared: &Shared, reason: u32) -> Result<Details, Failure> {
    check_eq!(run(vcpu, 0, shared), Ok(0));
    check_eq!(shared.reason(), reason);
    Ok(shared.details())
}

/// The guest reads or writes where no memory is, with this instruction.
fn touch(caller: &Caller, vcpu: &mut TestVcpu, code: &[u8], write: bool) -> Result<(), Failure> {
    let rip = vcpu.engine().rip();
    check_eq!(caller.fixture.host.write(rip, code), Ok(()));
    let fault = Intercept::NestedFault { gpa: 0xd000_0010, write };
    engine(vcpu).then(move |_, _| fault);
    Ok(())
}

/// add eax, [0x600010]
const READ: [u8; 7] = [0x03, 0x04, 0x25, 0x10, 0x00, 0x60, 0x00];
/// mov [0x600010], eax
const WRITE: [u8; 7] = [0x89, 0x04, 0x25, 0x10, 0x00, 0x60, 0x00];
/// add [0x600010], eax
const BOTH: [u8; 7] = [0x01, 0x04, 0x25, 0x10, 0x00, 0x60, 0x00];

/// Entries of a dirty ring that are collected as soon as they are filled.
struct Collected;

impl Entries for Collected {
    fn fill(&self, _at: u32, _slot: u32, _page: u64) {}

    fn free(&self, _at: u32) -> Option<(u32, u64)> {
        Some((0, 0))
    }
}

cases! {
    fn a_vcpu_stays_out_while_its_dirty_ring_is_nearly_full() {
        let (_caller, mut vcpu) = Caller::with_vcpu()?;
        let ring = Arc::new(DirtyRing::new(Box::new(Collected), 1024));
        vcpu.set_dirty_ring(Arc::clone(&ring));
        let shared = Shared::new();
        for page in 0..1024 - u64::from(RESERVED) {
            ring.put(0, page);
        }
        for _ in 0..2 {
            shared.set(offset_of!(Run, exit_reason), 0_u32);
            check_eq!((run(&mut vcpu, 0, &shared), shared.reason()), (Ok(0), exit::DIRTY_RING_FULL));
        }
        check!(vcpu.engine().entries.is_empty());
        check_eq!(ring.reset(|_, _| {}), 1024 - RESERVED);
        // Its script is at the end.
        check_eq!((run(&mut vcpu, 0, &shared), shared.reason()), (Ok(0), exit::SHUTDOWN));
        for page in 0..1025 {
            ring.put(0, page);
        }
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::ENOSPC));
    }

    fn accesses_to_ports_have_their_bytes_in_the_second_page() {
        let (_caller, mut vcpu, shared) = with_vcpu()?;
        engine(&mut vcpu).then(|state, _| {
            state.gprs[0] = 0x1122_3344;
            Intercept::Out { port: 0x1234, size: 4, len: 1 }
        });
        let io = Io { direction: exit::IO_OUT, size: 4, port: 0x1234, count: 1, data_offset: 0x1000 };
        check_eq!(comes_out(&mut vcpu, &shared, exit::IO)?.io(), io);
        check_eq!(load::<u64>(&shared, 0x1000), 0x1122_3344);
        engine(&mut vcpu).then(|_, _| Intercept::In { port: 0x1234, size: 2, len: 1 });
        let io = Io { direction: exit::IO_IN, size: 2, ..io };
        check_eq!(comes_out(&mut vcpu, &shared, exit::IO)?.io(), io);
        shared.set(0x1000, 0xbeef_u64);
        // What the caller says of the exit is not believed.
        shared.answer(|details| details.set_io(&Io { size: 4, count: 1000, data_offset: !0, ..io }));
        engine(&mut vcpu).then(|_, _| Intercept::Shutdown);
        comes_out(&mut vcpu, &shared, exit::SHUTDOWN)?;
        check_eq!((vcpu.engine().gpr(gpr::RAX), vcpu.engine().rip()), (0x1122_beef, CODE + 2));
    }

    fn a_string_of_port_accesses_is_one_exit() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        // rep insw, from port 0x500 to 0x5000.
        check_eq!(caller.fixture.host.write(CODE, &[0x66, 0xf3, 0x6d]), Ok(()));
        for (n, value) in [(gpr::RDX, 0x500), (gpr::RCX, 3), (gpr::RDI, 0x5000)] {
            engine(&mut vcpu).set_gpr(n, value);
        }
        engine(&mut vcpu).then(|_, _| Intercept::StringIo);
        let io = comes_out(&mut vcpu, &shared, exit::IO)?.io();
        check_eq!((io.direction, io.size, io.port, io.count), (exit::IO_IN, 2, 0x500, 3));
        shared.store(0x1000, &[1, 2, 3, 4, 5, 6, 7, 8]);
        shared.set(IMMEDIATE, 1_u8);
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EINTR));
        let mut bytes = [0; 8];
        check_eq!(caller.fixture.host.read(0x5000, &mut bytes), Ok(()));
        check_eq!(bytes, [1, 2, 3, 4, 5, 6, 0, 0]);
        check_eq!(vcpu.engine().gpr(gpr::RCX), 0);
    }

    fn accesses_to_devices_are_answered() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        engine(&mut vcpu).set_gpr(gpr::RAX, 2);
        for _ in 0..2 {
            touch(&caller, &mut vcpu, &READ, false)?;
        }
        let mmio = Mmio { phys_addr: 0xd000_0010, data: [0; 8], len: 4, is_write: false };
        check_eq!(comes_out(&mut vcpu, &shared, exit::MMIO)?.mmio(), mmio);
        shared.answer(|details| details.set_mmio(&Mmio { data: [5, 0, 0, 1, 9, 9, 9, 9], len: 8, ..mmio }));
        comes_out(&mut vcpu, &shared, exit::SHUTDOWN)?;
        check_eq!((vcpu.engine().gpr(gpr::RAX), vcpu.engine().rip()), (0x100_0007, CODE + 7));
        let (caller, mut vcpu, shared) = with_vcpu()?;
        engine(&mut vcpu).set_gpr(gpr::RAX, 0x0102_0304);
        touch(&caller, &mut vcpu, &WRITE, true)?;
        let mmio = Mmio { data: [4, 3, 2, 1, 0, 0, 0, 0], is_write: true, ..mmio };
        check_eq!(comes_out(&mut vcpu, &shared, exit::MMIO)?.mmio(), mmio);
        check_eq!(vcpu.engine().rip(), CODE + 7);
    }

    fn an_immediate_exit_completes_what_waits_and_runs_nothing() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        shared.set(IMMEDIATE, 1_u8);
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EINTR));
        check!(vcpu.engine().entries.is_empty());
        shared.set(IMMEDIATE, 0_u8);
        engine(&mut vcpu).set_gpr(gpr::RAX, 2);
        touch(&caller, &mut vcpu, &READ, false)?;
        comes_out(&mut vcpu, &shared, exit::MMIO)?;
        shared.set(IMMEDIATE, 1_u8);
        shared.answer(|details| details.0[8] = 5);
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EINTR));
        check_eq!((vcpu.engine().gpr(gpr::RAX), vcpu.engine().rip()), (7, CODE + 7));
        // One that writes as well comes out once more.
        shared.set(IMMEDIATE, 0_u8);
        touch(&caller, &mut vcpu, &BOTH, true)?;
        check!(!comes_out(&mut vcpu, &shared, exit::MMIO)?.mmio().is_write);
        shared.set(IMMEDIATE, 1_u8);
        shared.answer(|details| details.0[8] = 1);
        let mmio = comes_out(&mut vcpu, &shared, exit::MMIO)?.mmio();
        check_eq!((mmio.is_write, mmio.data[0], vcpu.engine().rip()), (true, 8, CODE + 14));
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EINTR));
        check_eq!(vcpu.engine().entries.len(), 2);
    }

    fn who_is_asked_to_come_out_does() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        caller.fixture.vm.arch().machine().post(0, request::EXIT);
        check_eq!((run(&mut vcpu, 0, &shared), shared.reason()), (Err(Errno::EINTR), exit::INTR));
        // A halt from which only an NMI wakes is none for the caller.
        engine(&mut vcpu).then(|_, _| Intercept::Halt { len: 1 });
        engine(&mut vcpu).then(out);
        let nmi = Arc::new(Nmi(Arc::clone(caller.fixture.vm.arch().machine())));
        let timer = host_error(caller.fixture.host.timer(nmi))?;
        timer.arm(caller.fixture.host.now() + 1000);
        comes_out(&mut vcpu, &shared, exit::IO)?;
        check_eq!(vcpu.engine().injected(), [Event::Nmi]);
        for argument in [1, u64::MAX] {
            check_eq!(run(&mut vcpu, argument, &shared), Err(Errno::EINVAL));
        }
    }

    fn without_chips_halts_and_windows_come_out() {
        let (_caller, mut vcpu, shared) = without_chips()?;
        engine(&mut vcpu).then(|_, _| Intercept::Halt { len: 1 });
        comes_out(&mut vcpu, &shared, exit::HLT)?;
        let ready = |shared: &Shared| -> (u8, u8) {
            (load(shared, offset_of!(Run, ready_for_interrupt_injection)), load(shared, offset_of!(Run, if_flag)))
        };
        check_eq!(ready(&shared), (0, 0));
        shared.set(WINDOW, 1_u8);
        engine(&mut vcpu).then(|state, entry| {
            set_if(state, true);
            if entry.interrupt_window { Intercept::InterruptWindow } else { Intercept::Shutdown }
        });
        comes_out(&mut vcpu, &shared, exit::IRQ_WINDOW_OPEN)?;
        check_eq!(ready(&shared), (1, 1));
        // At once, as it is open.
        let entries = vcpu.engine().entries.len();
        comes_out(&mut vcpu, &shared, exit::IRQ_WINDOW_OPEN)?;
        check_eq!(vcpu.engine().entries.len(), entries);
        // Not while one is on its way.
        vcpu.set_pending_interrupt(0x40);
        engine(&mut vcpu).then(|state, _| {
            set_if(state, false);
            Intercept::Out { port: 0x80, size: 1, len: 1 }
        });
        comes_out(&mut vcpu, &shared, exit::IO)?;
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: 0x40 }]);
        shared.set(WINDOW, 0_u8);
        engine(&mut vcpu).then(|_, entry| {
            if entry.interrupt_window { Intercept::Shutdown } else { Intercept::Halt { len: 1 } }
        });
        comes_out(&mut vcpu, &shared, exit::HLT)?;
        shared.set(offset_of!(Run, cr8), 9_u64);
        engine(&mut vcpu).then(|_, _| Intercept::Halt { len: 1 });
        comes_out(&mut vcpu, &shared, exit::HLT)?;
        check_eq!(vcpu.lapic().cr8(), 9);
        shared.set(offset_of!(Run, cr8), 16_u64);
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EINVAL));
    }

    fn with_chips_the_caller_injects_nothing() {
        let (_caller, mut vcpu, shared) = with_vcpu()?;
        shared.set(WINDOW, 1_u8);
        shared.set(offset_of!(Run, cr8), 16_u64);
        engine(&mut vcpu).then(|state, entry| {
            set_if(state, true);
            if entry.interrupt_window { Intercept::Shutdown } else { out(state, entry) }
        });
        comes_out(&mut vcpu, &shared, exit::IO)?;
        check_eq!(load::<u8>(&shared, offset_of!(Run, ready_for_interrupt_injection)), 1);
        check_eq!(load::<u64>(&shared, offset_of!(Run, cr8)), 0);
        check_eq!(load::<u64>(&shared, offset_of!(Run, apic_base)), 0xfee0_0900);
    }

    fn model_specific_registers_are_answered() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        check_eq!(caller.enable(cap::X86_USER_SPACE_MSR, 2), Ok(0));
        let step = |vcpu: &mut TestVcpu| {
            engine(vcpu).then(|state, _| {
                state.gprs[usize::from(gpr::RCX)] = 0xdead;
                Intercept::ReadMsr { len: 2 }
            });
        };
        step(&mut vcpu);
        let msr = Msr { error: 0, reason: 2, index: 0xdead, data: 0 };
        check_eq!(comes_out(&mut vcpu, &shared, exit::X86_RDMSR)?.msr(), msr);
        shared.answer(|details| details.set_msr(&Msr { data: 0x1_0000_0002, ..msr }));
        engine(&mut vcpu).then(|state, _| {
            state.gprs[usize::from(gpr::RAX)] += 1;
            Intercept::WriteMsr { len: 2 }
        });
        let written = comes_out(&mut vcpu, &shared, exit::X86_WRMSR)?.msr();
        check_eq!(written, Msr { data: 0x1_0000_0003, ..msr });
        shared.answer(|details| details.set_msr(&Msr { error: 1, ..msr }));
        step(&mut vcpu);
        comes_out(&mut vcpu, &shared, exit::X86_RDMSR)?;
        check_eq!(vcpu.engine().injected(), [Event::Exception(Exception::gp(0))]);
        check_eq!(vcpu.engine().rip(), CODE + 2);
    }

    fn a_debugger_is_told() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        let wanted = GuestDebug { control: 1 | 2 | 1 << 16, pad: 0, debugreg: [0; 8] };
        check_eq!(caller.set(&mut vcpu, SET_GUEST_DEBUG, &wanted), Ok(0));
        engine(&mut vcpu).then(|_, _| Intercept::Cpuid { len: 2 });
        let debug = comes_out(&mut vcpu, &shared, exit::DEBUG)?.debug();
        check_eq!((debug.exception, debug.pc, debug.dr6, debug.dr7), (1, CODE + 2, 0xffff_4ff0, 0x400));
        // What comes out for the caller is stepped over when that is done, whether or not the guest goes on, and once.
        engine(&mut vcpu).then(|_, _| Intercept::Out { port: 0x80, size: 1, len: 2 });
        comes_out(&mut vcpu, &shared, exit::IO)?;
        shared.set(IMMEDIATE, 1_u8);
        check_eq!(comes_out(&mut vcpu, &shared, exit::DEBUG)?.debug().pc, CODE + 4);
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EINTR));
    }

    fn what_cannot_go_on_says_why() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        let mut bytes = [0; 15];
        bytes[..4].copy_from_slice(&[0x0f, 0x0b, 0x90, 0xc3]);
        engine(&mut vcpu).then(move |_, _| Intercept::Unsupported { bytes, len: 4 });
        let error = comes_out(&mut vcpu, &shared, exit::INTERNAL_ERROR)?.internal_error();
        check_eq!((error.suberror, error.ndata, error.data[0]), (1, 3, 1));
        check_eq!(error.data[1], u64::from_le_bytes([4, 0x0f, 0x0b, 0x90, 0xc3, 0, 0, 0]));
        engine(&mut vcpu).then(move |_, _| Intercept::Unsupported { bytes: [0; 15], len: 0 });
        let error = comes_out(&mut vcpu, &shared, exit::INTERNAL_ERROR)?.internal_error();
        check_eq!((error.ndata, error.data[0]), (1, 0));
        engine(&mut vcpu).then(|_, _| Intercept::BadMemory { gpa: 0x1000 });
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EFAULT));
        // Where there is no slot, nothing can be reached that should be.
        engine(&mut vcpu).then(|_, _| Intercept::BadMemory { gpa: 0xd000_0000 });
        let error = comes_out(&mut vcpu, &shared, exit::INTERNAL_ERROR)?.internal_error();
        check_eq!((error.suberror, error.ndata, error.data[0]), (1, 1, 0));
        engine(&mut vcpu).then(|_, _| Intercept::EntryRefused { reason: u64::MAX, processor: 3 });
        let refused = comes_out(&mut vcpu, &shared, exit::FAIL_ENTRY)?;
        check_eq!((refused.hardware_reason(), refused.processor()), (u64::MAX, 3));
        engine(&mut vcpu).then(|_, _| Intercept::Failed(Errno::ENOMEM));
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::ENOMEM));
        // A slot whose memory is nowhere.
        let nowhere = Slot { id: 9, gpa: 0xd000_0000, size: 0x1000, hva: 0x10_0000_0000, ..Slot::default() };
        check_eq!(caller.fixture.vm.add_slot(nowhere), Ok(()));
        touch(&caller, &mut vcpu, &READ, false)?;
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EFAULT));
    }

    fn registers_are_shared_as_they_are_asked_for() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        let (valid, dirty) = (offset_of!(Run, kvm_valid_regs), offset_of!(Run, kvm_dirty_regs));
        for offset in [valid, dirty] {
            shared.set(offset, 8_u64);
            check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EINVAL));
            shared.set(offset, 0_u64);
        }
        shared.put(0, &AbiRegs { rip: 0x6666, ..AbiRegs::default() });
        engine(&mut vcpu).then(out);
        comes_out(&mut vcpu, &shared, exit::IO)?;
        check_eq!(shared.at::<AbiRegs>(0).rip, 0x6666, "not asked for");
        shared.set(valid, SYNC_REGS | SYNC_SREGS | SYNC_EVENTS);
        engine(&mut vcpu).then(out);
        comes_out(&mut vcpu, &shared, exit::IO)?;
        let own: AbiRegs = caller.get(&mut vcpu, GET_REGS)?;
        check_eq!(shared.at::<AbiRegs>(0), own);
        check_eq!(own.rip, CODE + 4);
        let (mut sregs, events) = (shared.at::<Sregs>(SREGS), shared.at::<Events>(EVENTS));
        check_eq!((sregs.cr3, sregs.apic_base, events.flags), (0x2000, 0xfee0_0900, 13));
        // Changed by the caller, each as it says.
        shared.put(0, &AbiRegs { rip: 0x5000, ..own });
        sregs.cr2 = 0x7777;
        shared.put(SREGS, &sregs);
        shared.put(EVENTS, &Events { nmi: abi::events::Nmi { masked: 1, ..events.nmi }, ..events });
        shared.set(dirty, SYNC_REGS);
        engine(&mut vcpu).then(out);
        comes_out(&mut vcpu, &shared, exit::IO)?;
        check_eq!((vcpu.engine().rip(), vcpu.engine().cr2(), vcpu.engine().nmi_blocked()), (0x5002, 0, false));
        check_eq!(load::<u64>(&shared, dirty), 0);
        shared.put(SREGS, &sregs);
        shared.put(EVENTS, &Events { nmi: abi::events::Nmi { masked: 1, ..events.nmi }, ..events });
        shared.set(dirty, SYNC_SREGS | SYNC_EVENTS);
        engine(&mut vcpu).then(out);
        comes_out(&mut vcpu, &shared, exit::IO)?;
        check_eq!((vcpu.engine().rip(), vcpu.engine().cr2(), vcpu.engine().nmi_blocked()), (0x5004, 0x7777, true));
        shared.put(SREGS, &Sregs { cr0: 1 << 31, ..sregs });
        shared.set(dirty, SYNC_SREGS);
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EINVAL));
    }

    fn no_shared_memory_panics_a_run() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        check_eq!(caller.enable(cap::X86_USER_SPACE_MSR, 7), Ok(0));
        let mut random = Random::new();
        for _ in 0..2000 {
            let seed = random.seed();
            for _ in 0..random.below(8) {
                let limit = [40, 300, 3000, u64::from(VCPU_MMAP_SIZE)][random.below(4) as usize];
                shared.store(random.below(limit) as usize, &random.next().to_le_bytes());
            }
            // Mostly what would end it at once is not asked for.
            if random.below(4) != 0 {
                shared.set(offset_of!(Run, kvm_valid_regs), random.below(8));
                shared.set(offset_of!(Run, kvm_dirty_regs), random.below(8));
            }
            let port = random.next() as u16;
            let step = match random.below(5) {
                0 => Intercept::In { port, size: [1, 2, 4][random.below(3) as usize], len: 2 },
                1 => Intercept::ReadMsr { len: 2 },
                2 => Intercept::WriteMsr { len: 2 },
                3 => Intercept::StringIo,
                _ => Intercept::NestedFault { gpa: 0xd000_0000, write: false },
            };
            engine(&mut vcpu).then(move |_, _| step);
            // It may wait for something that never comes.
            caller.fixture.vm.arch().machine().post(0, request::EXIT);
            let known = [Errno::EINTR, Errno::EINVAL, Errno::EFAULT];
            for _ in 0..2 {
                let answer = run(&mut vcpu, 0, &shared);
                check!(answer.map_or_else(|errno| known.contains(&errno), |_| true), "{answer:?}, seed {seed}");
                caller.fixture.vm.arch().machine().post(0, request::EXIT);
            }
        }
    }
}
