//! The guest's arithmetic flags in a block: where they are ([`Flags`]), and how they are had again ([`Recovery`]).
//!
//! A look-up in the TLB changes EFLAGS, and an access may fault, with flags that have to be right. But most flags are
//! never looked at: the next instruction that makes flags overwrites them. So such as can be made again of
//! registers that are still what they were are left to be lost, and are made again only where the interpreter is called,
//! where they are looked at after all, and at the end.

use iced_x86::{Mnemonic, OpKind};

use super::super::assembler::Opcode;
use super::super::context;
use super::super::shape::{Encoding, Map};
use super::loaded::Loaded;
use super::loops::is_address_only;
use super::windows::is_alone;
use super::{ARITHMETIC, Home, RAX, Step, T0, T2, Translator, home};

/// Where the guest's arithmetic flags are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flags {
    /// In the vCPU's field.
    Field,
    /// In EFLAGS only.
    Host,
    /// In both.
    Both,
    /// Nowhere: [`Translator::recovery`] makes them again.
    Lost,
}

/// How flags are made again, behind the instruction that has made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recovery {
    kind: Kind,
    wide: bool,
    /// The host's register of the first operand, which has the result.
    target: u8,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Add,
    Sub,
    Compare,
    Test,
    /// AND, OR, XOR: the result says it all.
    Logic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Register(u8),
    Value(i32),
}

/// Instructions that are looked at for one that overwrites flags, unless they are all there are.
const REACH: usize = 24;

impl Recovery {
    /// How the flags of an instruction are made again; `None` if they can't be.
    fn of(step: &Step<'_>) -> Option<Self> {
        let encoding = step.encoding.as_ref()?;
        let special = encoding.operand_size || encoding.lock || encoding.repeat.is_some();
        if special || encoding.vex.is_some() || encoding.map != Map::One || step.vector.is_some() {
            return None;
        }
        let (kind, target, source) = operands(step, encoding)?;
        let on_host = |guest| match home(guest) {
            Home::Host(host) => Some(host),
            Home::Field(_) => None,
        };
        let target = on_host(target)?;
        let source = match source {
            Source::Register(guest) => Source::Register(on_host(guest)?),
            value @ Source::Value(_) => value,
        };
        // What was added to itself is not known any more.
        let is_gone = matches!(kind, Kind::Add | Kind::Sub) && source == Source::Register(target);
        (!is_gone).then_some(Self { kind, wide: encoding.wide(), target, source })
    }
}

/// What an instruction does, and the guest's registers that it is done with.
fn operands(step: &Step<'_>, encoding: &Encoding<'_>) -> Option<(Kind, u8, Source)> {
    let group = encoding.next >> 3 & 7;
    let value = |n| Source::Value(step.instruction.immediate(n) as i32);
    let arithmetic = |number: u8| match number {
        0 => Some(Kind::Add),
        1 | 4 | 6 => Some(Kind::Logic),
        5 => Some(Kind::Sub),
        7 => Some(Kind::Compare),
        // ADC and SBB.
        _ => None,
    };
    Some(match encoding.opcode {
        opcode @ 0x00..=0x3f if opcode & 7 == 1 => {
            (arithmetic(opcode >> 3)?, encoding.rm()?, Source::Register(encoding.reg()))
        }
        opcode @ 0x00..=0x3f if opcode & 7 == 3 => {
            (arithmetic(opcode >> 3)?, encoding.reg(), Source::Register(encoding.rm()?))
        }
        opcode @ 0x00..=0x3f if opcode & 7 == 5 => (arithmetic(opcode >> 3)?, RAX, value(1)),
        0x81 | 0x83 => (arithmetic(group)?, encoding.rm()?, value(1)),
        0x85 => (Kind::Test, encoding.rm()?, Source::Register(encoding.reg())),
        0xa9 => (Kind::Test, RAX, value(1)),
        0xf7 if group == 0 => (Kind::Test, encoding.rm()?, value(1)),
        _ => return None,
    })
}

/// Finds out which flags may be lost.
pub(super) fn look_ahead(steps: &mut [Step<'_>]) {
    for n in 0..steps.len() {
        if steps[n].changed == ARITHMETIC
            && let Some(needed) = needed_in(&steps[n + 1..])
            && (needed.iter().any(accesses_memory) || n + 1 + needed.len() == steps.len())
            && let Some(recovery) = Recovery::of(&steps[n])
        {
            // An instruction that overwrites flags does so once it has accessed memory.
            let between = match needed.split_last() {
                Some((last, between)) if last.changed == ARITHMETIC => between,
                _ => needed,
            };
            let stays = between.iter().all(|step| !changes(step, &recovery));
            steps[n].recovery = stays.then_some(recovery);
        }
    }
}

/// Of the instructions behind one that makes flags, those up to the next that overwrites them all; all if there is
/// none. `None` if one of them does what is not done with flags that were lost.
fn needed_in<'a, 'b>(steps: &'b [Step<'a>]) -> Option<&'b [Step<'a>]> {
    for (n, step) in steps.iter().enumerate().take(REACH) {
        // An operand in memory is looked up before flags are made again, which takes its registers.
        if changes_some(step) || step.read != 0 && accesses_memory(step) {
            return None;
        }
        if step.changed == ARITHMETIC {
            return Some(&steps[..=n]);
        }
    }
    (steps.len() <= REACH).then_some(steps)
}

/// Whether an instruction changes some flags, and leaves others. A translated division changes the field.
fn changes_some(step: &Step<'_>) -> bool {
    let divides = matches!(step.instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv);
    divides || !matches!(step.changed, 0 | ARITHMETIC)
}

/// Lets the flags that a loop ends with be lost until its next round makes others. `steps` are the loop's, the
/// last of them the jump back, which looks at flags. Gives how they are made again at the loop's start; `None` if
/// that can't be.
pub(super) fn look_around(steps: &mut [Step<'_>]) -> Option<Recovery> {
    let (_, body) = steps.split_last()?;
    let maker = body.iter().rposition(|step| step.changed != 0 || step.read == ARITHMETIC)?;
    let recovery = Recovery::of(&steps[maker]).filter(|_| steps[maker].changed == ARITHMETIC)?;
    let count = overwritten_after(&steps[..=maker])?;
    let behind = &body[maker + 1..];
    let stays = behind.iter().chain(&steps[..count - 1]);
    let stays = stays.into_iter().all(|step| !changes(step, &recovery));
    if !stays || behind.iter().any(accesses_memory) {
        return None;
    }
    steps[maker].recovery = Some(recovery);
    Some(recovery)
}

/// Whether instructions overwrite all flags before anything can look at them.
pub(super) fn ignores(steps: &[Step<'_>]) -> bool {
    for step in steps {
        let is_here = is_alone(step) || is_address_only(step);
        // Registers are loaded at the start, which may fault.
        let loads = step.needed().with(step.later) != Loaded::NONE;
        if loads || step.side.is_some() {
            return false;
        }
        if !is_here || step.read != 0 || changes_some(step) {
            return false;
        }
        if step.changed == ARITHMETIC {
            return true;
        }
    }
    false
}

/// How many instructions it takes until all flags are overwritten; `None` if one of them may be looked at before.
fn overwritten_after(steps: &[Step<'_>]) -> Option<usize> {
    for (n, step) in steps.iter().enumerate() {
        if step.read != 0 || changes_some(step) {
            return None;
        }
        if step.changed == ARITHMETIC {
            return Some(n + 1);
        }
    }
    None
}

fn accesses_memory(step: &Step<'_>) -> bool {
    let i = &step.instruction;
    i.is_stack_instruction() || (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
}

/// Whether an instruction changes a register that flags are made again of.
fn changes(step: &Step<'_>, of: &Recovery) -> bool {
    let is_source = |host| host == of.target || of.source == Source::Register(host);
    (0..16).filter(|guest| step.written >> guest & 1 != 0).any(|guest| match home(guest) {
        Home::Host(host) => is_source(host),
        Home::Field(_) => false,
    })
}

impl Translator<'_> {
    /// Puts the flags into their field if they are not there. T0 changes; EFLAGS are the flags then, unless
    /// they were in the field.
    pub(super) fn store_flags(&mut self) {
        self.store_flags_by(T0);
    }

    /// The same, with another register that changes.
    pub(super) fn store_flags_by(&mut self, temporary: u8) {
        if self.flags == Flags::Lost
            && let Some(recovery) = self.recovery
        {
            self.recover(&recovery, temporary);
            self.flags = Flags::Host;
        }
        if self.flags == Flags::Host {
            // PUSHFQ is shorter, and much slower.
            self.code.copy(temporary, RAX);
            // LAHF; SETO AL.
            self.code.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
            self.code.store_16(context::FLAGS, RAX);
            self.code.copy(RAX, temporary);
            self.flags = Flags::Both;
        }
    }

    /// Takes the flags from their field.
    pub(super) fn load_flags(&mut self) {
        self.code.store(context::SAVED, RAX);
        self.code.load_zero_extended_word(RAX, context::FLAGS);
        // ADD AL, 0x7f overflows if AL is 1; SAHF.
        self.code.raw(&[0x04, 0x7f, 0x9e]);
        self.code.load(RAX, context::SAVED);
        self.flags = Flags::Both;
    }

    /// What EFLAGS must have before the instruction is executed as itself.
    pub(super) fn expect_flags(&mut self, step: &Step<'_>) {
        // Those that it does not change must be there, too.
        let changes_some = step.changed != 0 && step.changed != ARITHMETIC;
        if step.read != 0 || changes_some {
            match (self.flags, self.recovery) {
                (Flags::Field, _) => self.load_flags(),
                (Flags::Lost, Some(recovery)) => {
                    debug_assert!(!accesses_memory(step), "its operand is in T0 and T1");
                    // Where an operand is that others share a look-up with stays in T0 and T1.
                    self.recover(&recovery, T2);
                    self.flags = Flags::Host;
                }
                _ => {}
            }
        }
    }

    /// What the instruction, executed as itself, has done to the flags.
    pub(super) fn flags_changed(&mut self, step: &Step<'_>) {
        if step.changed != 0 || step.read == ARITHMETIC {
            self.flags = Flags::Host;
            self.recovery = step.recovery;
        }
    }

    /// EFLAGS are about to change: the flags are in their field, or can be made again.
    pub(super) fn flags_are_lost(&mut self) {
        if self.flags == Flags::Host && self.recovery.is_some() {
            self.flags = Flags::Lost;
        }
        if self.flags != Flags::Lost {
            self.store_flags();
            self.flags = Flags::Field;
        }
        self.pending = self.recovery.filter(|_| self.flags == Flags::Lost);
    }

    /// On a way on which the interpreter is called: the flags that were lost before the instruction, into their
    /// field. T0 and EFLAGS change.
    pub(super) fn store_lost_flags(&mut self, recovery: Option<Recovery>) {
        if let Some(recovery) = recovery {
            let (flags, current) = (self.flags, self.recovery);
            (self.flags, self.recovery) = (Flags::Lost, Some(recovery));
            self.store_flags();
            (self.flags, self.recovery) = (flags, current);
        }
    }

    /// Makes flags again, in EFLAGS. A temporary register changes.
    fn recover(&mut self, recovery: &Recovery, temporary: u8) {
        // By the numbers that opcodes have for these.
        const ADD: u8 = 0;
        const SUB: u8 = 5;
        const CMP: u8 = 7;
        let &Recovery { kind, wide, target, source } = recovery;
        let copy = Opcode { wide, bytes: &[0x89], ..Opcode::default() };
        match kind {
            Kind::Compare => self.arithmetic(CMP, wide, target, source),
            Kind::Logic => self.test(wide, target, Source::Register(target)),
            Kind::Test => self.test(wide, target, source),
            Kind::Add => {
                self.code.registers(copy, target, temporary);
                self.arithmetic(SUB, wide, temporary, source);
                self.arithmetic(ADD, wide, temporary, source);
            }
            Kind::Sub => {
                self.code.registers(copy, target, temporary);
                self.arithmetic(ADD, wide, temporary, source);
                self.arithmetic(SUB, wide, temporary, source);
            }
        }
    }

    fn arithmetic(&mut self, number: u8, wide: bool, target: u8, source: Source) {
        match source {
            Source::Register(source) => {
                let opcode = [number << 3 | 1];
                let opcode = Opcode { wide, bytes: &opcode, ..Opcode::default() };
                self.code.registers(opcode, source, target);
            }
            Source::Value(value) => {
                let opcode = Opcode { wide, bytes: &[0x81], ..Opcode::default() };
                self.code.registers(opcode, number, target);
                self.code.raw(&value.to_le_bytes());
            }
        }
    }

    fn test(&mut self, wide: bool, target: u8, source: Source) {
        match source {
            Source::Register(source) => {
                let opcode = Opcode { wide, bytes: &[0x85], ..Opcode::default() };
                self.code.registers(opcode, source, target);
            }
            Source::Value(value) => {
                let opcode = Opcode { wide, bytes: &[0xf7], ..Opcode::default() };
                self.code.registers(opcode, 0, target);
                self.code.raw(&value.to_le_bytes());
            }
        }
    }
}
