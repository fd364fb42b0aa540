//! KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_NMI, KVM_INTERRUPT: what is on its way
//! to a vCPU, and whether it runs.
//!
//! To Linux an exception is pending until an entry tries to deliver it, and injected from then on. Here it is one event to be
//! injected. A VMM sees it as the second, with its payload where it goes: in CR2 or DR6. As long as it has not asked for
//! KVM_CAP_EXCEPTION_PAYLOAD that is so in Linux, too; then it may set the first, with a payload. An INT n
//! that is on its way has RIP still at it: it is executed again.
//!
//! Deviations: a vCPU that waits for start-up is told as having had INIT, whether or not it had; one that has
//! shut down, as running. Of several NMIs that wait one is kept. There is no system management mode: what says that there is is
//! refused.
//!
//! See: api.rst 4.31, 4.32 (events), 4.38, 4.39 (`mp_state`), 4.16 (`KVM_INTERRUPT`), 4.64 (`KVM_NMI`).

use abi::events::{
    self, Events, Exception as AbiException, Interrupt, MP_STATE_HALTED, MP_STATE_INIT_RECEIVED,
    MP_STATE_RUNNABLE, MP_STATE_SIPI_RECEIVED, MP_STATE_UNINITIALIZED, MpState, Nmi, TripleFault,
};
use virt::Errno;
use virt::host::Host;
use virt::ioctl::Argument;

use crate::engine::{Engine, Event};
use crate::exception::{self, Exception};
use crate::regs::Regs;
use crate::setup::Setup;
use crate::vcpu::{Activity, Pending, Vcpu};

/// What a set may say that it counts.
const FLAGS: u32 = events::VALID_NMI_PENDING
    | events::VALID_SIPI_VECTOR
    | events::VALID_SHADOW
    | events::VALID_SMM
    | events::VALID_PAYLOAD
    | events::VALID_TRIPLE_FAULT;

#[inline(never)]
pub(super) fn get<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    argument.write(&read(vcpu))?;
    Ok(0)
}

pub(super) fn read<E: Engine, H: Host>(vcpu: &mut Vcpu<E, H>) -> Events {
    let pending = vcpu.pending();
    let setup = vcpu.setup();
    let (tells_payload, tells_triple_fault) = (setup.tells_payload(), setup.tells_triple_fault());
    let regs = vcpu.engine();
    let mut flags = events::VALID_NMI_PENDING | events::VALID_SHADOW | events::VALID_SMM;
    let mut triple_fault = TripleFault::default();
    if tells_payload {
        flags |= events::VALID_PAYLOAD;
    }
    if tells_triple_fault {
        flags |= events::VALID_TRIPLE_FAULT;
        triple_fault.pending = pending.triple_fault.into();
    }
    let vector = interrupt(pending.event, pending.interrupt);
    let shadow = if regs.interrupt_shadow() {
        events::SHADOW_INT_MOV_SS | events::SHADOW_INT_STI
    } else {
        0
    };
    let exception = match pending.event {
        Some(Event::Exception(exception)) => AbiException {
            injected: 1,
            nr: exception.vector,
            has_error_code: exception.error.is_some().into(),
            pending: 0,
            error_code: exception.error.unwrap_or(0),
        },
        _ => AbiException::default(),
    };
    Events {
        exception,
        interrupt: Interrupt {
            injected: vector.is_some().into(),
            nr: vector.unwrap_or(0),
            soft: 0,
            shadow,
        },
        nmi: Nmi {
            injected: (pending.event == Some(Event::Nmi)).into(),
            pending: pending.nmi.into(),
            masked: regs.nmi_blocked().into(),
            pad: 0,
        },
        flags,
        triple_fault,
        ..Events::default()
    }
}

/// The external interrupt that is on its way.
pub(super) fn interrupt(event: Option<Event>, waiting: Option<u8>) -> Option<u8> {
    match event {
        Some(Event::Interrupt { vector }) => Some(vector),
        _ => waiting,
    }
}

#[inline(never)]
pub(super) fn set<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    apply(vcpu, &argument.read()?)?;
    Ok(0)
}

/// Sets what is pending, if it can be.
#[inline(never)]
pub(super) fn apply<E: Engine, H: Host>(vcpu: &mut Vcpu<E, H>, from: &Events) -> Result<(), Errno> {
    let has = |flag| from.flags & flag != 0;
    let exception = exception_of(from);
    check(from, exception.is_some(), vcpu.setup())?;
    let (nmi, triple_fault) = (vcpu.nmi_waits(), vcpu.triple_fault_waits());
    let mut to = Pending { nmi, triple_fault, ..Pending::default() };
    if has(events::VALID_TRIPLE_FAULT) {
        to.triple_fault = from.triple_fault.pending != 0;
    }
    if has(events::VALID_NMI_PENDING) {
        to.nmi = from.nmi.pending != 0;
    }
    if exception.is_some() {
        let error = (from.exception.has_error_code != 0).then_some(from.exception.error_code);
        let vector = from.exception.nr;
        to.event = Some(Event::Exception(Exception { vector, error, payload: 0 }));
        // One event is injected at a time.
        to.nmi |= from.nmi.injected != 0;
    } else if from.nmi.injected != 0 {
        to.event = Some(Event::Nmi);
    }
    if from.interrupt.injected != 0 && from.interrupt.soft == 0 {
        to.interrupt = Some(from.interrupt.nr);
    }
    vcpu.set_pending(to);
    if let Some(Some(payload)) = exception {
        vcpu.set_pending_payload(payload);
    }
    let regs = vcpu.engine_mut();
    regs.set_nmi_blocked(from.nmi.masked != 0);
    if has(events::VALID_SHADOW) {
        regs.set_interrupt_shadow(from.interrupt.shadow != 0);
    }
    if has(events::VALID_SIPI_VECTOR) {
        vcpu.set_startup_vector(from.sipi_vector as u8);
    }
    if has(events::VALID_SMM) && from.smi.latched_init != 0 {
        vcpu.send_init();
    }
    Ok(())
}

/// Whether there is an exception, and what is to go into CR2 or DR6 for it that is not there yet.
fn exception_of(from: &Events) -> Option<Option<u64>> {
    let counts = from.flags & events::VALID_PAYLOAD != 0;
    if counts && from.exception.pending != 0 {
        return Some((from.exception_has_payload != 0).then_some(from.exception_payload));
    }
    (from.exception.injected != 0).then_some(None)
}

/// What Linux refuses, and what there is none of.
fn check(from: &Events, has_exception: bool, setup: &Setup) -> Result<(), Errno> {
    let exception = &from.exception;
    let no_exception = exception.nr > 31 || exception.nr == exception::NMI;
    let has = |flag| from.flags & flag != 0;
    let untold = has(events::VALID_PAYLOAD) && !setup.tells_payload()
        || has(events::VALID_TRIPLE_FAULT) && !setup.tells_triple_fault();
    let smi = &from.smi;
    let smm =
        from.flags & events::VALID_SMM != 0 && smi.smm | smi.pending | smi.smm_inside_nmi != 0;
    if from.flags & !FLAGS != 0 || has_exception && no_exception || smm || untold {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

#[inline(never)]
pub(super) fn get_mp_state<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let mp_state = match vcpu.activity() {
        Activity::Running | Activity::Shutdown => MP_STATE_RUNNABLE,
        Activity::Halted => MP_STATE_HALTED,
        Activity::WaitForStartup => MP_STATE_INIT_RECEIVED,
    };
    argument.write(&MpState { mp_state })?;
    Ok(0)
}

#[inline(never)]
pub(super) fn set_mp_state<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let MpState { mp_state } = argument.read()?;
    let activity = match mp_state {
        MP_STATE_RUNNABLE => Activity::Running,
        MP_STATE_HALTED => Activity::Halted,
        MP_STATE_UNINITIALIZED | MP_STATE_INIT_RECEIVED | MP_STATE_SIPI_RECEIVED => {
            Activity::WaitForStartup
        }
        _ => return Err(Errno::EINVAL),
    };
    if mp_state != MP_STATE_RUNNABLE && !vcpu.setup().has_local_apics() {
        return Err(Errno::EINVAL);
    }
    vcpu.set_activity(activity);
    if mp_state == MP_STATE_SIPI_RECEIVED {
        vcpu.start();
    }
    Ok(0)
}

pub(super) fn nmi<E: Engine, H: Host>(vcpu: &Vcpu<E, H>) -> u32 {
    vcpu.nmi();
    0
}

/// A vector of the VMM's 8259s, if those are not here: it is injected as soon as interrupts are on.
pub(super) fn queue_interrupt<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let abi::irq::Interrupt { irq } = argument.read()?;
    let vector = u8::try_from(irq).map_err(|_| Errno::EINVAL)?;
    if vcpu.setup().has_shared_chips() {
        return Err(Errno::ENXIO);
    }
    // Beside local APICs a second one would take the place of the first.
    if vcpu.setup().has_local_apics() && vcpu.pending().interrupt.is_some() {
        return Err(Errno::EEXIST);
    }
    vcpu.set_pending_interrupt(vector);
    Ok(0)
}
