//! INS and OUTS: a buffer of elements an exit.
//!
//! Each exit moves up to [`Data::MAX`] bytes; a longer string comes back here, with RIP still at
//! the instruction. To and from ports of the chips, and to one whose writes signal events, an element is moved at a time.
//!
//! See: AMD APM vol. 3, INS, OUTS.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};
use virt::host::Host;
use virt::ioeventfd::IoAddress;

use super::access::Emulator;
use super::handle::Completion;
use super::{Data, Exit, Vcpu};
use crate::emulate::decode::{MAX_LENGTH, Mode};
use crate::emulate::operand::linear;
use crate::emulate::{Access, Cpu, Stop};
use crate::engine::Engine;
use crate::machine::has_port;
use crate::regs::{Regs, Seg, gpr, rflags};

/// One string instruction, and how much of it comes next.
struct Transfer {
    out: bool,
    port: u16,
    /// 1, 2 or 4.
    size: u8,
    /// Elements of this round.
    count: u8,
    /// Whether RCX counts.
    repeated: bool,
    /// Bytes of an address: 2, 4 or 8.
    address_size: u8,
    seg: Seg,
    len: u8,
    backwards: bool,
}

/// Keeps the low `size` bytes.
fn low(value: u64, size: u8) -> u64 {
    match size {
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// Sets a register as an access of `size` bytes does: 32 bits clear the upper half.
fn set_low(regs: &mut impl Regs, register: u8, size: u8, value: u64) {
    let value = match size {
        2 => regs.gpr(register) & !0xffff | value & 0xffff,
        _ => low(value, size),
    };
    regs.set_gpr(register, value);
}

impl Transfer {
    /// The instruction that `code` begins with. A function of its own for the decoder's stack.
    #[inline(never)]
    fn decode(code: &[u8], regs: &impl Regs) -> Option<Self> {
        let bits = Mode::of(regs) as u32 * 8;
        let instruction = Decoder::new(bits, code, DecoderOptions::NONE).decode();
        Self::new(&instruction, regs)
    }

    #[inline(never)]
    fn new(instruction: &Instruction, regs: &impl Regs) -> Option<Self> {
        let (out, size) = match instruction.mnemonic() {
            Mnemonic::Insb => (false, 1),
            Mnemonic::Insw => (false, 2),
            Mnemonic::Insd => (false, 4),
            Mnemonic::Outsb => (true, 1),
            Mnemonic::Outsw => (true, 2),
            Mnemonic::Outsd => (true, 4),
            _ => return None,
        };
        use iced_x86::OpKind::{MemoryESDI, MemoryESEDI, MemorySegESI, MemorySegSI};
        let kinds = [instruction.op0_kind(), instruction.op1_kind()];
        let address_size = if kinds.iter().any(|k| matches!(k, MemoryESDI | MemorySegSI)) {
            2
        } else if kinds.iter().any(|k| matches!(k, MemoryESEDI | MemorySegESI)) {
            4
        } else {
            8
        };
        let seg = match instruction.memory_segment() {
            _ if !out => Seg::Es,
            Register::ES => Seg::Es,
            Register::CS => Seg::Cs,
            Register::SS => Seg::Ss,
            Register::FS => Seg::Fs,
            Register::GS => Seg::Gs,
            _ => Seg::Ds,
        };
        let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        let left = if repeated { low(regs.gpr(gpr::RCX), address_size) } else { 1 };
        let port = regs.gpr(gpr::RDX) as u16;
        let most = if has_port(port) { 1 } else { Data::MAX as u64 / u64::from(size) };
        Some(Self {
            out,
            port,
            size,
            count: left.min(most) as u8,
            repeated,
            address_size,
            seg,
            len: instruction.len() as u8,
            backwards: regs.rflags() & rflags::DF != 0,
        })
    }

    /// This round with the first `count` elements only; what is wrong with the one behind them is
    /// found when it is the first. `None` without any.
    fn first(&self, count: u8) -> Option<Self> {
        (count > 0).then_some(Self { count, ..*self })
    }

    fn register(&self) -> u8 {
        if self.out { gpr::RSI } else { gpr::RDI }
    }

    /// Linear address of element `n` from here on, checked.
    fn address<C: Cpu>(&self, n: u8, cpu: &mut C) -> Result<u64, Stop> {
        let distance = u64::from(n) * u64::from(self.size);
        let start = cpu.gpr(self.register());
        let offset = if self.backwards {
            start.wrapping_sub(distance)
        } else {
            start.wrapping_add(distance)
        };
        let offset = low(offset, self.address_size);
        linear(cpu, self.seg, offset, self.size.into(), !self.out)
    }

    /// Moves the registers on by this round. Gives whether the instruction is done.
    fn step(&self, regs: &mut impl Regs) -> bool {
        let register = self.register();
        let distance = u64::from(self.count) * u64::from(self.size);
        let start = regs.gpr(register);
        let end = if self.backwards {
            start.wrapping_sub(distance)
        } else {
            start.wrapping_add(distance)
        };
        set_low(regs, register, self.address_size, end);
        if !self.repeated {
            return true;
        }
        let left = low(regs.gpr(gpr::RCX), self.address_size).wrapping_sub(self.count.into());
        set_low(regs, gpr::RCX, self.address_size, left);
        low(left, self.address_size) == 0
    }
}

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// Handles the string instruction at RIP.
    #[inline(never)]
    pub(super) fn string_io(&mut self) -> Option<Exit> {
        let transfer = match self.decode_string() {
            Ok(transfer) => transfer,
            Err(exit) => return exit,
        };
        if transfer.count == 0 {
            self.advance(transfer.len);
            return None;
        }
        if transfer.out { self.string_out(&transfer) } else { self.string_in(&transfer) }
    }

    fn decode_string(&mut self) -> Result<Transfer, Option<Exit>> {
        let mut bytes = [0; MAX_LENGTH];
        let mut emulator = Emulator::new(self);
        let fetched = match emulator.fetch(&mut bytes) {
            Ok(fetched) => fetched,
            Err(_) => return Err(emulator.give_up()),
        };
        let mut transfer = Transfer::decode(&bytes[..fetched], &self.engine)
            .ok_or(Some(Exit::Unsupported { bytes, len: fetched as u8 }))?;
        let at = IoAddress::Port(transfer.port);
        // Each iteration traps, or may signal.
        let stepped = self.is_stepped() || self.debugger.steps();
        if transfer.out && self.ioeventfds.covers(&self.machine.ioeventfds, at)
            || stepped
            || self.port_breakpoints(transfer.port, transfer.size) != 0
        {
            transfer.count = transfer.count.min(1);
        }
        Ok(transfer)
    }

    #[inline(never)]
    fn string_out(&mut self, transfer: &Transfer) -> Option<Exit> {
        let size = usize::from(transfer.size);
        let mut data = Data::zeroed(size * usize::from(transfer.count));
        let mut emulator = Emulator::new(self);
        let mut read = 0;
        for (n, element) in (0..).zip(data.as_mut_slice().chunks_exact_mut(size)) {
            let result = transfer
                .address(n, &mut emulator)
                .and_then(|at| emulator.load_bytes(at, element, Access::Operand));
            if result.is_err() {
                break;
            }
            read = n + 1;
        }
        let Some(transfer) = transfer.first(read) else { return emulator.give_up() };
        let data = Data::new(data.as_slice().get(..size * usize::from(read)).unwrap_or_default());
        self.replay.forget_reads();
        self.finish_round(&transfer);
        if self.machine.setup.has_port(transfer.port) {
            self.chip_out(transfer.port, data.word() as u8);
            return None;
        }
        // More than one is of a time when there was no event.
        let at = IoAddress::Port(transfer.port);
        if transfer.count == 1 && self.signal(at, data.as_slice()) {
            return None;
        }
        Some(Exit::Out { port: transfer.port, size: transfer.size, data })
    }

    #[inline(never)]
    fn string_in(&mut self, transfer: &Transfer) -> Option<Exit> {
        let mut emulator = Emulator::new(self);
        let mut probed = 0;
        for n in 0..transfer.count {
            let size = usize::from(transfer.size);
            let result = transfer
                .address(n, &mut emulator)
                .and_then(|at| emulator.probe_write(at, size, Access::Operand));
            if result.is_err() {
                break;
            }
            probed = n + 1;
        }
        let Some(transfer) = transfer.first(probed) else { return emulator.give_up() };
        if self.machine.setup.has_port(transfer.port) {
            let byte = self.chip_in(transfer.port);
            self.complete_string_in(&Data::new(&[byte, 0xff, 0xff, 0xff]), 1);
            return None;
        }
        self.completion = Completion::StringIn { count: transfer.count, size: transfer.size };
        Some(Exit::In { port: transfer.port, size: transfer.size, count: transfer.count })
    }

    /// Puts the bytes that were read into memory.
    #[inline(never)]
    pub(super) fn complete_string_in(&mut self, data: &Data, count: u8) {
        let Ok(transfer) = self.decode_string() else { return };
        let Some(transfer) = transfer.first(count.min(transfer.count)) else { return };
        let size = usize::from(transfer.size);
        let mut emulator = Emulator::new(self);
        let elements = data.as_slice().chunks_exact(size).take(transfer.count.into());
        for (n, element) in elements.enumerate() {
            let written = transfer
                .address(n as u8, &mut emulator)
                .and_then(|at| emulator.store_bytes(at, element, Access::Operand));
            if written.is_err() {
                // The page went away since it was probed: the guest sees the fault.
                emulator.give_up();
                return;
            }
        }
        self.finish_round(&transfer);
    }

    fn finish_round(&mut self, transfer: &Transfer) {
        let met = self.port_breakpoints(transfer.port, transfer.size);
        if transfer.step(&mut self.engine) {
            self.advance_past(transfer.len, met);
        } else {
            self.trap(met, self.is_stepped());
        }
    }

    fn is_stepped(&self) -> bool {
        self.engine.rflags() & rflags::TF != 0
    }
}
