//! KVM_CREATE_PIT2, KVM_GET_PIT2, KVM_SET_PIT2, KVM_REINJECT_CONTROL: the 8254.
//!
//! A counter begins anew from its count when it is set, as in Linux. Deviation: that the HPET has taken the timer's line
//! (KVM_PIT_FLAGS_HPET_LEGACY) is not known, and told as not so.
//!
//! See: api.rst 4.71 (`KVM_CREATE_PIT2`), 4.72, 4.73; Linux, arch/x86/kvm/x86.c, `kvm_vm_ioctl_set_pit2`.

use abi::irqchip::{
    PIT_FLAGS_SPEAKER_DATA_ON, PIT_SPEAKER_DUMMY, PitChannelState, PitConfig, PitState2,
    ReinjectControl,
};
use virt::host::Host;
use virt::ioctl::Argument;
use virt::{Errno, Vm};

use crate::engine::Engine;
use crate::irqchip::chips::Effects;
use crate::irqchip::i8254::{nanoseconds, ticks};
use crate::irqchip::i8254_counter::{Access, Counter, Mode, Run, Tick};
use crate::machine::{Machine, X86};

/// Which byte of a count comes next.
mod byte {
    pub const LOW: u8 = 1;
    pub const HIGH: u8 = 2;
    /// The low one, of two.
    pub const FIRST: u8 = 3;
    /// The high one, of two.
    pub const SECOND: u8 = 4;
}

/// The mode of a counter that was not programmed.
const NO_MODE: u8 = 0xff;
/// What a count of 0 stands for.
const WHOLE: u32 = 0x1_0000;

pub(super) fn create<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let PitConfig { flags, .. } = argument.read()?;
    vm.arch().create_pit(flags & PIT_SPEAKER_DUMMY != 0)?;
    Ok(0)
}

/// Ticks that come while the last has not ended are to come later, or not at all.
pub(super) fn reinject<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let from: ReinjectControl = argument.read()?;
    let machine = vm.arch().machine();
    if !machine.setup.has_pit() {
        return Err(Errno::ENXIO);
    }
    machine.with_chips(|chips, _| {
        chips.make_up_for_ticks(from.pit_reinject != 0);
        ((), Effects::default())
    });
    Ok(0)
}

#[inline(never)]
pub(super) fn get<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let state = vm.arch().machine().look_at_chips(|chips| {
        let (counters, speaker) = chips.pit().ok_or(Errno::ENXIO)?.state();
        Ok(PitState2 {
            channels: counters.each_ref().map(from_counter),
            flags: if speaker { PIT_FLAGS_SPEAKER_DATA_ON } else { 0 },
            reserved: [0; 9],
        })
    })?;
    argument.write(&state)?;
    Ok(0)
}

#[inline(never)]
pub(super) fn set<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let machine = vm.arch().machine();
    let from = argument.read()?;
    if !machine.setup.has_pit() {
        return Err(Errno::ENXIO);
    }
    restore(machine, &from);
    Ok(0)
}

#[inline(never)]
fn restore<E: Engine, H: Host>(machine: &Machine<E, H>, from: &PitState2) {
    let speaker = from.flags & PIT_FLAGS_SPEAKER_DATA_ON != 0;
    machine.with_chips(|chips, now| {
        let tick = ticks(now);
        let restored = chips.restore(|_, pit, _| {
            if let Some(pit) = pit {
                let counters = from.channels.each_ref().map(|channel| counter(channel, tick));
                pit.set_state(counters, speaker);
            }
        });
        ((), restored)
    });
}

fn from_counter(counter: &Counter) -> PitChannelState {
    let next = |second: bool| match counter.access {
        Access::Low => byte::LOW,
        Access::High => byte::HIGH,
        Access::Both if second => byte::SECOND,
        Access::Both => byte::FIRST,
    };
    let start = counter.run.map_or(0, |run| run.start);
    PitChannelState {
        count: counter.written.unwrap_or(WHOLE),
        latched_count: counter.latched_count.unwrap_or(0),
        count_latched: if counter.latched_count.is_some() { next(counter.read_high) } else { 0 },
        status_latched: counter.latched_status.is_some().into(),
        status: counter.latched_status.unwrap_or(0),
        read_state: next(counter.read_high),
        write_state: next(counter.low.is_some()),
        write_latch: counter.low.unwrap_or(0),
        rw_mode: counter.access as u8,
        mode: if counter.written.is_some() { counter.mode as u8 } else { NO_MODE },
        bcd: counter.bcd.into(),
        gate: counter.gate.into(),
        count_load_time: nanoseconds(start) as i64,
    }
}

/// A counter that counts from the tick after this one on, if it is to.
fn counter(from: &PitChannelState, tick: Tick) -> Counter {
    let gate = from.gate != 0;
    let mode = (from.mode < 6).then(|| Mode::from_bits(from.mode));
    let count = if from.count == 0 { WHOLE } else { from.count };
    let start = tick.saturating_add(1);
    let run = Run { start, count, edges: 0, held: (!gate).then_some(start) };
    let counts = mode.is_some_and(|mode| !mode.is_triggered());
    Counter {
        mode: mode.unwrap_or(Mode::SquareWave),
        access: match from.rw_mode {
            byte::LOW => Access::Low,
            byte::HIGH => Access::High,
            _ => Access::Both,
        },
        bcd: from.bcd != 0,
        gate,
        written: mode.map(|_| count),
        run: counts.then_some(run),
        edges: 0,
        low: (from.write_state == byte::SECOND).then_some(from.write_latch),
        read_high: from.read_state == byte::SECOND,
        latched_count: (from.count_latched != 0).then_some(from.latched_count),
        latched_status: (from.status_latched != 0).then_some(from.status),
    }
}
