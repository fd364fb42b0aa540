//! Instructions on the vCPU's fields, for [`Assembler`]: RSP is where the vCPU is (see [`crate::jit::context`]).

use super::{Address, Assembler, Opcode};
use crate::jit::context::RED_ZONE;

const RSP: u8 = 4;
/// How far below RSP elsewhere RSP is in a stub: what signals and calls must leave alone, and a return address.
const IN_STUB: i32 = RED_ZONE + 8;

impl Assembler {
    /// Where the vCPU's field at `offset` is.
    pub fn place_of(&self, offset: i32) -> Address {
        let pushed = if self.is_stub { IN_STUB } else { 0 };
        Address { base: Some(RSP), index: None, displacement: offset + pushed }
    }

    /// What follows is a stub, which is called by [`call`](Self::call); or not so any more.
    pub const fn stub(&mut self, is_stub: bool) {
        self.is_stub = is_stub;
    }

    /// Calls a stub. No flags change.
    pub fn call(&mut self, target: u64) {
        debug_assert!(!self.is_stub, "RSP is elsewhere in a stub");
        self.lea(true, RSP, self.place_of(-RED_ZONE));
        self.part.bytes.push(0xe8);
        self.relative(target);
    }

    /// The end of a stub.
    pub fn end_stub(&mut self) {
        // ret 128.
        self.raw(&[0xc2]);
        self.raw(&(RED_ZONE as u16).to_le_bytes());
        self.is_stub = false;
    }

    /// Leaves a stub without an end to it.
    pub fn abandon_stub(&mut self) {
        self.is_stub = false;
        self.lea(true, RSP, self.place_of(IN_STUB));
    }

    /// An instruction on a register and the vCPU's field at `offset`.
    fn field(&mut self, wide: bool, bytes: &[u8], reg: u8, offset: i32) {
        let at = self.place_of(offset);
        self.memory(Opcode { prefixes: &[], wide, rex: false, bytes }, reg, at);
    }

    /// `mov reg, [offset]`.
    pub fn load(&mut self, reg: u8, offset: i32) {
        self.field(true, &[0x8b], reg, offset);
    }

    /// `mov` of a field of 32 bits.
    pub fn load_32(&mut self, reg: u8, offset: i32) {
        self.field(false, &[0x8b], reg, offset);
    }

    /// `xor reg, [offset]`, of 32 bits.
    pub fn xor_field_32(&mut self, reg: u8, offset: i32) {
        self.field(false, &[0x33], reg, offset);
    }

    /// `mov [offset], reg`.
    pub fn store(&mut self, offset: i32, reg: u8) {
        self.field(true, &[0x89], reg, offset);
    }

    /// `movzx` of a field of 16 bits.
    pub fn load_zero_extended_word(&mut self, reg: u8, offset: i32) {
        self.field(false, &[0x0f, 0xb7], reg, offset);
    }

    /// `movzx` of a byte field.
    pub fn load_zero_extended_byte(&mut self, reg: u8, offset: i32) {
        self.field(false, &[0x0f, 0xb6], reg, offset);
    }

    /// `mov dword [offset], value`.
    pub fn store_value(&mut self, offset: i32, value: u32) {
        self.field(false, &[0xc7], 0, offset);
        self.raw(&value.to_le_bytes());
    }

    /// `sub reg, [offset]`.
    pub fn subtract_field(&mut self, reg: u8, offset: i32) {
        self.field(true, &[0x2b], reg, offset);
    }

    /// `cmp reg, [offset]`.
    pub fn compare_with_field(&mut self, reg: u8, offset: i32) {
        self.field(true, &[0x3b], reg, offset);
    }

    /// `add reg, [offset]`.
    pub fn add_field(&mut self, reg: u8, offset: i32) {
        self.field(true, &[0x03], reg, offset);
    }

    /// `add qword [offset], value`.
    pub fn count(&mut self, offset: i32, value: u8) {
        self.field(true, &[0x83], 0, offset);
        self.part.bytes.push(value);
    }

    /// `cmp byte [offset], value`.
    pub fn compare_byte(&mut self, offset: i32, value: u8) {
        self.field(false, &[0x80], 7, offset);
        self.part.bytes.push(value);
    }

    /// `cmp dword [offset], value`.
    pub fn compare_32(&mut self, offset: i32, value: u32) {
        self.field(false, &[0x81], 7, offset);
        self.raw(&value.to_le_bytes());
    }

    /// `test dword [offset], bits`.
    pub fn test_bits(&mut self, offset: i32, bits: u32) {
        self.field(false, &[0xf7], 0, offset);
        self.raw(&bits.to_le_bytes());
    }

    /// An operation of [`super::group`] on a field of 32 bits and a value.
    pub fn change_field(&mut self, operation: u8, offset: i32, value: u32) {
        self.field(false, &[0x81], operation, offset);
        self.raw(&value.to_le_bytes());
    }

    /// `or reg, [offset]`, of 32 bits.
    pub fn or_field_32(&mut self, reg: u8, offset: i32) {
        self.field(false, &[0x0b], reg, offset);
    }

    /// `xor [offset], reg`, of 32 bits.
    pub fn xor_to_field_32(&mut self, offset: i32, reg: u8) {
        self.field(false, &[0x31], reg, offset);
    }

    /// `mov` of a register to a field of 32 bits.
    pub fn store_32(&mut self, offset: i32, reg: u8) {
        self.field(false, &[0x89], reg, offset);
    }

    /// `mov` of a register to a field of 16 bits.
    pub fn store_16(&mut self, offset: i32, reg: u8) {
        self.part.bytes.push(0x66);
        self.field(false, &[0x89], reg, offset);
    }

    /// `mov` of a value to a field of 16 bits.
    pub fn store_16_value(&mut self, offset: i32, value: u16) {
        self.part.bytes.push(0x66);
        self.field(false, &[0xc7], 0, offset);
        self.raw(&value.to_le_bytes());
    }

    /// `mov` of a register's low byte to a field. Not for RSP to RDI.
    pub fn store_low_byte(&mut self, offset: i32, reg: u8) {
        self.field(false, &[0x88], reg, offset);
    }

    /// `mov` of a value to a byte field.
    pub fn store_byte_value(&mut self, offset: i32, value: u8) {
        self.field(false, &[0xc6], 0, offset);
        self.part.bytes.push(value);
    }

    /// `cmp reg, [offset]; cmova reg, [offset]`, of 32 bits: the lesser of the two, unsigned.
    pub fn limit(&mut self, reg: u8, offset: i32) {
        self.field(false, &[0x3b], reg, offset);
        self.field(false, &[0x0f, 0x47], reg, offset);
    }
}
