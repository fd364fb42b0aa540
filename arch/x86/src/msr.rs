//! Model-specific registers: their numbers, and the ones that only store.
//!
//! Registers that instructions use live in the engine ([`crate::regs::SysReg`]), those of the
//! APIC in [`crate::irqchip`]; `vcpu::msr` puts them together. What is not known is #GP.
//!
//! See: AMD APM vol. 2, appendix A; Intel SDM vol. 4.

/// The numbers.
pub mod index {
    #![allow(missing_docs, reason = "the names are the manuals'")]
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const BIOS_UPDATE: u32 = 0x79;
    pub const MICROCODE_REVISION: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const POWER_CTL: u32 = 0x1fc;
    pub const PERF_CAPABILITIES: u32 = 0x345;
    pub const DEBUG_CTL: u32 = 0x1d9;
    pub const MTRR_FIRST_VARIABLE: u32 = 0x200;
    pub const MTRR_LAST_VARIABLE: u32 = 0x20f;
    pub const MTRR_FIX64K: u32 = 0x250;
    pub const MTRR_FIX16K_0: u32 = 0x258;
    pub const MTRR_FIX16K_1: u32 = 0x259;
    pub const MTRR_FIX4K_0: u32 = 0x268;
    pub const MTRR_FIX4K_7: u32 = 0x26f;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC_FIRST: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x8ff;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const AMD_SYSCFG: u32 = 0xc001_0010;
    pub const AMD_HWCR: u32 = 0xc001_0015;
    pub const AMD_PSTATE_LIMIT: u32 = 0xc001_0061;
    pub const AMD_PSTATE_STATUS: u32 = 0xc001_0063;
    pub const AMD_PSTATE_0: u32 = 0xc001_0064;
    pub const AMD_INT_PENDING: u32 = 0xc001_0055;
    pub const AMD_NB_CFG: u32 = 0xc001_001f;
    pub const AMD_VM_CR: u32 = 0xc001_0114;
    pub const AMD_LS_CFG: u32 = 0xc001_1020;
    pub const AMD_IC_CFG: u32 = 0xc001_1021;
    pub const AMD_DC_CFG: u32 = 0xc001_1022;
    pub const AMD_DE_CFG: u32 = 0xc001_1029;
    pub const AMD_BU_CFG2: u32 = 0xc001_102a;
    pub const KVM_WALL_CLOCK: u32 = 0x11;
    pub const KVM_SYSTEM_TIME: u32 = 0x12;
    pub const KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
    pub const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
}

/// A guest's misuse of an MSR: it gets #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Intel's word on what the processor is not vulnerable to: RDCL, L1D at VM entry, store bypass, MDS,
/// page-size change, TAA, stale MMIO data, branch history, barriers after exits, the register files
/// and selection of indirect targets need no work-around, and IBRS stays on once it is set.
const ARCH_CAPABILITIES: u64 = {
    let bits = [0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62];
    let mut word = 0;
    let mut at = 0;
    while at < bits.len() {
        word |= 1 << bits[at];
        at += 1;
    }
    word
};

/// In PLATFORM_INFO: CPUID can be made to fault, which it cannot here. See: Intel SDM vol. 4, MSR_PLATFORM_INFO.
const CPUID_FAULTING: u64 = 1 << 31;

/// IBRS, STIBP, SSBD; AMD's PSFD; Intel's BHI_DIS_S. See: AMD APM vol. 2, 3.2.9; Intel SDM vol. 4, IA32_SPEC_CTRL.
const SPEC_CTRL_BITS: u64 = 1 << 10 | 1 << 7 | 0b111;

/// The MSRs that only hold what was written, with the checks that the manuals ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pat: u64,
    mtrr_default_type: u64,
    mtrr_variable: [u64; 16],
    mtrr_fixed: [u64; 11],
    misc_enable: u64,
    spec_ctrl: u64,
    debug_ctl: u64,
    power_ctl: u64,
    hwcr: u64,
    de_cfg: u64,
    arch_capabilities: u64,
    platform_info: u64,
}

impl Default for Stored {
    fn default() -> Self {
        Self {
            pat: 0x0007_0406_0007_0406,
            mtrr_default_type: 0,
            mtrr_variable: [0; 16],
            mtrr_fixed: [0; 11],
            // Fast strings.
            misc_enable: 1,
            spec_ctrl: 0,
            debug_ctl: 0,
            power_ctl: 0,
            // TscFreqSel: the TSC counts at the rate of P0.
            hwcr: 1 << 24,
            // LFENCE serialises dispatch.
            de_cfg: 1 << 1,
            arch_capabilities: ARCH_CAPABILITIES,
            platform_info: 0,
        }
    }
}

impl Stored {
    /// How many variable-range MTRRs there are.
    const VARIABLE: u64 = 8;

    /// RDMSR.
    ///
    /// # Errors
    /// When there is no such register here.
    pub fn read(&self, number: u32) -> Result<u64, Refused> {
        use index::*;
        Ok(match number {
            PAT => self.pat,
            // Fixed ranges and write combining are there.
            MTRR_CAP => Self::VARIABLE | 1 << 8 | 1 << 10,
            MTRR_DEFAULT_TYPE => self.mtrr_default_type,
            MTRR_FIRST_VARIABLE..=MTRR_LAST_VARIABLE => {
                self.mtrr_variable[(number - MTRR_FIRST_VARIABLE) as usize]
            }
            MISC_ENABLE => self.misc_enable,
            SPEC_CTRL => self.spec_ctrl,
            ARCH_CAPABILITIES => self.arch_capabilities,
            PLATFORM_INFO => self.platform_info,
            DEBUG_CTL => self.debug_ctl,
            POWER_CTL => self.power_ctl,
            // No performance counters. Deviation: the guest reads it although CPUID does not tell of it.
            PERF_CAPABILITIES => 0,
            AMD_HWCR => self.hwcr,
            AMD_DE_CFG => self.de_cfg,
            // Locked, with no virtualization of its own.
            FEATURE_CONTROL => 1,
            // SVM is disabled and locked.
            AMD_VM_CR => 1 << 4 | 1 << 3,
            MICROCODE_REVISION => 0x0100_0065 << 32 | 0x0100_0065,
            AMD_SYSCFG | AMD_INT_PENDING | AMD_LS_CFG | AMD_IC_CFG | AMD_DC_CFG | AMD_BU_CFG2
            | AMD_NB_CFG | AMD_PSTATE_LIMIT | AMD_PSTATE_STATUS | AMD_PSTATE_0 => 0,
            _ => self.mtrr_fixed[Self::fixed(number).ok_or(Refused)?],
        })
    }

    /// WRMSR.
    ///
    /// # Errors
    /// When there is no such register here, or it may not hold `value`.
    pub fn write(&mut self, number: u32, value: u64) -> Result<(), Refused> {
        use index::*;
        match number {
            PAT => self.pat = memory_types(value, PAT_TYPES)?,
            MTRR_DEFAULT_TYPE => {
                if value & !0xcff != 0 {
                    return Err(Refused);
                }
                memory_types(value & 0xff, MTRR_TYPES)?;
                self.mtrr_default_type = value;
            }
            MTRR_FIRST_VARIABLE..=MTRR_LAST_VARIABLE => {
                self.mtrr_variable[(number - MTRR_FIRST_VARIABLE) as usize] = value;
            }
            MISC_ENABLE => self.misc_enable = value,
            SPEC_CTRL if value & !SPEC_CTRL_BITS == 0 => self.spec_ctrl = value,
            // IBPB, which is the engine's.
            PRED_CMD if value & !1 == 0 => {}
            DEBUG_CTL if value & !0b11 == 0 => self.debug_ctl = value,
            // Of a processor's power: there is nothing to be chosen.
            POWER_CTL => self.power_ctl = value,
            AMD_HWCR => self.hwcr = value,
            AMD_DE_CFG => self.de_cfg = value,
            // A microcode update that changes nothing.
            BIOS_UPDATE | MICROCODE_REVISION | AMD_SYSCFG | AMD_INT_PENDING | AMD_LS_CFG
            | AMD_IC_CFG | AMD_DC_CFG | AMD_BU_CFG2 | AMD_NB_CFG => {}
            _ => {
                let at = Self::fixed(number).ok_or(Refused)?;
                self.mtrr_fixed[at] = memory_types(value, MTRR_TYPES)?;
            }
        }
        Ok(())
    }

    /// Sets a register that the guest may not: what a VMM wants to be known of the processor, of what is true of it.
    ///
    /// # Errors
    /// When there is no such register here, or it may not hold `value`.
    pub fn restore(&mut self, number: u32, value: u64) -> Result<(), Refused> {
        match number {
            index::ARCH_CAPABILITIES if value & !ARCH_CAPABILITIES == 0 => {
                self.arch_capabilities = value
            }
            index::PLATFORM_INFO if value & CPUID_FAULTING == 0 => self.platform_info = value,
            _ => return Err(Refused),
        }
        Ok(())
    }

    /// Whether IA32_MISC_ENABLE offers MONITOR.
    #[must_use]
    pub const fn offers_monitor(&self) -> bool {
        Self::monitor_in(self.misc_enable)
    }

    /// Whether this value of it does. See: Intel SDM vol. 4, IA32_MISC_ENABLE.
    #[must_use]
    pub const fn monitor_in(misc_enable: u64) -> bool {
        misc_enable >> 18 & 1 != 0
    }

    fn fixed(number: u32) -> Option<usize> {
        use index::*;
        Some(match number {
            MTRR_FIX64K => 0,
            MTRR_FIX16K_0 => 1,
            MTRR_FIX16K_1 => 2,
            MTRR_FIX4K_0..=MTRR_FIX4K_7 => 3 + (number - MTRR_FIX4K_0) as usize,
            _ => return None,
        })
    }
}

/// Memory types that the PAT may hold: UC, WC, WT, WP, WB, UC-. See: AMD APM vol. 2, 7.8.
const PAT_TYPES: u8 = 0b1111_0011;
/// Memory types that an MTRR may hold: UC, WC, WT, WP, WB. See: AMD APM vol. 2, 7.7.
const MTRR_TYPES: u8 = 0b0111_0011;

fn memory_types(value: u64, allowed: u8) -> Result<u64, Refused> {
    let fine = |byte: u8| byte < 8 && allowed >> byte & 1 != 0;
    if value.to_le_bytes().into_iter().all(fine) { Ok(value) } else { Err(Refused) }
}
