//! Debug registers: breakpoints and single step, as pure functions, and MOV DR.
//!
//! An engine has to keep these rules (AMD APM vol. 2, 13.1, 8.5):
//!
//! - Instruction breakpoints are *faults*, checked before the instruction is
//!   fetched ([`instruction`]); RFLAGS.RF suppresses them. Their #DB comes before any other
//!   fault of the instruction, and before external interrupts held at that boundary.
//! - Data breakpoints are *traps*: what an instruction's accesses match
//!   ([`data`]) is gathered and raised after it completed. An instruction
//!   that faults drops them. A repeated string instruction traps after the iteration.
//! - Single step: RFLAGS.TF *before* an instruction raises a trap with
//!   [`dr6::BS`] after it. The bits of all traps of one instruction go into one #DB.
//! - Traps come before the next instruction's breakpoint, and both before
//!   NMIs and interrupts. In the shadow of MOV SS and POP SS traps are lost
//!   for that instruction, or held until after the next one; both occur in hardware.
//! - RF is cleared after each completed instruction except IRET, which loads it.
//! - INT n, INT3, INTO, SYSCALL and delivery clear or mask TF before it
//!   would trap: TF is sampled before, but raised only if the instruction did not deliver an event.
//!   SYSCALL and SYSRET trap by the *new* TF.
//!
//! - What MOV SS has held is part of an INT1 that follows, not an exception after it: handlers
//!   that run on a stack of their own would overwrite their frame.
//!
//! The exception's payload is the DR6 bits; `event::deliver` leaves them in DR6.

use super::{cr_gpr_size, gp};
use crate::emulate::{Cpu, Insn, Stop};
use crate::exception::Exception;
use crate::regs::{Regs, cr4};

/// DR6 bits. See: AMD APM vol. 2, 13.1.1.3.
pub mod dr6 {
    /// Breakpoints 0 to 3 matched.
    pub const B: u64 = 0xf;
    /// A debug register was accessed while DR7.GD was set.
    pub const BD: u64 = 1 << 13;
    /// Single step.
    pub const BS: u64 = 1 << 14;
    /// Task switch.
    pub const BT: u64 = 1 << 15;
    /// Bits that read as one.
    pub const FIXED: u64 = 0xffff_0ff0;
    /// Bits that can be written.
    pub const WRITABLE: u64 = B | BD | BS | BT;
}

/// DR7 bits. See: AMD APM vol. 2, 13.1.1.4.
pub mod dr7 {
    /// L0 to G3: a breakpoint is enabled if either of its two is set.
    pub const ENABLE: u64 = 0xff;
    /// L0 to L3, and LE: a task switch clears them.
    pub const LOCAL: u64 = 0x155;
    /// General detect: accesses to debug registers raise #DB.
    pub const GD: u64 = 1 << 13;
    /// Bits that read as one.
    pub const FIXED: u64 = 1 << 10;
    /// Bits that can be written.
    pub const WRITABLE: u64 = 0xffff_23ff;
}

/// What a breakpoint can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An instruction at the address.
    Execute,
    /// A write of data.
    Write,
    /// A read of data.
    Read,
    /// An access to a port (with CR4.DE).
    Port,
}

/// Whether any breakpoint is enabled: the test that an engine makes first.
#[must_use]
pub const fn armed(dr7: u64) -> bool {
    dr7 & dr7::ENABLE != 0
}

/// Whether an enabled breakpoint watches instructions.
#[must_use]
pub const fn armed_for_execution(dr7: u64) -> bool {
    let mut n = 0;
    while n < 4 {
        if enabled(dr7, n) && condition(dr7, n) == 0 {
            return true;
        }
        n += 1;
    }
    false
}

const fn enabled(dr7: u64, n: u32) -> bool {
    dr7 >> (n * 2) & 3 != 0
}

const fn condition(dr7: u64, n: u32) -> u64 {
    dr7 >> (16 + n * 4) & 3
}

/// Length in bytes that breakpoint `n` covers, a power of two.
const fn length(dr7: u64, n: u32) -> u64 {
    match dr7 >> (18 + n * 4) & 3 {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    }
}

/// The DR6 bits of the enabled breakpoints that an access matches; `None` if none does.
///
/// `addresses` are DR0 to DR3. A breakpoint's address is aligned to its length.
#[must_use]
pub fn matches(addresses: &[u64; 4], dr7: u64, linear: u64, size: u64, kind: Kind) -> Option<u64> {
    let mut bits = 0;
    for (n, address) in (0..4).zip(addresses) {
        let watched = match condition(dr7, n) {
            0 => kind == Kind::Execute,
            1 => kind == Kind::Write,
            2 => kind == Kind::Port,
            _ => matches!(kind, Kind::Write | Kind::Read),
        };
        if !watched || !enabled(dr7, n) {
            continue;
        }
        let covered = if kind == Kind::Execute { 1 } else { length(dr7, n) };
        let start = address & !(covered - 1);
        // Distances, so that ranges at the end of the address space need no care.
        let hit = linear.wrapping_sub(start) < covered || start.wrapping_sub(linear) < size;
        bits |= u64::from(hit) << n;
    }
    (bits != 0).then_some(bits)
}

/// The addresses that breakpoints watch.
#[must_use]
pub fn addresses(regs: &impl Regs) -> [u64; 4] {
    [regs.dr(0), regs.dr(1), regs.dr(2), regs.dr(3)]
}

/// The #DB of an instruction breakpoint at linear address `rip`, to be asked before the
/// instruction is fetched.
#[must_use]
pub fn instruction(regs: &impl Regs, rip: u64) -> Option<Exception> {
    if regs.rflags() & crate::regs::rflags::RF != 0 {
        return None;
    }
    matches(&addresses(regs), regs.dr(7), rip, 1, Kind::Execute).map(Exception::db)
}

/// The DR6 bits of data breakpoints that an access matches, to be raised
/// after the instruction.
#[must_use]
pub fn data(regs: &impl Regs, linear: u64, size: u64, write: bool) -> Option<u64> {
    let kind = if write { Kind::Write } else { Kind::Read };
    matches(&addresses(regs), regs.dr(7), linear, size, kind)
}

/// The trap after an instruction: `bits` of its data breakpoints, and whether it was stepped.
#[must_use]
pub fn trap(bits: u64, stepped: bool) -> Option<Exception> {
    let bits = bits | if stepped { dr6::BS } else { 0 };
    (bits != 0).then_some(Exception::db(bits))
}

/// What the delivery of a #DB leaves: DR6's bits, and DR7.GD clear so that the
/// handler can use the registers.
pub fn record(cpu: &mut impl Regs, bits: u64) {
    let old = cpu.dr(6) & !dr6::B;
    cpu.set_dr(6, old & (dr6::WRITABLE | dr6::FIXED) | dr6::FIXED | bits & dr6::WRITABLE);
    cpu.set_dr(7, cpu.dr(7) & !dr7::GD);
}

/// The checks of MOV DR; gives the register's number.
/// See: AMD APM vol. 3, MOV DRn.
fn check<C: Cpu>(cpu: &mut C, n: u8) -> Result<u8, Stop> {
    let n = match n {
        4 | 5 if cpu.cr4() & cr4::DE == 0 => n + 2,
        4 | 5 | 8.. => return Err(cpu.fault(Exception::ud())),
        _ => n,
    };
    if cpu.cpl() != 0 {
        return Err(gp(cpu, 0));
    }
    if cpu.dr(7) & dr7::GD != 0 {
        return Err(cpu.fault(Exception::db(dr6::BD)));
    }
    Ok(n)
}

/// MOV r, DRn.
pub(super) fn read<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let n = check(cpu, insn.rm)?;
    let value = cpu.dr(n) & cr_gpr_size(cpu);
    cpu.set_gpr(insn.reg, value);
    Ok(())
}

/// MOV DRn, r.
pub(super) fn write<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let n = check(cpu, insn.rm)?;
    let value = cpu.gpr(insn.reg) & cr_gpr_size(cpu);
    if n >= 6 && value >> 32 != 0 {
        return Err(gp(cpu, 0));
    }
    let value = match n {
        6 => value & dr6::WRITABLE | dr6::FIXED,
        7 => value & dr7::WRITABLE | dr7::FIXED,
        _ => value,
    };
    cpu.set_dr(n, value);
    Ok(())
}
