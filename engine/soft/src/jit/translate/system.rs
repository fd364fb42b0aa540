//! Instructions on privilege and RFLAGS in a block: [`Translator::system`].
//!
//! What a kernel executes at each system call and around each critical section. Each is done here only as far
//! as nothing but the fields that are named here changes; what would have to be looked at besides is
//! the interpreter's.

use arch_x86::regs::{Attr, Seg, Segment, SysReg, cr4, efer, rflags};
use iced_x86::Mnemonic;

use super::super::assembler::{Address, Jump, Opcode, condition, group};
use super::super::context;
use super::super::shape::Encoding;
use super::super::stubs::find_jump;
use super::{Flags, LOAD, SAVE, STACK, Step, T0, T1, T2, Translator};
use crate::jump_cache as jump;
use crate::tlb::Rights;

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const STATUS: u32 = rflags::STATUS as u32;
/// The arithmetic flags in RFLAGS's lowest byte.
const LOW_STATUS: u32 = STATUS & 0xff;
const OVERFLOW_SHIFT: u8 = rflags::OF.trailing_zeros() as u8;
/// Where the guest's R11 is.
const R11: i32 = context::kept(2);
const IF: u32 = rflags::IF as u32;
const AC: u32 = rflags::AC as u32;

impl Translator<'_> {
    /// Translates an instruction that the block goes on behind. Gives false, and has done nothing, if it is none.
    pub(super) fn system(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) -> bool {
        if encoding.lock || encoding.operand_size || encoding.vex.is_some() {
            return false;
        }
        let supervisor = self.cpl == 0;
        match step.instruction.mnemonic() {
            Mnemonic::Cli if supervisor => {
                self.flags_are_lost();
                self.code.change_field(group::AND, context::RFLAGS, !IF);
            }
            Mnemonic::Sti if supervisor => self.sti(step),
            Mnemonic::Clac if supervisor => self.set_ac(step, false),
            Mnemonic::Stac if supervisor => self.set_ac(step, true),
            Mnemonic::Pushfq => self.pushf(step),
            Mnemonic::Popfq => self.popf(step),
            Mnemonic::Swapgs if supervisor => {
                let (base, other) =
                    (context::segment_base(Seg::Gs as u8), sysreg(SysReg::KernelGsBase));
                self.flags_are_lost();
                self.code.load(T0, base);
                self.code.load(T1, other);
                self.code.store(base, T1);
                self.code.store(other, T0);
                self.code.copy(T0, T1);
                self.gs_changed();
            }
            Mnemonic::Rdtsc | Mnemonic::Rdtscp => self.rdtsc(step),
            _ => return false,
        }
        true
    }

    /// Translates SYSCALL, SYSRET and IRETQ, which end a block. Gives false, and has done nothing, if it is none of them.
    pub(super) fn system_branch(&mut self, step: &Step<'_>) -> bool {
        match step.instruction.mnemonic() {
            Mnemonic::Syscall => self.syscall(step),
            Mnemonic::Sysretq if self.cpl == 0 => self.sysret(step),
            Mnemonic::Iretq if self.cpl == 0 => self.iret(step),
            _ => return false,
        }
        true
    }

    /// STI holds interrupts for one more instruction. No interrupt waits here: nothing is done about that but to
    /// say so if the next instruction is left to the interpreter.
    fn sti(&mut self, step: &Step<'_>) {
        self.flags_are_lost();
        let window = self.expect_no_window();
        self.code.change_field(group::OR, context::RFLAGS, IF);
        self.on_miss(window, step, None);
        self.shadow_next = true;
    }

    /// Whether the interrupt window is waited for: what may open it is the interpreter's then.
    pub(super) fn expect_no_window(&mut self) -> Jump {
        self.code.compare_byte(context::WANTS_INTERRUPT_WINDOW, 0);
        self.code.jump_if(condition::NOT_EQUAL)
    }

    /// CLAC and STAC switch between two tables of the TLB.
    fn set_ac(&mut self, step: &Step<'_>, on: bool) {
        self.flags_are_lost();
        self.code.test_bits(context::CR4, cr4::SMAP as u32);
        let off = self.code.jump_if(condition::EQUAL);
        let rights = if on { Rights::SmapLifted } else { Rights::Supervisor };
        let (operation, bits) = if on { (group::OR, AC) } else { (group::AND, !AC) };
        self.code.change_field(operation, context::RFLAGS, bits);
        self.code.store_byte_value(context::rights(self.cpl), rights as u8);
        self.code.store_byte_value(context::OPERAND_RIGHTS, rights as u8);
        self.code.load(T0, if on { context::SMAP_LIFTED } else { context::SUPERVISOR });
        self.code.store(context::table(self.cpl), T0);
        self.on_miss(off, step, None);
    }

    /// RFLAGS, whose arithmetic part is in its field, into T2. T0 and EFLAGS change.
    fn assemble_rflags(&mut self) {
        self.code.load_zero_extended_byte(T2, context::FLAGS);
        self.code.shift_left(T2, OVERFLOW_SHIFT);
        self.code.load_zero_extended_byte(T0, context::FLAGS + 1);
        self.code.change(group::AND, T0, LOW_STATUS);
        self.code.or(T2, T0);
        self.code.or_field_32(T2, context::RFLAGS);
    }

    /// The arithmetic flags in T2 into their field. T1, T2 and EFLAGS change.
    fn store_status(&mut self) {
        self.code.copy(T1, T2);
        self.code.shift_right(T1, OVERFLOW_SHIFT);
        self.code.change(group::AND, T1, 1);
        self.code.shift_left(T2, 8);
        self.code.or(T2, T1);
        self.code.store_16(context::FLAGS, T2);
        self.flags = Flags::Field;
    }

    fn pushf(&mut self, step: &Step<'_>) {
        self.store_flags();
        self.flags_are_lost();
        self.assemble_rflags();
        let below = Address { base: Some(STACK), index: None, displacement: -8 };
        self.code.lea(true, T0, below);
        let miss = self.look_up_stack(8, true);
        self.code.memory(SAVE, T2, Self::operand());
        self.code.lea(true, STACK, below);
        self.on_miss(miss, step, None);
    }

    fn popf(&mut self, step: &Step<'_>) {
        self.flags_are_lost();
        let window = self.expect_no_window();
        self.code.copy(T0, STACK);
        let miss = self.look_up_stack(8, false);
        self.code.memory(LOAD, T2, Self::operand());
        // Of all but the arithmetic flags, only IF may change.
        self.code.copy(T0, T2);
        self.code.xor_field_32(T0, context::RFLAGS);
        let mine = STATUS | if self.cpl == 0 { IF } else { 0 };
        self.code.test_register(T0, !mine);
        let other = self.code.jump_if(condition::NOT_EQUAL);
        self.code.change(group::AND, T0, IF);
        self.code.xor_to_field_32(context::RFLAGS, T0);
        self.store_status();
        self.code.lea(true, STACK, Address { base: Some(STACK), index: None, displacement: 8 });
        self.on_miss(miss, step, None);
        self.or_on_miss(other);
        self.or_on_miss(window);
    }

    fn rdtsc(&mut self, step: &Step<'_>) {
        self.flags_are_lost();
        let disabled = (self.cpl != 0).then(|| {
            self.code.test_bits(context::CR4, cr4::TSD as u32);
            self.code.jump_if(condition::NOT_EQUAL)
        });
        // rdtsc; shl rdx, 32; or rax, rdx.
        self.code.raw(&[0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0]);
        self.code.add_field(RAX, context::TSC_OFFSET);
        self.code.copy(RDX, RAX);
        // shr rdx, 32; mov eax, eax.
        self.code.raw(&[0x48, 0xc1, 0xea, 0x20, 0x89, 0xc0]);
        if step.instruction.mnemonic() == Mnemonic::Rdtscp {
            self.code.load_32(RCX, sysreg(SysReg::TscAux));
        }
        if let Some(disabled) = disabled {
            self.on_miss(disabled, step, None);
        }
    }

    /// Checks what SYSCALL and SYSRET have in common.
    fn expect_fast_calls(&mut self, step: &Step<'_>) {
        self.store_flags();
        self.flags_are_lost();
        self.code.test_bits(context::EFER, efer::SCE as u32);
        let off = self.code.jump_if(condition::EQUAL);
        self.on_miss(off, step, Some(self.end));
        // It decides about the TLB's table.
        self.code.test_bits(context::RFLAGS, AC);
        let alignment = self.code.jump_if(condition::NOT_EQUAL);
        self.or_on_miss(alignment);
    }

    fn syscall(&mut self, step: &Step<'_>) {
        self.expect_fast_calls(step);
        self.assemble_rflags();
        self.code.store(R11, T2);
        self.code.set(RCX, self.end);
        self.code.load(T1, sysreg(SysReg::Sfmask));
        // not r11d; and r15d, r11d.
        self.code.raw(&[0x41, 0xf7, 0xd3, 0x45, 0x21, 0xdf]);
        self.enter(0, 32, [0, 8]);
        self.code.load(T0, sysreg(SysReg::Lstar));
        self.leave_to_other_level(0, 1 << 63);
    }

    fn sysret(&mut self, step: &Step<'_>) {
        self.expect_fast_calls(step);
        // The upper half is the interpreter's: what is not canonical faults.
        self.code.copy(T0, RCX);
        // shr r10, 47.
        self.code.raw(&[0x49, 0xc1, 0xea, 47]);
        let high = self.code.jump_if(condition::NOT_EQUAL);
        self.or_on_miss(high);
        self.code.test_bits(R11, AC | rflags::TF as u32);
        let special = self.code.jump_if(condition::NOT_EQUAL);
        self.or_on_miss(special);
        let window = self.expect_no_window();
        self.or_on_miss(window);
        self.code.load(T2, R11);
        const ALLOWED: u64 = rflags::STATUS
            | rflags::IF
            | rflags::DF
            | rflags::IOPL
            | rflags::NT
            | rflags::VIF
            | rflags::VIP
            | rflags::ID;
        self.code.change(group::AND, T2, ALLOWED as u32);
        self.enter(3, 48, [16, 8]);
        self.code.copy(T0, RCX);
        self.leave_to_other_level(3, 0);
    }

    /// Goes to a level: RFLAGS is T2, the selectors are STAR's at `shift` and so much more.
    /// All temporary registers change.
    fn enter(&mut self, cpl: u8, shift: u8, more: [u16; 2]) {
        self.take_rflags();
        self.code.load(T0, sysreg(SysReg::Star));
        // shr r10, shift.
        self.code.raw(&[0x49, 0xc1, 0xea, shift]);
        for (segment, more) in [Seg::Cs, Seg::Ss].into_iter().zip(more) {
            let at = Address { base: Some(T0), index: None, displacement: more.into() };
            self.code.lea(false, T1, at);
            // SYSCALL ignores the selector's own level.
            let (operation, bits) = if cpl == 0 { (group::AND, 0xfffc) } else { (group::OR, 3) };
            self.code.change(operation, T1, bits);
            self.set_flat(segment, cpl, T1);
        }
        self.take_level(cpl);
    }

    /// RFLAGS is T2. T1 and T2 change.
    pub(super) fn take_rflags(&mut self) {
        self.code.change(group::OR, T2, rflags::FIXED as u32);
        self.code.copy(T1, T2);
        self.code.change(group::AND, T1, !STATUS);
        self.code.store_32(context::RFLAGS, T1);
        self.store_status();
    }

    /// CS or SS is flat, with the selector that is in a register. T1 changes.
    pub(super) fn set_flat(&mut self, segment: Seg, cpl: u8, selector: u8) {
        let Segment { limit, attr, .. } = flat(segment, cpl);
        let segment = segment as u8;
        self.code.store_16(context::segment_selector(segment), selector);
        self.code.store_16_value(context::segment_attr(segment), attr.0);
        self.code.store_value(context::segment_limit(segment), limit);
        // xor r11d, r11d.
        self.code.raw(&[0x45, 0x31, 0xdb]);
        self.code.store(context::segment_base(segment), T1);
    }

    /// The privilege level. T1 changes.
    pub(super) fn take_level(&mut self, cpl: u8) {
        self.code.store_byte_value(context::CPL, cpl);
        self.code.store_byte_value(context::ITLB_CPL, cpl);
        self.code.load_zero_extended_byte(T1, context::rights(cpl));
        self.code.store_low_byte(context::OPERAND_RIGHTS, T1);
    }

    /// Goes on at T0, in the half of the address space that `half` is in, at another privilege level.
    pub(super) fn leave_to_other_level(&mut self, cpl: u8, half: u64) {
        if !self.chained {
            self.code.jump(self.stubs.leave);
            return;
        }
        find_jump(&mut self.code, cpl);
        let out = self.expect_cached(0, context::key(cpl, half));
        let code = Address { base: Some(T1), index: None, displacement: jump::CODE };
        // jmp [r11 + code].
        self.code.memory(Opcode { bytes: &[0xff], ..Opcode::default() }, 4, code);
        for jump in out {
            self.code.bind(jump);
        }
        self.code.jump(self.stubs.dispatch);
    }
}

/// A code or stack segment of 64-bit mode, with no selector: what SYSCALL and SYSRET load.
/// See: AMD APM vol. 3, SYSCALL.
pub(in crate::jit) fn flat(segment: Seg, cpl: u8) -> Segment {
    let attr = Attr::G | Attr::P | Attr::S | Attr::RW | Attr::ACCESSED | u16::from(cpl) << 5;
    let attr = attr | if segment == Seg::Cs { Attr::CODE | Attr::L } else { Attr::DB };
    Segment { base: 0, limit: u32::MAX, selector: 0, attr: Attr(attr) }
}

/// The field of a register of the system.
const fn sysreg(register: SysReg) -> i32 {
    context::sysreg(register)
}
