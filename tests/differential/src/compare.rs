//! [`differences`]: what of two outcomes is not the same, as far as the architecture defines it.

use std::fmt::Write;

use crate::case::{End, Outcome};
use crate::latitude::Free;
use crate::layout::image_address;
use crate::vector::Vector;

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

/// The registers of the x87 (by their physical numbers) and vector units; but for the last instruction's opcode, address and
/// operand address, which the engine does not keep: see `engine_soft::vector`.
fn vectors(text: &mut String, native: &Vector, engine: &Vector, free: &Free) {
    let mut line = |name: &str, native: u128, engine: u128| {
        if native != engine {
            let _ = writeln!(text, "  {name:<7} native {native:032x}, engine {engine:032x}");
        }
    };
    let status = |vector: &Vector| (vector.fsw() & !free.fsw).into();
    let tags = |vector: &Vector| (vector.tags() & !free.tags).into();
    let mxcsr = |vector: &Vector| (vector.fx.mxcsr() & !free.mxcsr).into();
    line("fcw", native.fcw().into(), engine.fcw().into());
    line("fsw", status(native), status(engine));
    line("tags", tags(native), tags(engine));
    line("mxcsr", mxcsr(native), mxcsr(engine));
    for n in 0..8 {
        line(&format!("fp{n}"), native.physical(n), engine.physical(n));
    }
    for n in 0..16 {
        line(&format!("xmm{n}"), native.xmm(n), engine.xmm(n));
        line(&format!("upper{n}"), native.upper[n], engine.upper[n]);
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
    // A null one loses its level when the host's kernel returns.
    let selector = |selector: u64| if selector & !3 == 0 { 0 } else { selector };
    for (n, name) in ["es", "ds", "fs", "gs"].iter().enumerate() {
        word(name, selector(native.selectors[n]), selector(engine.selectors[n]));
    }
    if native.vector != engine.vector && !free.vectors {
        vectors(&mut text, &native.vector, &engine.vector, free);
    }
    if native.image != engine.image {
        let different = (0..native.image.len()).filter(|at| {
            native.image[*at] != engine.image[*at] && !free.memory.iter().any(|of| of.contains(at))
        });
        for at in different.take(16) {
            let (native, engine) = (native.image[at], engine.image[at]);
            let address = image_address(at);
            let _ = writeln!(text, "  [{address:x}] native {native:02x}, engine {engine:02x}");
        }
    }
    text
}
