//! Whole runs: the core's vCPU over the engine, on a processor that plays the guest. Once on one of today, once on one that has nothing but
//! nested paging, where most instructions are executed by the core.

use alloc::boxed::Box;
use alloc::sync::Arc;

use arch_x86::cpuid::Leaf;
use arch_x86::emulate::Feature;
use arch_x86::guest_debug::{DebugCause, GuestDebug};
use arch_x86::machine::X86;
use arch_x86::msr::index;
use arch_x86::regs::{Attr, Seg, Segment, State, Table, cr0, cr4, efer, gpr, rflags};
use arch_x86::vcpu::{Answer, Data, Exit, Vcpu};
use virt::memory::Memory;
use virt::{Host, Vm};

use crate::engine::{Shared, SvmEngine};
use crate::exits::code;
use crate::nested::table::entry;
use crate::test_platform::{PHYSICAL, TestPlatform};
use crate::test_processor::{TestEngine, TestMachine, TestProcessor, svm};
use crate::vmcb::Vmcb;

const CODE: u64 = 0x1000;
const GDT: u64 = 0x6000;
/// Where the guest has a device's page; and where that is.
const DEVICE_LINEAR: u64 = 0x60_0000;
const DEVICE: u64 = 0xd000_0000;
const VALID: u64 = 1 << 31;

/// CPUID; OUT 0x10, AL; IN AL, 0x11; MOV [RAX], RCX; RDMSR; XSETBV; HLT; IRETQ.
const PROGRAM: &[u8] = &[
    0x0f, 0xa2, 0xe6, 0x10, 0xe4, 0x11, 0x48, 0x89, 0x08, 0x0f, 0x32, 0x0f, 0x01, 0xd1, 0xf4, 0x48,
    0xcf,
];

struct Run {
    machine: TestMachine,
    vm: Vm<X86<TestEngine, TestPlatform>>,
    vcpu: Box<Vcpu<TestEngine, TestPlatform>>,
    shared: Arc<Shared<TestPlatform, TestProcessor>>,
}

fn hardware(_: u32, _: u32) -> Leaf {
    [0; 4]
}

/// A guest in 64-bit mode, with its local APIC on.
fn run(features: u32) -> Run {
    let memory = Arc::new(Memory::default());
    memory
        .insert(virt::memory::Slot { size: TestMachine::MEMORY, ..Default::default() })
        .expect("a slot");
    let machine = TestMachine::with(features, Arc::clone(&memory));
    let shared = Arc::clone(&machine.engine.shared);
    let engine = SvmEngine { shared: Arc::clone(&shared) };
    let platform = machine.platform.clone();
    let arch =
        X86::new(platform.clone(), engine, Arc::clone(&memory), hardware, 1).expect("a machine");
    let vm = Vm::new(memory, arch).expect("a machine");
    vm.arch().create_irqchip().expect("chips");
    let mut vcpu = Box::new(Vcpu::new(vm.arch().machine(), 0).expect("a vCPU"));
    let write = |gpa: u64, bytes: &[u8]| platform.host.write(gpa, bytes).expect("memory");
    let tables = [(0x2000, 0x3003), (0x3000, 0x4003), (0x4000, 0x83), (0x4018, DEVICE | 0x83)];
    for (gpa, entry) in tables {
        write(gpa, &u64::to_le_bytes(entry));
    }
    let descriptors = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff_u64];
    for (n, descriptor) in (0..).zip(descriptors) {
        write(GDT + 8 * n, &descriptor.to_le_bytes());
    }
    write(CODE, PROGRAM);
    let mut state = State::at_reset();
    state.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE;
    state.cr3 = 0x2000;
    state.cr4 = cr4::PAE | cr4::OSXSAVE;
    state.efer = efer::LME | efer::LMA;
    state.rip = CODE;
    state.gdtr = Table { base: GDT, limit: 23 };
    let cs = Segment { base: 0, limit: !0, selector: 8, attr: Attr(0xa9b) };
    state.segments[Seg::Cs as usize] = cs;
    state.segments[Seg::Ss as usize] = Segment { selector: 16, attr: Attr(0xc93), ..cs };
    state.write(vcpu.engine_mut());
    vcpu.write_msr(index::APIC_BASE, 0xfee0_0000 | 3 << 10).expect("x2APIC");
    vcpu.write_msr(0x80f, 0x1ff).expect("x2APIC");
    Run { machine, vm, vcpu, shared }
}

impl Run {
    fn go(&mut self, answer: Answer) -> Exit {
        self.vcpu.run(answer)
    }

    fn then(&self, step: impl FnMut(&mut Vmcb, &mut [u64; 16]) + Send + 'static) {
        self.machine.then(step);
    }
}

/// Comes out of an instruction of `len` bytes at `offset` of the program.
fn at(vmcb: &mut Vmcb, offset: u64, len: u64, code: u64) {
    assert_eq!(vmcb.rip, CODE + offset);
    (vmcb.exit_code, vmcb.next_rip) = (code, vmcb.rip + len);
}

fn on_both(test: impl Fn(Run)) {
    test(run(svm::ALL));
    test(run(svm::NESTED_PAGING));
}

#[test]
fn a_guest_asks_what_processor_it_has_and_talks_to_ports() {
    on_both(|mut run| {
        run.then(|vmcb, _| {
            vmcb.rax = 0x4000_0000;
            at(vmcb, 0, 2, code::CPUID);
        });
        run.then(|vmcb, gprs| {
            assert_eq!(gprs[usize::from(gpr::RBX)], u64::from(u32::from_le_bytes(*b"KVMK")));
            vmcb.rax = 0x5a;
            at(vmcb, 2, 2, code::IOIO);
            (vmcb.exit_info1, vmcb.exit_info2) = (0x10 << 16 | 0x10, vmcb.rip + 2);
        });
        let out = Exit::Out { port: 0x10, size: 1, data: Data::new(&[0x5a]) };
        assert_eq!(run.go(Answer::None), out);
        run.then(|vmcb, _| {
            at(vmcb, 4, 2, code::IOIO);
            (vmcb.exit_info1, vmcb.exit_info2) = (0x11 << 16 | 0x11, vmcb.rip + 2);
        });
        assert_eq!(run.go(Answer::None), Exit::In { port: 0x11, size: 1, count: 1 });
        run.then(|vmcb, _| {
            assert_eq!((vmcb.rax, vmcb.rip), (0x77, CODE + 6));
            vmcb.exit_code = code::SHUTDOWN;
        });
        assert_eq!(run.go(Answer::Data(Data::new(&[0x77]))), Exit::Shutdown);
    });
}

#[test]
fn a_guest_reaches_memory_and_a_device() {
    on_both(|mut run| {
        run.then(|vmcb, _| {
            vmcb.rip = CODE + 6;
            (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (0x400, 0x14, CODE + 6);
        });
        let shared = Arc::clone(&run.shared);
        run.then(move |vmcb, gprs| {
            let rights = entry::PRESENT | entry::WRITABLE | entry::USER;
            assert_eq!(shared.nested.look(CODE), Some(((CODE + PHYSICAL) | rights, 4096)));
            vmcb.rax = DEVICE_LINEAR;
            gprs[usize::from(gpr::RCX)] = 0x1122_3344_5566_7788;
            at(vmcb, 6, 3, 0x400);
            (vmcb.exit_info1, vmcb.exit_info2) = (6, DEVICE);
        });
        let data = Data::new(&0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(run.go(Answer::None), Exit::MmioWrite { gpa: DEVICE, data });
        run.then(|vmcb, _| at(vmcb, 9, 0, code::SHUTDOWN));
        assert_eq!(run.go(Answer::None), Exit::Shutdown);
        // The memory is not the host's any more.
        let asked = &run.machine.platform.asked;
        asked.has_none.store(true, core::sync::atomic::Ordering::Relaxed);
        run.vcpu.set_activity(arch_x86::vcpu::Activity::Running);
        run.then(|vmcb, _| (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (0x400, 4, 0x9000));
        assert_eq!(run.go(Answer::None), Exit::BadMemory { gpa: 0x9000 });
    });
}

#[test]
fn registers_are_read_and_set_by_the_core() {
    on_both(|mut run| {
        run.then(|vmcb, gprs| {
            vmcb.rip = CODE + 9;
            gprs[usize::from(gpr::RCX)] = index::EFER.into();
            at(vmcb, 9, 2, code::MSR);
        });
        run.then(|vmcb, gprs| {
            assert_eq!((vmcb.rax, vmcb.rip), (efer::LME | efer::LMA, CODE + 11), "SVME is hidden");
            // XCR0: x87 and SSE.
            (vmcb.rax, gprs[1], gprs[2]) = (3, 0, 0);
            at(vmcb, 11, 3, code::XSETBV);
        });
        run.then(|vmcb, _| at(vmcb, 14, 1, code::SHUTDOWN));
        assert_eq!(run.go(Answer::None), Exit::Shutdown);
        let seen = run.machine.processor.state.lock().seen.clone();
        assert_eq!([seen[1][0], seen[2][0]], [1, 3], "as at reset, and as it was set");
        assert_eq!(run.machine.processor.state.lock().xcr0, 0x207);
    });
}

#[test]
fn a_halted_guest_is_woken_by_an_interrupt() {
    on_both(|mut run| {
        let machine = Arc::clone(run.vm.arch().machine());
        run.then(move |vmcb, _| {
            vmcb.rip = CODE + 14;
            vmcb.rflags |= rflags::IF;
            // It comes while the guest is on its way out.
            machine.vcpu(0).expect("it").inbox.post_interrupt(0x41, false);
            at(vmcb, 14, 1, code::HLT);
        });
        run.then(|vmcb, _| {
            assert_eq!((vmcb.event_injection, vmcb.rip), (VALID | 0x41, CODE + 15));
            vmcb.exit_code = code::SHUTDOWN;
        });
        assert_eq!(run.go(Answer::None), Exit::Shutdown);
    });
}

#[test]
fn an_interrupt_waits_until_the_guest_is_open_for_it() {
    on_both(|mut run| {
        let machine = Arc::clone(run.vm.arch().machine());
        run.then(move |vmcb, _| {
            vmcb.rflags &= !rflags::IF;
            machine.vcpu(0).expect("it").inbox.post_interrupt(0x42, false);
            vmcb.exit_code = code::INTR;
        });
        run.then(|vmcb, _| {
            assert_eq!(vmcb.event_injection, 0);
            assert_ne!(vmcb.virtual_interrupt & 1 << 8, 0, "it comes out when it is open");
            vmcb.rflags |= rflags::IF;
            vmcb.exit_code = code::VINTR;
        });
        run.then(|vmcb, _| {
            assert_eq!(vmcb.event_injection, VALID | 0x42);
            assert_eq!(vmcb.virtual_interrupt & 1 << 8, 0);
            vmcb.exit_code = code::SHUTDOWN;
        });
        assert_eq!(run.go(Answer::None), Exit::Shutdown);
    });
}

#[test]
fn nmis_are_blocked_until_an_iret_that_the_core_executes() {
    on_both(|mut run| {
        // RIP, CS, RFLAGS, RSP, SS.
        for (n, word) in (0..).zip([CODE + 2, 8, 2_u64, 0x9000, 16]) {
            let bytes = word.to_le_bytes();
            run.machine.platform.host.write(0x8000 + 8 * n, &bytes).expect("memory");
        }
        run.vcpu.nmi();
        let machine = Arc::clone(run.vm.arch().machine());
        run.then(move |vmcb, _| {
            assert_eq!(vmcb.event_injection, VALID | 2 << 8 | 2);
            // Another one comes in the handler.
            machine.post(0, arch_x86::vcpu::inbox::request::NMI);
            (vmcb.rip, vmcb.rsp) = (CODE + 15, 0x8000);
            vmcb.exit_code = code::INTR;
        });
        run.then(|vmcb, _| {
            assert_eq!(vmcb.event_injection, 0);
            at(vmcb, 15, 2, code::IRET);
        });
        run.then(|vmcb, _| {
            assert_eq!((vmcb.rip, vmcb.rsp), (CODE + 2, 0x9000));
            assert_eq!(vmcb.event_injection, VALID | 2 << 8 | 2, "now it does");
            vmcb.exit_code = code::SHUTDOWN;
        });
        assert_eq!(run.go(Answer::None), Exit::Shutdown);
    });
}

#[test]
fn an_event_whose_handler_is_not_there_yet_is_delivered_when_it_is() {
    on_both(|mut run| {
        run.vcpu.nmi();
        run.then(|vmcb, _| {
            vmcb.exit_int_info = vmcb.event_injection;
            (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (0x400, 6, 0x5000);
        });
        let shared = Arc::clone(&run.shared);
        run.then(move |vmcb, _| {
            assert!(shared.nested.look(0x5000).is_some());
            assert_eq!(vmcb.event_injection, VALID | 2 << 8 | 2);
            vmcb.exit_code = code::SHUTDOWN;
        });
        assert_eq!(run.go(Answer::None), Exit::Shutdown);
    });
}

#[test]
fn instructions_of_svm_are_undefined() {
    on_both(|mut run| {
        run.then(|vmcb, _| at(vmcb, 0, 3, code::VMRUN));
        run.then(|vmcb, _| {
            assert_eq!((vmcb.event_injection, vmcb.rip), (VALID | 3 << 8 | 6, CODE));
            vmcb.exit_code = code::SHUTDOWN;
        });
        assert_eq!(run.go(Answer::None), Exit::Shutdown);
    });
}

#[test]
fn a_debugger_steps_and_the_guest_does_not_see_it() {
    on_both(|mut run| {
        run.vcpu.set_debug(&GuestDebug { single_step: true, ..GuestDebug::default() });
        run.then(|vmcb, _| {
            assert_ne!(vmcb.rflags & rflags::TF, 0);
            vmcb.rip = CODE + 6;
            vmcb.dr6 |= 1 << 14;
            vmcb.exit_code = 0x41;
        });
        let cause = DebugCause::Exception { stepped: true, breakpoints: 0 };
        assert_eq!(run.go(Answer::None), Exit::Debug { cause, address: CODE + 6 });
        let guest = State::read(run.vcpu.engine());
        assert_eq!((guest.rflags & rflags::TF, guest.debug[4]), (0, 0xffff_0ff0));
        // What the guest steps by itself is its own: it is delivered.
        run.vcpu.set_debug(&GuestDebug::default());
        run.then(|vmcb, _| {
            vmcb.dr6 |= 1 << 14;
            vmcb.exit_code = 0x41;
        });
        run.then(|vmcb, _| {
            assert_eq!(vmcb.event_injection, VALID | 3 << 8 | 1);
            vmcb.exit_code = code::SHUTDOWN;
        });
        assert_eq!(run.go(Answer::None), Exit::Shutdown);
        assert_eq!(State::read(run.vcpu.engine()).debug[4], 0xffff_4ff0);
    });
}

#[test]
fn what_cpuid_does_not_offer_comes_out() {
    let mut run = run(svm::ALL);
    run.then(|vmcb, _| {
        assert_eq!(vmcb.intercepts[1] & 1 << 7, 0, "RDTSCP is offered");
        vmcb.exit_code = code::SHUTDOWN;
    });
    run.go(Answer::None);
    let mut table = run.vcpu.cpuid().clone();
    let [eax, ebx, ecx, edx] = table.get(0x8000_0001, 0).expect("a leaf");
    table.set(0x8000_0001, None, [eax, ebx, ecx, edx & !(1 << 27)]).expect("room");
    assert!(!table.features().has(Feature::Rdtscp));
    run.vcpu.set_cpuid(table);
    run.vcpu.set_activity(arch_x86::vcpu::Activity::Running);
    run.then(|vmcb, _| {
        assert_ne!(vmcb.intercepts[1] & 1 << 7, 0);
        vmcb.exit_code = code::SHUTDOWN;
    });
    assert_eq!(run.go(Answer::None), Exit::Shutdown);
}

#[test]
fn what_the_processor_lacks_is_offered_by_nobody() {
    let mut run = run(svm::ALL);
    let offered = |run: &Run| {
        let table = run.vcpu.cpuid();
        let leaf = |function| table.get(function, 0).expect("a leaf");
        [leaf(1)[2] >> 17 & 1, leaf(7)[1] >> 20 & 1, leaf(7)[2] >> 16 & 1, leaf(7)[2] >> 22 & 1]
    };
    assert_eq!(offered(&run), [0, 0, 0, 1], "PCID, SMAP, LA57; RDPID");
    let [xsave, ..] = run.vcpu.cpuid().get(0xd, 1).expect("a leaf");
    assert_eq!(xsave, 1, "XSAVEOPT, and neither XSAVEC nor XGETBV of register 1");
    let mut table = run.vcpu.cpuid().clone();
    table.set(1, None, [0, 0, u32::MAX, 0]).expect("room");
    table.set(7, Some(0), [0, u32::MAX, u32::MAX, 0]).expect("room");
    run.vcpu.set_cpuid(table);
    assert_eq!(offered(&run), [0, 0, 0, 1], "nor by a VMM");
}

#[test]
fn a_slot_that_is_taken_away_is_a_devices_place() {
    on_both(|mut run| {
        run.then(|vmcb, _| (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (0x400, 6, 0x5000));
        let shared = Arc::clone(&run.shared);
        run.then(move |vmcb, _| {
            assert!(shared.nested.look(0x5000).is_some());
            vmcb.exit_code = code::SHUTDOWN;
        });
        run.go(Answer::None);
        run.vm.remove_slot(0).expect("a slot");
        assert_eq!(run.shared.nested.look(0x5000), None);
    });
}
