//! Bodies about the processors' virtualization itself, which is there on whatever the module can be used on.

use ::selftest::{cases, check_eq};
use arch_x86::hardware::Virtualization;
use engine_hardware::Hardware;
use virt::host_test::given;

use crate::kernel::Kernel;
use crate::processor::{stay, without_interrupts};

cases! {
    fn a_crash_has_it_be_off() {
        let hardware = given(Hardware::new(Kernel))?;
        let outcomes = without_interrupts(|| stay(|processor| {
            let first = hardware.enable(processor);
            // Another one's stays as it is.
            if first.is_ok() {
                crate::unibody_crash();
            }
            let second = hardware.enable(processor);
            if second.is_ok() {
                hardware.disable(processor);
                // As it is on a processor that had no guest.
                crate::unibody_crash();
            }
            (first, second)
        }));
        check_eq!(outcomes, (Ok(()), Ok(())));
    }
}
