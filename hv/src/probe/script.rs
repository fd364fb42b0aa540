//! What the probe's guest has to do to be right: the accesses to ports that come out of each section
//! of its program, in their order.

use super::Check;
use super::program::{self, Line, port};

/// A section of the program, which tries one thing. The next one follows it.
pub(super) struct Section {
    pub(super) check: Check,
    /// Where it begins: a machine that went astray is set to the next section's.
    pub(super) entry: u64,
    pub(super) program: &'static [Line],
    pub(super) steps: &'static [Step],
}

/// An access to a port, or a string of them, in however many pieces.
pub(super) struct Step {
    /// What it shows, if the guest tells something by it.
    pub(super) what: &'static str,
    pub(super) direction: Direction,
    pub(super) port: u16,
    /// Of one access.
    pub(super) size: u8,
    /// What is read, or has to be written.
    pub(super) bytes: &'static [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// Where the timed loop begins, which is the last section.
pub(super) const LOOP_ENTRY: u64 = 0x1_0a00;

pub(super) const SECTIONS: [Section; 5] = [
    Section { check: Check::Ring0, entry: 0x1_0000, program: program::RING0, steps: RING0 },
    Section { check: Check::Paging, entry: 0x1_0200, program: program::PAGING, steps: PAGING },
    Section {
        check: Check::Interrupt,
        entry: 0x1_0400,
        program: program::INTERRUPT,
        steps: INTERRUPT,
    },
    Section { check: Check::Ports, entry: 0x1_0600, program: program::PORTS, steps: PORTS },
    Section { check: Check::Atomic, entry: 0x1_0800, program: program::ATOMIC, steps: ATOMIC },
];

const RING0: &[Step] = &[
    report("CR0", &0x8001_0033_u32.to_le_bytes()),
    report("CR3", &0x1000_u32.to_le_bytes()),
    report("EFER", &0xd01_u32.to_le_bytes()),
    report("CS and DS", &0x8_0010_u32.to_le_bytes()),
    report("the lower half of KERNEL_GS_BASE", &0x9abc_def0_u32.to_le_bytes()),
    report("the upper half of GS_BASE after SWAPGS", &0x1234_u32.to_le_bytes()),
];

const PAGING: &[Step] = &[
    report("a page at its second address", &0x600d_0001_u32.to_le_bytes()),
    report("what was written at the second address", &0x600d_0002_u32.to_le_bytes()),
    report("another page at the second address, after INVLPG", &0x600d_0003_u32.to_le_bytes()),
    report("the error code of a page fault", &0_u32.to_le_bytes()),
    report("CR2 at a page fault", &0x18_1008_u32.to_le_bytes()),
    report("the page that the handler mapped", &0x600d_0004_u32.to_le_bytes()),
];

const INTERRUPT: &[Step] = &[
    report("the local APIC's interrupts in service", &0x1_0000_u32.to_le_bytes()),
    report("the number of interrupts", &1_u32.to_le_bytes()),
    report("the local APIC's interrupts in service, after EOI", &0_u32.to_le_bytes()),
];

const PORTS: &[Step] = &[
    input(port::DATA, 1, &[0xa5]),
    output(port::ECHO, 1, &[0xa5]),
    report("a byte from a port", &0xa5_u32.to_le_bytes()),
    input(port::DATA, 2, &[0x5a, 0xc3]),
    output(port::ECHO, 2, &[0x5a, 0xc3]),
    report("two bytes from a port", &0xc35a_u32.to_le_bytes()),
    input(port::DATA, 4, &[0x0d, 0xf0, 0xad, 0x8b]),
    output(port::ECHO, 4, &[0x0d, 0xf0, 0xad, 0x8b]),
    input(port::STRING, 1, b"unibody\n"),
    output(port::STRING, 1, b"unibody\n"),
    report("RCX after a string", &0_u32.to_le_bytes()),
];

const ATOMIC: &[Step] = &[
    report("ZF after CMPXCHG16B of what is there", &1_u32.to_le_bytes()),
    report("what CMPXCHG16B stored", &0x33_0044_u32.to_le_bytes()),
    report("what CMPXCHG16B loaded", &0x33_0044_u32.to_le_bytes()),
    report("ZF after CMPXCHG16B of what is not there", &0_u32.to_le_bytes()),
];

const fn report(what: &'static str, bytes: &'static [u8; 4]) -> Step {
    Step { what, direction: Direction::Out, port: port::REPORT, size: 4, bytes }
}

const fn input(port: u16, size: u8, bytes: &'static [u8]) -> Step {
    Step { what: "", direction: Direction::In, port, size, bytes }
}

const fn output(port: u16, size: u8, bytes: &'static [u8]) -> Step {
    Step { what: "what was written to a port", direction: Direction::Out, port, size, bytes }
}
