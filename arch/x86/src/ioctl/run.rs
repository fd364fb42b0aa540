//! KVM_RUN: exits and their answers, through the memory that a vCPU shares with its caller.
//!
//! That memory ([`Mapping`]) begins with `struct kvm_run`; the page behind it has the bytes of port accesses. The caller
//! writes it at any time, so what counts is read once, and what is asked of it is known here: nothing of what it says of the last exit is
//! believed but the answer. It needs be the thread that made the vCPU's other calls.
//!
//! A write that may wait is put into the ring behind that, and the vCPU goes on ([`virt::coalesced`]).
//!
//! What ends a run from outside is [`request::EXIT`](crate::vcpu::inbox::request::EXIT), which who has the descriptor posts, for a
//! signal: EINTR.
//!
//! Deviations: of several accesses of a string to a port one exit has what fits into eight bytes; after a triple fault the vCPU
//! stays shut down. Not implemented: the exits of capabilities that are not offered.
//!
//! See: api.rst 4.10 (`KVM_RUN`), 5; Linux, arch/x86/kvm/x86.c, `kvm_arch_vcpu_ioctl_run`, `post_kvm_run_save`.

use core::mem::offset_of;

use abi::debug::DebugExit;
use abi::encoding::Encoded;
use abi::exit;
use abi::run::{Details, InternalError, Io, Mmio, Msr, Run, TprAccess};
use virt::Errno;
use virt::coalesced::Zone;
use virt::host::Host;
use virt::ioctl::{Mapping, put_into_ring};
use virt::memory::PAGE;

use super::sync_regs;
use crate::emulate::debug::{dr6, dr7};
use crate::engine::Engine;
use crate::exception;
use crate::guest_debug::DebugCause;
use crate::msr_policy::MsrReason;
use crate::regs::{Regs, rflags};
use crate::vcpu::{Answer, Awaited, Data, Exit, Vcpu};

/// Where the bytes of port accesses are.
const PORT_DATA: usize = PAGE as usize;
/// Where an exit's details are.
const DETAILS: usize = offset_of!(Run, exit);
/// How many bytes the details of an exit have, but for those of an error.
const SHORT: usize = 32;
/// In the details of an instruction that could not be emulated: its bytes are there.
const INSTRUCTION_BYTES: u64 = 1 << 0;

/// What is at an offset.
pub(super) fn load<T: Encoded>(mapping: &impl Mapping, offset: usize) -> T {
    let mut bytes = [0; 8];
    if let Some(part) = bytes.get_mut(..T::SIZE) {
        mapping.load(offset, part);
    }
    T::decode(&bytes)
}

/// Puts a number there.
pub(super) fn store<T: Encoded>(mapping: &impl Mapping, offset: usize, value: T) {
    let mut bytes = [0; 8];
    value.encode(&mut bytes);
    if let Some(part) = bytes.get(..T::SIZE) {
        mapping.store(offset, part);
    }
}

/// Runs a vCPU until it comes out, after completing what waited for an answer. Gives what `ioctl` returns. Process context, on the
/// vCPU's thread.
///
/// # Errors
/// `EINTR` if it was asked to come out; `EINVAL` for an argument, for registers to be shared that there are none of, and
/// for such as cannot be set; `EFAULT` if memory of the guest's is not mapped; and what the host lacks.
pub fn run<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: u64,
    mapping: &impl Mapping,
) -> Result<u32, Errno> {
    if argument != 0 {
        return Err(Errno::EINVAL);
    }
    let shared = sync_regs::take(vcpu, mapping)?;
    if !vcpu.setup().has_local_apics() {
        let cr8: u64 = load(mapping, offset_of!(Run, cr8));
        if cr8 > 15 {
            return Err(Errno::EINVAL);
        }
        vcpu.set_cr8(cr8);
    }
    let window: u8 = load(mapping, offset_of!(Run, request_interrupt_window));
    // Where the 8259s are here, interrupts are not the caller's to inject.
    vcpu.ask_for_window(window != 0 && !vcpu.setup().has_shared_chips());
    let immediate: u8 = load(mapping, offset_of!(Run, immediate_exit));
    let answer = answer(vcpu.awaits(), mapping);
    let done =
        if immediate != 0 { finish(vcpu, answer, mapping) } else { go_on(vcpu, answer, mapping) };
    if shared != 0 {
        sync_regs::give(vcpu, shared, mapping)?;
    }
    tell_state(vcpu, mapping);
    done.map(|()| 0)
}

fn go_on<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    answer: Answer,
    mapping: &impl Mapping,
) -> Result<(), Errno> {
    let mut exit = vcpu.run(answer);
    loop {
        match wait_in_ring(vcpu, exit, mapping) {
            None => {}
            // One that only an NMI or INIT can wake is no exit where they come from here.
            Some(Exit::Halted) if vcpu.setup().has_local_apics() => {}
            Some(exit) => return tell(vcpu, exit, mapping),
        }
        exit = vcpu.run(Answer::None);
    }
}

/// Completes the last exit, and runs nothing else.
fn finish<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    answer: Answer,
    mapping: &impl Mapping,
) -> Result<(), Errno> {
    let mut next = vcpu.finish(answer);
    while let Some(exit) = next {
        if let Some(exit) = wait_in_ring(vcpu, exit, mapping) {
            return tell(vcpu, exit, mapping);
        }
        next = vcpu.finish(Answer::None);
    }
    Err(Errno::EINTR)
}

/// Has writes that may wait do so. Gives an exit that is left for the caller: another one, or what there was no room for.
fn wait_in_ring<E: Engine, H: Host>(
    vcpu: &Vcpu<E, H>,
    exit: Exit,
    mapping: &impl Mapping,
) -> Option<Exit> {
    let waits = |first, ports, bytes: &[u8]| {
        let write = Zone { ports, first, size: bytes.len() as u64 };
        vcpu.coalesced().keep(&write, || put_into_ring(mapping, first, ports, bytes))
    };
    match exit {
        Exit::MmioWrite { gpa, data } if waits(gpa, false, data.as_slice()) => None,
        Exit::Out { port, size, data } => {
            let elements = data.as_slice().chunks(usize::from(size.max(1)));
            let waiting = elements.take_while(|element| waits(port.into(), true, element));
            let done: usize = waiting.map(<[u8]>::len).sum();
            let left = data.as_slice().get(done..).filter(|left| !left.is_empty())?;
            Some(Exit::Out { port, size, data: Data::new(left) })
        }
        other => Some(other),
    }
}

/// The caller's answer to the last exit.
fn answer(awaited: Awaited, mapping: &impl Mapping) -> Answer {
    let details = || {
        let mut details = Details::<SHORT>::new();
        mapping.load(DETAILS, &mut details.0);
        details
    };
    match awaited {
        Awaited::Nothing => Answer::None,
        Awaited::Port { bytes } => {
            let mut data = Data::zeroed(bytes.into());
            mapping.load(PORT_DATA, data.as_mut_slice());
            Answer::Data(data)
        }
        Awaited::Memory { size } => {
            let data = details().mmio().data;
            Answer::Data(Data::new(data.get(..usize::from(size)).unwrap_or(&data)))
        }
        Awaited::ReadMsr | Awaited::WriteMsr => {
            let msr = details().msr();
            if msr.error != 0 {
                Answer::Refused
            } else {
                Answer::Data(Data::new(&msr.data.to_le_bytes()))
            }
        }
    }
}

/// Tells the caller why the vCPU came out.
#[inline(never)]
fn tell<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    exit: Exit,
    mapping: &impl Mapping,
) -> Result<(), Errno> {
    vcpu.statistics().came_out_to_vmm(&exit);
    let mut details = Details::<SHORT>::new();
    let reason = match exit {
        Exit::Interrupted => {
            store(mapping, offset_of!(Run, exit_reason), exit::INTR);
            return Err(Errno::EINTR);
        }
        Exit::BadMemory { gpa } if vcpu.has_slot(gpa) => return Err(Errno::EFAULT),
        // Page tables, say, where there is no memory at all: nothing can be emulated with that.
        Exit::BadMemory { .. } => return tell_error(&not_emulated(&[0; 15], 0), mapping),
        Exit::Failed(errno) => return Err(errno),
        Exit::In { port, size, count } => {
            port_access(&mut details, exit::IO_IN, port, size, count.into())
        }
        Exit::Out { port, size, data } => {
            let bytes = data.as_slice();
            mapping.store(PORT_DATA, bytes);
            let count = bytes.len() / usize::from(size.max(1));
            port_access(&mut details, exit::IO_OUT, port, size, count as u32)
        }
        Exit::MmioRead { gpa, size } => memory_access(&mut details, gpa, size, None),
        Exit::MmioWrite { gpa, data } => {
            memory_access(&mut details, gpa, data.as_slice().len() as u8, Some(data.word()))
        }
        Exit::Halted => exit::HLT,
        Exit::EndOfInterrupt { vector } => {
            details.set_eoi_vector(vector);
            exit::IOAPIC_EOI
        }
        Exit::TaskPriority { rip, is_write } => {
            details.set_tpr_access(&TprAccess { rip, is_write });
            exit::TPR_ACCESS
        }
        Exit::TaskPriorityLowered => exit::SET_TPR,
        Exit::InterruptWindow => exit::IRQ_WINDOW_OPEN,
        Exit::ReadMsr { number, reason } => {
            details.set_msr(&Msr { error: 0, reason: why(reason), index: number, data: 0 });
            exit::X86_RDMSR
        }
        Exit::WriteMsr { number, value, reason } => {
            details.set_msr(&Msr { error: 0, reason: why(reason), index: number, data: value });
            exit::X86_WRMSR
        }
        Exit::Shutdown => exit::SHUTDOWN,
        Exit::EntryRefused { reason, processor } => {
            details.set_entry_failure(reason, processor);
            exit::FAIL_ENTRY
        }
        Exit::DirtyRingFull => exit::DIRTY_RING_FULL,
        Exit::Debug { cause, address } => {
            details.set_debug(&debugged(cause, address, vcpu.debug_control()));
            exit::DEBUG
        }
        Exit::Unsupported { bytes, len } => {
            return tell_error(&not_emulated(&bytes, len), mapping);
        }
    };
    mapping.store(DETAILS, &details.0);
    store(mapping, offset_of!(Run, exit_reason), reason);
    Ok(())
}

#[cold]
fn tell_error(error: &InternalError, mapping: &impl Mapping) -> Result<(), Errno> {
    let mut details: Details = Details::new();
    details.set_internal_error(error);
    mapping.store(DETAILS, &details.0);
    store(mapping, offset_of!(Run, exit_reason), exit::INTERNAL_ERROR);
    Ok(())
}

fn port_access(
    details: &mut Details<SHORT>,
    direction: u8,
    port: u16,
    size: u8,
    count: u32,
) -> u32 {
    details.set_io(&Io { direction, size, port, count, data_offset: PORT_DATA as u64 });
    exit::IO
}

fn memory_access(details: &mut Details<SHORT>, gpa: u64, size: u8, written: Option<u64>) -> u32 {
    let data = written.unwrap_or(0).to_le_bytes();
    let is_write = written.is_some();
    details.set_mmio(&Mmio { phys_addr: gpa, data, len: size.into(), is_write });
    exit::MMIO
}

/// The reason of an access to a register, as KVM numbers it.
const fn why(reason: MsrReason) -> u32 {
    match reason {
        MsrReason::Invalid => abi::msr::EXIT_REASON_INVAL,
        MsrReason::Unknown => abi::msr::EXIT_REASON_UNKNOWN,
        MsrReason::Filtered => abi::msr::EXIT_REASON_FILTER,
    }
}

fn debugged(cause: DebugCause, pc: u64, control: u64) -> DebugExit {
    let (exception, met) = match cause {
        DebugCause::SoftwareBreakpoint => (exception::BP, 0),
        DebugCause::RegisterAccess => (exception::DB, dr6::BD),
        DebugCause::Exception { stepped, breakpoints } => {
            (exception::DB, u64::from(breakpoints) | if stepped { dr6::BS } else { 0 })
        }
    };
    let exception = exception.into();
    DebugExit { exception, pad: 0, pc, dr6: met | dr6::FIXED, dr7: control | dr7::FIXED }
}

/// An instruction that there are no semantics of: flags, and its length and bytes if they are known.
fn not_emulated(bytes: &[u8; 15], len: u8) -> InternalError {
    let mut data = [0; 16];
    if len != 0 {
        let mut packed = [0; 16];
        packed[0] = len;
        packed[1..].copy_from_slice(bytes);
        data[0] = INSTRUCTION_BYTES;
        data[1] = u64::decode(&packed);
        data[2] = u64::decode(&packed[8..]);
    }
    let ndata = if len != 0 { 3 } else { 1 };
    InternalError { suberror: exit::INTERNAL_ERROR_EMULATION, ndata, data }
}

/// Tells the caller what it may want to know of a vCPU that came out, for whatever reason.
fn tell_state<E: Engine, H: Host>(vcpu: &mut Vcpu<E, H>, mapping: &impl Mapping) {
    let on = vcpu.engine().rflags() & rflags::IF != 0;
    let ready = vcpu.setup().has_shared_chips() || vcpu.is_open();
    store(mapping, offset_of!(Run, if_flag), u8::from(on));
    store(mapping, offset_of!(Run, ready_for_interrupt_injection), u8::from(ready));
    store(mapping, offset_of!(Run, flags), 0_u16);
    store(mapping, offset_of!(Run, cr8), vcpu.lapic().cr8());
    store(mapping, offset_of!(Run, apic_base), vcpu.lapic().base());
}
