//! [`kernel_table`]: the table of a vCPU that Linux's KVM runs.
//!
//! There the kernel says what it supports: all of that is offered, as the host's processor has it. What is the machine's own is
//! put in: the topology and the APIC's ID, and that the local APIC's timer has a deadline, which the kernel tells elsewhere.
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 4.46 (`KVM_GET_SUPPORTED_CPUID`); AMD APM vol. 3, appendix E.

use virt::Errno;

use super::{Leaf, Table, Vendor};

/// Leaves that describe the host's own caches, topology or performance counters, and are put in anew or left out.
const OWN: [u32; 7] = [0xa, 0xb, 0x1f, 0x8000_001d, 0x8000_001e, 0x8000_0026, 0x4000_0010];

/// Makes the table of the vCPU with APIC ID `apic_id` of `cpus`.
///
/// `supported` are the questions that the kernel answers, with an index where that counts, and `leaf` is its answer; with `deadline`
/// its local APIC has a timer of that kind. `tsc_khz` is the guest's TSC frequency.
///
/// # Errors
/// `ENOMEM`, and `EINVAL` if the kernel answers more questions than a table has room for.
pub fn kernel_table(
    supported: impl Iterator<Item = (u32, Option<u32>)>,
    leaf: impl Fn(u32, u32) -> Leaf,
    deadline: bool,
    [apic_id, cpus]: [u32; 2],
    tsc_khz: u32,
) -> Result<Table, Errno> {
    let mut table = Table::default();
    let vendor = Vendor::of(leaf(0, 0));
    for (function, index) in supported {
        if OWN.contains(&function) {
            continue;
        }
        let answer = leaf(function, index.unwrap_or(0));
        // What is not there need not be said.
        if answer != [0; 4] || function & 0x7fff_ffff == 0 {
            table.set(function, index, own(function, answer, deadline, vendor, [apic_id, cpus]))?;
        }
    }
    topology(&mut table, [apic_id, cpus])?;
    if vendor == Vendor::Intel && table.get(0x15, 0).is_none() {
        table.set(0x15, None, [1000, tsc_khz, 1_000_000, 0])?;
    }
    // The frequencies of the TSC and of the APIC's timer, which KVM's is 1 GHz, in kHz; as VMware defined it.
    table.set(0x4000_0010, None, [tsc_khz, 1_000_000, 0, 0])?;
    if let Some([_, rest @ ..]) = table.get(0x4000_0000, 0) {
        table.set(0x4000_0000, None, [0x4000_0010, rest[0], rest[1], rest[2]])?;
    }
    Ok(table)
}

/// An answer with what is the machine's own.
fn own(
    function: u32,
    [eax, ebx, ecx, edx]: Leaf,
    deadline: bool,
    vendor: Vendor,
    [apic_id, cpus]: [u32; 2],
) -> Leaf {
    let several = cpus > 1;
    let others = cpus.saturating_sub(1);
    match function {
        1 => [
            eax,
            ebx & 0xff00 | cpus.min(255) << 16 | (apic_id & 0xff) << 24,
            // The hypervisor itself, and the timer.
            ecx | 1 << 31 | u32::from(deadline) << 24,
            edx & !(1 << 28) | u32::from(several) << 28,
        ],
        // Each processor has its caches for itself, but for the third level.
        4 if eax & 0x1f != 0 => {
            let sharers = if eax >> 5 & 7 >= 3 { others.min(0xfff) } else { 0 };
            let ids = cpus.max(1).next_power_of_two() - 1;
            [eax & 0x3fff | sharers << 14 | ids.min(63) << 26, ebx, ecx, edx]
        }
        // With several cores AMD wants the legacy bit (CmpLegacy), and without the leaves of OWN no extended topology (TOPOEXT).
        0x8000_0001 if vendor == Vendor::Amd => {
            [eax, ebx, ecx & !(1 << 1 | 1 << 22) | u32::from(several) << 1, edx]
        }
        0x8000_0008 => {
            let width = 32 - others.leading_zeros();
            let cores = if vendor == Vendor::Amd { width << 12 | others.min(255) } else { 0 };
            [eax, ebx, cores, edx]
        }
        _ => [eax, ebx, ecx, edx],
    }
}

/// One thread a core, all cores in one package.
fn topology(table: &mut Table, [apic_id, cpus]: [u32; 2]) -> Result<(), Errno> {
    let highest = table.get(0, 0).unwrap_or_default()[0];
    if highest < 0xb {
        return Ok(());
    }
    let width = 32 - cpus.saturating_sub(1).leading_zeros();
    table.set(0xb, Some(0), [0, 1, 1 << 8, apic_id])?;
    table.set(0xb, Some(1), [width, cpus, 2 << 8 | 1, apic_id])?;
    table.set(0xb, Some(2), [0, 0, 2, apic_id])
}
