//! What 64-bit mode does differently when code jumps and uses the stack, known when an
//! instruction is decoded: [`Long`] and [`Legacy`].

use super::operand::{access_fault, canonical};
use super::{Access, Cpu, Int, Stop, stack};
use crate::exception::Exception;
use crate::regs::Seg;
use crate::regs::gpr::RSP;

/// The stack and near jumps in one kind of mode.
pub(super) trait Width {
    /// Pushes `value`; on a fault nothing has changed.
    fn push<C: Cpu, T: Int>(cpu: &mut C, value: T) -> Result<(), Stop>;
    /// Pops a value; on a fault nothing has changed.
    fn pop<C: Cpu, T: Int>(cpu: &mut C) -> Result<T, Stop>;
    /// Faults as a push of `size` bytes would. (Without 64-bit mode the target is checked first.)
    fn probe_push<C: Cpu>(_cpu: &mut C, _size: u8) -> Result<(), Stop> {
        Ok(())
    }
    /// Whether RIP may become `target`: #GP if not. See: AMD APM vol. 2, 8.2.14.
    fn check_target<C: Cpu>(cpu: &mut C, target: u64) -> Result<(), Stop>;
}

/// 64-bit mode: the stack pointer is RSP, SS has no base or limit, RIP is canonical.
pub(super) enum Long {}
/// 16-bit and 32-bit code.
pub(super) enum Legacy {}

impl Width for Long {
    #[inline(always)]
    fn push<C: Cpu, T: Int>(cpu: &mut C, value: T) -> Result<(), Stop> {
        let pointer = cpu.gpr(RSP).wrapping_sub(T::SIZE.into());
        if let Err(stop) = cpu.store(pointer, value, Access::Operand) {
            return Err(access_fault(cpu, Seg::Ss, pointer, T::SIZE, stop));
        }
        cpu.set_gpr(RSP, pointer);
        Ok(())
    }

    #[inline(always)]
    fn pop<C: Cpu, T: Int>(cpu: &mut C) -> Result<T, Stop> {
        let pointer = cpu.gpr(RSP);
        match cpu.load(pointer, Access::Operand) {
            Ok(value) => {
                cpu.set_gpr(RSP, pointer.wrapping_add(T::SIZE.into()));
                Ok(value)
            }
            Err(stop) => Err(access_fault(cpu, Seg::Ss, pointer, T::SIZE, stop)),
        }
    }

    fn probe_push<C: Cpu>(cpu: &mut C, size: u8) -> Result<(), Stop> {
        let pointer = cpu.gpr(RSP).wrapping_sub(size.into());
        cpu.probe_write(pointer, size.into(), Access::Operand)
            .map_err(|stop| access_fault(cpu, Seg::Ss, pointer, size, stop))
    }

    #[inline(always)]
    fn check_target<C: Cpu>(cpu: &mut C, target: u64) -> Result<(), Stop> {
        if canonical(cpu, target) { Ok(()) } else { Err(cpu.fault(Exception::gp(0))) }
    }
}

impl Width for Legacy {
    #[inline]
    fn push<C: Cpu, T: Int>(cpu: &mut C, value: T) -> Result<(), Stop> {
        stack::push(cpu, value)
    }

    #[inline]
    fn pop<C: Cpu, T: Int>(cpu: &mut C) -> Result<T, Stop> {
        stack::pop(cpu)
    }

    #[inline]
    fn check_target<C: Cpu>(cpu: &mut C, target: u64) -> Result<(), Stop> {
        if target <= cpu.segment(Seg::Cs).limit.into() {
            Ok(())
        } else {
            Err(cpu.fault(Exception::gp(0)))
        }
    }
}
