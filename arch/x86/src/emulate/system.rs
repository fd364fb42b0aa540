//! System instructions: what depends on the privilege level, changes it, or
//! works on the processor's own structures; and [`event`]: delivery of exceptions
//! and interrupts.
//!
//! By family: `flags` (IF, IOPL), [`event`] (INT n), `iret`, `far` (far transfers), `fast` (SYSCALL
//! and its kin), `sreg` (segment registers), `rights` (questions about selectors), `tables`
//! (descriptor tables), [`control`] (CRn, TLB), [`debug`] (DRn, breakpoints), `ports`, and
//! `privileged`. Below them stand `segment` (descriptors), `tss`, `task` (hardware task switches),
//! and `frame` (stack frames).
//!
//! See: AMD APM vol. 2, 4, 6, 8 and 12.

pub mod control;
pub mod debug;
pub mod event;
mod far;
mod fast;
mod flags;
mod frame;
mod iret;
mod ports;
mod privileged;
mod rights;
mod segment;
mod sreg;
mod tables;
mod task;
mod tss;

#[cfg(feature = "selftest")]
pub mod control_test;
#[cfg(feature = "selftest")]
pub mod debug_test;
#[cfg(feature = "selftest")]
pub mod event_test;
#[cfg(feature = "selftest")]
pub mod far_test;
#[cfg(feature = "selftest")]
pub mod fast_test;
#[cfg(feature = "selftest")]
pub mod flags_test;
#[cfg(feature = "selftest")]
pub mod iret_test;
#[cfg(feature = "selftest")]
pub mod ports_test;
#[cfg(feature = "selftest")]
pub mod segment_test;
#[cfg(feature = "selftest")]
pub mod tables_test;
#[cfg(feature = "selftest")]
pub mod task_test;
#[cfg(feature = "selftest")]
mod test_tables;

use iced_x86::{Code, Instruction, OpKind};

use super::decode::{Mode, undefined};
use super::operand::{Mem, Reg, Rm, access_fault, canonical, linear_address};
use super::{Access, Cpu, Exec, Insn, Stop};
use crate::exception::{Exception, NP};
use crate::regs::{Attr, Regs, Seg, Segment, cr4};

/// Picks the semantics of a system instruction; `None` if `i` is none.
///
/// `insn` has its general operands already; where an instruction needs more it says so: mostly
/// `extra`, which is an operand size or a segment register.
pub(super) fn lower<C: Cpu>(i: &Instruction, _: Mode, insn: &mut Insn) -> Option<Exec<C>> {
    transfers(i, insn)
        .or_else(|| control_registers(i, insn))
        .or_else(|| segment_registers(i, insn))
        .or_else(|| descriptor_tables(i, insn))
        .or_else(|| selectors(i))
        .or_else(|| port_instructions(i, insn))
        .or_else(|| others(i))
}

/// `$exec` with `extra` set.
macro_rules! with {
    ($insn:ident, $extra:expr, $exec:expr) => {{
        $insn.extra = $extra;
        $exec
    }};
}

/// The function for operand `$n`: a register (the first's is `Reg`, the second's `Rm`) or memory.
macro_rules! by_kind {
    ($i:ident, $n:literal, $form:ty, $($exec:ident)::+ $(, $T:ty)?) => {
        if $i.op_kind($n) == OpKind::Register {
            $($exec)::+::<C, $($T,)? $form>
        } else {
            $($exec)::+::<C, $($T,)? Mem>
        }
    };
}

/// The function that stores a selector or a status word: a register at the operand's size, memory
/// always as 16 bits.
macro_rules! store_word {
    ($i:ident, $T:ty, $($exec:ident)::+) => {
        if $i.op_kind(0) == OpKind::Register {
            $($exec)::+::<C, $T, Reg>
        } else {
            $($exec)::+::<C, u16, Mem>
        }
    };
}

fn transfers<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    Some(match i.code() {
        Code::Int_imm8 => event::int_n,
        Code::Int1 => event::int1,
        Code::Int3 => event::int3,
        Code::Into => event::into,
        Code::Iretw => with!(insn, 2, iret::iret),
        Code::Iretd => with!(insn, 4, iret::iret),
        Code::Iretq => with!(insn, 8, iret::iret),
        Code::Jmp_ptr1616 => with!(insn, 2, far::jump),
        Code::Jmp_ptr1632 => with!(insn, 4, far::jump),
        Code::Call_ptr1616 => with!(insn, 2, far::call),
        Code::Call_ptr1632 => with!(insn, 4, far::call),
        Code::Jmp_m1616 => with!(insn, 2, far::jump_indirect),
        Code::Jmp_m1632 => with!(insn, 4, far::jump_indirect),
        Code::Jmp_m1664 => with!(insn, 8, far::jump_indirect),
        Code::Call_m1616 => with!(insn, 2, far::call_indirect),
        Code::Call_m1632 => with!(insn, 4, far::call_indirect),
        Code::Call_m1664 => with!(insn, 8, far::call_indirect),
        Code::Retfw | Code::Retfw_imm16 => with!(insn, 2, far::ret),
        Code::Retfd | Code::Retfd_imm16 => with!(insn, 4, far::ret),
        Code::Retfq | Code::Retfq_imm16 => with!(insn, 8, far::ret),
        Code::Syscall => fast::syscall,
        Code::Sysretd => with!(insn, 4, fast::sysret),
        Code::Sysretq => with!(insn, 8, fast::sysret),
        Code::Sysenter => fast::sysenter,
        Code::Sysexitd => with!(insn, 4, fast::sysexit),
        Code::Sysexitq => with!(insn, 8, fast::sysexit),
        Code::Pushfw => with!(insn, 2, flags::pushf),
        Code::Pushfd => with!(insn, 4, flags::pushf),
        Code::Pushfq => with!(insn, 8, flags::pushf),
        Code::Popfw => with!(insn, 2, flags::popf),
        Code::Popfd => with!(insn, 4, flags::popf),
        Code::Popfq => with!(insn, 8, flags::popf),
        Code::Cli => flags::cli,
        Code::Sti => flags::sti,
        _ => return None,
    })
}

/// Control and debug registers: the general register in `reg`, the other's number in `rm`.
fn control_registers<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    let code = i.code();
    if matches!(code, Code::Mov_cr_r32 | Code::Mov_cr_r64 | Code::Mov_dr_r32 | Code::Mov_dr_r64) {
        (insn.reg, insn.rm) = (insn.rm, insn.reg);
    }
    Some(match code {
        Code::Mov_r32_cr | Code::Mov_r64_cr => control::read,
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => control::write,
        Code::Mov_r32_dr | Code::Mov_r64_dr => debug::read,
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => debug::write,
        Code::Lmsw_rm16 | Code::Lmsw_r32m16 | Code::Lmsw_r64m16 => {
            by_kind!(i, 0, Reg, control::lmsw)
        }
        Code::Smsw_rm16 => store_word!(i, u16, control::smsw),
        Code::Smsw_r32m16 => store_word!(i, u32, control::smsw),
        Code::Smsw_r64m16 => store_word!(i, u64, control::smsw),
        Code::Clts => control::clts,
        Code::Invlpg_m => control::invlpg,
        Code::Invpcid_r32_m128 | Code::Invpcid_r64_m128 => control::invpcid,
        Code::Xgetbv => control::xgetbv,
        Code::Xsetbv => control::xsetbv,
        _ => return None,
    })
}

/// Moves of segment registers: the segment in `extra`.
fn segment_registers<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    let code = i.code();
    if let Some((seg, size, push)) = stack_of_segment(code) {
        insn.operand_size = size;
        return Some(with!(insn, seg as u8, if push { sreg::push } else { sreg::pop }));
    }
    Some(match code {
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            let seg = insn.reg;
            if seg == Seg::Cs as u8 || seg > Seg::Gs as u8 {
                return Some(undefined);
            }
            with!(insn, seg, by_kind!(i, 1, Rm, sreg::write))
        }
        Code::Mov_rm16_Sreg => with!(insn, insn.rm, store_word!(i, u16, sreg::read)),
        Code::Mov_r32m16_Sreg => with!(insn, insn.rm, store_word!(i, u32, sreg::read)),
        Code::Mov_r64m16_Sreg => with!(insn, insn.rm, store_word!(i, u64, sreg::read)),
        Code::Lds_r16_m1616 => with!(insn, Seg::Ds as u8, sreg::load_pointer::<C, u16>),
        Code::Lds_r32_m1632 => with!(insn, Seg::Ds as u8, sreg::load_pointer::<C, u32>),
        Code::Les_r16_m1616 => with!(insn, Seg::Es as u8, sreg::load_pointer::<C, u16>),
        Code::Les_r32_m1632 => with!(insn, Seg::Es as u8, sreg::load_pointer::<C, u32>),
        Code::Lss_r16_m1616 => with!(insn, Seg::Ss as u8, sreg::load_pointer::<C, u16>),
        Code::Lss_r32_m1632 => with!(insn, Seg::Ss as u8, sreg::load_pointer::<C, u32>),
        Code::Lss_r64_m1664 => with!(insn, Seg::Ss as u8, sreg::load_pointer::<C, u64>),
        Code::Lfs_r16_m1616 => with!(insn, Seg::Fs as u8, sreg::load_pointer::<C, u16>),
        Code::Lfs_r32_m1632 => with!(insn, Seg::Fs as u8, sreg::load_pointer::<C, u32>),
        Code::Lfs_r64_m1664 => with!(insn, Seg::Fs as u8, sreg::load_pointer::<C, u64>),
        Code::Lgs_r16_m1616 => with!(insn, Seg::Gs as u8, sreg::load_pointer::<C, u16>),
        Code::Lgs_r32_m1632 => with!(insn, Seg::Gs as u8, sreg::load_pointer::<C, u32>),
        Code::Lgs_r64_m1664 => with!(insn, Seg::Gs as u8, sreg::load_pointer::<C, u64>),
        Code::Swapgs => fast::swapgs,
        Code::Rdfsbase_r32 => with!(insn, Seg::Fs as u8, fast::read_base::<C, u32>),
        Code::Rdfsbase_r64 => with!(insn, Seg::Fs as u8, fast::read_base::<C, u64>),
        Code::Rdgsbase_r32 => with!(insn, Seg::Gs as u8, fast::read_base::<C, u32>),
        Code::Rdgsbase_r64 => with!(insn, Seg::Gs as u8, fast::read_base::<C, u64>),
        Code::Wrfsbase_r32 => with!(insn, Seg::Fs as u8, fast::write_base::<C, u32>),
        Code::Wrfsbase_r64 => with!(insn, Seg::Fs as u8, fast::write_base::<C, u64>),
        Code::Wrgsbase_r32 => with!(insn, Seg::Gs as u8, fast::write_base::<C, u32>),
        Code::Wrgsbase_r64 => with!(insn, Seg::Gs as u8, fast::write_base::<C, u64>),
        _ => return None,
    })
}

/// PUSH and POP of a segment register: which, the size, and whether it is pushed.
fn stack_of_segment(code: Code) -> Option<(Seg, u8, bool)> {
    Some(match code {
        Code::Pushw_ES => (Seg::Es, 2, true),
        Code::Pushw_CS => (Seg::Cs, 2, true),
        Code::Pushw_SS => (Seg::Ss, 2, true),
        Code::Pushw_DS => (Seg::Ds, 2, true),
        Code::Pushw_FS => (Seg::Fs, 2, true),
        Code::Pushw_GS => (Seg::Gs, 2, true),
        Code::Pushd_ES => (Seg::Es, 4, true),
        Code::Pushd_CS => (Seg::Cs, 4, true),
        Code::Pushd_SS => (Seg::Ss, 4, true),
        Code::Pushd_DS => (Seg::Ds, 4, true),
        Code::Pushd_FS => (Seg::Fs, 4, true),
        Code::Pushd_GS => (Seg::Gs, 4, true),
        Code::Pushq_FS => (Seg::Fs, 8, true),
        Code::Pushq_GS => (Seg::Gs, 8, true),
        Code::Popw_ES => (Seg::Es, 2, false),
        Code::Popw_SS => (Seg::Ss, 2, false),
        Code::Popw_DS => (Seg::Ds, 2, false),
        Code::Popw_FS => (Seg::Fs, 2, false),
        Code::Popw_GS => (Seg::Gs, 2, false),
        Code::Popd_ES => (Seg::Es, 4, false),
        Code::Popd_SS => (Seg::Ss, 4, false),
        Code::Popd_DS => (Seg::Ds, 4, false),
        Code::Popd_FS => (Seg::Fs, 4, false),
        Code::Popd_GS => (Seg::Gs, 4, false),
        Code::Popq_FS => (Seg::Fs, 8, false),
        Code::Popq_GS => (Seg::Gs, 8, false),
        _ => return None,
    })
}

fn descriptor_tables<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    Some(match i.code() {
        Code::Lgdt_m1632_16 => with!(insn, 2, tables::lgdt),
        Code::Lgdt_m1632 => with!(insn, 4, tables::lgdt),
        Code::Lgdt_m1664 => with!(insn, 8, tables::lgdt),
        Code::Lidt_m1632_16 => with!(insn, 2, tables::lidt),
        Code::Lidt_m1632 => with!(insn, 4, tables::lidt),
        Code::Lidt_m1664 => with!(insn, 8, tables::lidt),
        Code::Sgdt_m1632_16 => with!(insn, 2, tables::sgdt),
        Code::Sgdt_m1632 => with!(insn, 4, tables::sgdt),
        Code::Sgdt_m1664 => with!(insn, 8, tables::sgdt),
        Code::Sidt_m1632_16 => with!(insn, 2, tables::sidt),
        Code::Sidt_m1632 => with!(insn, 4, tables::sidt),
        Code::Sidt_m1664 => with!(insn, 8, tables::sidt),
        Code::Lldt_rm16 | Code::Lldt_r32m16 | Code::Lldt_r64m16 => {
            by_kind!(i, 0, Reg, tables::lldt)
        }
        Code::Ltr_rm16 | Code::Ltr_r32m16 | Code::Ltr_r64m16 => by_kind!(i, 0, Reg, tables::ltr),
        Code::Sldt_rm16 => store_word!(i, u16, tables::sldt),
        Code::Sldt_r32m16 => store_word!(i, u32, tables::sldt),
        Code::Sldt_r64m16 => store_word!(i, u64, tables::sldt),
        Code::Str_rm16 => store_word!(i, u16, tables::str),
        Code::Str_r32m16 => store_word!(i, u32, tables::str),
        Code::Str_r64m16 => store_word!(i, u64, tables::str),
        _ => return None,
    })
}

fn selectors<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    Some(match i.code() {
        Code::Lar_r16_rm16 => by_kind!(i, 1, Rm, rights::lar, u16),
        Code::Lar_r32_r32m16 => by_kind!(i, 1, Rm, rights::lar, u32),
        Code::Lar_r64_r64m16 => by_kind!(i, 1, Rm, rights::lar, u64),
        Code::Lsl_r16_rm16 => by_kind!(i, 1, Rm, rights::lsl, u16),
        Code::Lsl_r32_r32m16 => by_kind!(i, 1, Rm, rights::lsl, u32),
        Code::Lsl_r64_r64m16 => by_kind!(i, 1, Rm, rights::lsl, u64),
        Code::Verr_rm16 | Code::Verr_r32m16 | Code::Verr_r64m16 => {
            by_kind!(i, 0, Reg, rights::verr)
        }
        Code::Verw_rm16 | Code::Verw_r32m16 | Code::Verw_r64m16 => {
            by_kind!(i, 0, Reg, rights::verw)
        }
        Code::Arpl_rm16_r16 | Code::Arpl_r32m16_r32 => {
            if i.op_kind(0) == OpKind::Register {
                rights::arpl::<C, Reg, Rm>
            } else {
                rights::arpl::<C, Mem, Rm>
            }
        }
        _ => return None,
    })
}

/// The size of the data in `extra`, and in `operand_size` for whoever emulates INS and OUTS.
fn port_instructions<C: Cpu>(i: &Instruction, insn: &mut Insn) -> Option<Exec<C>> {
    let (size, exec): (u8, Exec<C>) = match i.code() {
        Code::In_AL_imm8 => (1, ports::in_immediate),
        Code::In_AX_imm8 => (2, ports::in_immediate),
        Code::In_EAX_imm8 => (4, ports::in_immediate),
        Code::In_AL_DX => (1, ports::in_dx),
        Code::In_AX_DX => (2, ports::in_dx),
        Code::In_EAX_DX => (4, ports::in_dx),
        Code::Out_imm8_AL => (1, ports::out_immediate),
        Code::Out_imm8_AX => (2, ports::out_immediate),
        Code::Out_imm8_EAX => (4, ports::out_immediate),
        Code::Out_DX_AL => (1, ports::out_dx),
        Code::Out_DX_AX => (2, ports::out_dx),
        Code::Out_DX_EAX => (4, ports::out_dx),
        Code::Insb_m8_DX | Code::Outsb_DX_m8 => (1, ports::string),
        Code::Insw_m16_DX | Code::Outsw_DX_m16 => (2, ports::string),
        Code::Insd_m32_DX | Code::Outsd_DX_m32 => (4, ports::string),
        _ => return None,
    };
    insn.extra = size;
    insn.operand_size = size;
    Some(exec)
}

fn others<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    Some(match i.code() {
        Code::Cpuid => privileged::cpuid,
        Code::Rdmsr => privileged::rdmsr,
        Code::Wrmsr => privileged::wrmsr,
        Code::Hlt => privileged::hlt,
        Code::Vmcall | Code::Vmmcall => privileged::hypercall,
        Code::Invd | Code::Wbinvd | Code::Wbnoinvd => privileged::cache,
        Code::Rdtsc => privileged::rdtsc,
        Code::Rdtscp => privileged::rdtscp,
        Code::Rdpid_r32 | Code::Rdpid_r64 => privileged::rdpid,
        Code::Rdpmc => privileged::rdpmc,
        Code::Clac => flags::clac,
        Code::Stac => flags::stac,
        Code::Serialize => privileged::serialize,
        Code::Monitorw => privileged::monitor::<C, u16>,
        Code::Monitord => privileged::monitor::<C, u32>,
        Code::Monitorq => privileged::monitor::<C, u64>,
        Code::Mwait => privileged::mwait,
        // System management mode, and virtualization, which is not offered.
        Code::Rsm
        | Code::Monitorxw
        | Code::Monitorxd
        | Code::Monitorxq
        | Code::Mwaitx
        | Code::Vmrunw
        | Code::Vmrund
        | Code::Vmrunq
        | Code::Vmloadw
        | Code::Vmloadd
        | Code::Vmloadq
        | Code::Vmsavew
        | Code::Vmsaved
        | Code::Vmsaveq
        | Code::Clgi
        | Code::Stgi
        | Code::Skinit
        | Code::Invlpgaw
        | Code::Invlpgad
        | Code::Invlpgaq
        | Code::Vmlaunch
        | Code::Vmresume
        | Code::Vmxoff
        | Code::Vmfunc
        | Code::Vmxon_m64
        | Code::Vmptrld_m64
        | Code::Vmptrst_m64
        | Code::Vmclear_m64
        | Code::Vmread_rm32_r32
        | Code::Vmread_rm64_r64
        | Code::Vmwrite_r32_rm32
        | Code::Vmwrite_r64_rm64
        | Code::Invept_r32_m128
        | Code::Invept_r64_m128
        | Code::Invvpid_r32_m128
        | Code::Invvpid_r64_m128 => undefined,
        _ => return None,
    })
}

#[cold]
fn gp<C: Cpu>(cpu: &mut C, error: u32) -> Stop {
    cpu.fault(Exception::gp(error))
}

#[cold]
fn np<C: Cpu>(cpu: &mut C, error: u32) -> Stop {
    cpu.fault(Exception::with_error(NP, error))
}

#[cold]
fn ud<C: Cpu>(cpu: &mut C) -> Stop {
    cpu.fault(Exception::ud())
}

/// A faulting selector as an error code.
const fn selector_error(selector: u16) -> u32 {
    selector as u32 & 0xfffc
}

/// The segment register that `extra` names.
fn segment_operand(insn: &Insn) -> Seg {
    Seg::ALL[usize::from(insn.extra & 7)]
}

/// All ones of a control register's size: it moves 64 bits in 64-bit mode, 32 otherwise.
fn cr_gpr_size(cpu: &impl Regs) -> u64 {
    if cpu.mode64() { u64::MAX } else { 0xffff_ffff }
}

fn check_privileged<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cpl() == 0 { Ok(()) } else { Err(gp(cpu, 0)) }
}

/// CR4.UMIP keeps the addresses of tables and the like from all but level 0.
fn check_umip<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cr4() & cr4::UMIP != 0 { check_privileged(cpu) } else { Ok(()) }
}

/// The check of a transfer's target: within `code`'s limit, or canonical. `ext` is the
/// error code's EXT bit.
fn check_target<C: Cpu>(cpu: &mut C, code: &Segment, rip: u64, ext: u32) -> Result<(), Stop> {
    let allowed = if cpu.long_mode() && code.attr.has(Attr::L) {
        canonical(cpu, rip)
    } else {
        rip <= u64::from(code.limit)
    };
    if allowed { Ok(()) } else { Err(gp(cpu, ext)) }
}

/// Reads `size` bytes: 2, 4 or 8.
fn load_sized<C: Cpu>(cpu: &mut C, linear: u64, size: u8, access: Access) -> Result<u64, Stop> {
    match size {
        2 => cpu.load::<u16>(linear, access).map(u64::from),
        4 => cpu.load::<u32>(linear, access).map(u64::from),
        _ => cpu.load::<u64>(linear, access),
    }
}

/// Writes the low `size` bytes of `value`: 2, 4 or 8.
fn store_sized<C: Cpu>(
    cpu: &mut C,
    linear: u64,
    value: u64,
    size: u8,
    access: Access,
) -> Result<(), Stop> {
    match size {
        2 => cpu.store(linear, value as u16, access),
        4 => cpu.store(linear, value as u32, access),
        _ => cpu.store(linear, value, access),
    }
}

/// Reads `size` bytes of the memory operand, at `linear`: 2, 4 or 8.
fn load_part<C: Cpu>(cpu: &mut C, insn: &Insn, linear: u64, size: u8) -> Result<u64, Stop> {
    load_sized(cpu, linear, size, Access::Operand)
        .map_err(|stop| access_fault(cpu, insn.segment(), linear, size, stop))
}

/// Reads a far pointer: an offset of `size` bytes, then a selector. They are two accesses: with addresses of
/// 32 bits the selector's wraps.
fn read_far_pointer<C: Cpu>(cpu: &mut C, insn: &Insn, size: u8) -> Result<(u16, u64), Stop> {
    let linear = linear_address(cpu, insn, size + 2, false)?;
    let offset = load_part(cpu, insn, linear, size)?;
    let next = linear.wrapping_add(size.into());
    let next = if cpu.mode64() && insn.address_size == 4 {
        let base = cpu.linear64(insn.segment(), 0);
        base.wrapping_add(next.wrapping_sub(base) & 0xffff_ffff)
    } else {
        next
    };
    let selector = load_part(cpu, insn, next, 2)?;
    Ok((selector as u16, offset))
}
