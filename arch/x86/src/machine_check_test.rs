//! Test bodies of [`crate::machine_check`].

use selftest::{cases, check, check_eq};
use virt::Errno;

use crate::machine_check::MachineCheck;
use crate::msr::Refused;

const CAP: u32 = 0x179;
const STATUS: u32 = 0x17a;
const CTL: u32 = 0x17b;
const BANK_0: u32 = 0x400;

cases! {
    fn there_are_no_banks_at_first() {
        let mut registers = MachineCheck::default();
        check_eq!((registers.read(CAP), registers.read(STATUS)), (Ok(0), Ok(0)));
        for number in [CTL, BANK_0, BANK_0 + 1, 0x47f] {
            check!(MachineCheck::has_msr(number));
            check_eq!(registers.read(number), Err(Refused));
            check_eq!(registers.write(number, 0, true), Err(Refused));
        }
        check!(!MachineCheck::has_msr(0x480) && !MachineCheck::has_msr(0x178));
    }

    fn banks_are_set_up() {
        let mut registers = MachineCheck::default();
        check_eq!(registers.set_up(10 | 1 << 8 | 1 << 24), Ok(()));
        check_eq!(registers.read(CAP), Ok(0x100_010a));
        check_eq!((registers.read(CTL), registers.read(BANK_0 + 4 * 9)), (Ok(!0), Ok(!0)));
        check_eq!(registers.read(BANK_0 + 4 * 10), Err(Refused));
        // Without MCG_CTL.
        check_eq!(registers.set_up(32), Ok(()));
        check_eq!(registers.read(CTL), Err(Refused));
        check_eq!(registers.read(BANK_0 + 4 * 31 + 3), Ok(0));
        for cap in [0, 33, 255, 1 | 1 << 9, 1 | 1 << 27, 1 | 1 << 63] {
            check_eq!(registers.set_up(cap), Err(Errno::EINVAL));
        }
        check_eq!(registers.read(CAP), Ok(32));
    }

    fn a_guest_only_clears_a_status() {
        let mut registers = MachineCheck::default();
        check_eq!(registers.set_up(2 | 1 << 8), Ok(()));
        for status in [STATUS, BANK_0 + 5] {
            check_eq!(registers.write(status, 5, false), Err(Refused));
            check_eq!(registers.write(status, 5, true), Ok(()));
            check_eq!(registers.read(status), Ok(5));
            check_eq!(registers.write(status, 0, false), Ok(()));
            check_eq!(registers.read(status), Ok(0));
        }
        for control in [CTL, BANK_0] {
            check_eq!(registers.write(control, 2, true), Err(Refused));
            check_eq!(registers.write(control, 0, false), Ok(()));
            check_eq!(registers.read(control), Ok(0));
        }
        check_eq!(registers.write(BANK_0 + 2, 0x1234, false), Ok(()));
        check_eq!(registers.read(BANK_0 + 2), Ok(0x1234));
        check_eq!(registers.write(CAP, 2, true), Err(Refused));
    }
}
