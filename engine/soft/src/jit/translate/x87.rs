//! x87 instructions in a block: [`Translator::x87`].

use super::super::assembler::{Opcode, condition, group};
use super::super::context;
use super::super::shape::Encoding;
use super::super::x87::{Way, X87};
use super::super::x87_registers::MASKS;
use super::{Step, T2, Translator};

impl Translator<'_> {
    /// Translates an x87 instruction. Of its prefixes none means anything but for the operand's address.
    pub(super) fn x87(&mut self, step: &Step<'_>, encoding: &Encoding<'_>, x87: &X87) {
        self.expect_loaded(step.needed(), step);
        match x87.way {
            Way::Wait => {}
            Way::ControlWord => self.load_control_word(step, encoding),
            Way::Itself if x87.is_alone() => {
                self.expect_flags(step);
                self.code.raw(&[encoding.opcode, encoding.next]);
                self.flags_changed(step);
            }
            Way::Itself => self.x87_on_memory(step, encoding, x87),
        }
    }

    fn x87_on_memory(&mut self, step: &Step<'_>, encoding: &Encoding<'_>, x87: &X87) {
        let mut miss = None;
        let at = self.in_window_of(step).unwrap_or_else(|| {
            self.flags_are_lost();
            self.linear_address(step, encoding);
            let size = x87.operand.size.into();
            miss = Some(self.look_up_operand(step, size, x87.operand.written));
            Self::operand()
        });
        let opcode = Opcode { bytes: &[encoding.opcode], ..Opcode::default() };
        self.code.memory(opcode, encoding.next >> 3 & 7, at);
        self.finish(step, miss);
    }

    /// FLDCW of a word that masks all exceptions. Another processor may change the operand meanwhile: what is loaded is what
    /// was looked at.
    fn load_control_word(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        self.flags_are_lost();
        self.linear_address(step, encoding);
        let miss = self.look_up_operand(step, 2, false);
        // movzx r15d, word [r11 + r10].
        let load = Opcode { bytes: &[0x0f, 0xb7], ..Opcode::default() };
        self.code.memory(load, T2, Self::operand());
        self.code.store(context::SAVED, T2);
        self.code.change(group::AND, T2, MASKS);
        // cmp r15d, masks.
        self.code.raw(&[0x41, 0x83, 0xff, MASKS as u8]);
        let unmasks = self.code.jump_if(condition::NOT_EQUAL);
        // FLDCW.
        let opcode = Opcode { bytes: &[0xd9], ..Opcode::default() };
        self.code.memory(opcode, 5, self.code.place_of(context::SAVED));
        self.finish(step, [miss, unmasks]);
    }
}
