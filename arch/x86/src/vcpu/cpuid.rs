//! What CPUID answers, and what instructions the guest has: the table, and what depends on the vCPU's state beside.
//!
//! See: Linux, arch/x86/kvm/cpuid.c, `__kvm_update_cpuid_runtime`.

use virt::host::Host;

use super::{Vcpu, lapic_config};
use crate::cpuid::{Leaf, Table, all_but};
use crate::emulate::Feature;
use crate::engine::{Engine, EngineVcpu, Features};
use crate::irqchip::lapic::base;
use crate::quirks;
use crate::regs::{Regs, SysReg, cr4, gpr};
use crate::xstate;

/// In leaf 1's ECX.
const MONITOR: u32 = 1 << 3;
/// There, too: XSAVE is on.
const OSXSAVE: u32 = 1 << 27;
/// In its EDX.
const APIC: u32 = 1 << 9;

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// The CPUID table, as it was set.
    pub fn cpuid(&self) -> &Table {
        &self.cpuid
    }

    /// Replaces the CPUID table, but for what the engine lacks. The local APIC offers what it says from now on; what it does already, it
    /// goes on to.
    pub fn set_cpuid(&mut self, mut table: Table) {
        self.withhold(&mut table);
        *self.lapic.config_mut() = lapic_config(self.id, &self.machine.setup, &table);
        self.cpuid = table;
        self.engine.set_limits(self.cpuid.limits());
        self.update_features();
    }

    /// Takes out of a table what the engine lacks.
    pub(crate) fn withhold(&self, table: &mut Table) {
        table.withhold(&self.machine.engine.lacks());
    }

    /// All that a table can offer here.
    pub(crate) fn possible_features(&self) -> Features {
        all_but(&self.machine.engine.lacks())
    }

    /// What a leaf of a table says in the vCPU's state.
    pub fn current_leaf(&self, function: u32, index: u32, leaf: Leaf) -> Leaf {
        let [eax, mut ebx, mut ecx, mut edx] = leaf;
        match function {
            1 => {
                let osxsave = self.engine.cr4() & cr4::OSXSAVE != 0;
                ecx = ecx & !OSXSAVE | if osxsave { OSXSAVE } else { 0 };
                if let Some(monitor) = self.monitor_by_msr() {
                    ecx = ecx & !MONITOR | if monitor { MONITOR } else { 0 };
                }
                if self.lapic.base() & base::EN == 0 {
                    edx &= !APIC;
                }
            }
            // Sizes for the components that are on, in either form.
            0xd if index < 2 && ebx != 0 => {
                ebx = xstate::size(self.engine.sysreg(SysReg::Xcr0)) as u32;
            }
            _ => {}
        }
        [eax, ebx, ecx, edx]
    }

    /// Whether IA32_MISC_ENABLE offers MONITOR; `None` if CPUID's table does.
    fn monitor_by_msr(&self) -> Option<bool> {
        let by_msr = self.quirks & quirks::MISC_ENABLE_NO_MWAIT == 0;
        by_msr.then(|| self.msrs.offers_monitor())
    }

    /// Tells the engine which instructions the guest has now.
    pub(super) fn update_features(&mut self) {
        let by_table = self.cpuid.features();
        let offered = self.monitor_by_msr().unwrap_or_else(|| by_table.has(Feature::Monitor));
        let never_faults = self.quirks & quirks::MWAIT_NEVER_FAULTS != 0;
        let features: Features = by_table.with(Feature::Monitor, offered || never_faults);
        if features != self.features {
            self.features = features;
            self.engine.set_features(features);
        }
    }

    /// Looks whether the VMM has changed the machine's quirks.
    #[inline]
    pub(super) fn follow_quirks(&mut self) {
        let quirks = self.machine.quirks.get();
        if quirks != self.quirks {
            self.quirks = quirks;
            self.update_features();
        }
    }

    #[inline(never)]
    pub(super) fn cpuid_instruction(&mut self, len: u8) {
        let function = self.engine.gpr(gpr::RAX) as u32;
        let index = self.engine.gpr(gpr::RCX) as u32;
        let answer = self.cpuid.answer(function, index);
        let [mut eax, mut ebx, mut ecx, mut edx] = self.current_leaf(function, index, answer);
        if matches!(function, 0xb | 0x1f) {
            // ECX's low byte repeats the question; EDX is always the ID.
            ecx = ecx & !0xff | index & 0xff;
            edx = self.id;
            if index > 2 {
                (eax, ebx) = (0, 0);
            }
        }
        for (register, value) in
            [(gpr::RAX, eax), (gpr::RBX, ebx), (gpr::RCX, ecx), (gpr::RDX, edx)]
        {
            self.engine.set_gpr(register, value.into());
        }
        // It serialises: code that another processor changed is seen. See: Intel SDM vol. 3, 9.1.3.
        self.serialized = true;
        self.advance(len);
    }
}
