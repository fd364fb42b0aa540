//! Indirect branches compare the code that the jump cache has with some that they have led to before, and jump there as
//! direct branches do: [`assemble`], [`assemble_unknown`], [`meet`].
//!
//! Which way a conditional branch goes is foreseen better than where an indirect one leads: on a Zen 4 a program that calls 64
//! pointers to 8 functions in turns takes a third of the time so, and half of what it takes without a guest. Nothing has to be undone when a block is
//! dropped: no entry of the jump cache has its code any more.
//!
//! A *site* is, for each of its [`TARGETS`], and then once:
//!
//! | bytes | |
//! |---|---|
//! | 7 | `lea r11, [rip + distance of the code]`; of itself, while none is known |
//! | 3 | `cmp r15, r11` |
//! | 6 | `je` to the code; to what follows, while none is known |
//! | 5 | `jmp` to what asks Rust to note the code; behind that, once there is no room |

use super::assembler::{Assembler, Jump, Opcode, condition};
use super::memory::CodeMemory;

/// How many targets a site compares with.
pub(super) const TARGETS: u64 = 2;

/// Of a target: its size, and where the distances are.
const TARGET: u64 = 16;
const VALUE: u64 = 3;
const BRANCH: u64 = 12;
/// Of the jump behind them: where its distance is.
const OTHERS: u64 = TARGETS * TARGET + 1;
/// How long what asks Rust is.
const QUESTION: u64 = 12;

const T1: u8 = 11;
const T2: u8 = 15;

/// Goes on at the code at R15: the site, and the jump to what is unknown. R11 and EFLAGS change.
pub(super) fn assemble(code: &mut Assembler) -> (u64, Jump) {
    let site = code.here();
    for _ in 0..TARGETS {
        let next = code.here() + VALUE + 4;
        code.lea_of(T1, next);
        code.registers(Opcode { wide: true, bytes: &[0x39], ..Opcode::default() }, T1, T2);
        let known = code.jump_if(condition::EQUAL);
        code.bind(known);
    }
    (site, code.jump_ahead())
}

/// What a site leads to that does not know the code at R15. `stub` is that of [`super::stubs::Stubs::meet`].
pub(super) fn assemble_unknown(code: &mut Assembler, site: u64, stub: u64) {
    let start = code.here();
    code.lea_of(T1, site);
    code.jump(stub);
    debug_assert_eq!(code.here() - start, QUESTION);
    // jmp r15.
    code.raw(&[0x41, 0xff, 0xe7]);
}

/// The site knows `code` from now on. Its translation is not being executed: whatever of the change the processor sees sooner,
/// it leads to the same.
pub(super) fn meet(memory: &mut CodeMemory, site: u64, code: u64) {
    let is_free = |n: &u64| {
        let value = site + n * TARGET + VALUE;
        memory.target(value) == Some(value + 4)
    };
    let Some(n) = (0..TARGETS).find(is_free) else { return };
    memory.redirect(site + n * TARGET + VALUE, code);
    memory.redirect(site + n * TARGET + BRANCH, code);
    if n == TARGETS - 1
        && let Some(question) = memory.target(site + OTHERS)
    {
        memory.redirect(site + OTHERS, question + QUESTION);
    }
}
