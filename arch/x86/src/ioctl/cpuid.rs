//! KVM_GET_CPUID2, KVM_SET_CPUID2, and the device's KVM_GET_SUPPORTED_CPUID and KVM_GET_EMULATED_CPUID: what CPUID answers, and what
//! it can.
//!
//! What is offered is the VMM's to choose; that it chooses of what KVM_GET_SUPPORTED_CPUID tells is not checked, as in Linux. But what the
//! engine lacks is taken out of it.
//! Of several answers to one question the last counts.
//!
//! Deviations: flags other than of a significant index, and an index without
//! that flag, are not kept.
//!
//! What can be had is the policy's table for one vCPU, but for the local APIC's timer by the TSC, of which KVM_CAP_TSC_DEADLINE_TIMER
//! tells, and for the frequencies behind KVM's own leaves, which a VMM adds that wants them. Nothing is emulated that is not offered there.
//!
//! See: api.rst 4.20 (`KVM_SET_CPUID`), 4.46 (`KVM_GET_SUPPORTED_CPUID`), 4.88 (`KVM_GET_EMULATED_CPUID`); Linux, arch/x86/kvm/cpuid.c, `kvm_vcpu_ioctl_set_cpuid2`.

use abi::cpuid::{CpuidEntry, CpuidHeader, FLAG_SIGNIFICANT_INDEX};
use abi::encoding::Encoded;
use virt::Errno;
use virt::host::Host;
use virt::ioctl::{Argument, zeroed};

use super::system::System;
use crate::cpuid::{Entry, Leaf, Table, default_table};
use crate::engine::Engine;
use crate::vcpu::Vcpu;

/// In leaf 1's ECX: the local APIC's timer has that mode.
const TSC_DEADLINE: u32 = 1 << 24;
/// What XSAVE and its kin save.
const XSAVE: u32 = 0xd;
/// KVM's leaves: how many there are, what KVM has, and frequencies.
const KVM_SIGNATURE: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = 0x4000_0001;
const KVM_FREQUENCIES: u32 = 0x4000_0010;

#[inline(never)]
pub(super) fn get<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let current =
        |entry: &Entry| vcpu.current_leaf(entry.function, entry.index.unwrap_or(0), entry.leaf);
    write_table(argument, vcpu.cpuid(), current)
}

/// What one vCPU alone would answer, if it were up to the policy.
fn offered<H: Host>(system: &System<H>) -> Result<Table, Errno> {
    let khz = system.host.tsc_khz();
    let mut table = default_table(&system.hardware, system.instructions, 0, 1, khz)?;
    table.withhold(&system.lacks);
    Ok(table)
}

/// The components of XSAVE that a vCPU can be told to have, as XCR0 has them. See: AMD APM vol. 3, E.4.9.
pub(super) fn xsave_components<H: Host>(system: &System<H>) -> Result<u64, Errno> {
    let [low, _, _, high] = offered(system)?.get(XSAVE, 0).unwrap_or_default();
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// What a vCPU can be told to answer.
#[inline(never)]
pub(super) fn supported<H: Host>(system: &System<H>, argument: &Argument<H>) -> Result<u32, Errno> {
    let mut table = offered(system)?;
    if let Some([eax, ebx, ecx, edx]) = table.get(1, 0) {
        table.set(1, None, [eax, ebx, ecx & !TSC_DEADLINE, edx])?;
    }
    if let Some([_, ebx, ecx, edx]) = table.get(KVM_SIGNATURE, 0) {
        table.set(KVM_SIGNATURE, None, [KVM_FEATURES, ebx, ecx, edx])?;
        table.remove(KVM_FREQUENCIES);
    }
    write_table(argument, &table, |entry| entry.leaf)
}

/// What it could be told to beyond that. As in Linux the padding of each entry that there is room for has to be zero.
pub(super) fn emulated<H: Host>(argument: &Argument<H>) -> Result<u32, Errno> {
    let header: CpuidHeader = argument.read()?;
    let count = (header.nent as usize).min(Table::MAX);
    if count == 0 {
        return Err(Errno::E2BIG);
    }
    let bytes = match argument.bytes(CpuidHeader::SIZE, count * CpuidEntry::SIZE) {
        Err(Errno::EFAULT) => return Err(Errno::EINVAL),
        other => other?,
    };
    let mut entries = bytes.chunks_exact(CpuidEntry::SIZE).map(CpuidEntry::decode);
    if entries.any(|entry| entry.padding != [0; 3]) {
        return Err(Errno::EINVAL);
    }
    write_table(argument, &Table::default(), |entry| entry.leaf)
}

/// Gives all answers, which `leaf` says, if there is room for as many.
fn write_table<H: Host>(
    argument: &Argument<H>,
    table: &Table,
    leaf: impl Fn(&Entry) -> Leaf,
) -> Result<u32, Errno> {
    let header: CpuidHeader = argument.read()?;
    let entries = table.entries();
    if (header.nent as usize) < entries.len() {
        return Err(Errno::E2BIG);
    }
    let mut bytes = zeroed(entries.len() * CpuidEntry::SIZE)?;
    for (to, from) in bytes.chunks_exact_mut(CpuidEntry::SIZE).zip(entries) {
        let [eax, ebx, ecx, edx] = leaf(from);
        let index = from.index.unwrap_or(0);
        let flags = if from.index.is_some() { FLAG_SIGNIFICANT_INDEX } else { 0 };
        let function = from.function;
        CpuidEntry { function, index, flags, eax, ebx, ecx, edx, padding: [0; 3] }.encode(to);
    }
    argument.put(CpuidHeader::SIZE, &bytes)?;
    argument.write(&CpuidHeader { nent: entries.len() as u32, ..header })?;
    Ok(0)
}

#[inline(never)]
pub(super) fn set<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let header: CpuidHeader = argument.read()?;
    let count = header.nent as usize;
    if count > Table::MAX {
        return Err(Errno::E2BIG);
    }
    let bytes = argument.bytes(CpuidHeader::SIZE, count * CpuidEntry::SIZE)?;
    let mut table = Table::default();
    for entry in bytes.chunks_exact(CpuidEntry::SIZE).map(CpuidEntry::decode) {
        let index = (entry.flags & FLAG_SIGNIFICANT_INDEX != 0).then_some(entry.index);
        let leaf = [entry.eax, entry.ebx, entry.ecx, entry.edx];
        table.set(entry.function, index, leaf)?;
    }
    // As it will be kept: so is the one that it is compared with.
    vcpu.withhold(&mut table);
    // What has run stays what it is: the same is no change.
    if vcpu.has_run() {
        return if is_same(vcpu, &table) { Ok(0) } else { Err(Errno::EINVAL) };
    }
    check(&table)?;
    vcpu.set_cpuid(table);
    Ok(0)
}

/// Whether a table answers as the vCPU's does: what depends on its state may be there as it was told.
fn is_same<E: Engine, H: Host>(vcpu: &Vcpu<E, H>, table: &Table) -> bool {
    let (old, new) = (vcpu.cpuid().entries(), table.entries());
    let current = |entry: &Entry| {
        let leaf = vcpu.current_leaf(entry.function, entry.index.unwrap_or(0), entry.leaf);
        (entry.function, entry.index, leaf)
    };
    old.len() == new.len() && old.iter().zip(new).all(|(old, new)| current(old) == current(new))
}

/// A linear address has 48 or 57 bits, if its width is told at all.
fn check(table: &Table) -> Result<(), Errno> {
    let widths = table.get(0x8000_0008, 0).unwrap_or_default()[0];
    if matches!(widths >> 8 & 0xff, 0 | 48 | 57) { Ok(()) } else { Err(Errno::EINVAL) }
}
