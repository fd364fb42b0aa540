//! What becomes of a panic: a line in the log and the kernel's `BUG`.
//!
//! `BUG` ends the task that runs, and the machine if it was set to
//! `panic_on_oops`. Nothing unwinds: locks that were held stay held. A panic
//! is therefore a defect, never an answer to a guest or to a caller.

use crate::printk::{Level, print};
use core::panic::PanicInfo;

// SAFETY: it is the glue's function (glue/glue.c), which takes nothing and may be called anywhere.
unsafe extern "C" {
    /// `BUG()`: does not return, but objtool, which checks the module's control
    /// flow, knows that of the kernel's own functions only.
    safe fn unibody_bug();
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    print!(Level::Error, "{info}");
    unibody_bug();
    loop {
        core::hint::spin_loop();
    }
}
