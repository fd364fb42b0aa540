//! Test bodies of a VM's ioctls as a whole, and of `irqchip`, `pit` and `clock`.

use abi::cap;
use abi::clock::ClockData;
use abi::device::EnableCap;
use abi::ioctl::{
    CHECK_EXTENSION, CLEAR_DIRTY_LOG, CREATE_DEVICE, CREATE_IRQCHIP, CREATE_PIT2, CREATE_VCPU,
    ENABLE_CAP, GET_CLOCK, GET_DIRTY_LOG, GET_IRQCHIP, GET_NR_MMU_PAGES, GET_PIT2, GET_REGS,
    IOEVENTFD, IRQ_LINE, IRQ_LINE_STATUS, IRQFD, REGISTER_COALESCED_MMIO, REINJECT_CONTROL, RUN,
    SET_BOOT_CPU_ID, SET_CLOCK, SET_GSI_ROUTING, SET_IDENTITY_MAP_ADDR, SET_IRQCHIP,
    SET_NR_MMU_PAGES, SET_PIT2, SET_TSS_ADDR, SET_USER_MEMORY_REGION, SET_USER_MEMORY_REGION2,
    SIGNAL_MSI, UNREGISTER_COALESCED_MMIO, argument_size, io,
};
use abi::irqchip::{
    Irqchip, PIT_FLAGS_SPEAKER_DATA_ON, PitChannelState, PitState2, ReinjectControl,
};
use alloc::vec;
use selftest::{Outcome, cases, check, check_eq};
use virt::ioctl::is_exclusive;
use virt::{Errno, Host};

use super::caller::{ARGUMENT, BAD, Caller};
use super::interface_test::{Random, scramble};
use crate::engine::{Event, Intercept};
use crate::irqchip::i8254::ticks;
use crate::irqchip::ioapic::Redirection;
use crate::msr::index;
use crate::regs::{Regs, rflags};
use crate::vcpu::Answer;
use crate::vcpu::run_test::{enable_apic, engine, host_error, out};
use crate::vcpu::scripted::{Fixture, TestHost};

/// A VM's calls with an argument in memory.
const POINTERS: [u32; 22] = [
    SET_USER_MEMORY_REGION,
    SET_USER_MEMORY_REGION2,
    GET_DIRTY_LOG,
    CLEAR_DIRTY_LOG,
    SET_IDENTITY_MAP_ADDR,
    IRQ_LINE,
    IRQ_LINE_STATUS,
    GET_IRQCHIP,
    SET_IRQCHIP,
    REGISTER_COALESCED_MMIO,
    UNREGISTER_COALESCED_MMIO,
    SET_GSI_ROUTING,
    IRQFD,
    CREATE_PIT2,
    IOEVENTFD,
    GET_CLOCK,
    SET_CLOCK,
    GET_PIT2,
    SET_PIT2,
    SIGNAL_MSI,
    ENABLE_CAP,
    CREATE_DEVICE,
];

/// Those without.
const VALUES: [u32; 5] =
    [CREATE_VCPU, CHECK_EXTENSION, CREATE_IRQCHIP, SET_BOOT_CPU_ID, SET_TSS_ADDR];

/// Sets a chip's state, and gives what it is then.
fn there_and_back(
    caller: &Caller,
    id: u32,
    change: impl FnOnce(&mut Irqchip),
) -> Result<Irqchip, selftest::Failure> {
    let mut chip = Irqchip::new(id);
    change(&mut chip);
    host_error(caller.set_vm(SET_IRQCHIP, &chip))?;
    let asked = Irqchip::new(id);
    host_error(caller.set_vm(GET_IRQCHIP, &asked))?;
    Ok(caller.at(0))
}

#[inline(never)]
fn pic_goes_there_and_back(caller: &Caller, id: u32) -> Outcome {
    let state = abi::irqchip::PicState {
        last_irr: 0x18,
        irr: 0x19,
        imr: 0xef,
        isr: 0x02,
        priority_add: 3,
        irq_base: 0x28,
        read_reg_select: 1,
        poll: 1,
        special_mask: 1,
        init_state: 0,
        auto_eoi: 1,
        rotate_on_auto_eoi: 1,
        special_fully_nested_mode: 1,
        init4: 1,
        elcr: 0x18,
        elcr_mask: 0,
    };
    for init_state in 0..4 {
        let state = abi::irqchip::PicState { init_state, ..state };
        let found = there_and_back(caller, id, |chip| chip.set_pic(&state))?.pic();
        check_eq!(
            found,
            abi::irqchip::PicState { elcr_mask: if id == 0 { 0xf8 } else { 0xde }, ..state }
        );
    }
    Ok(())
}

/// What a VMM may say of the 8254, in all sorts of ways.
fn call_noise(caller: &Caller, random: &mut Random) -> Outcome {
    let seed = random.seed();
    let number = match random.below(8) {
        0 => random.next() as u32,
        1 => VALUES[random.below(VALUES.len() as u64) as usize],
        _ => POINTERS[random.below(POINTERS.len() as u64) as usize],
    };
    scramble(caller, random);
    if random.below(2) == 0 {
        // What is known, mostly.
        caller.put(0, &[[0, 1, 2, 3, 5, 9][random.below(6) as usize], random.below(4) as u32]);
    }
    let argument = if random.below(4) == 0 { random.next() } else { ARGUMENT };
    let known = [
        Errno::EINVAL,
        Errno::EFAULT,
        Errno::EEXIST,
        Errno::ENOENT,
        Errno::ENXIO,
        Errno::EBUSY,
        Errno::EBADF,
        Errno::ENOTTY,
        Errno::ENOSPC,
        Errno::EPERM,
        Errno::ENODEV,
    ];
    let answer = caller.vm(number, argument);
    check!(
        answer.map_or_else(|errno| known.contains(&errno), |_| true),
        "{number:x}: {answer:?}, seed {seed}"
    );
    // Whatever was set, the chips go on.
    if random.below(4) == 0 {
        caller.fixture.host.let_time_pass();
    }
    Ok(())
}

cases! {
    fn no_argument_panics_a_vm() {
        let mut random = Random::new();
        for round in 0..6 {
            let caller = if round % 3 == 0 { Caller::without_chips()? } else { Caller::new()? };
            for _ in 0..500 {
                call_noise(&caller, &mut random)?;
            }
        }
    }

    fn addresses_that_a_vm_cannot_reach_are_efault() {
        let caller = Caller::new()?;
        for number in POINTERS {
            for address in [BAD, Fixture::MEMORY, u64::MAX, u64::MAX - 7, 1 << 63] {
                check_eq!(caller.vm(number, address), Err(Errno::EFAULT), "{number:x}, {address:x}");
            }
        }
    }

    fn a_vms_arguments_end_where_their_number_says() {
        let caller = Caller::new()?;
        for number in POINTERS {
            let size = argument_size(number);
            let place = Fixture::MEMORY - size as u64;
            check_eq!(caller.fixture.host.write(place, &vec![0; size]), Ok(()));
            // What it names besides is at 0.
            check!(caller.vm(number, place) != Err(Errno::EFAULT), "{number:x}");
            check_eq!(caller.vm(number, place + 1), Err(Errno::EFAULT), "{number:x}");
        }
    }

    fn a_vm_has_no_other_calls() {
        let caller = Caller::new()?;
        for number in [RUN, GET_REGS, SET_USER_MEMORY_REGION ^ 1 << 16, IRQFD ^ 1 << 8, io(0xff), 0, !0] {
            check_eq!(caller.vm(number, ARGUMENT), Err(Errno::ENOTTY), "{number:x}");
        }
        check_eq!(caller.vm(CHECK_EXTENSION, cap::IRQCHIP.into()), Ok(1));
        check_eq!(caller.vm(CHECK_EXTENSION, cap::NESTED_STATE.into()), Ok(0));
        for cap in [cap::IRQCHIP, cap::NESTED_STATE, cap::ENFORCE_PV_FEATURE_CPUID, 9999] {
            check_eq!(caller.enable(cap, 1), Err(Errno::EINVAL), "{cap}");
        }
        for cap in [cap::MANUAL_DIRTY_LOG_PROTECT2, cap::SPLIT_IRQCHIP] {
            let flagged = EnableCap { cap, flags: 1, args: [1, 0, 0, 0], pad: [0; 64] };
            check_eq!(caller.set_vm(ENABLE_CAP, &flagged), Err(Errno::EINVAL));
        }
        check!(!is_exclusive(IRQ_LINE) && !is_exclusive(SIGNAL_MSI) && is_exclusive(SET_USER_MEMORY_REGION));
    }

    fn the_8259s_go_there_and_back() {
        let caller = Caller::new()?;
        pic_goes_there_and_back(&caller, 0)?;
        pic_goes_there_and_back(&caller, 1)?;
        for id in [3, u32::MAX] {
            check_eq!(caller.set_vm(GET_IRQCHIP, &Irqchip::new(id)), Err(Errno::EINVAL));
            check_eq!(caller.set_vm(SET_IRQCHIP, &Irqchip::new(id)), Err(Errno::EINVAL));
        }
    }

    fn the_io_apic_goes_there_and_back_and_sends_what_waits() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        let (level, waits, edge) = (Redirection::LEVEL | 0x71, Redirection::LEVEL | Redirection::MASKED | 0x72, 0x73);
        let mut redirtbl = [Redirection::MASKED; 24];
        redirtbl[9..12].copy_from_slice(&[level, waits, edge]);
        let state = abi::irqchip::IoapicState {
            base_address: 1, ioregsel: 0x12, id: 5, irr: 0xe00, pad: 0, redirtbl,
        };
        let found = there_and_back(&caller, 2, |chip| chip.set_ioapic(&state))?.ioapic();
        redirtbl[9] |= Redirection::REMOTE_IRR;
        let now = abi::irqchip::IoapicState { base_address: 0xfec0_0000, irr: 0x600, redirtbl, ..state };
        check_eq!(found, now);
        vcpu.settle();
        check_eq!(vcpu.lapic().pending(), Some(0x73));
        check!(vcpu.lapic().state().irr.contains(0x71) && !vcpu.lapic().state().irr.contains(0x72));
    }

    fn the_8254_goes_there_and_back() {
        let caller = Caller::new()?;
        let fresh: PitState2 = caller.get_vm(GET_PIT2)?;
        check_eq!((fresh.channels[0].mode, fresh.channels[0].count, fresh.channels[2].gate), (0xff, 0x1_0000, 0));
        check_eq!(caller.set_vm(SET_PIT2, &fresh), Ok(0));
        check_eq!(caller.get_vm::<PitState2>(GET_PIT2)?, fresh);
        check!(!caller.fixture.host.let_time_pass(), "no timer");
        let channel = PitChannelState {
            count: 1193, latched_count: 0x102, count_latched: 4, status_latched: 1, status: 0x34, read_state: 4,
            write_state: 4, write_latch: 9, rw_mode: 3, mode: 2, bcd: 0, gate: 1, count_load_time: 0,
        };
        let single = PitChannelState { rw_mode: 2, read_state: 2, write_state: 2, count_latched: 2, write_latch: 0, ..channel };
        let set = PitState2 { channels: [channel, single, channel], flags: PIT_FLAGS_SPEAKER_DATA_ON, reserved: [0; 9] };
        check_eq!(caller.set_vm(SET_PIT2, &set), Ok(0));
        let mut found: PitState2 = caller.get_vm(GET_PIT2)?;
        let start = found.channels[0].count_load_time as u64;
        check_eq!(ticks(start), ticks(TestHost::START) + 1);
        found.channels.iter_mut().for_each(|channel| channel.count_load_time = 0);
        check_eq!(found, set);
        // It ticks, a millisecond from now.
        check!(caller.fixture.host.let_time_pass());
        let passed = caller.fixture.host.now() - TestHost::START;
        check!((999_000..1_001_000).contains(&passed), "{passed}");
        let level = caller.fixture.vm.arch().machine().look_at_chips(|chips| chips.pic().chips()[0].irr());
        check_eq!(level & 1, 1);
    }

    fn the_clock_is_read_and_set() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        const CLOCK: u64 = 0x6fe0;
        let host = &caller.fixture.host;
        let shown = || {
            let mut bytes = [0; 8];
            host.read(CLOCK + 16, &mut bytes).map(|()| u64::from_le_bytes(bytes))
        };
        let read: ClockData = caller.get_vm(GET_CLOCK)?;
        check_eq!(read, ClockData {
            clock: 0, flags: 0xe, realtime: host.wall_clock(), host_tsc: host.tsc(), ..ClockData::default()
        });
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, CLOCK | 1).is_ok());
        check_eq!(shown(), Ok(0));
        let set = |clock, flags, realtime| caller.set_vm(SET_CLOCK, &ClockData { clock, flags, realtime, ..ClockData::default() });
        check_eq!(set(5000, 0, 0), Ok(0));
        check_eq!(caller.get_vm::<ClockData>(GET_CLOCK)?.clock, 5000);
        vcpu.settle();
        check_eq!(shown(), Ok(5000));
        // Read a second ago, and in a second.
        check_eq!(set(7000, 4, host.wall_clock() - 1_000_000_000), Ok(0));
        check_eq!(caller.get_vm::<ClockData>(GET_CLOCK)?.clock, 1_000_007_000);
        check_eq!(set(7000, 0xe, host.wall_clock() + 1_000_000_000), Ok(0));
        check_eq!(caller.get_vm::<ClockData>(GET_CLOCK)?.clock, 7000);
        for flags in [1, 0x10, 0x8000_0000] {
            check_eq!(set(1, flags, 0), Err(Errno::EINVAL));
        }
        check_eq!(set(u64::MAX, 4, 0), Ok(0));
    }

    fn ticks_that_were_missed_come_later_or_not() {
        let control = |pit_reinject| ReinjectControl { pit_reinject, ..ReinjectControl::default() };
        // At first, and as it is asked for.
        for (asked, come) in [(None, 4), (Some(1), 4), (Some(0), 1)] {
            let (caller, mut vcpu) = Caller::with_vcpu()?;
            enable_apic(&mut vcpu)?;
            if let Some(asked) = asked {
                check_eq!(caller.set_vm(REINJECT_CONTROL, &control(asked)), Ok(0));
            }
            let machine = caller.fixture.vm.arch().machine();
            // Not the 8259s' line 0, but the I/O APIC's pin 2, and a tick each millisecond.
            machine.with_chips(|chips, now| ((), chips.write_port(0x21, 1, now)));
            for (offset, value) in [(0, 0x14_u32), (0x10, 0x42)] {
                machine.with_chips(|chips, _| ((), chips.write_mmio(offset, &value.to_le_bytes())));
            }
            for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 4)] {
                machine.with_chips(|chips, now| ((), chips.write_port(port, value, now)));
            }
            // Late by three.
            machine.with_chips(|chips, now| ((), chips.advance(now + 4_500_000)));
            engine(&mut vcpu).set_rflags(rflags::FIXED | rflags::IF);
            for _ in 0..6 {
                // The guest ends it: WRMSR of the x2APIC's register.
                engine(&mut vcpu).then(|state, _| {
                    (state.gprs[1], state.gprs[0], state.gprs[2]) = (0x80b, 0, 0);
                    Intercept::WriteMsr { len: 2 }
                });
            }
            engine(&mut vcpu).then(out);
            vcpu.run(Answer::None);
            let ticks = engine(&mut vcpu).injected();
            check!(ticks.iter().all(|event| *event == Event::Interrupt { vector: 0x42 }), "{ticks:?}");
            check_eq!(ticks.len(), come, "{asked:?}");
        }
        let caller = Caller::new()?;
        check_eq!(caller.vm(REINJECT_CONTROL, BAD), Err(Errno::EFAULT));
        check_eq!(caller.vm(CHECK_EXTENSION, cap::REINJECT_CONTROL.into()), Ok(1));
        let caller = Caller::without_chips()?;
        check_eq!(caller.set_vm(REINJECT_CONTROL, &control(0)), Err(Errno::ENXIO));
    }

    fn how_many_shadow_pages_there_may_be_is_kept() {
        let caller = Caller::new()?;
        check_eq!((caller.vm(SET_NR_MMU_PAGES, 63), caller.vm(GET_NR_MMU_PAGES, 0)), (Err(Errno::EINVAL), Ok(0)));
        check_eq!((caller.vm(SET_NR_MMU_PAGES, 64), caller.vm(GET_NR_MMU_PAGES, 0)), (Ok(0), Ok(64)));
    }
}
