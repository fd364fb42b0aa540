//! What an exit means: from the VMCB to a [`Cause`]. Pure.
//!
//! Most instructions that come out are the run loop's to execute, by the core's emulator, which makes all checks, knows the length, and
//! answers CPUID and the like itself: [`Intercept::Emulate`]. Without next-RIP saves it is so with all of them but ports, whose length is
//! known by the next RIP in EXITINFO2; with them the frequent ones come out with what the run loop needs.
//!
//! See: AMD APM vol. 2, 15.6–15.14, appendix C.

use arch_x86::emulate::debug::{dr6, dr7};
use arch_x86::engine::Intercept;
use arch_x86::exception::{self, Exception};
use arch_x86::regs::{Attr, efer};

use crate::features::Features;
use crate::vmcb::Vmcb;

/// EXITCODE's values. See: AMD APM vol. 2, appendix C.
pub mod code {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const READ_CR0: u64 = 0x00;
    pub const READ_CR8: u64 = 0x08;
    pub const WRITE_CR8: u64 = 0x18;
    pub const WRITE_CR15: u64 = 0x1f;
    pub const READ_DR0: u64 = 0x20;
    pub const WRITE_DR15: u64 = 0x3f;
    pub const EXCEPTION_0: u64 = 0x40;
    pub const EXCEPTION_31: u64 = 0x5f;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const CR0_SELECTIVE: u64 = 0x65;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const RSM: u64 = 0x73;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const SKINIT: u64 = 0x86;
    pub const RDTSCP: u64 = 0x87;
    pub const ICEBP: u64 = 0x88;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const MWAIT_ARMED: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const RDPRU: u64 = 0x8e;
    pub const INVPCID: u64 = 0xa2;
    pub const NESTED_PAGE_FAULT: u64 = 0x400;
}

/// EXITINFO1 of IOIO. See: AMD APM vol. 2, 15.10.2.
mod port {
    pub const IN: u64 = 1 << 0;
    pub const STRING: u64 = 1 << 2;
    pub const SIZE_SHIFT: u32 = 4;
    pub const NUMBER_SHIFT: u32 = 16;
}

/// EXITINFO1 of a nested page fault. See: AMD APM vol. 2, 15.25.6.
pub mod nested_fault {
    /// The access was a write.
    pub const WRITE: u64 = 1 << 1;
    /// It was to a page table of the guest's.
    pub const TABLE: u64 = 1 << 33;
}

/// Why the guest came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Something of the host's, which is served as soon as interrupts are on.
    Host,
    /// A machine check.
    MachineCheck,
    /// The guest waits for another vCPU.
    Pause,
    /// The guest is open for an interrupt.
    Window,
    /// The guest reached a page that the nested tables do not have, or not for this.
    Nested {
        /// The guest-physical address.
        gpa: u64,
        /// Whether it was a write.
        write: bool,
    },
    /// An exception that the guest is to have after all.
    Raised(Exception),
    /// #UD: an instruction that the processor has not.
    Undefined,
    /// VMRUN did not take the VMCB.
    Refused,
    /// The run loop's.
    Out(Intercept),
}

/// Whether the guest came out with this exception.
pub const fn is_exception(vmcb: &Vmcb, vector: u8) -> bool {
    vmcb.exit_code == code::EXCEPTION_0 + vector as u64
}

/// Whether VMRUN did not take the VMCB (VMEXIT_INVALID). What it did of the rest is not known.
pub const fn is_invalid(vmcb: &Vmcb) -> bool {
    vmcb.exit_code as u32 == u32::MAX
}

/// Whether an exception pushes an error code.
const fn has_error(vector: u8) -> bool {
    matches!(vector, exception::DF | exception::TS..=exception::PF | exception::AC)
}

/// Whether the guest is in 64-bit mode.
const fn mode64(vmcb: &Vmcb) -> bool {
    vmcb.efer & efer::LMA != 0 && vmcb.cs.attr & Attr::L != 0
}

/// The length of an instruction that ends before `next`, if it can be one.
fn length(vmcb: &Vmcb, next: u64) -> Option<u8> {
    let len = next.wrapping_sub(vmcb.rip);
    let len = if mode64(vmcb) { len } else { len & 0xffff_ffff };
    u8::try_from(len).ok().filter(|len| (1..=15).contains(len))
}

/// Why the guest of `vmcb` came out. `wanted`: the vectors whose exceptions the run loop wants.
pub fn cause(vmcb: &Vmcb, features: &Features, wanted: u32) -> Cause {
    let with_length = |out: fn(u8) -> Intercept| {
        let len = if features.next_rip { length(vmcb, vmcb.next_rip) } else { None };
        Cause::Out(len.map_or(Intercept::Emulate, out))
    };
    match vmcb.exit_code {
        code::INTR | code::NMI | code::SMI | code::INIT => Cause::Host,
        code::VINTR => Cause::Window,
        code::NESTED_PAGE_FAULT => nested(vmcb),
        code::EXCEPTION_0..=code::EXCEPTION_31 => raised(vmcb, wanted),
        code::IOIO => port_access(vmcb),
        code::MSR if vmcb.exit_info1 & 1 != 0 => with_length(|len| Intercept::WriteMsr { len }),
        code::MSR => with_length(|len| Intercept::ReadMsr { len }),
        code::CPUID => with_length(|len| Intercept::Cpuid { len }),
        code::HLT => with_length(|len| Intercept::Halt { len }),
        code::VMMCALL => with_length(|len| Intercept::Hypercall { len }),
        code::READ_CR8 | code::WRITE_CR8 => Cause::Out(cr8(vmcb, features)),
        code::PAUSE => Cause::Pause,
        code::SHUTDOWN => Cause::Out(Intercept::Shutdown),
        code::READ_DR0..=code::WRITE_DR15 => Cause::Out(debug_register(vmcb, wanted)),
        code::ICEBP if wanted >> exception::DB & 1 != 0 => {
            Cause::Out(Intercept::Exception(Exception::db(0)))
        }
        code::READ_CR0..=code::WRITE_CR15
        | code::CR0_SELECTIVE
        | code::RDPMC
        | code::IRET
        | code::INVD
        | code::RDTSCP
        | code::ICEBP
        | code::WBINVD
        | code::MONITOR
        | code::MWAIT
        | code::MWAIT_ARMED
        | code::XSETBV
        | code::INVPCID => Cause::Out(Intercept::Emulate),
        code::RSM | code::INVLPGA | code::VMRUN | code::VMLOAD..=code::SKINIT | code::RDPRU => {
            Cause::Raised(Exception::ud())
        }
        _ if is_invalid(vmcb) => Cause::Refused,
        // None that was asked for.
        _ => Cause::Out(Intercept::Failed(virt::Errno::EIO)),
    }
}

/// The processor walks the guest's tables as a writer, for it sets their accessed and dirty bits.
fn nested(vmcb: &Vmcb) -> Cause {
    let write = vmcb.exit_info1 & (nested_fault::WRITE | nested_fault::TABLE) != 0;
    Cause::Nested { gpa: vmcb.exit_info2, write }
}

/// An exception came out before it had changed a register. Only DR6 of the VMCB is already what the handler would see, and it was entered
/// with none of the bits set: see `enter`.
fn raised(vmcb: &Vmcb, wanted: u32) -> Cause {
    let vector = (vmcb.exit_code & 0x1f) as u8;
    if vector == exception::MC {
        return Cause::MachineCheck;
    }
    let raised = Exception {
        vector,
        error: has_error(vector).then_some(vmcb.exit_info1 as u32),
        payload: match vector {
            exception::PF => vmcb.exit_info2,
            exception::DB => vmcb.dr6 & dr6::WRITABLE,
            _ => 0,
        },
    };
    if wanted >> vector & 1 != 0 {
        Cause::Out(Intercept::Exception(raised))
    } else if vector == exception::UD {
        Cause::Undefined
    } else {
        Cause::Raised(raised)
    }
}

fn port_access(vmcb: &Vmcb) -> Cause {
    let info = vmcb.exit_info1;
    let number = (info >> port::NUMBER_SHIFT) as u16;
    // One of its bits is set: the size in bytes.
    let size = (info >> port::SIZE_SHIFT & 7) as u8;
    Cause::Out(match length(vmcb, vmcb.exit_info2) {
        _ if info & port::STRING != 0 => Intercept::StringIo,
        Some(_) if !matches!(size, 1 | 2 | 4) => Intercept::Emulate,
        Some(len) if info & port::IN != 0 => Intercept::In { port: number, size, len },
        Some(len) => Intercept::Out { port: number, size, len },
        None => Intercept::Emulate,
    })
}

/// MOV to and from CR8. See: AMD APM vol. 2, 15.8.1.
fn cr8(vmcb: &Vmcb, features: &Features) -> Intercept {
    let is_mov = vmcb.exit_info1 >> 63 != 0;
    let gpr = (vmcb.exit_info1 & 0xf) as u8;
    match length(vmcb, vmcb.next_rip) {
        Some(len) if is_mov && features.next_rip && features.decode_assists => {
            match vmcb.exit_code {
                code::READ_CR8 => Intercept::ReadCr8 { gpr, len },
                _ => Intercept::WriteCr8 { gpr, len },
            }
        }
        _ => Intercept::Emulate,
    }
}

/// With DR7.GD an access to a debug register is an exception first, which the run loop may want.
fn debug_register(vmcb: &Vmcb, wanted: u32) -> Intercept {
    if vmcb.dr7 & dr7::GD != 0 && wanted >> exception::DB & 1 != 0 && vmcb.cpl == 0 {
        Intercept::Exception(Exception::db(dr6::BD))
    } else {
        Intercept::Emulate
    }
}
