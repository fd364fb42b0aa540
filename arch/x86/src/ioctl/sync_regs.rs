//! KVM_CAP_SYNC_REGS: registers in the memory that a vCPU shares with its caller, taken before a run and given after it.
//!
//! They are what KVM_SET_REGS, KVM_SET_SREGS and KVM_SET_VCPU_EVENTS would set, and are refused for the same reasons.
//!
//! See: api.rst 6.32 (`KVM_CAP_SYNC_REGS`).

use core::mem::offset_of;

use abi::encoding::Encoded;
use abi::events::Events;
use abi::regs::{Regs, Sregs};
use abi::run::{Run, SYNC_EVENTS, SYNC_REGS, SYNC_SREGS, SYNC_VALID};
use alloc::vec::Vec;
use virt::Errno;
use virt::host::Host;
use virt::ioctl::zeroed;

use super::Mapping;
use super::run::{load, store};
use super::{events, regs, sregs};
use crate::engine::Engine;
use crate::vcpu::Vcpu;

const REGS: usize = offset_of!(Run, sync_regs);
const SREGS: usize = REGS + Regs::SIZE;
const EVENTS: usize = SREGS + Sregs::SIZE;

/// Sets what the caller has changed; gives which registers it wants to be given.
pub(super) fn take<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    mapping: &impl Mapping,
) -> Result<u64, Errno> {
    let wanted: u64 = load(mapping, offset_of!(Run, kvm_valid_regs));
    let changed: u64 = load(mapping, offset_of!(Run, kvm_dirty_regs));
    if (wanted | changed) & !SYNC_VALID != 0 {
        return Err(Errno::EINVAL);
    }
    if changed & SYNC_REGS != 0 {
        regs::apply(vcpu, &Regs::decode(&bytes(mapping, REGS, Regs::SIZE)?));
    }
    if changed & SYNC_SREGS != 0 {
        sregs::set_all(vcpu, &Sregs::decode(&bytes(mapping, SREGS, Sregs::SIZE)?))?;
    }
    if changed & SYNC_EVENTS != 0 {
        events::apply(vcpu, &Events::decode(&bytes(mapping, EVENTS, Events::SIZE)?))?;
    }
    if changed != 0 {
        store(mapping, offset_of!(Run, kvm_dirty_regs), 0_u64);
    }
    Ok(wanted)
}

/// Gives the registers that are wanted.
#[inline(never)]
pub(super) fn give<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    wanted: u64,
    mapping: &impl Mapping,
) -> Result<(), Errno> {
    if wanted & SYNC_REGS != 0 {
        put(mapping, REGS, &regs::read(vcpu))?;
    }
    if wanted & SYNC_SREGS != 0 {
        put(mapping, SREGS, &sregs::read(vcpu))?;
    }
    if wanted & SYNC_EVENTS != 0 {
        put(mapping, EVENTS, &events::read(vcpu))?;
    }
    Ok(())
}

fn bytes(mapping: &impl Mapping, offset: usize, size: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = zeroed(size)?;
    mapping.load(offset, &mut bytes);
    Ok(bytes)
}

fn put<T: Encoded>(mapping: &impl Mapping, offset: usize, value: &T) -> Result<(), Errno> {
    let mut bytes = zeroed(T::SIZE)?;
    value.encode(&mut bytes);
    mapping.store(offset, &bytes);
    Ok(())
}
