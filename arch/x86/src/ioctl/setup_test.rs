//! Test bodies of what a VMM chooses before the first vCPU: `vm`, [`crate::setup`].

use abi::cap;
use abi::encoding::Encoded;
use abi::events::MpState;
use abi::ioctl::{
    CREATE_IRQCHIP, CREATE_PIT2, CREATE_VCPU, GET_IRQCHIP, GET_LAPIC, GET_PIT2, INTERRUPT,
    IRQ_LINE, IRQFD, SET_BOOT_CPU_ID, SET_GSI_ROUTING, SET_IDENTITY_MAP_ADDR, SET_IRQCHIP,
    SET_LAPIC, SET_MP_STATE, SET_PIT2, SET_TSS_ADDR, SIGNAL_MSI,
};
use abi::irq::{Interrupt, IrqLevel, IrqRoutingEntry, IrqRoutingHeader, IrqRoutingMsi, Irqfd, Msi};
use abi::irqchip::{Irqchip, PIT_SPEAKER_DUMMY, PitConfig, PitState2};
use alloc::boxed::Box;
use selftest::{Failure, cases, check, check_eq};
use virt::{Errno, Host};

use super::caller::{ARGUMENT, BAD, Caller};
use crate::cpuid::Table;
use crate::engine::{Event, Intercept};
use crate::msr::index;
use crate::regs::{Regs, gpr, rflags};
use crate::vcpu::run_test::{
    CODE, TestVcpu, enable_apic, engine, host_error, long_mode, out, set_if,
};
use crate::vcpu::{Activity, Answer, Data, Exit};

const ROUTE: u64 = IrqRoutingHeader::SIZE as u64;

/// The first vCPU of a machine, in 64-bit mode.
fn vcpu(caller: &Caller, id: u32) -> Result<TestVcpu, Failure> {
    let made = host_error(super::create_vcpu(&caller.fixture.vm, id).map(Box::new))?;
    let mut vcpu = made;
    long_mode(&caller.fixture, &mut vcpu)?;
    Ok(vcpu)
}

/// The guest executes OUT to a port.
fn out_to(port: u16) -> impl FnMut(&mut crate::regs::State, &crate::engine::Entry) -> Intercept {
    move |_, _| Intercept::Out { port, size: 1, len: 2 }
}

cases! {
    fn without_chips_nothing_can_interrupt() {
        let caller = Caller::without_chips()?;
        check_eq!(caller.set_vm(IRQ_LINE, &IrqLevel { irq: 4, level: 1 }), Err(Errno::ENXIO));
        check_eq!(caller.set_vm(SIGNAL_MSI, &Msi::default()), Err(Errno::EINVAL));
        check_eq!(caller.set_vm(SET_GSI_ROUTING, &IrqRoutingHeader::default()), Err(Errno::EINVAL));
        check_eq!(caller.set_vm(IRQFD, &Irqfd::default()), Err(Errno::EINVAL));
        for number in [GET_IRQCHIP, SET_IRQCHIP] {
            check_eq!(caller.set_vm(number, &Irqchip::new(0)), Err(Errno::ENXIO), "{number:x}");
        }
        for number in [GET_PIT2, SET_PIT2] {
            check_eq!(caller.set_vm(number, &PitState2::default()), Err(Errno::ENXIO), "{number:x}");
        }
        check_eq!(caller.set_vm(CREATE_PIT2, &PitConfig::default()), Err(Errno::ENOENT));
        // What is to be set is read first.
        for number in [GET_IRQCHIP, SET_IRQCHIP, SET_PIT2] {
            check_eq!(caller.vm(number, BAD), Err(Errno::EFAULT), "{number:x}");
        }
        check_eq!(caller.vm(GET_PIT2, BAD), Err(Errno::ENXIO));
    }

    fn chips_are_made_once_and_before_vcpus() {
        let caller = Caller::without_chips()?;
        check_eq!(caller.vm(CREATE_IRQCHIP, 0), Ok(0));
        check_eq!(caller.vm(CREATE_IRQCHIP, 0), Err(Errno::EEXIST));
        check_eq!(caller.enable(cap::SPLIT_IRQCHIP, 24), Err(Errno::EEXIST));
        let _vcpu = vcpu(&caller, 0)?;
        // The 8254 may be late.
        check_eq!(caller.set_vm(CREATE_PIT2, &PitConfig::default()), Ok(0));
        check_eq!(caller.set_vm(CREATE_PIT2, &PitConfig::default()), Err(Errno::EEXIST));
        let caller = Caller::without_chips()?;
        let _vcpu = vcpu(&caller, 0)?;
        check_eq!(caller.vm(CREATE_IRQCHIP, 0), Err(Errno::EINVAL));
        check_eq!(caller.enable(cap::SPLIT_IRQCHIP, 24), Err(Errno::EEXIST));
        check_eq!(caller.vm(SET_BOOT_CPU_ID, 1), Err(Errno::EBUSY));
        check_eq!(caller.set_vm(SET_IDENTITY_MAP_ADDR, &0x1000_u64), Err(Errno::EINVAL));
    }

    fn ports_of_chips_that_are_not_there_are_the_vmms() {
        let caller = Caller::without_chips()?;
        check_eq!(caller.vm(CREATE_IRQCHIP, 0), Ok(0));
        let mut vcpu = vcpu(&caller, 0)?;
        for port in [0x40, 0x43, 0x61] {
            engine(&mut vcpu).then(out_to(port));
            check!(matches!(vcpu.run(Answer::None), Exit::Out { port: at, .. } if at == port), "{port:x}");
        }
        check_eq!(caller.set_vm(CREATE_PIT2, &PitConfig::default()), Ok(0));
        for port in [0x20, 0x43, 0xa1, 0x4d0, 0x61] {
            engine(&mut vcpu).then(out_to(port));
        }
        check!(matches!(vcpu.run(Answer::None), Exit::Out { port: 0x61, .. }), "the speaker was not asked for");
        let caller = Caller::without_chips()?;
        check_eq!(caller.vm(CREATE_IRQCHIP, 0), Ok(0));
        let speaker = PitConfig { flags: PIT_SPEAKER_DUMMY, pad: [0; 15] };
        check_eq!(caller.set_vm(CREATE_PIT2, &speaker), Ok(0));
        let mut vcpu = self::vcpu(&caller, 0)?;
        engine(&mut vcpu).then(out_to(0x61));
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { port: 0x1080, .. }));
    }

    fn without_a_local_apic_a_halt_is_the_vmms_and_so_are_interrupts() {
        let caller = Caller::without_chips()?;
        let mut vcpu = vcpu(&caller, 0)?;
        engine(&mut vcpu).then(|state, _| {
            set_if(state, true);
            Intercept::Halt { len: 1 }
        });
        check_eq!(vcpu.run(Answer::None), Exit::Halted);
        check_eq!((vcpu.activity(), vcpu.engine().rip()), (Activity::Running, CODE + 1));
        for irq in [256, u32::MAX] {
            check_eq!(caller.set(&mut vcpu, INTERRUPT, &Interrupt { irq }), Err(Errno::EINVAL));
        }
        check_eq!(caller.set(&mut vcpu, INTERRUPT, &Interrupt { irq: 0x31 }), Ok(0));
        engine(&mut vcpu).then(out_to(0x20));
        check!(matches!(vcpu.run(Answer::None), Exit::Out { port: 0x20, .. }));
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: 0x31 }]);
        // Its page is nobody's, and its registers are not to be had.
        engine(&mut vcpu).then(|state, _| {
            state.rip = CODE;
            Intercept::NestedFault { gpa: 0xfee0_0020, write: false }
        });
        // mov eax, [0x400020]
        check_eq!(caller.fixture.host.write(CODE, &[0x8b, 0x04, 0x25, 0x20, 0, 0x40, 0]), Ok(()));
        check_eq!(vcpu.run(Answer::None), Exit::MmioRead { gpa: 0xfee0_0020, size: 4 });
        for number in [GET_LAPIC, SET_LAPIC] {
            check_eq!(caller.call(&mut vcpu, number), Err(Errno::EINVAL));
        }
        check!(vcpu.write_msr(index::APIC_BASE, 0xfee0_0d00).is_err(), "no CPUID offers x2APIC");
        check_eq!(vcpu.write_msr(index::APIC_BASE, 0xfec1_0800), Ok(()));
        check_eq!(vcpu.read_msr(index::APIC_BASE), Ok(0xfec1_0800));
        check!(vcpu.read_msr(0x802).is_err());
        check_eq!(caller.set(&mut vcpu, SET_MP_STATE, &MpState { mp_state: 3 }), Err(Errno::EINVAL));
        check_eq!(caller.set(&mut vcpu, SET_MP_STATE, &MpState { mp_state: 0 }), Ok(0));
        check_eq!(self::vcpu(&caller, 1)?.activity(), Activity::Running);
    }

    fn without_a_local_apic_its_base_and_its_input_are_the_vmms() {
        let caller = Caller::without_chips()?;
        // Not the one that boots: its local APIC would not let the 8259s' interrupts through.
        let mut vcpu = vcpu(&caller, 1)?;
        let mut table = Table::default();
        check_eq!(table.set(1, None, [0, 0, 0, 1 << 9]), Ok(()));
        vcpu.set_cpuid(table);
        for (base, has_apic) in [(0xfec1_0800, 1 << 9), (0xfec1_0000, 0)] {
            check_eq!(vcpu.write_msr(index::APIC_BASE, base), Ok(()));
            check!(!vcpu.is_open(), "interrupts are off");
            engine(&mut vcpu).then(|state, _| {
                state.gprs[usize::from(gpr::RAX)] = 1;
                Intercept::Cpuid { len: 2 }
            });
            engine(&mut vcpu).then(|state, _| {
                set_if(state, true);
                Intercept::Halt { len: 1 }
            });
            check_eq!(vcpu.run(Answer::None), Exit::Halted);
            check_eq!(vcpu.engine().gpr(gpr::RDX), has_apic);
            check!(vcpu.is_open());
            let flags = vcpu.engine().rflags() & !rflags::IF;
            engine(&mut vcpu).set_rflags(flags);
        }
    }

    fn split_the_local_apics_only_are_here() {
        let caller = Caller::without_chips()?;
        check_eq!(caller.enable(cap::SPLIT_IRQCHIP, 4097), Err(Errno::EINVAL));
        check_eq!(caller.enable(cap::SPLIT_IRQCHIP, 4096), Ok(0));
        check_eq!(caller.enable(cap::SPLIT_IRQCHIP, 24), Err(Errno::EEXIST));
        check_eq!(caller.vm(CREATE_IRQCHIP, 0), Err(Errno::EEXIST));
        check_eq!(caller.set_vm(CREATE_PIT2, &PitConfig::default()), Err(Errno::ENOENT));
        check_eq!(caller.set_vm(GET_IRQCHIP, &Irqchip::new(0)), Err(Errno::ENXIO));
        let mut vcpu = host_error(caller.fixture.vcpu(0))?;
        long_mode(&caller.fixture, &mut vcpu)?;
        enable_apic(&mut vcpu)?;
        // A level-triggered message by a route; the guest ends it.
        let to = IrqRoutingMsi { address_lo: 0xfee0_0000, address_hi: 0, data: 0xc045, devid: 0 };
        caller.put(ROUTE, &IrqRoutingEntry::to_msi(5, to));
        check_eq!(caller.set_vm(SET_GSI_ROUTING, &IrqRoutingHeader { nr: 1, flags: 0 }), Ok(0));
        for irq in [5, 4] {
            check_eq!(caller.set_vm(IRQ_LINE, &IrqLevel { irq, level: 1 }), Ok(0));
        }
        engine(&mut vcpu).then(|state, _| {
            set_if(state, true);
            Intercept::InterruptWindow
        });
        engine(&mut vcpu).then(|state, _| {
            set_if(state, false);
            state.gprs[usize::from(gpr::RCX)] = 0x80b;
            state.gprs[usize::from(gpr::RAX)] = 0;
            state.gprs[usize::from(gpr::RDX)] = 0;
            Intercept::WriteMsr { len: 2 }
        });
        check_eq!(vcpu.run(Answer::None), Exit::EndOfInterrupt { vector: 0x45 });
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: 0x45 }]);
        engine(&mut vcpu).then(out_to(0xa1));
        let other = Exit::Out { port: 0xa1, size: 1, data: Data::new(&[0]) };
        check_eq!(vcpu.run(Answer::None), other);
        check_eq!(caller.set(&mut vcpu, INTERRUPT, &Interrupt { irq: 0x21 }), Ok(0));
        check_eq!(caller.set(&mut vcpu, INTERRUPT, &Interrupt { irq: 0x22 }), Err(Errno::EEXIST));
    }

    fn split_no_window_is_waited_for_behind_which_nothing_is_let_through() {
        const LINT0: u32 = 0x835;
        let caller = Caller::without_chips()?;
        check_eq!(caller.enable(cap::SPLIT_IRQCHIP, 24), Ok(0));
        let mut vcpu = host_error(caller.fixture.vcpu(0))?;
        long_mode(&caller.fixture, &mut vcpu)?;
        enable_apic(&mut vcpu)?;
        vcpu.ask_for_window(true);
        check!(vcpu.set_msr(LINT0, 0x1_0000).is_ok());
        for masked in [true, false] {
            engine(&mut vcpu).then(move |state, entry| {
                set_if(state, masked);
                if entry.interrupt_window == masked {
                    Intercept::Shutdown
                } else {
                    Intercept::Out { port: 0x80, size: 1, len: 2 }
                }
            });
            check!(matches!(vcpu.run(Answer::None), Exit::Out { port: 0x80, .. }));
            check!(!vcpu.is_open());
            check!(vcpu.set_msr(LINT0, 0x700).is_ok());
            check_eq!(vcpu.is_open(), masked);
            let flags = vcpu.engine().rflags() & !rflags::IF;
            engine(&mut vcpu).set_rflags(flags);
        }
    }

    fn another_vcpu_may_boot() {
        let caller = Caller::without_chips()?;
        check_eq!(caller.vm(CREATE_IRQCHIP, 0), Ok(0));
        check_eq!(caller.vm(SET_BOOT_CPU_ID, 1), Ok(0));
        let (mut first, mut second) = (vcpu(&caller, 0)?, vcpu(&caller, 1)?);
        check_eq!((first.activity(), second.activity()), (Activity::WaitForStartup, Activity::Running));
        let base = |vcpu: &mut TestVcpu| vcpu.read_msr(index::APIC_BASE);
        check_eq!((base(&mut first), base(&mut second)), (Ok(0xfee0_0800), Ok(0xfee0_0900)));
        second.send_init();
        check_eq!(second.activity(), Activity::Running, "after INIT as well");
    }

    fn numbers_of_vcpus_have_a_limit() {
        let caller = Caller::without_chips()?;
        check_eq!(caller.enable(cap::MAX_VCPU_ID, 5), Err(Errno::EINVAL));
        check_eq!(caller.enable(cap::MAX_VCPU_ID, 0), Ok(0));
        check_eq!(caller.enable(cap::MAX_VCPU_ID, 1 << 32 | 2), Err(Errno::EINVAL));
        check_eq!(caller.enable(cap::MAX_VCPU_ID, 2), Ok(0));
        check_eq!(caller.enable(cap::MAX_VCPU_ID, 2), Ok(0));
        check_eq!(caller.enable(cap::MAX_VCPU_ID, 3), Err(Errno::EINVAL));
        check_eq!(super::create_vcpu(&caller.fixture.vm, 2).err(), Some(Errno::EINVAL));
        let vcpu = vcpu(&caller, 1)?;
        check_eq!(vcpu.cpuid().entries().len(), 0, "the VMM says what there is");
        check_eq!(super::create_vcpu(&caller.fixture.vm, 1).err(), Some(Errno::EEXIST));
        check_eq!(caller.enable(cap::MAX_VCPU_ID, 2), Ok(0), "it is so already");
        check_eq!((caller.vm(CREATE_VCPU, 7), caller.vm(CREATE_VCPU, 1 << 32)), (Ok(7), Err(Errno::EINVAL)));
        check_eq!((caller.vm(SET_TSS_ADDR, 0xffff_d000), caller.vm(SET_TSS_ADDR, 0xffff_d001)), (Ok(0), Err(Errno::EINVAL)));
        check!(caller.vm(SET_IDENTITY_MAP_ADDR, ARGUMENT).is_err());
    }

    fn the_limit_of_numbers_is_what_it_is_when_there_is_a_vcpu() {
        let caller = Caller::without_chips()?;
        let _vcpu = vcpu(&caller, 0)?;
        for (limit, answer) in [(2, Err(Errno::EINVAL)), (0, Err(Errno::EINVAL)), (4, Ok(0)), (2, Err(Errno::EINVAL))] {
            check_eq!(caller.enable(cap::MAX_VCPU_ID, limit), answer, "{limit}");
        }
        check!(super::create_vcpu(&caller.fixture.vm, 3).is_ok());
    }
}
