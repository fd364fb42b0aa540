//! What instructions use without naming it: the stack, strings, counters.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{Builder, Known, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, canonical, selectors};

impl Builder {
    /// Chooses what the instruction uses without naming it; `None` if it cannot be chosen any more, and
    /// anything will not do.
    pub(super) fn implied(&mut self, i: &mut Instruction) -> Option<()> {
        let code = i.code();
        if i.is_string_instruction() {
            self.implied_by_string(i);
        }
        match i.mnemonic() {
            Mnemonic::Xlatb => {
                let address = self.address(1);
                let offset = self.offset_in_segment(i, address);
                let index = self.get(RAX).unwrap_or(0) & 0xff;
                self.set(RBX, offset.wrapping_sub(index));
            }
            Mnemonic::Leave | Mnemonic::Enter => {
                let address = self.address(8);
                self.set(RBP, address);
            }
            Mnemonic::Div | Mnemonic::Idiv => {
                // So that the quotient fits now and then.
                let value = self.random.one_of(&[0, 0, 1, u64::MAX]);
                if self.random.chance(70) {
                    self.set(RDX, value);
                }
            }
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
                if i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register =>
            {
                let number = i.op1_register().full_register() as usize - Register::RAX as usize;
                let offset = self.random.within(-2000, 2000);
                if self.random.chance(85) {
                    self.set(number, offset as u64);
                }
            }
            Mnemonic::Loop
            | Mnemonic::Loope
            | Mnemonic::Loopne
            | Mnemonic::Jcxz
            | Mnemonic::Jecxz
            | Mnemonic::Jrcxz => {
                let count = self.random.below(6) | self.random.one_of(&[0, 0, 0, 1 << 32]);
                self.set(RCX, count);
            }
            Mnemonic::Jmp | Mnemonic::Call if i.op0_kind() == OpKind::Register => {
                let number = i.op0_register().full_register() as usize - Register::RAX as usize;
                let pad = self.pad();
                if self.random.chance(90) {
                    self.set(number, pad);
                }
            }
            Mnemonic::Ret => {
                let pad = self.pad();
                if self.random.chance(90)
                    && let Some(stack) = self.get(RSP)
                {
                    self.patch(stack, &pad.to_le_bytes());
                }
            }
            Mnemonic::Mov | Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw
                if let Some(register) = selectors::register(i) =>
            {
                let selector = self.selector(i);
                let upper = self.random.bits() & !0xffff;
                if self.random.chance(90) {
                    self.set(register as usize - Register::RAX as usize, upper | selector);
                }
            }
            Mnemonic::Pop if selectors::is_segment(i.op0_register()) => {
                let selector = self.selector(i);
                if let Some(stack) = self.get(RSP) {
                    self.patch(stack, &selector.to_le_bytes());
                }
            }
            Mnemonic::Popf | Mnemonic::Popfq => {
                let odd = if self.random.chance(15) { 0x4_4100 } else { 0 };
                let flags = self.random.bits() & (0x0020_0ed5 | odd)
                    | self.random.bits() & !0x004_4100 << 32;
                if let Some(stack) = self.get(RSP) {
                    self.patch(stack, &flags.to_le_bytes());
                }
            }
            Mnemonic::Wrfsbase | Mnemonic::Wrgsbase if code.op_code().operand_size() == 64 => {
                let number = i.op0_register().full_register() as usize - Register::RAX as usize;
                let value = canonical(self.random.bits());
                if self.random.chance(80) {
                    self.set(number, value);
                }
            }
            Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => {
                let address = self.address(16);
                let mut offset = self.offset_in_segment(i, address);
                if i.op0_kind() == OpKind::MemorySegEDI {
                    offset = offset & 0xffff_ffff | self.random.bits() << 32;
                }
                self.set(RDI, offset);
            }
            Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestri64
            | Mnemonic::Pcmpestrm
            | Mnemonic::Pcmpestrm64
            | Mnemonic::Vpcmpestri
            | Mnemonic::Vpcmpestri64
            | Mnemonic::Vpcmpestrm
            | Mnemonic::Vpcmpestrm64 => {
                // Lengths about those of a register.
                for register in [RAX, RDX] {
                    let length = self.random.within(-20, 20) as u64;
                    let upper = self.random.bits() << 32;
                    if self.random.chance(80) {
                        self.set(register, length & 0xffff_ffff | upper);
                    }
                }
            }
            Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xsaveopt
            | Mnemonic::Xsaveopt64
            | Mnemonic::Xsavec
            | Mnemonic::Xsavec64
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64 => {
                // Components that the guest does not have the host may well have.
                let components = self.random.bits() & 7;
                let upper = self.random.bits() << 32;
                let low = self.set(RAX, components | upper);
                let high = self.set(RDX, upper);
                if !(low && high) {
                    return None;
                }
            }
            _ => {}
        }
        Some(())
    }

    fn implied_by_string(&mut self, i: &mut Instruction) {
        for n in 0..i.op_count() {
            let (register, short) = match i.op_kind(n) {
                OpKind::MemorySegRSI => (RSI, false),
                OpKind::MemorySegESI => (RSI, true),
                OpKind::MemoryESRDI => (RDI, false),
                OpKind::MemoryESEDI => (RDI, true),
                _ => continue,
            };
            let address = self.address(8);
            let mut offset = address;
            if register == RSI {
                offset = self.offset_in_segment(i, address);
            }
            if short {
                offset = offset & 0xffff_ffff | self.random.bits() << 32;
            }
            if self.random.chance(97) {
                self.set(register, offset);
            }
        }
        // Near each other now and then, so that the two overlap.
        if self.random.chance(20) && self.known[RDI] == Known::Fixed {
            let near = self.gprs[RSI].wrapping_add(self.random.within(-16, 16) as u64);
            self.gprs[RDI] = near;
        }
        let count = match self.random.below(10) {
            0 => self.random.bits(),
            1 => 0,
            2 => self.random.below(6000),
            _ => self.random.below(64),
        };
        let upper = if self.random.chance(10) { self.random.bits() << 32 } else { 0 };
        self.set(RCX, count | upper);
    }
}
