//! The default CPUID table.
//!
//! Three rules. Instructions that run as themselves are offered when both the
//! engine and the host's processor have them. What the hypervisor or the engine does itself —
//! paging features, x2APIC, TSC deadline, fast strings — is always offered.
//! The vendor, family and model are the host's; the speculation leaks that the guest need
//! not work around are said to be absent, so that a stock kernel runs without retpolines and
//! page-table isolation.
//!
//! See: Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E; Linux,
//! Documentation/virt/kvm/x86/cpuid.rst.

use virt::Errno;

use super::{Leaf, Table, Vendor};
use crate::emulate::Feature;
use crate::irqchip::lapic_timer::FREQUENCY_HZ;
use crate::regs::xcr0;
use crate::xstate;

/// The host's processor, as the policy looks at it.
pub trait Hardware {
    /// The host's own CPUID.
    fn cpuid(&self, function: u32, index: u32) -> Leaf;
}

impl<F: Fn(u32, u32) -> Leaf> Hardware for F {
    fn cpuid(&self, function: u32, index: u32) -> Leaf {
        self(function, index)
    }
}

/// The feature words of CPUID in which instruction sets are announced.
///
/// As an engine's answer: the instructions that it can run, whether or not the host has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each names its leaf and register")]
pub struct Instructions {
    pub leaf1_ecx: u32,
    pub leaf1_edx: u32,
    pub leaf7_ebx: u32,
    pub leaf7_ecx: u32,
    pub leaf7_edx: u32,
    pub extended1_ecx: u32,
    pub extended1_edx: u32,
    pub leaf_d1_eax: u32,
    pub extended8_ebx: u32,
    pub extended21_eax: u32,
}

impl Instructions {
    /// Those that a host's processor has, too.
    #[must_use]
    pub fn on(&self, hardware: &impl Hardware) -> Self {
        let [leaf1, leaf7] = [1, 7].map(|function| hardware.cpuid(function, 0));
        let extended1 = hardware.cpuid(0x8000_0001, 0);
        let leaf_d1 = hardware.cpuid(0xd, 1);
        let highest = hardware.cpuid(0x8000_0000, 0)[0];
        let [extended8, extended21] = [0x8000_0008, 0x8000_0021]
            .map(|function| if function <= highest { hardware.cpuid(function, 0) } else { [0; 4] });
        Self {
            leaf1_ecx: self.leaf1_ecx & leaf1[2],
            leaf1_edx: self.leaf1_edx & leaf1[3],
            leaf7_ebx: self.leaf7_ebx & leaf7[1],
            leaf7_ecx: self.leaf7_ecx & leaf7[2],
            leaf7_edx: self.leaf7_edx & leaf7[3],
            extended1_ecx: self.extended1_ecx & extended1[2],
            extended1_edx: self.extended1_edx & extended1[3],
            leaf_d1_eax: self.leaf_d1_eax & leaf_d1[0],
            extended8_ebx: self.extended8_ebx & extended8[1],
            extended21_eax: self.extended21_eax & extended21[0],
        }
    }

    /// The bits of a leaf's register: EAX is 0, EDX 3. 0 for one that has none of them.
    #[must_use]
    pub const fn word(&self, function: u32, register: usize) -> u32 {
        match (function, register) {
            (1, 2) => self.leaf1_ecx,
            (1, 3) => self.leaf1_edx,
            (7, 1) => self.leaf7_ebx,
            (7, 2) => self.leaf7_ecx,
            (7, 3) => self.leaf7_edx,
            (0x8000_0001, 2) => self.extended1_ecx,
            (0x8000_0001, 3) => self.extended1_edx,
            (0xd, 0) => self.leaf_d1_eax,
            (0x8000_0008, 1) => self.extended8_ebx,
            (0x8000_0021, 0) => self.extended21_eax,
            _ => 0,
        }
    }

    /// Whether it has all that are in `others`.
    #[must_use]
    pub const fn have(&self, others: &Self) -> bool {
        (others.leaf1_ecx & !self.leaf1_ecx)
            | (others.leaf1_edx & !self.leaf1_edx)
            | (others.leaf7_ebx & !self.leaf7_ebx)
            | (others.leaf7_ecx & !self.leaf7_ecx)
            | (others.leaf7_edx & !self.leaf7_edx)
            | (others.extended1_ecx & !self.extended1_ecx)
            | (others.extended1_edx & !self.extended1_edx)
            | (others.leaf_d1_eax & !self.leaf_d1_eax)
            | (others.extended8_ebx & !self.extended8_ebx)
            | (others.extended21_eax & !self.extended21_eax)
            == 0
    }
}

/// A word with these bits set.
pub(super) const fn bits(list: &[u32]) -> u32 {
    let mut word = 0;
    let mut at = 0;
    while at < list.len() {
        word |= 1 << list[at];
        at += 1;
    }
    word
}

/// What is offered whatever the host's processor has: it is emulated.
const ALWAYS: Instructions = Instructions {
    // PCID, x2APIC, TSC deadline, XSAVE, hypervisor present.
    leaf1_ecx: bits(&[17, 21, 24, 26, 31]),
    // DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE36, CLFSH.
    leaf1_edx: bits(&[2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19]),
    // FSGSBASE, SMEP, ERMS, INVPCID, SMAP.
    leaf7_ebx: bits(&[0, 7, 9, 10, 20]),
    // UMIP, LA57, RDPID.
    leaf7_ecx: bits(&[2, 16, 22]),
    // FSRM, SERIALIZE.
    leaf7_edx: bits(&[4, 14]),
    // LAHF in 64-bit mode.
    extended1_ecx: bits(&[0]),
    // SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
    extended1_edx: bits(&[11, 20, 26, 27, 29]),
    // XSAVEOPT, XSAVEC, and XGETBV of register 1.
    leaf_d1_eax: bits(&[0, 1, 2]),
    // XSAVE and XRSTOR always have the last x87 instruction (2); not vulnerable to speculative store bypass (26) and
    // branch type confusion (29).
    extended8_ebx: bits(&[2, 26, 29]),
    // LFENCE serialises (2), null selectors clear the base (6), automatic IBRS (8), no SRSO (29).
    extended21_eax: bits(&[2, 6, 8, 29]),
};

/// The bits of leaf 1's EDX that AMD repeats in leaf 0x8000_0001.
const AMD_REPEATED: u32 = 0x0183_f3ff;

/// Makes the table of the vCPU with APIC ID `apic_id` of `cpus`.
///
/// `instructions` is what the engine runs; `tsc_khz` the guest's TSC frequency.
///
/// # Errors
/// `ENOMEM`.
pub fn default_table(
    hardware: &impl Hardware,
    instructions: Instructions,
    apic_id: u32,
    cpus: u32,
    tsc_khz: u32,
) -> Result<Table, Errno> {
    let mut table = Table::default();
    let vendor = Vendor::of(hardware.cpuid(0, 0));
    basic_leaves(&mut table, hardware, instructions, apic_id, cpus)?;
    if vendor == Vendor::Intel {
        // Crystal of 1 MHz, so that the ratio is the frequency itself.
        table.set(0x15, None, [1000, tsc_khz, 1_000_000, 0])?;
        let mhz = tsc_khz / 1000;
        table.set(0x16, None, [mhz, mhz, 100, 0])?;
    }
    hypervisor_leaves(&mut table, tsc_khz)?;
    extended_leaves(&mut table, hardware, instructions, vendor, cpus)?;
    Ok(table)
}

fn basic_leaves(
    table: &mut Table,
    hardware: &impl Hardware,
    engine: Instructions,
    apic_id: u32,
    cpus: u32,
) -> Result<(), Errno> {
    let host0 = hardware.cpuid(0, 0);
    let vendor = Vendor::of(host0);
    let intel = vendor == Vendor::Intel;
    let highest = if intel { 0x16 } else { 0xd };
    table.set(0, None, [highest, host0[1], host0[2], host0[3]])?;

    let host = hardware.cpuid(1, 0);
    let multi = u32::from(cpus > 1) << 28;
    table.set(
        1,
        None,
        [
            host[0],
            // CLFLUSH of 64 bytes, logical processors, initial APIC ID.
            8 << 8 | cpus.min(255) << 16 | (apic_id & 0xff) << 24,
            host[2] & engine.leaf1_ecx | ALWAYS.leaf1_ecx,
            host[3] & engine.leaf1_edx | ALWAYS.leaf1_edx | multi,
        ],
    )?;
    if intel {
        // 0xff: the caches are in leaf 4.
        table.set(2, None, [0x00ff_0001, 0, 0, 0])?;
        cache_leaves(table, hardware, cpus)?;
    } else {
        table.set(4, None, [0; 4])?;
    }
    // No MONITOR.
    table.set(5, None, [0; 4])?;
    // The APIC timer never stops (ARAT).
    table.set(6, None, [1 << 2, 0, 0, 0])?;
    let host = hardware.cpuid(7, 0);
    let arch_capabilities = u32::from(intel) << 29;
    let speculation_control = u32::from(intel) << 26;
    table.set(
        7,
        Some(0),
        [
            if intel { 2 } else { 0 },
            host[1] & engine.leaf7_ebx | ALWAYS.leaf7_ebx,
            host[2] & engine.leaf7_ecx | ALWAYS.leaf7_ecx,
            host[3] & engine.leaf7_edx | ALWAYS.leaf7_edx | arch_capabilities | speculation_control,
        ],
    )?;
    // BHI_CTRL: without it a Linux guest clears the branch history at each system call.
    table.set(7, Some(2), [0, 0, 0, u32::from(intel) << 4])?;
    // Topology: one thread a core, all cores in one package.
    let width = 32 - cpus.saturating_sub(1).leading_zeros();
    table.set(0xb, Some(0), [0, 1, 1 << 8, apic_id])?;
    table.set(0xb, Some(1), [width, cpus, 2 << 8 | 1, apic_id])?;
    table.set(0xb, Some(2), [0, 0, 2, apic_id])?;
    state_leaves(table)
}

/// Caches that leaf 4 may list.
const MAX_CACHES: u32 = 8;

/// Leaf 4, the caches: the host's, each processor with its own but for the third level. Programs choose by their
/// sizes how they copy memory. See: Intel SDM vol. 2, CPUID.
fn cache_leaves(table: &mut Table, hardware: &impl Hardware, cpus: u32) -> Result<(), Errno> {
    let others = cpus.saturating_sub(1);
    let ids = cpus.max(1).next_power_of_two() - 1;
    for index in 0..MAX_CACHES {
        let host = hardware.cpuid(4, index);
        let (kind, level) = (host[0] & 0x1f, host[0] >> 5 & 7);
        if kind == 0 {
            break;
        }
        let sharers = if level >= 3 { others.min(0xfff) } else { 0 };
        let eax = host[0] & 0x3fff | sharers << 14 | ids.min(63) << 26;
        table.set(4, Some(index), [eax, host[1], host[2], host[3]])?;
    }
    Ok(())
}

/// Leaf 0xd, what XSAVE and its kin save. The sizes that depend on XCR0 are filled in by the vCPU.
fn state_leaves(table: &mut Table) -> Result<(), Errno> {
    let offered = table.features();
    let components = match (offered.has(Feature::Xsave), offered.has(Feature::Avx)) {
        (false, _) => return table.set(0xd, None, [0; 4]),
        (true, false) => xcr0::X87 | xcr0::SSE,
        (true, true) => xcr0::X87 | xcr0::SSE | xcr0::AVX,
    };
    let size = xstate::size(components) as u32;
    table.set(0xd, Some(0), [components as u32, size, size, 0])?;
    table.set(0xd, Some(1), [ALWAYS.leaf_d1_eax, size, 0, 0])?;
    if components & xcr0::AVX == 0 {
        return Ok(());
    }
    table.set(0xd, Some(2), [xstate::AVX_SIZE as u32, xstate::AVX_OFFSET as u32, 0, 0])
}

/// KVM's paravirtual features: both clocks, no delays after port accesses, a TSC that needs no check.
pub const KVM_FEATURES: u32 = bits(&[0, 1, 3, 24]);

fn hypervisor_leaves(table: &mut Table, tsc_khz: u32) -> Result<(), Errno> {
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let signature = [0x4000_0010, word(b"KVMK"), word(b"VMKV"), word(b"M\0\0\0")];
    table.set(0x4000_0000, None, signature)?;
    table.set(0x4000_0001, None, [KVM_FEATURES, 0, 0, 0])?;
    // TSC and APIC timer frequency in kHz, as VMware defined the leaf.
    let apic_khz = (FREQUENCY_HZ / 1000) as u32;
    table.set(0x4000_0010, None, [tsc_khz, apic_khz, 0, 0])
}

fn extended_leaves(
    table: &mut Table,
    hardware: &impl Hardware,
    engine: Instructions,
    vendor: Vendor,
    cpus: u32,
) -> Result<(), Errno> {
    let host0 = hardware.cpuid(0x8000_0000, 0);
    let amd = vendor == Vendor::Amd;
    let highest = if amd { 0x8000_0021 } else { 0x8000_0008 };
    table.set(0x8000_0000, None, [highest, host0[1], host0[2], host0[3]])?;
    let host = hardware.cpuid(0x8000_0001, 0);
    let leaf1 = table.get(1, 0).unwrap_or_default();
    let repeated = if amd { leaf1[3] & AMD_REPEATED } else { 0 };
    // With several cores AMD wants the legacy bit (CmpLegacy) for the topology of leaf 0x8000_0008.
    let legacy = u32::from(amd && cpus > 1) << 1;
    // LOCK MOV CR0 is MOV CR8 (AltMovCr8).
    let short_cr8 = u32::from(amd) << 4;
    table.set(
        0x8000_0001,
        None,
        [
            host[0],
            0,
            host[2] & engine.extended1_ecx | ALWAYS.extended1_ecx | legacy | short_cr8,
            host[3] & engine.extended1_edx | ALWAYS.extended1_edx | repeated,
        ],
    )?;
    for function in 0x8000_0002..=0x8000_0006 {
        table.set(function, None, hardware.cpuid(function, 0))?;
    }
    // Invariant TSC.
    table.set(0x8000_0007, None, [0, 0, 0, 1 << 8])?;
    let physical = hardware.cpuid(0x8000_0008, 0)[0] & 0xff;
    let physical = if physical == 0 { 40 } else { physical.min(48) };
    let linear = 57 << 8;
    let width = 32 - cpus.saturating_sub(1).leading_zeros();
    let has = engine.on(hardware);
    let speculation = if amd { has.extended8_ebx | ALWAYS.extended8_ebx } else { 0 };
    let cores = if amd { width << 12 | cpus.saturating_sub(1).min(255) } else { 0 };
    table.set(0x8000_0008, None, [physical | linear, speculation, cores, 0])?;
    if amd {
        let word = has.extended21_eax | ALWAYS.extended21_eax;
        table.set(0x8000_0021, None, [word, 0, 0, 0])?;
    }
    Ok(())
}
