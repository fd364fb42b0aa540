//! IRETQ from a kernel to a program: [`Translator::iret`].
//!
//! A kernel returns from each page fault and interrupt to the same segments. Where they lie and what their descriptors say is noted
//! when the interpreter has executed such a return ([`crate::jit::enter`]); if descriptors and selectors
//! are what they were, so are the segments. All else is the interpreter's: other levels and modes, flags that decide about more than
//! the next instruction, and whatever would fault.
//!
//! See: AMD APM vol. 3, IRET.

use arch_x86::regs::{Seg, rflags};

use super::super::assembler::{Address, Jump, Opcode, condition, group};
use super::super::context;
use super::{LOAD, STACK, Step, T0, T1, T2, Translator};

/// Of the flags that are popped, what is kept. RF holds breakpoints, and none are enabled.
const KEPT: u64 = rflags::STATUS
    | rflags::IF
    | rflags::DF
    | rflags::IOPL
    | rflags::VIF
    | rflags::VIP
    | rflags::ID;
/// These are the interpreter's.
const SPECIAL: u64 = rflags::TF | rflags::NT | rflags::AC;

/// What is popped.
const RIP: i32 = 0;
const CODE: i32 = 8;
const FLAGS: i32 = 16;
const POINTER: i32 = 24;
const STACK_SEGMENT: i32 = 32;
const SIZE: u32 = 40;

/// A part of the frame, whose place is T2.
const fn popped(part: i32) -> Address {
    Address { base: Some(T2), index: None, displacement: part }
}

impl Translator<'_> {
    /// Translates IRETQ.
    pub(super) fn iret(&mut self, step: &Step<'_>) {
        self.store_flags();
        self.flags_are_lost();
        let mut out = self.expect_plain_return();
        self.code.copy(T0, STACK);
        out.push(self.look_up_stack(SIZE, false));
        self.code.lea(true, T2, Self::operand());
        out.extend(self.expect_known_segments());
        // What is not canonical, or in the upper half: mov r11, r10; shr r11, 47.
        self.code.memory(LOAD, T0, popped(RIP));
        self.code.copy(T1, T0);
        self.code.raw(&[0x49, 0xc1, 0xeb, 47]);
        out.push(self.code.jump_if(condition::NOT_EQUAL));
        self.code.memory(LOAD, T1, popped(FLAGS));
        // Who compares with the interpreter sees RF.
        let special = if self.chained { SPECIAL } else { SPECIAL | rflags::RF };
        self.code.test_register(T1, special as u32);
        out.push(self.code.jump_if(condition::NOT_EQUAL));

        self.code.store(context::RIP, T0);
        self.code.memory(LOAD, STACK, popped(POINTER));
        self.code.copy(T2, T1);
        self.code.change(group::AND, T2, KEPT as u32);
        self.take_rflags();
        self.code.load_32(T0, context::RETURN_SELECTORS);
        self.set_flat(Seg::Cs, 3, T0);
        self.code.shift_right(T0, 16);
        self.set_flat(Seg::Ss, 3, T0);
        self.take_level(3);
        self.code.load(T0, context::RIP);
        self.leave_to_other_level(3, 0);
        for (n, jump) in out.into_iter().enumerate() {
            match n {
                0 => self.on_miss(jump, step, Some(self.end)),
                _ => self.or_on_miss(jump),
            }
        }
        if let Some(slow) = self.slow.last_mut() {
            slow.returns = true;
        }
    }

    /// Nothing is special about the state in which it is executed. T0 changes.
    fn expect_plain_return(&mut self) -> Vec<Jump> {
        let mut out = Vec::new();
        self.code.compare_32(context::ATTENTION, 0);
        out.push(self.code.jump_if(condition::NOT_EQUAL));
        self.code.test_bits(context::RFLAGS, (rflags::NT | rflags::AC) as u32);
        out.push(self.code.jump_if(condition::NOT_EQUAL));
        self.code.compare_byte(context::NMI_BLOCKED, 0);
        out.push(self.code.jump_if(condition::NOT_EQUAL));
        out.push(self.expect_no_window());
        // No segment that the program must not have.
        let data =
            [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs].map(|seg| context::segment_selector(seg as u8));
        self.code.load_zero_extended_word(T0, data[0]);
        for selector in &data[1..] {
            self.code.load_zero_extended_word(T1, *selector);
            self.code.or(T0, T1);
        }
        // EFLAGS are those of the last OR.
        out.push(self.code.jump_if(condition::NOT_EQUAL));
        out
    }

    /// The selectors in the frame at T2, and the descriptors, are those that were noted.
    fn expect_known_segments(&mut self) -> Vec<Jump> {
        let mut out = Vec::new();
        let word = Opcode { wide: false, bytes: &[0x0f, 0xb7], ..Opcode::default() };
        self.code.memory(word, T0, popped(CODE));
        self.code.memory(word, T1, popped(STACK_SEGMENT));
        self.code.shift_left(T1, 16);
        self.code.or(T0, T1);
        self.code.xor_field_32(T0, context::RETURN_SELECTORS);
        out.push(self.code.jump_if(condition::NOT_EQUAL));
        for n in 0..2 {
            self.code.load(T0, context::return_place(n));
            out.push(self.look_up(8, false));
            self.code.memory(LOAD, T0, Self::operand());
            self.code.compare_with_field(T0, context::return_descriptor(n));
            out.push(self.code.jump_if(condition::NOT_EQUAL));
        }
        out
    }
}
