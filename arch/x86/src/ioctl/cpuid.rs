//! KVM_GET_CPUID2, KVM_SET_CPUID2: what CPUID answers.
//!
//! What is offered is the VMM's to choose; that it chooses of what KVM_GET_SUPPORTED_CPUID tells is not checked, as in Linux.
//! Of several answers to one question the last counts.
//!
//! Deviations: the table may be changed after the vCPU has run; flags other than of a significant index, and an index without
//! that flag, are not kept.
//!
//! See: api.rst 4.20 (`KVM_SET_CPUID`); Linux, arch/x86/kvm/cpuid.c, `kvm_vcpu_ioctl_set_cpuid2`.

use abi::cpuid::{CpuidEntry, CpuidHeader, FLAG_SIGNIFICANT_INDEX};
use abi::encoding::Encoded;
use virt::Errno;
use virt::host::Host;
use virt::ioctl::{Argument, zeroed};

use crate::cpuid::Table;
use crate::engine::Engine;
use crate::vcpu::Vcpu;

#[inline(never)]
pub(super) fn get<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let header: CpuidHeader = argument.read()?;
    let entries = vcpu.cpuid().entries();
    if (header.nent as usize) < entries.len() {
        return Err(Errno::E2BIG);
    }
    let mut bytes = zeroed(entries.len() * CpuidEntry::SIZE)?;
    for (to, from) in bytes.chunks_exact_mut(CpuidEntry::SIZE).zip(entries) {
        let [eax, ebx, ecx, edx] = from.leaf;
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
    check(&table)?;
    vcpu.set_cpuid(table);
    Ok(0)
}

/// A linear address has 48 or 57 bits, if its width is told at all.
fn check(table: &Table) -> Result<(), Errno> {
    let widths = table.get(0x8000_0008, 0).unwrap_or_default()[0];
    if matches!(widths >> 8 & 0xff, 0 | 48 | 57) { Ok(()) } else { Err(Errno::EINVAL) }
}
