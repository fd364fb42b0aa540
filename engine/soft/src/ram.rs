//! Guest RAM in the host's address space: [`Page`], the only way to its bytes.
//!
//! Other vCPUs, devices and other processes change guest RAM at any time, so
//! it is never seen through Rust references. Every access is one instruction of the
//! host's, in inline assembly: it is what the guest's own instruction would have been, with the
//! same atomicity (a naturally aligned access is single-copy atomic) and the
//! same order (the host is x86, too). It also works at any alignment.
//!
//! Neighbours: [`crate::tlb`] keeps pages; `translate` finds them in the memory slots.

use core::arch::asm;
use core::cell::UnsafeCell;

use arch_x86::emulate::Int;
use virt::memory::{Unreached, View};

/// Size of a page of guest RAM.
pub const SIZE: u64 = 4096;

/// 4 KiB of guest RAM, or of nothing that matters ([`Page::nowhere`]).
///
/// # Invariant
/// The address is that of 4096 bytes that are mapped readable, and writable unless the
/// slot that they came from is read-only. This is what `SoftEngine::new`'s
/// contract promises for every slot, or at least a [`Probe`] has found; and a vCPU drops its pages before an
/// `invalidate` of their slot returns, or looks at none of them before it has (`run`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page(u64);

/// Says whether memory at a host virtual address can be read, or with `true` be written to: for slots of which nobody promises that they
/// are mapped.
pub type Probe = fn(u64, bool) -> bool;

#[repr(C, align(4096))]
struct Nowhere(UnsafeCell<[u8; SIZE as usize]>);

// SAFETY: only ever accessed by the inline assembly below, never through a reference.
unsafe impl Sync for Nowhere {}

static NOWHERE: Nowhere = Nowhere(UnsafeCell::new([0; SIZE as usize]));

impl Page {
    /// The page that holds `gpa`. With `write` it is dirty from now on, if that is logged, and may be written to until the vCPU
    /// is told to drop it.
    ///
    /// # Errors
    /// When no slot is there, or it may not be written and `write` is asked.
    pub fn of(view: &View, gpa: u64, write: bool) -> Result<Self, Unreached> {
        // Slots are whole pages.
        let (hva, _) = view.host_address(gpa & !(SIZE - 1), write)?;
        Ok(Self(hva))
    }

    /// Whether `probe` finds it.
    pub fn is_there(self, probe: Probe, write: bool) -> bool {
        probe(self.0, write)
    }

    /// A page that is mapped but nobody's: what an empty entry of a cache holds.
    pub fn nowhere() -> Self {
        Self(NOWHERE.0.get().expose_provenance() as u64)
    }

    /// The address of `size` bytes at `offset`, if they lie in the page.
    #[inline(always)]
    fn at(self, offset: u64, size: u64) -> Option<u64> {
        if offset <= SIZE - size { Some(self.0 + offset) } else { None }
    }

    /// Loads an integer; `None` if it does not lie in the page.
    #[inline(always)]
    pub fn load<T: Int>(self, offset: u64) -> Option<T> {
        let at = self.at(offset, T::SIZE.into())?;
        let value: u64;
        // SAFETY: by the invariant, and `at` has checked that the access is within the page.
        unsafe {
            match T::SIZE {
                1 => asm!("movzx {v:e}, byte ptr [{p}]", v = lateout(reg) value, p = in(reg) at,
                    options(nostack, preserves_flags, readonly)),
                2 => asm!("movzx {v:e}, word ptr [{p}]", v = lateout(reg) value, p = in(reg) at,
                    options(nostack, preserves_flags, readonly)),
                4 => asm!("mov {v:e}, dword ptr [{p}]", v = lateout(reg) value, p = in(reg) at,
                    options(nostack, preserves_flags, readonly)),
                _ => asm!("mov {v}, qword ptr [{p}]", v = lateout(reg) value, p = in(reg) at,
                    options(nostack, preserves_flags, readonly)),
            }
        }
        Some(T::truncate(value))
    }

    /// Stores an integer; `None` if it does not lie in the page.
    #[inline(always)]
    pub fn store<T: Int>(self, offset: u64, value: T) -> Option<()> {
        let at = self.at(offset, T::SIZE.into())?;
        let value = value.zero_extend();
        // SAFETY: by the invariant, and `at` has checked that the access is within the page.
        unsafe {
            match T::SIZE {
                1 => asm!("mov byte ptr [{p}], {v}", v = in(reg_byte) value as u8, p = in(reg) at,
                    options(nostack, preserves_flags)),
                2 => asm!("mov word ptr [{p}], {v:x}", v = in(reg) value, p = in(reg) at,
                    options(nostack, preserves_flags)),
                4 => asm!("mov dword ptr [{p}], {v:e}", v = in(reg) value, p = in(reg) at,
                    options(nostack, preserves_flags)),
                _ => asm!("mov qword ptr [{p}], {v}", v = in(reg) value, p = in(reg) at,
                    options(nostack, preserves_flags)),
            }
        }
        Some(())
    }

    /// Whether the 64 bytes at `offset` are these; `None` if they do not lie in the page. It is as if each eight of them were loaded at a
    /// time of its own.
    #[inline(always)]
    pub fn is(self, offset: u64, bytes: &[u8; 64]) -> Option<bool> {
        let at = self.at(offset, bytes.len() as u64)?;
        let equal: u32;
        // SAFETY: by the invariant, and `at` has checked that the access is within the page; `bytes` is the caller's.
        unsafe {
            asm!(
                "movdqu {a}, [{p}]",
                "movdqu {b}, [{k}]",
                "pcmpeqb {a}, {b}",
                "movdqu {c}, [{p} + 16]",
                "movdqu {b}, [{k} + 16]",
                "pcmpeqb {c}, {b}",
                "pand {a}, {c}",
                "movdqu {c}, [{p} + 32]",
                "movdqu {b}, [{k} + 32]",
                "pcmpeqb {c}, {b}",
                "pand {a}, {c}",
                "movdqu {c}, [{p} + 48]",
                "movdqu {b}, [{k} + 48]",
                "pcmpeqb {c}, {b}",
                "pand {a}, {c}",
                "pmovmskb {equal:e}, {a}",
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _,
                p = in(reg) at, k = in(reg) bytes.as_ptr(), equal = lateout(reg) equal,
                options(nostack, preserves_flags, readonly)
            );
        }
        Some(equal == 0xffff)
    }

    /// Compares and exchanges atomically, and gives what was there; `None` if it does not lie in
    /// the page.
    ///
    /// Like the guest's own `LOCK` it may be misaligned and span cache lines: the
    /// host's processor then locks the bus.
    #[inline(always)]
    pub fn compare_exchange<T: Int>(self, offset: u64, expected: T, new: T) -> Option<T> {
        let at = self.at(offset, T::SIZE.into())?;
        let mut value = expected.zero_extend();
        let new = new.zero_extend();
        // SAFETY: by the invariant, and `at` has checked that the access is within the page.
        unsafe {
            match T::SIZE {
                1 => asm!("lock cmpxchg byte ptr [{p}], {n}", n = in(reg_byte) new as u8,
                    p = in(reg) at, inout("rax") value, options(nostack)),
                2 => asm!("lock cmpxchg word ptr [{p}], {n:x}", n = in(reg) new,
                    p = in(reg) at, inout("rax") value, options(nostack)),
                4 => asm!("lock cmpxchg dword ptr [{p}], {n:e}", n = in(reg) new,
                    p = in(reg) at, inout("rax") value, options(nostack)),
                _ => asm!("lock cmpxchg qword ptr [{p}], {n}", n = in(reg) new,
                    p = in(reg) at, inout("rax") value, options(nostack)),
            }
        }
        Some(T::truncate(value))
    }

    /// Compares and exchanges 16 bytes at an `offset` aligned to 16.
    pub fn compare_exchange_16(self, offset: u64, expected: u128, new: u128) -> Option<u128> {
        let at = self.at(offset, 16)?;
        if !offset.is_multiple_of(16) {
            return None;
        }
        let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
        // SAFETY: by the invariant, `at` has checked the bounds and the line above the alignment. Every
        // x86-64 host since 2006 has CMPXCHG16B. RBX can't be an operand, so it is swapped in.
        unsafe {
            asm!("xchg {n}, rbx", "lock cmpxchg16b xmmword ptr [{p}]", "mov rbx, {n}",
                n = inout(reg) new as u64 => _, p = in(reg) at, in("rcx") (new >> 64) as u64,
                inout("rax") low, inout("rdx") high, options(nostack));
        }
        Some(u128::from(low) | u128::from(high) << 64)
    }

    /// Reads bytes, each once; `None` if they do not all lie in the page.
    #[inline]
    pub fn read(self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        if let Ok(buffer) = <&mut [u8; 16]>::try_from(&mut *buffer) {
            self.at(offset, 16)?;
            let low: u64 = self.load(offset)?;
            let high: u64 = self.load(offset + 8)?;
            *buffer = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
            return Some(());
        }
        let at = self.bytes(offset, buffer.len())?;
        // SAFETY: by the invariant the source, checked by `bytes`, is readable; the buffer
        // is Rust's own and no guest memory.
        unsafe { move_bytes(at, buffer.as_mut_ptr().expose_provenance() as u64, buffer.len()) };
        Some(())
    }

    /// Writes bytes, each once; `None` if they do not all lie in the page.
    #[inline]
    pub fn write(self, offset: u64, bytes: &[u8]) -> Option<()> {
        if let Ok(bytes) = <[u8; 16]>::try_from(bytes) {
            self.at(offset, 16)?;
            let value = u128::from_le_bytes(bytes);
            self.store(offset, value as u64)?;
            return self.store(offset + 8, (value >> 64) as u64);
        }
        let at = self.bytes(offset, bytes.len())?;
        // SAFETY: by the invariant the destination, checked by `bytes`, is writable; the source
        // is Rust's own.
        unsafe { move_bytes(bytes.as_ptr().expose_provenance() as u64, at, bytes.len()) };
        Some(())
    }

    /// Copies `count` bytes forwards, as if byte by byte even if the two overlap.
    pub fn copy(self, offset: u64, to: Self, to_offset: u64, count: usize) -> Option<()> {
        let from = self.bytes(offset, count)?;
        let to = to.bytes(to_offset, count)?;
        // SAFETY: by the invariant of both pages; `bytes` has checked the bounds.
        unsafe { move_bytes(from, to, count) };
        Some(())
    }

    /// Fills `count` bytes with `pattern`, whose low `size` bytes (1, 2, 4 or 8) are repeated.
    pub fn fill(self, offset: u64, count: usize, pattern: u64, size: u8) -> Option<()> {
        let at = self.bytes(offset, count)?;
        let times = count as u64 / u64::from(size.max(1));
        // SAFETY: by the invariant; `bytes` has checked the bounds, and `times * size <= count`.
        // The direction flag is clear in Rust code.
        unsafe {
            match size {
                1 => asm!("rep stosb", inout("rcx") times => _, inout("rdi") at => _,
                    in("rax") pattern, options(nostack, preserves_flags)),
                2 => asm!("rep stosw", inout("rcx") times => _, inout("rdi") at => _,
                    in("rax") pattern, options(nostack, preserves_flags)),
                4 => asm!("rep stosd", inout("rcx") times => _, inout("rdi") at => _,
                    in("rax") pattern, options(nostack, preserves_flags)),
                _ => asm!("rep stosq", inout("rcx") times => _, inout("rdi") at => _,
                    in("rax") pattern, options(nostack, preserves_flags)),
            }
        }
        Some(())
    }

    #[inline]
    fn bytes(self, offset: u64, count: usize) -> Option<u64> {
        let count = count as u64;
        if count <= SIZE { self.at(offset, count) } else { None }
    }
}

/// Copies bytes forwards.
///
/// # Safety
/// `from` is readable and `to` writable for `count` bytes, and no Rust
/// reference to the latter lives.
#[inline]
unsafe fn move_bytes(from: u64, to: u64, count: usize) {
    // SAFETY: the caller's contract. The direction flag is clear in Rust code.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}
