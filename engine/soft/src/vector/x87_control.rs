//! x87 control: control and status words, environment, initialisation.
//!
//! See: AMD APM vol. 5; Intel SDM vol. 1, 8.1.8–8.1.10 (layouts of the environment).

use arch_x86::emulate::{Cpu, Exec, Insn, Stop, operand};
use arch_x86::regs::{FxArea, gpr};
use iced_x86::{Code, Instruction};

use super::image::{self, fsw};
use super::{check, memory};

/// Sizes of the environment: with 16- and 32-bit operands.
const SMALL: usize = 14;
const LARGE: usize = 28;
/// Size of the eight registers behind it.
const REGISTERS: usize = 80;

/// Size of the fields of an environment of `size` bytes.
const fn word(size: usize) -> u64 {
    if size == SMALL { 2 } else { 4 }
}

/// Picks the function.
pub fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    Some(match i.code() {
        Code::Fninit => fninit,
        Code::Fnclex => fnclex,
        Code::Fnop => fnop,
        Code::Wait => check_wait,
        Code::Fldcw_m2byte => fldcw,
        Code::Fnstcw_m2byte => fnstcw,
        Code::Fnstsw_m2byte => fnstsw,
        Code::Fnstsw_AX => fnstsw_ax,
        Code::Fldenv_m14byte => fldenv::<C, SMALL>,
        Code::Fldenv_m28byte => fldenv::<C, LARGE>,
        Code::Fnstenv_m14byte => fnstenv::<C, SMALL>,
        Code::Fnstenv_m28byte => fnstenv::<C, LARGE>,
        Code::Fnsave_m94byte => fnsave::<C, SMALL>,
        Code::Fnsave_m108byte => fnsave::<C, LARGE>,
        Code::Frstor_m94byte => frstor::<C, SMALL>,
        Code::Frstor_m108byte => frstor::<C, LARGE>,
        // Of the 8087 and 287; nothing since.
        Code::Fneni | Code::Fndisi | Code::Fnsetpm | Code::Frstpm => ignored,
        _ => return None,
    })
}

fn fninit<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check::x87(cpu)?;
    initialise(cpu.fxsave_mut());
    Ok(())
}

fn initialise(fx: &mut FxArea) {
    image::set_top(fx, 0);
    image::set_control_and_status(fx, 0x37f, 0);
    image::set_tags(fx, 0);
    image::set_fop(fx, 0);
    image::set_fip(fx, 0);
    image::set_fdp(fx, 0);
}

fn fnclex<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check::x87(cpu)?;
    let fx = cpu.fxsave_mut();
    let status = image::fsw(fx) & !(fsw::EXCEPTIONS | fsw::SF | fsw::ES | fsw::B);
    image::set_control_and_status(fx, image::fcw(fx), status);
    Ok(())
}

fn fnop<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check::x87_waiting(cpu)
}

fn check_wait<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check::wait(cpu)
}

fn ignored<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check::x87(cpu)
}

fn fldcw<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::x87_waiting(cpu)?;
    let value = memory::load(cpu, insn, 2, false)?;
    let fx = cpu.fxsave_mut();
    image::set_control_and_status(fx, value as u16, image::fsw(fx));
    Ok(())
}

fn fnstcw<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::x87(cpu)?;
    let value = image::fcw(cpu.fxsave());
    memory::store(cpu, insn, 2, value.into())
}

fn fnstsw<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::x87(cpu)?;
    let value = image::fsw(cpu.fxsave());
    memory::store(cpu, insn, 2, value.into())
}

fn fnstsw_ax<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check::x87(cpu)?;
    let value = image::fsw(cpu.fxsave());
    operand::write_register(cpu, gpr::RAX, value);
    Ok(())
}

fn fldenv<C: Cpu, const SIZE: usize>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::x87_waiting(cpu)?;
    let mut bytes = [0; SIZE];
    memory::check_words(cpu, insn, SIZE, word(SIZE), false)?;
    memory::load_area(cpu, insn, &mut bytes, 1)?;
    let real = !cpu.protected();
    load_environment(cpu.fxsave_mut(), &bytes, real);
    Ok(())
}

fn fnstenv<C: Cpu, const SIZE: usize>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::x87(cpu)?;
    let mut bytes = [0; SIZE];
    environment(cpu.fxsave(), &mut bytes, !cpu.protected());
    memory::check_words(cpu, insn, SIZE, word(SIZE), true)?;
    memory::store_area(cpu, insn, &bytes, SIZE, 1)?;
    // It masks all exceptions, so that a handler can go on.
    let fx = cpu.fxsave_mut();
    image::set_control_and_status(fx, image::fcw(fx) | fsw::EXCEPTIONS, image::fsw(fx));
    Ok(())
}

fn fnsave<C: Cpu, const SIZE: usize>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::x87(cpu)?;
    let mut bytes = [0; LARGE + REGISTERS];
    environment(cpu.fxsave(), &mut bytes[..SIZE], !cpu.protected());
    for i in 0..8u8 {
        let (significand, exponent) = image::st(cpu.fxsave(), i);
        let at = SIZE + usize::from(i) * 10;
        bytes[at..at + 8].copy_from_slice(&significand.to_le_bytes());
        bytes[at + 8..at + 10].copy_from_slice(&exponent.to_le_bytes());
    }
    let all = SIZE + REGISTERS;
    memory::check_words(cpu, insn, all, word(SIZE), true)?;
    memory::store_area(cpu, insn, &bytes[..all], all, 1)?;
    initialise(cpu.fxsave_mut());
    Ok(())
}

fn frstor<C: Cpu, const SIZE: usize>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::x87_waiting(cpu)?;
    let mut bytes = [0; LARGE + REGISTERS];
    memory::check_words(cpu, insn, SIZE + REGISTERS, word(SIZE), false)?;
    memory::load_area(cpu, insn, &mut bytes[..SIZE + REGISTERS], 1)?;
    let real = !cpu.protected();
    let fx = cpu.fxsave_mut();
    load_environment(fx, &bytes[..SIZE], real);
    for i in 0..8u8 {
        let at = SIZE + usize::from(i) * 10;
        let mut significand = [0; 8];
        significand.copy_from_slice(&bytes[at..at + 8]);
        let exponent = u16::from_le_bytes([bytes[at + 8], bytes[at + 9]]);
        image::set_st(fx, i, u64::from_le_bytes(significand), exponent);
    }
    Ok(())
}

/// Writes the environment in the layout of `bytes`' size; `real` is real or virtual-8086 mode's,
/// where addresses are linear ones.
fn environment(fx: &FxArea, bytes: &mut [u8], real: bool) {
    let (fip, fdp, fop) = (image::fip(fx) as u32, image::fdp(fx) as u32, image::fop(fx));
    let words = [image::fcw(fx), image::fsw(fx), image::full_tags(fx)];
    if bytes.len() == SMALL {
        let (selector, data_selector) = match real {
            true => ((fip >> 4 & 0xf000) as u16 | fop, (fdp >> 4 & 0xf000) as u16),
            false => (0, 0),
        };
        let [fcw, fsw, tags] = words;
        let all = [fcw, fsw, tags, fip as u16, selector, fdp as u16, data_selector];
        for (to, from) in bytes.chunks_exact_mut(2).zip(all) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        return;
    }
    // The reserved upper halves are ones.
    let [fcw, fsw, tags] = words.map(|word| u32::from(word) | 0xffff << 16);
    let fop = u32::from(fop);
    let pointers = match real {
        true => [
            fip & 0xffff | 0xffff << 16,
            fip >> 4 & 0x0fff_f000 | fop,
            fdp & 0xffff | 0xffff << 16,
            fdp >> 4 & 0x0fff_f000,
        ],
        false => [fip, fop << 16, fdp, 0xffff << 16],
    };
    for (to, from) in bytes.chunks_exact_mut(4).zip([fcw, fsw, tags].into_iter().chain(pointers)) {
        to.copy_from_slice(&from.to_le_bytes());
    }
}

/// The reverse of [`environment`].
fn load_environment(fx: &mut FxArea, bytes: &[u8], real: bool) {
    let mut fields = [0u32; 7];
    if bytes.len() == SMALL {
        for (to, from) in fields.iter_mut().zip(bytes.chunks_exact(2)) {
            *to = u16::from_le_bytes([from[0], from[1]]).into();
        }
    } else {
        for (to, from) in fields.iter_mut().zip(bytes.chunks_exact(4)) {
            *to = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        }
    }
    let [fcw, fsw, tags, fip, second, fdp, last] = fields;
    image::set_top(fx, (fsw >> 11 & 7) as u8);
    image::set_control_and_status(fx, fcw as u16, fsw as u16);
    image::set_full_tags(fx, tags as u16);
    let high = |field: u32| (field & 0x0fff_f000) << 4;
    let (fop, fip, fdp) = match (real, bytes.len() == SMALL) {
        (true, _) => (second as u16, fip & 0xffff | high(second), fdp & 0xffff | high(last)),
        (false, true) => (0, fip, fdp),
        (false, false) => ((second >> 16) as u16, fip, fdp),
    };
    image::set_fop(fx, fop);
    image::set_fip(fx, fip.into());
    image::set_fdp(fx, fdp.into());
}
