//! KVM's clocks: the MSRs by which the guest says where it wants them.

use virt::Errno;
use virt::host::Host;

use super::Vcpu;
use crate::engine::{Engine, EngineVcpu};
use crate::msr::Refused;
use crate::pvclock::{self, TimeInfo};

/// What the guest wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    /// `KVM_SYSTEM_TIME_NEW`: the address, and bit 0 to enable.
    pub system_time: u64,
    /// `KVM_WALL_CLOCK_NEW`: the address.
    pub wall_clock: u64,
    version: u32,
}

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// The guest names the place of this vCPU's time.
    pub(super) fn set_system_time(&mut self, value: u64) -> Result<(), Refused> {
        self.clock.system_time = value;
        if value & 1 == 0 {
            return Ok(());
        }
        self.write_time(0)
    }

    /// Tells the guest that it was paused, so that it does not take the time for a hang of its own: it finds a flag beside
    /// its clock, and clears it.
    ///
    /// # Errors
    /// `EINVAL` if the guest has no such clock; `EFAULT` if it is where no memory is.
    pub fn tell_paused(&mut self) -> Result<(), Errno> {
        if self.clock.system_time & 1 == 0 {
            return Err(Errno::EINVAL);
        }
        self.write_time(TimeInfo::GUEST_STOPPED).map_err(|Refused| Errno::EFAULT)
    }

    /// The guest's TSC or the machine's clock was set: what it finds is made anew.
    pub(super) fn renew_time(&mut self) {
        if self.clock.system_time & 1 != 0 {
            // If the memory is gone, so is the clock.
            let _ = self.write_time(0);
        }
    }

    /// Writes this vCPU's time to the place that the guest has named.
    fn write_time(&mut self, flags: u8) -> Result<(), Refused> {
        let host = &self.machine.host;
        let (shift, multiplier) = pvclock::scale(host.tsc_khz());
        let now = self.machine.clock.at(host.now());
        let mut info = TimeInfo {
            version: self.clock.version.wrapping_add(1),
            tsc_timestamp: self.engine.tsc(),
            system_time: now,
            tsc_to_system_mul: multiplier,
            tsc_shift: shift,
            flags: TimeInfo::STABLE | flags,
        };
        let gpa = self.clock.system_time & !1;
        // Odd while it changes.
        self.write_memory(gpa, &info.to_bytes()).map_err(|_| Refused)?;
        info.version = info.version.wrapping_add(1);
        self.clock.version = info.version;
        self.write_memory(gpa, &info.version.to_le_bytes()).map_err(|_| Refused)
    }

    /// The guest asks for the time at which the machine was made, once. An address of 0 asks for nothing: so a VMM restores what
    /// was never written.
    pub(super) fn set_wall_clock(&mut self, gpa: u64) -> Result<(), Refused> {
        self.clock.wall_clock = gpa;
        if gpa == 0 {
            return Ok(());
        }
        let host = &self.machine.host;
        let age = self.machine.clock.at(host.now());
        let boot = host.wall_clock().saturating_sub(age);
        let mut version = [0; 4];
        self.read_memory(gpa, &mut version).map_err(|_| Refused)?;
        let even = (u32::from_le_bytes(version) | 1).wrapping_add(1);
        self.write_memory(gpa, &pvclock::wall_clock(even, boot)).map_err(|_| Refused)
    }
}
