//! [`differences`]: what of two outcomes is not the same, as far as the architecture defines it.

use std::fmt::Write;

use iced_x86::Instruction;

use crate::case::{Case, End, Outcome};
use crate::generate::Undefined;
use crate::layout::image_address;

/// Names of the general-purpose registers.
pub const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// The flags that a case leaves undefined, as bits of RFLAGS.
#[must_use]
pub fn undefined_flags(case: &Case, native: &Outcome) -> u64 {
    let mut undefined = Undefined::default();
    let mut mask = 0;
    for instruction in case.instructions() {
        undefined.execute(&instruction);
        // A fault may have ended the block before what defines them again.
        mask |= undefined.mask();
        if is_repeated_comparison(&instruction) && !ended(native) {
            // If a later round faults: Intel's processors then show the flags from before the
            // instruction, as the engine does, AMD's those of some round.
            mask |= STATUS;
        }
    }
    mask
}

/// CF, PF, AF, ZF, SF and OF.
const STATUS: u64 = 0x8d5;

/// Whether the block came to its end, a breakpoint.
fn ended(outcome: &Outcome) -> bool {
    matches!(outcome.end, End::Exception { vector: 3, .. })
}

fn is_repeated_comparison(instruction: &Instruction) -> bool {
    use iced_x86::Mnemonic::{Cmpsb, Cmpsd, Cmpsq, Cmpsw, Scasb, Scasd, Scasq, Scasw};
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let comparison = matches!(
        instruction.mnemonic(),
        Cmpsb | Cmpsw | Cmpsd | Cmpsq | Scasb | Scasw | Scasd | Scasq
    );
    repeated && comparison
}

/// The end, without what the host's kernel hides: that upper addresses are not mapped.
fn visible(outcome: &Outcome) -> End {
    match outcome.end {
        End::Exception { vector: 14, error } if outcome.cr2 >> 63 != 0 => {
            End::Exception { vector: 14, error: error | 1 }
        }
        end => end,
    }
}

/// A line for each difference.
#[must_use]
pub fn differences(native: &Outcome, engine: &Outcome, undefined: u64) -> String {
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
    for (name, (native, engine)) in NAMES.iter().zip(native.gprs.iter().zip(engine.gprs)) {
        word(name, *native, engine);
    }
    word("rip", native.rip, engine.rip);
    word("rflags", native.rflags & !undefined, engine.rflags & !undefined);
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
