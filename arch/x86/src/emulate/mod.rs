//! Instructions: decoding and semantics, over the accessor trait [`Cpu`].
//!
//! The same code runs in three places: as the software CPU's interpreter, in
//! the run loop when it finishes an access to a device that hardware
//! virtualization could not, and in the tests. [`decode`](decode::decode)
//! turns bytes into an [`Op`]: a function monomorphised for the CPU and its
//! decoded operands. Executing it either completes the instruction, or
//! leaves the guest's state as it was before and says why ([`Stop`]):
//! semantics read first, compute, and commit last.
//!
//! Neighbours: [`crate::mmu`] translates, [`crate::vcpu`] handles what the
//! guest may not do by itself ([`Intercept`]).

use crate::engine::Intercept;
use crate::exception::Exception;
use crate::mmu::Limits;
use crate::regs::{Regs, Seg};

mod alu;
#[cfg(feature = "selftest")]
pub mod alu_test;
mod atomic;
mod bcd;
mod bits;
#[cfg(feature = "selftest")]
pub mod bits_test;
mod branch;
#[cfg(feature = "selftest")]
pub mod branch_test;
mod condition;
pub mod decode;
#[cfg(feature = "selftest")]
pub mod decode_test;
mod mov;
#[cfg(feature = "selftest")]
pub mod mov_test;
mod muldiv;
mod nop;
pub mod operand;
mod random;
#[cfg(feature = "selftest")]
pub mod random_test;
mod shift;
#[cfg(feature = "selftest")]
pub mod shift_test;
pub mod stack;
#[cfg(feature = "selftest")]
pub mod stack_test;
mod status;
#[cfg(feature = "selftest")]
pub mod status_test;
mod string;
#[cfg(feature = "selftest")]
pub mod string_test;
pub mod system;
#[cfg(feature = "selftest")]
pub mod test_cpu;
mod width;

pub use decode::{Decoded, Mode, decode, lower};
pub use status::Status;
pub use system::{control, debug, event};

/// Why an instruction did not complete. The details are with the CPU that was
/// told of them ([`Cpu::fault`], [`Cpu::intercept`]): a `Result` of this type
/// stays in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest faults: an [`Exception`] is to be delivered.
    Fault,
    /// The instruction is not the guest's to execute alone: an [`Intercept`].
    Intercept,
}

/// What an access to memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An operand, with the rights of the current privilege level.
    Operand,
    /// A processor structure (descriptor table, TSS, IDT, stack of a more
    /// privileged level): made as supervisor at any level.
    /// See: AMD APM vol. 2, 5.6.
    System,
}

/// Integers that an instruction reads and writes: `u8` to `u64`.
pub trait Int: Copy + Eq + core::fmt::Debug + Send + Sync + 'static {
    /// Size in bytes.
    const SIZE: u8;
    /// Size in bits.
    const BITS: u32 = Self::SIZE as u32 * 8;
    /// The low bits of `value`.
    fn truncate(value: u64) -> Self;
    /// Zero-extended.
    fn zero_extend(self) -> u64;
    /// Sign-extended.
    fn sign_extend(self) -> u64;
}

macro_rules! int {
    ($($unsigned:ty, $signed:ty);*) => {$(
        impl Int for $unsigned {
            const SIZE: u8 = size_of::<$unsigned>() as u8;
            #[inline(always)]
            fn truncate(value: u64) -> Self {
                value as $unsigned
            }
            #[inline(always)]
            fn zero_extend(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn sign_extend(self) -> u64 {
                self as $signed as i64 as u64
            }
        }
    )*};
}
int!(u8, i8; u16, i16; u32, i32; u64, i64);

/// A processor that instructions are executed on: registers and memory.
///
/// Addresses are linear; segment checks are made before. A method that fails
/// has changed nothing that the guest can see, and has recorded the fault or
/// the intercept.
pub trait Cpu: Regs {
    /// Reads memory.
    fn load<T: Int>(&mut self, linear: u64, access: Access) -> Result<T, Stop>;
    /// Writes memory.
    fn store<T: Int>(&mut self, linear: u64, value: T, access: Access) -> Result<(), Stop>;
    /// Reads, changes and writes memory, and gives what was read. Faults as a write
    /// does. With `lock`, atomic against other processors: `change` may then
    /// be called more than once.
    fn update<T: Int>(
        &mut self,
        linear: u64,
        lock: bool,
        change: impl FnMut(T) -> T,
    ) -> Result<T, Stop>;
    /// CMPXCHG16B's access: stores `new` if memory holds `expected`; gives what it
    /// held. `linear` is aligned to 16. Faults as a write does.
    fn compare_exchange_16(
        &mut self,
        linear: u64,
        lock: bool,
        expected: u128,
        new: u128,
    ) -> Result<u128, Stop>;
    /// Reads `buffer.len()` bytes (at most 4096), in any number of accesses.
    fn load_bytes(&mut self, linear: u64, buffer: &mut [u8], access: Access) -> Result<(), Stop>;
    /// Writes bytes (at most 4096): all or, on a fault, none.
    fn store_bytes(&mut self, linear: u64, bytes: &[u8], access: Access) -> Result<(), Stop>;
    /// Faults as a write of `size` bytes would, or succeeds.
    fn probe_write(&mut self, linear: u64, size: usize, access: Access) -> Result<(), Stop>;
    /// String instructions in bulk: copies `bytes` (all within one page on
    /// either side) forwards, as if in elements of `size` bytes, one by one, also where both are the same
    /// memory at two addresses. Gives how many were copied: 0 means that the caller has to do it one by one.
    fn copy_within_pages(
        &mut self,
        _from: u64,
        _to: u64,
        _bytes: usize,
        _size: u8,
    ) -> Result<usize, Stop> {
        Ok(0)
    }
    /// The same for a fill: `bytes` (within one page) of the repeated `pattern` of `size` bytes.
    fn fill_within_page(
        &mut self,
        _to: u64,
        _bytes: usize,
        _pattern: u64,
        _size: u8,
    ) -> Result<usize, Stop> {
        Ok(0)
    }

    /// Records an exception to be delivered.
    fn fault(&mut self, exception: Exception) -> Stop;
    /// The exception recorded last: what a [`Stop::Fault`] just returned stands for.
    fn last_fault(&self) -> Exception;
    /// Records an intercept for the run loop.
    fn intercept(&mut self, intercept: Intercept) -> Stop;

    /// Whether INT1, INT3 and INTO give their exception, of this vector, to the run loop. Only for engines.
    fn intercepts(&self, vector: u8) -> bool {
        let _ = vector;
        false
    }

    /// A debug trap follows what is being executed: the bits of DR6 are raised before the
    /// next instruction.
    fn trap_after(&mut self, dr6: u64);

    /// INVLPG: drops the translations of the page of `linear`.
    fn invalidate_page(&mut self, linear: u64);
    /// INVPCID, and MOV to CR3's like: drops translations. `kind` is INVPCID's type.
    /// An engine may drop more than it is asked to.
    fn invalidate_pcid(&mut self, kind: u64, pcid: u64, linear: u64);
    /// A serialising instruction: what follows is fetched anew. Only for engines that keep decoded code.
    fn serialize(&mut self) {}
    /// The guest waits for another processor.
    fn pause(&mut self) {
        core::hint::spin_loop();
    }
    /// A random number of the host's: RDRAND's, or with `seed` RDSEED's; `None` if it has none just
    /// now. Only for engines that execute these instructions.
    fn random(&mut self, seed: bool) -> Option<u64> {
        let _ = seed;
        None
    }
    /// The guest's time stamp counter.
    fn tsc(&mut self) -> u64;
    /// Whether the guest's CPUID offers `feature`: the instruction is #UD if not.
    fn offers(&self, feature: Feature) -> bool;
    /// Width of physical addresses and the like, as the guest's CPUID tells.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// A register of an address: 0 for [`Insn::NONE`], which is 16. An engine that
    /// keeps a zero behind its 16 registers does without the comparison.
    #[inline(always)]
    fn address_register(&self, n: u8) -> u64 {
        if n == Insn::NONE { 0 } else { self.gpr(n) }
    }

    /// Linear address of `offset` in `seg`, with 64-bit mode's rules: no
    /// limits, bases of FS and GS only.
    #[inline(always)]
    fn linear64(&self, seg: Seg, offset: u64) -> u64 {
        match seg {
            Seg::Fs | Seg::Gs => self.segment_base(seg).wrapping_add(offset),
            _ => offset,
        }
    }
}

/// Instruction-set extensions among the integer and system instructions that
/// CPUID may or may not offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the instructions' own")]
pub enum Feature {
    Cmpxchg16b,
    Popcnt,
    Movbe,
    Lzcnt,
    Bmi1,
    Bmi2,
    Adx,
    Rdrand,
    Rdseed,
    Fsgsbase,
    Invpcid,
    Rdtscp,
    Rdpid,
    Smap,
    /// Its bit of CR4 only, as of the next two.
    Smep,
    Pcid,
    La57,
    Serialize,
    Clflushopt,
    Clwb,
    Sse42,
    Monitor,
    Xsave,
    Avx,
    Umip,
    /// SYSCALL and SYSRET outside 64-bit mode, and a SYSRET that does not look at its target:
    /// AMD's.
    LegacySyscall,
    /// SYSENTER and SYSEXIT in long mode: everybody's but AMD's.
    LongSysenter,
    /// What AMD's processors decode otherwise than Intel's: see [`mod@decode`].
    AmdEncodings,
}

/// A decoded instruction, ready to be executed on a `C`.
pub struct Op<C> {
    /// Its semantics. Called with RIP already behind the instruction; if it does
    /// not end a block ([`Decoded::ends_block`]) it neither reads nor writes RIP.
    pub exec: Exec<C>,
    /// Its operands.
    pub insn: Insn,
}

impl<C> Clone for Op<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Op<C> {}

/// The semantics of one form of an instruction.
pub type Exec<C> = fn(&mut C, &Insn) -> Result<(), Stop>;

/// Decoded operands, in the form that [`Exec`] functions expect.
///
/// Registers stand by the operand's position: the first operand's in `reg`, the second's
/// in `rm`, the third's in `extra`. A general-purpose register is its number; AH, CH, DH and BH are
/// the number of the register they are part of, with [`operand::HIGH_BYTE`] set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Displacement of the memory operand; with RIP-relative addressing the whole
    /// effective address. Without a memory operand: a 64-bit immediate, a branch
    /// target (an RIP), or a far pointer's offset.
    pub disp: u64,
    /// Immediate (see [`Insn::immediate`]), or a far pointer's selector.
    pub imm: i32,
    /// First operand's register.
    pub reg: u8,
    /// Second operand's register.
    pub rm: u8,
    /// Third operand's register, ENTER's nesting level, or a mark of the decoder.
    pub extra: u8,
    /// Base register, [`Insn::NONE`] for none.
    pub base: u8,
    /// Index register, [`Insn::NONE`] for none.
    pub index: u8,
    /// log2 of the index's scale.
    pub scale: u8,
    /// Segment of the memory operand: a [`Seg`] (see [`Insn::segment`]).
    pub seg: u8,
    /// Address size in bytes: 2, 4 or 8.
    pub address_size: u8,
    /// Size of the first operand in bytes: 1, 2, 4, 8 (or more for vectors).
    pub operand_size: u8,
    /// Length in bytes.
    pub len: u8,
    /// [`Insn::LOCK`], [`Insn::REP`], [`Insn::REPNE`], and marks of the decoder.
    pub prefixes: u8,
}

impl Default for Insn {
    fn default() -> Self {
        Self {
            disp: 0,
            imm: 0,
            reg: 0,
            rm: 0,
            extra: 0,
            base: Self::NONE,
            index: Self::NONE,
            scale: 0,
            seg: Seg::Ds as u8,
            address_size: 8,
            operand_size: 0,
            len: 0,
            prefixes: 0,
        }
    }
}

impl Insn {
    /// No register.
    pub const NONE: u8 = 16;
    /// `LOCK` prefix.
    pub const LOCK: u8 = 1 << 0;
    /// `REP`/`REPE` prefix.
    pub const REP: u8 = 1 << 1;
    /// `REPNE` prefix.
    pub const REPNE: u8 = 1 << 2;
    /// The memory operand's effective address is its linear address: 64-bit
    /// addressing through a segment without a base.
    pub const FLAT: u8 = 1 << 3;

    /// The immediate, sign-extended.
    #[inline(always)]
    #[must_use]
    pub const fn immediate(&self) -> u64 {
        self.imm as i64 as u64
    }

    /// The memory operand's segment.
    #[inline(always)]
    #[must_use]
    pub const fn segment(&self) -> Seg {
        Seg::ALL[(self.seg & 7) as usize]
    }

    /// Whether all of `prefixes` are there.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, prefixes: u8) -> bool {
        self.prefixes & prefixes == prefixes
    }
}
