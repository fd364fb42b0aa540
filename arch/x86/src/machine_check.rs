//! The machine-check registers of a vCPU: [`MachineCheck`]. They only store, as nothing raises a machine check here.
//!
//! A processor has no banks at first; a VMM that wants some sets them up. Neighbours: [`crate::msr`] has the other registers that
//! only store, `vcpu::msr` puts them together.
//!
//! See: AMD APM vol. 2, 9.3; Intel SDM vol. 3, 16.3; Linux, arch/x86/kvm/x86.c, `set_msr_mce`.

use alloc::vec::Vec;

use virt::Errno;

use crate::msr::Refused;

/// MCG_CAP: that there is MCG_CTL.
const CTL_PRESENT: u64 = 1 << 8;
/// MCG_CAP: that software can recover.
const RECOVERY: u64 = 1 << 24;
/// MCG_CAP: how many banks there are.
const COUNT: u64 = 0xff;
/// MCG_CAP: how many extended registers there are, of which nobody has any; Linux lets a VMM say so.
const EXTENDED: u64 = 0xff << 16;
/// All errors of a bank are reported.
const ALL: u64 = !0;

mod index {
    pub const CAP: u32 = 0x179;
    pub const STATUS: u32 = crate::msr::index::MCG_STATUS;
    pub const CTL: u32 = 0x17b;
    pub const BANKS: u32 = 0x400;
    pub const BANKS_END: u32 = BANKS + 4 * super::MachineCheck::MAX_BANKS;
}

/// The registers of a bank: control, status, address, miscellaneous.
type Bank = [u64; 4];
const CTL: usize = 0;
const STATUS: usize = 1;

/// The registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineCheck {
    cap: u64,
    status: u64,
    ctl: u64,
    banks: Vec<Bank>,
}

impl MachineCheck {
    /// How many banks there may be.
    pub const MAX_BANKS: u32 = 32;
    /// What MCG_CAP may say beside the number of banks.
    pub const CAPABILITIES: u64 = CTL_PRESENT | RECOVERY;

    /// Sets MCG_CAP, and with it how many banks there are. All errors are reported at first.
    ///
    /// # Errors
    /// `EINVAL` for no bank, more than [`Self::MAX_BANKS`], or what is not in [`Self::CAPABILITIES`]; `ENOMEM`.
    pub fn set_up(&mut self, cap: u64) -> Result<(), Errno> {
        let count = cap & COUNT;
        let fine = (1..=u64::from(Self::MAX_BANKS)).contains(&count);
        if !fine || cap & !(Self::CAPABILITIES | COUNT | EXTENDED) != 0 {
            return Err(Errno::EINVAL);
        }
        let mut banks = Vec::new();
        banks.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
        banks.resize(count as usize, [ALL, 0, 0, 0]);
        let ctl = if cap & CTL_PRESENT != 0 { ALL } else { 0 };
        *self = Self { cap, status: 0, ctl, banks };
        Ok(())
    }

    /// Whether an MSR is one of these.
    #[must_use]
    pub const fn has_msr(number: u32) -> bool {
        matches!(number, index::CAP..=index::CTL | index::BANKS..index::BANKS_END)
    }

    /// RDMSR.
    ///
    /// # Errors
    /// When there is no such register.
    pub fn read(&self, number: u32) -> Result<u64, Refused> {
        match number {
            index::CAP => Ok(self.cap),
            index::STATUS => Ok(self.status),
            index::CTL if self.cap & CTL_PRESENT != 0 => Ok(self.ctl),
            _ => {
                let (bank, register) = Self::place(number).ok_or(Refused)?;
                let bank = self.banks.get(bank).ok_or(Refused)?;
                bank.get(register).copied().ok_or(Refused)
            }
        }
    }

    /// WRMSR, or what a VMM sets if it is by its `host`: then a status may be any, else it can only be cleared.
    ///
    /// # Errors
    /// When there is no such register, or it may not hold `value`.
    pub fn write(&mut self, number: u32, value: u64, host: bool) -> Result<(), Refused> {
        let cleared = host || value == 0;
        let all_or_none = value == 0 || value == ALL;
        match number {
            index::STATUS if cleared => self.status = value,
            index::CTL if self.cap & CTL_PRESENT != 0 && all_or_none => self.ctl = value,
            _ => {
                let (bank, register) = Self::place(number).ok_or(Refused)?;
                let bank = self.banks.get_mut(bank).ok_or(Refused)?;
                let fine = match register {
                    // Linux leaves out bits that no processor minds.
                    CTL => value == 0 || value | 1 << 10 | 1 == ALL,
                    STATUS => cleared,
                    _ => true,
                };
                match bank.get_mut(register) {
                    Some(to) if fine => *to = value,
                    _ => return Err(Refused),
                }
            }
        }
        Ok(())
    }

    /// The bank, and the register in it.
    fn place(number: u32) -> Option<(usize, usize)> {
        let at = number.checked_sub(index::BANKS)?;
        Some((at as usize / 4, at as usize % 4))
    }
}
