//! [`differences`]: what of two outcomes is not the same, as far as the architecture defines it.

use std::fmt::Write;

use crate::case::{End, Outcome};
use crate::latitude::Free;
use crate::layout::image_address;

/// Names of the general-purpose registers.
pub const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// The end, without what the host's kernel hides: that upper addresses are not mapped.
fn visible(outcome: &Outcome) -> End {
    match outcome.end {
        End::Exception { vector: 14, error } if outcome.cr2 >> 63 != 0 => {
            End::Exception { vector: 14, error: error | 1 }
        }
        end => end,
    }
}

/// A line for each difference in what is not `free`.
#[must_use]
pub fn differences(native: &Outcome, engine: &Outcome, free: &Free) -> String {
    let mut text = String::new();
    let (end, other) = (visible(native), visible(engine));
    if end != other {
        let _ = writeln!(text, "  end     native {end:x?}, engine {other:x?}");
    }
    let mut word = |name: &str, native: u64, engine: u64| {
        if native != engine {
            let _ = writeln!(text, "  {name:<7} native {native:016x}, engine {engine:016x}");
        }
    };
    for (n, name) in NAMES.iter().enumerate() {
        let compared = !free.gprs[n];
        word(name, native.gprs[n] & compared, engine.gprs[n] & compared);
    }
    word("rip", native.rip, engine.rip);
    word("rflags", native.rflags & !free.rflags, engine.rflags & !free.rflags);
    word("cr2", native.cr2, engine.cr2);
    word("fs base", native.bases[0], engine.bases[0]);
    word("gs base", native.bases[1], engine.bases[1]);
    if native.image != engine.image {
        let different = (0..native.image.len()).filter(|at| native.image[*at] != engine.image[*at]);
        for at in different.take(16) {
            let (native, engine) = (native.image[at], engine.image[at]);
            let address = image_address(at);
            let _ = writeln!(text, "  [{address:x}] native {native:02x}, engine {engine:02x}");
        }
    }
    text
}
