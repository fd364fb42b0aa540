//! What programs do to the local APIC, in both of its modes, and handlers that report and end interrupts.

use guests::programs::report;
use guests::{Guest, Hypervisor, IcedError, at, code_asm::*};

/// Register offsets in the xAPIC's page; an x2APIC's MSR is 0x800 plus a sixteenth.
pub mod register {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TASK_PRIORITY: u32 = 0x80;
    pub const PROCESSOR_PRIORITY: u32 = 0xa0;
    pub const END_OF_INTERRUPT: u32 = 0xb0;
    pub const LOGICAL_DESTINATION: u32 = 0xd0;
    pub const SPURIOUS: u32 = 0xf0;
    pub const IN_SERVICE: u32 = 0x100;
    pub const REQUEST: u32 = 0x200;
    pub const ERROR_STATUS: u32 = 0x280;
    pub const COMMAND: u32 = 0x300;
    pub const TIMER: u32 = 0x320;
    pub const LINT0: u32 = 0x350;
    pub const INITIAL_COUNT: u32 = 0x380;
    pub const CURRENT_COUNT: u32 = 0x390;
    pub const DIVIDE: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;
}

/// The timer counts at full speed.
pub const DIVIDE_BY_1: u32 = 0xb;
/// The timer's LVT entry: periodic.
pub const PERIODIC: u32 = 1 << 17;
/// The timer's LVT entry: TSC deadline.
pub const DEADLINE: u32 = 2 << 17;
/// An LVT entry: masked.
pub const MASKED: u32 = 1 << 16;
/// An LVT entry or a command: an interrupt of the 8259s.
pub const EXTINT: u32 = 7 << 8;
/// A command: NMI.
pub const NMI: u32 = 4 << 8;

/// WRMSR. Changes RAX, RCX and RDX.
pub fn write_msr(a: &mut CodeAssembler, index: u32, value: u64) -> Result<(), IcedError> {
    a.mov(ecx, index)?;
    a.mov(eax, value as u32)?;
    a.mov(edx, (value >> 32) as u32)?;
    a.wrmsr()
}

/// RDMSR to EDX:EAX.
pub fn read_msr(a: &mut CodeAssembler, index: u32) -> Result<(), IcedError> {
    a.mov(ecx, index)?;
    a.rdmsr()
}

/// Switches x2APIC mode on, and the local APIC; keeps the 8259s out, which nobody has set up.
pub fn enable_x2apic(a: &mut CodeAssembler) -> Result<(), IcedError> {
    read_msr(a, 0x1b)?;
    a.or(eax, 0xc00)?;
    a.wrmsr()?;
    write(a, register::SPURIOUS, 0x1ff)?;
    write(a, register::LINT0, MASKED)
}

/// Writes a register in x2APIC mode.
pub fn write(a: &mut CodeAssembler, register: u32, value: u32) -> Result<(), IcedError> {
    write_msr(a, 0x800 + register / 16, value.into())
}

/// Reads a register in x2APIC mode, to EAX.
pub fn read(a: &mut CodeAssembler, register: u32) -> Result<(), IcedError> {
    read_msr(a, 0x800 + register / 16)
}

/// Writes a register in xAPIC mode. Changes RBX.
pub fn write_page(a: &mut CodeAssembler, register: u32, value: u32) -> Result<(), IcedError> {
    a.mov(ebx, at::LAPIC as u32 + register)?;
    a.mov(dword_ptr(rbx), value as i32)
}

/// Reads a register in xAPIC mode, to EAX. Changes RBX.
pub fn read_page(a: &mut CodeAssembler, register: u32) -> Result<(), IcedError> {
    a.mov(ebx, at::LAPIC as u32 + register)?;
    a.mov(eax, dword_ptr(rbx))
}

/// Sends a command to the processor `target`, in x2APIC mode.
pub fn send(a: &mut CodeAssembler, target: u32, command: u32) -> Result<(), IcedError> {
    write_msr(a, 0x800 + register::COMMAND / 16, u64::from(target) << 32 | u64::from(command))
}

/// Interrupts this processor, in x2APIC mode.
pub fn interrupt_self(a: &mut CodeAssembler, vector: u8) -> Result<(), IcedError> {
    write(a, register::SELF_IPI, vector.into())
}

/// Lets interrupts in for two instructions.
pub fn window(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.sti()?;
    a.nop()?;
    a.nop()?;
    a.cli()
}

/// A handler: RAX, RBX, RCX and RDX are kept around `body`.
pub fn handler<H: Hypervisor>(
    guest: &Guest<H>,
    vector: u8,
    body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    let registers = [rax, rbx, rcx, rdx];
    guest.handler(vector, |a| {
        for register in registers {
            a.push(register)?;
        }
        body(a)?;
        for register in registers.into_iter().rev() {
            a.pop(register)?;
        }
        a.iretq()
    });
}

/// A handler that reports its vector and ends the interrupt, in x2APIC mode.
pub fn reporting_handler<H: Hypervisor>(guest: &Guest<H>, vector: u8) {
    handler(guest, vector, |a| {
        a.mov(eax, u32::from(vector))?;
        report(a)?;
        write(a, register::END_OF_INTERRUPT, 0)
    });
}

/// Waits until the doubleword at `address` is at least `value`, halted in between if `halted` and
/// otherwise spinning. Interrupts are on after it.
pub fn wait_for(
    a: &mut CodeAssembler,
    address: u64,
    value: u32,
    halted: bool,
) -> Result<(), IcedError> {
    let (mut top, mut done) = (a.create_label(), a.create_label());
    a.set_label(&mut top)?;
    a.cli()?;
    a.cmp(dword_ptr(address), value as i32)?;
    a.jae(done)?;
    a.sti()?;
    if halted {
        a.hlt()?;
    } else {
        a.pause()?;
    }
    a.jmp(top)?;
    a.set_label(&mut done)?;
    a.sti()
}
