//! Test bodies of [`crate::msr`].

use selftest::{cases, check, check_eq};

use crate::msr::{Refused, Stored, index};

cases! {
    fn what_is_not_there_is_refused() {
        let mut msrs = Stored::default();
        check_eq!(msrs.read(0xdead_beef), Err(Refused));
        check_eq!(msrs.write(0xdead_beef, 0), Err(Refused));
        // Read-only ones.
        check_eq!(msrs.write(index::MTRR_CAP, 0), Err(Refused));
        check_eq!(msrs.write(index::ARCH_CAPABILITIES, 0), Err(Refused));
        check_eq!(msrs.write(index::PERF_CAPABILITIES, 0), Err(Refused));
        check_eq!(msrs.read(index::PERF_CAPABILITIES), Ok(0));
    }

    fn memory_types_are_checked() {
        let mut msrs = Stored::default();
        check_eq!(msrs.write(index::PAT, 0x0007_0406_0007_0401), Ok(()));
        check_eq!(msrs.read(index::PAT), Ok(0x0007_0406_0007_0401));
        for reserved in [2, 3, 8, 0xff] {
            check_eq!(msrs.write(index::PAT, reserved), Err(Refused));
            check_eq!(msrs.write(index::MTRR_FIX4K_7, reserved << 56), Err(Refused));
        }
        for wrong in [2, 0xc07, 0x800 | 3, 0x100, 1 << 12] {
            check_eq!(msrs.write(index::MTRR_DEFAULT_TYPE, wrong), Err(Refused));
        }
        check_eq!(msrs.write(index::MTRR_DEFAULT_TYPE, 0xc06), Ok(()));
        check_eq!(msrs.read(index::MTRR_DEFAULT_TYPE), Ok(0xc06));
        // UC- exists in the PAT only.
        check_eq!(msrs.write(index::MTRR_FIX64K, 7), Err(Refused));
        check_eq!(msrs.write(index::MTRR_FIX64K, 0x0606_0606_0606_0606), Ok(()));
        check_eq!(msrs.read(index::MTRR_FIX64K), Ok(0x0606_0606_0606_0606));
    }

    fn every_register_keeps_a_value_of_its_own() {
        let mut msrs = Stored::default();
        let variable = index::MTRR_FIRST_VARIABLE..=index::MTRR_LAST_VARIABLE;
        for number in variable.clone() {
            check_eq!(msrs.write(number, u64::from(number) << 12), Ok(()));
        }
        for number in variable {
            check_eq!(msrs.read(number), Ok(u64::from(number) << 12));
        }
        check!(msrs != Stored::default());
    }

    fn what_is_chosen_of_power_is_kept() {
        let mut msrs = Stored::default();
        check_eq!(msrs.write(index::POWER_CTL, 0x1234), Ok(()));
        check_eq!(msrs.read(index::POWER_CTL), Ok(0x1234));
    }

    fn a_barrier_command_is_taken_and_speculation_control_is_kept() {
        let mut msrs = Stored::default();
        check_eq!(msrs.write(index::PRED_CMD, 1), Ok(()));
        check_eq!(msrs.write(index::PRED_CMD, 2), Err(Refused));
        check_eq!(msrs.write(index::SPEC_CTRL, 5), Ok(()));
        check_eq!(msrs.read(index::SPEC_CTRL), Ok(5));
        check_eq!(msrs.write(index::SPEC_CTRL, 1 << 10), Ok(()));
        check_eq!(msrs.write(index::SPEC_CTRL, 1 << 20), Err(Refused));
    }
}
