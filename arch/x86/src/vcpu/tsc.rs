//! The guest's time stamp counter, and IA32_TSC_ADJUST, as the guest and the VMM set them.
//!
//! To the guest they are one: what it adds to the counter is in TSC_ADJUST as well. Who restores a vCPU sets each by itself.
//! See: Intel SDM vol. 3, 18.17.3; Linux, arch/x86/kvm/x86.c, `kvm_set_msr_common`.

use virt::Errno;
use virt::host::Host;

use super::Vcpu;
use crate::engine::{Engine, EngineVcpu};

/// How far the frequency that a VMM asks for may be from the host's, in millionths, as Linux has it: there is no scaling.
const TOLERANCE_PPM: u64 = 250;

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// The guest sets the counter.
    pub(super) fn write_tsc(&mut self, value: u64) {
        let difference = value.wrapping_sub(self.engine.tsc());
        self.tsc_adjust = self.tsc_adjust.wrapping_add(difference);
        self.set_tsc_offset(self.tsc_offset.wrapping_add(difference));
    }

    /// The guest sets IA32_TSC_ADJUST.
    pub(super) fn write_tsc_adjust(&mut self, value: u64) {
        let difference = value.wrapping_sub(self.tsc_adjust);
        self.tsc_adjust = value;
        self.set_tsc_offset(self.tsc_offset.wrapping_add(difference));
    }

    /// The VMM sets the counter: see [`crate::tsc`].
    pub(super) fn restore_tsc(&mut self, value: u64) {
        let machine = &self.machine;
        let (tsc, khz) = (machine.host.tsc(), machine.host.tsc_khz());
        self.set_tsc_offset(machine.tsc.synchronise(value, tsc, khz));
        self.renew_time();
    }

    /// What the counter is ahead of the host's.
    pub fn tsc_offset(&self) -> u64 {
        self.tsc_offset
    }

    /// The VMM sets that.
    pub fn restore_tsc_offset(&mut self, offset: u64) {
        self.set_tsc_offset(offset);
        self.renew_time();
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
        self.engine.set_tsc_offset(offset);
        self.arm_timer();
    }

    /// The counter's frequency in kHz.
    pub fn tsc_khz(&self) -> u32 {
        self.machine.host.tsc_khz()
    }

    /// Sets the counter's frequency; 0 is the host's.
    ///
    /// # Errors
    /// `EINVAL` if it is not the host's, or close to it.
    pub fn set_tsc_khz(&mut self, khz: u32) -> Result<(), Errno> {
        let own = u64::from(self.tsc_khz());
        let close = u64::from(khz).abs_diff(own) * 1_000_000 <= own * TOLERANCE_PPM;
        if khz == 0 || close { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
