//! What an intercept needs: CR8, HLT, ports; the rest is in the files beside.

use virt::host::Host;
use virt::ioeventfd::IoAddress;

use super::events::Activity;
use super::{Answer, Awaited, Data, Exit, Vcpu};
use crate::emulate::debug;
use crate::engine::{Engine, Intercept};
use crate::exception::Exception;
use crate::regs::{Regs, cr4, gpr, rflags};

/// What the answer to the last exit completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// Nothing.
    None,
    /// IN: the value goes to AL, AX or EAX, and RIP moves on.
    In {
        /// The port.
        port: u16,
        /// 1, 2 or 4.
        size: u8,
        /// Length of the instruction.
        len: u8,
    },
    /// INS: the bytes go to memory.
    StringIn {
        /// How many elements were asked for.
        count: u8,
        /// Size of one.
        size: u8,
    },
    /// RDMSR: the value goes to EDX and EAX, and RIP moves on.
    ReadMsr {
        /// Length of the instruction.
        len: u8,
    },
    /// WRMSR: RIP moves on.
    WriteMsr {
        /// Length of the instruction.
        len: u8,
    },
    /// A read from a device by an instruction that is executed again then.
    Mmio {
        /// Guest-physical address.
        gpa: u64,
        /// Size of the access.
        size: u8,
    },
}

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// Handles an intercept. Gives an exit if the VMM is needed.
    pub(super) fn handle(&mut self, intercept: Intercept) -> Option<Exit> {
        match intercept {
            Intercept::Interrupted | Intercept::InterruptWindow | Intercept::NmiWindow => {}
            Intercept::Exception(exception) => return self.exception(exception),
            Intercept::Halt { len } => {
                self.advance(len);
                if self.lapic.config().absent {
                    return Some(Exit::Halted);
                }
                self.activity = Activity::Halted;
            }
            Intercept::Cpuid { len } => self.cpuid_instruction(len),
            Intercept::ReadMsr { len } => return self.read_msr_instruction(len),
            Intercept::WriteMsr { len } => return self.write_msr_instruction(len),
            Intercept::ReadCr8 { gpr, len } => {
                self.engine.set_gpr(gpr, self.lapic.cr8());
                self.advance(len);
            }
            Intercept::WriteCr8 { gpr, len } => return self.write_cr8(gpr, len),
            Intercept::In { port, size, len } => return self.port_in(port, size, len),
            Intercept::Out { port, size, len } => return self.port_out(port, size, len),
            Intercept::StringIo => return self.string_io(),
            Intercept::Hypercall { len } => return self.hypercall(len),
            Intercept::NestedFault { .. } | Intercept::Emulate => return self.emulate(),
            Intercept::Undefined => return self.undefined(),
            Intercept::BadMemory { gpa } => return Some(Exit::BadMemory { gpa }),
            Intercept::Shutdown => {
                self.activity = Activity::Shutdown;
                return Some(Exit::Shutdown);
            }
            Intercept::EntryRefused { reason, processor } => {
                return Some(Exit::EntryRefused { reason, processor });
            }
            Intercept::Failed(errno) => return Some(Exit::Failed(errno)),
            Intercept::Unsupported { bytes, len } => {
                return Some(Exit::Unsupported { bytes, len });
            }
        }
        None
    }

    /// Puts the VMM's answer where the instruction wants it.
    pub(super) fn complete(&mut self, answer: Answer) {
        let completion = core::mem::replace(&mut self.completion, Completion::None);
        let data = match answer {
            Answer::Data(data) => data,
            // A port or an address that nobody answers for reads as all ones.
            Answer::None | Answer::Refused => Data::ones(Data::MAX),
        };
        match completion {
            Completion::None => {}
            Completion::In { port, size, len } => {
                self.set_accumulator(size, data.word());
                self.advance_past(len, self.port_breakpoints(port, size));
            }
            Completion::ReadMsr { len } => match answer {
                Answer::Data(data) => self.complete_read_msr(data.word(), len),
                Answer::None | Answer::Refused => self.raise(Exception::gp(0)),
            },
            Completion::WriteMsr { len } => match answer {
                Answer::Refused => self.raise(Exception::gp(0)),
                Answer::None | Answer::Data(_) => self.advance(len),
            },
            Completion::StringIn { count, .. } => self.complete_string_in(&data, count),
            Completion::Mmio { gpa, size } => self.replay.answer(gpa, size, data.word()),
        }
    }

    /// Which answer it waits for.
    pub fn awaits(&self) -> Awaited {
        match self.completion {
            Completion::None => Awaited::Nothing,
            Completion::In { size, .. } => Awaited::Port { bytes: size },
            Completion::StringIn { count, size } => {
                Awaited::Port { bytes: count.saturating_mul(size) }
            }
            Completion::Mmio { size, .. } => Awaited::Memory { size },
            Completion::ReadMsr { .. } => Awaited::ReadMsr,
            Completion::WriteMsr { .. } => Awaited::WriteMsr,
        }
    }

    /// Moves RIP behind an instruction that was handled here.
    pub(super) fn advance(&mut self, len: u8) {
        self.advance_past(len, 0);
    }

    /// [`advance`](Self::advance), after the instruction met the breakpoints `met`: bits of DR6.
    pub(super) fn advance_past(&mut self, len: u8, met: u64) {
        let next = self.engine.rip().wrapping_add(len.into());
        self.engine.set_rip(if self.engine.mode64() { next } else { next & 0xffff_ffff });
        self.engine.set_interrupt_shadow(false);
        let flags = self.engine.rflags();
        self.engine.set_rflags(flags & !rflags::RF);
        self.trap(met, flags & rflags::TF != 0);
    }

    /// Raises the debug exception of an instruction, or an iteration of one, if there is one, or tells the debugger.
    pub(super) fn trap(&mut self, met: u64, stepped: bool) {
        let met = self.debugger.completed(met);
        if let Some(exception) = debug::trap(met, stepped) {
            self.raise(exception);
        }
    }

    /// The breakpoints that watch a port: bits of DR6. See: AMD APM vol. 2, 13.1.1.4.
    pub(super) fn port_breakpoints(&self, port: u16, size: u8) -> u64 {
        if self.debugger.has_breakpoints() {
            return 0;
        }
        if self.engine.cr4() & cr4::DE == 0 || !debug::armed(self.engine.dr(7)) {
            return 0;
        }
        let (addresses, control) = (debug::addresses(&self.engine), self.engine.dr(7));
        debug::matches(&addresses, control, port.into(), size.into(), debug::Kind::Port)
            .unwrap_or(0)
    }

    fn write_cr8(&mut self, register: u8, len: u8) -> Option<Exit> {
        let value = self.engine.gpr(register);
        if value >> 4 != 0 {
            self.raise(Exception::gp(0));
            return None;
        }
        let is_lower = value < self.lapic.cr8();
        self.lapic.set_cr8(value);
        self.advance(len);
        // The local APIC is the VMM's, and with it what waits behind the priority.
        (is_lower && self.lapic.config().absent).then_some(Exit::TaskPriorityLowered)
    }

    fn set_accumulator(&mut self, size: u8, value: u64) {
        let old = self.engine.gpr(gpr::RAX);
        let new = match size {
            1 => old & !0xff | value & 0xff,
            2 => old & !0xffff | value & 0xffff,
            _ => value & 0xffff_ffff,
        };
        self.engine.set_gpr(gpr::RAX, new);
    }

    fn port_in(&mut self, port: u16, size: u8, len: u8) -> Option<Exit> {
        if self.machine.setup.has_port(port) {
            let value = self.chip_in(port);
            // A chip has 8 data lines; the others float.
            self.set_accumulator(size, u64::from(value) | 0xffff_ff00);
            self.advance_past(len, self.port_breakpoints(port, size));
            return None;
        }
        self.completion = Completion::In { port, size, len };
        Some(Exit::In { port, size, count: 1 })
    }

    fn port_out(&mut self, port: u16, size: u8, len: u8) -> Option<Exit> {
        let value = self.engine.gpr(gpr::RAX);
        self.advance_past(len, self.port_breakpoints(port, size));
        if self.machine.setup.has_port(port) {
            self.chip_out(port, value as u8);
            return None;
        }
        let bytes = value.to_le_bytes();
        let bytes = &bytes[..usize::from(size.min(4))];
        if self.signal(IoAddress::Port(port), bytes) {
            return None;
        }
        Some(Exit::Out { port, size, data: Data::new(bytes) })
    }

    #[inline(never)]
    pub(super) fn chip_in(&mut self, port: u16) -> u8 {
        self.machine.with_chips(|chips, now| chips.read_port(port, now))
    }

    #[inline(never)]
    pub(super) fn chip_out(&mut self, port: u16, value: u8) {
        self.machine.with_chips(|chips, now| ((), chips.write_port(port, value, now)));
    }
}
