//! The memory of a vCPU, and what else instructions need: [`Cpu`] for [`SoftVcpu`].
//!
//! An access that hits the TLB is made in place; everything else goes to the slow
//! functions, and through `SoftVcpu::locate`.

use arch_x86::emulate::{Access, Cpu, Feature, Int, Stop, operand};
use arch_x86::engine::Intercept;
use arch_x86::exception::Exception;
use arch_x86::mmu::Limits;
use arch_x86::regs::Seg;

use crate::ram::{self, Page};
use crate::tlb::Rights;
use crate::translate::Located;
use crate::vcpu::{SoftVcpu, attention};

/// How many of `size` bytes at `linear` lie in its page.
const fn in_page(linear: u64, size: u64) -> u64 {
    let room = ram::SIZE - linear % ram::SIZE;
    if size < room { size } else { room }
}

/// After so many PAUSEs the host's processor is offered to others.
const PAUSES: u32 = 64;

impl SoftVcpu {
    /// Leaves what it read in `self.loaded`: so its result fits into a register, as it has to
    /// in a function of which the fast way shall need no stack.
    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, linear: u64, size: u8, access: Access) -> Result<(), Stop> {
        let first = in_page(linear, size.into());
        if first == size.into() {
            let at = self.locate(linear, first, false, access)?;
            let offset = linear % ram::SIZE;
            // One access, so that it is as atomic as the guest's.
            let value = match size {
                1 => at.page.load::<u8>(offset).map(u64::from),
                2 => at.page.load::<u16>(offset).map(u64::from),
                4 => at.page.load::<u32>(offset).map(u64::from),
                _ => at.page.load::<u64>(offset),
            };
            self.loaded = value.unwrap_or(0);
            return Ok(());
        }
        let mut bytes = [0; 8];
        self.read_bytes(linear, &mut bytes[..usize::from(size.min(8))], access)?;
        self.loaded = u64::from_le_bytes(bytes);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn store_slow(
        &mut self,
        linear: u64,
        size: u8,
        value: u64,
        access: Access,
    ) -> Result<(), Stop> {
        let first = in_page(linear, size.into());
        if first == size.into() {
            let at = self.locate(linear, first, true, access)?;
            let offset = linear % ram::SIZE;
            match size {
                1 => at.page.store(offset, value as u8),
                2 => at.page.store(offset, value as u16),
                4 => at.page.store(offset, value as u32),
                _ => at.page.store(offset, value),
            };
            self.wrote(at, linear, first, access);
            return Ok(());
        }
        let bytes = value.to_le_bytes();
        self.write_bytes(linear, &bytes[..usize::from(size.min(8))], access)
    }

    fn read_bytes(&mut self, linear: u64, buffer: &mut [u8], access: Access) -> Result<(), Stop> {
        self.check_whole(linear, buffer.len(), access)?;
        let mut done = 0;
        while done < buffer.len() {
            let at = self.advance(linear, done);
            let here = in_page(at, (buffer.len() - done) as u64);
            let located = self.locate(at, here, false, access)?;
            let end = done + here as usize;
            // Within the page by `in_page`.
            let _ = located.page.read(at % ram::SIZE, &mut buffer[done..end]);
            done = end;
        }
        Ok(())
    }

    /// Writes up to 4096 bytes; both pages are there before anything is written.
    fn write_bytes(&mut self, linear: u64, bytes: &[u8], access: Access) -> Result<(), Stop> {
        self.check_whole(linear, bytes.len(), access)?;
        let first = in_page(linear, bytes.len() as u64);
        let (head, tail) = bytes.split_at(first as usize);
        let at = self.locate(linear, first, true, access)?;
        if !tail.is_empty() {
            let next = self.advance(linear, head.len());
            let located = self.locate(next, tail.len() as u64, true, access)?;
            let _ = located.page.write(next % ram::SIZE, tail);
            self.wrote(located, next, tail.len() as u64, access);
        }
        let _ = at.page.write(linear % ram::SIZE, head);
        self.wrote(at, linear, first, access);
        Ok(())
    }

    /// What is checked of an access as a whole, before any of its pages is looked at: that it does
    /// not leave canonical addresses half-way, and its alignment.
    fn check_whole(&mut self, linear: u64, bytes: usize, access: Access) -> Result<(), Stop> {
        let last = linear.wrapping_add(bytes as u64).wrapping_sub(1);
        let canonical = operand::canonical(self, linear) && operand::canonical(self, last);
        if self.mode64 && bytes > 0 && !canonical {
            return Err(self.raise(Exception::gp(0)));
        }
        self.check_alignment_of(linear, bytes as u64, access)
    }

    /// `bytes` behind `linear`; outside 64-bit mode addresses wrap around at 4 GiB.
    fn advance(&self, linear: u64, bytes: usize) -> u64 {
        let next = linear.wrapping_add(bytes as u64);
        if self.mode64 { next } else { next & 0xffff_ffff }
    }

    /// Reads, changes and writes in a page that was found.
    #[inline(always)]
    fn change<T: Int>(
        page: Page,
        offset: u64,
        lock: bool,
        mut change: impl FnMut(T) -> T,
    ) -> Option<T> {
        let mut old: T = page.load(offset)?;
        if !lock {
            page.store(offset, change(old))?;
            return Some(old);
        }
        loop {
            let found = page.compare_exchange(offset, old, change(old))?;
            if found == old {
                return Some(old);
            }
            old = found;
        }
    }

    #[cold]
    #[inline(never)]
    fn update_slow<T: Int>(
        &mut self,
        linear: u64,
        lock: bool,
        change: impl FnMut(T) -> T,
    ) -> Result<T, Stop> {
        let size = u64::from(T::SIZE);
        if in_page(linear, size) != size {
            return self.update_across(linear, lock, change);
        }
        let at = self.locate(linear, size, true, Access::Operand)?;
        let old = Self::change(at.page, linear % ram::SIZE, lock, change);
        self.wrote(at, linear, size, Access::Operand);
        Ok(old.unwrap_or(T::truncate(0)))
    }

    /// An update of memory in two pages.
    ///
    /// Deviation: locked, it is atomic against other locked updates across pages only, where
    /// a processor locks the bus. Nothing that means to work does that.
    fn update_across<T: Int>(
        &mut self,
        linear: u64,
        lock: bool,
        mut change: impl FnMut(T) -> T,
    ) -> Result<T, Stop> {
        let shared = std::sync::Arc::clone(&self.shared);
        let guard = lock.then(|| shared.split_lock.lock());
        let size = usize::from(T::SIZE);
        let first = in_page(linear, size as u64);
        self.check_whole(linear, size, Access::Operand)?;
        // The write's faults come before the read.
        self.locate(linear, first, true, Access::Operand)?;
        let next = self.advance(linear, first as usize);
        self.locate(next, size as u64 - first, true, Access::Operand)?;
        let mut bytes = [0; 8];
        self.read_bytes(linear, &mut bytes[..size], Access::Operand)?;
        let old = T::truncate(u64::from_le_bytes(bytes));
        let new = change(old).zero_extend().to_le_bytes();
        self.write_bytes(linear, &new[..size], Access::Operand)?;
        drop(guard);
        Ok(old)
    }

    /// Source or destination of a bulk operation within one page.
    fn locate_bulk(&mut self, linear: u64, bytes: usize, write: bool) -> Result<Located, Stop> {
        self.locate(linear, bytes as u64, write, Access::Operand)
    }

    /// Whether `bytes` at `linear` can be handled in bulk.
    fn may_be_bulk(&self, linear: u64, bytes: usize) -> bool {
        let bytes = bytes as u64;
        bytes != 0 && in_page(linear, bytes) == bytes && self.operand_rights != Rights::Watched
    }
}

impl Cpu for SoftVcpu {
    #[inline(always)]
    fn load<T: Int>(&mut self, linear: u64, access: Access) -> Result<T, Stop> {
        self.last_load = linear;
        let entry = self.tlb.read(self.rights(access), linear);
        match entry.page.load(linear.wrapping_sub(entry.tag)) {
            Some(value) => Ok(value),
            None => {
                self.load_slow(linear, T::SIZE, access)?;
                Ok(T::truncate(self.loaded))
            }
        }
    }

    #[inline(always)]
    fn store<T: Int>(&mut self, linear: u64, value: T, access: Access) -> Result<(), Stop> {
        let entry = self.tlb.write(self.rights(access), linear);
        match entry.page.store(linear.wrapping_sub(entry.tag), value) {
            Some(()) => Ok(()),
            None => self.store_slow(linear, T::SIZE, value.zero_extend(), access),
        }
    }

    #[inline(always)]
    fn update<T: Int>(
        &mut self,
        linear: u64,
        lock: bool,
        mut change: impl FnMut(T) -> T,
    ) -> Result<T, Stop> {
        let entry = self.tlb.write(self.operand_rights, linear);
        let offset = linear.wrapping_sub(entry.tag);
        match Self::change(entry.page, offset, lock, &mut change) {
            Some(old) => Ok(old),
            None => self.update_slow(linear, lock, change),
        }
    }

    fn compare_exchange_16(
        &mut self,
        linear: u64,
        _lock: bool,
        expected: u128,
        new: u128,
    ) -> Result<u128, Stop> {
        let at = self.locate(linear, 16, true, Access::Operand)?;
        let found = at.page.compare_exchange_16(linear % ram::SIZE, expected, new);
        self.wrote(at, linear, 16, Access::Operand);
        // Aligned by contract.
        Ok(found.unwrap_or(0))
    }

    fn load_bytes(&mut self, linear: u64, buffer: &mut [u8], access: Access) -> Result<(), Stop> {
        let entry = self.tlb.read(self.rights(access), linear);
        match entry.page.read(linear.wrapping_sub(entry.tag), buffer) {
            Some(()) => Ok(()),
            None => self.read_bytes(linear, buffer, access),
        }
    }

    fn store_bytes(&mut self, linear: u64, bytes: &[u8], access: Access) -> Result<(), Stop> {
        let entry = self.tlb.write(self.rights(access), linear);
        match entry.page.write(linear.wrapping_sub(entry.tag), bytes) {
            Some(()) => Ok(()),
            None => self.write_bytes(linear, bytes, access),
        }
    }

    fn probe_write(&mut self, linear: u64, size: usize, access: Access) -> Result<(), Stop> {
        self.check_whole(linear, size, access)?;
        let mut done = 0;
        while done < size {
            let at = self.advance(linear, done);
            // Of no size: a probe meets no breakpoint.
            self.locate(at, 0, true, access)?;
            done += in_page(at, (size - done) as u64) as usize;
        }
        Ok(())
    }

    fn copy_within_pages(
        &mut self,
        from: u64,
        to: u64,
        bytes: usize,
        size: u8,
    ) -> Result<usize, Stop> {
        if !self.may_be_bulk(from, bytes) || !self.may_be_bulk(to, bytes) {
            return Ok(0);
        }
        let source = self.locate_bulk(from, bytes, false)?;
        let target = self.locate_bulk(to, bytes, true)?;
        // Two addresses of one page: an element that is written onto a part of itself is not the same byte by byte.
        let ahead = (to % ram::SIZE).wrapping_sub(from % ram::SIZE);
        if source.page == target.page && (1..size.into()).contains(&ahead) {
            return Ok(0);
        }
        let _ = source.page.copy(from % ram::SIZE, target.page, to % ram::SIZE, bytes);
        self.wrote(target, to, bytes as u64, Access::Operand);
        Ok(bytes)
    }

    fn fill_within_page(
        &mut self,
        to: u64,
        bytes: usize,
        pattern: u64,
        size: u8,
    ) -> Result<usize, Stop> {
        if !self.may_be_bulk(to, bytes) {
            return Ok(0);
        }
        let target = self.locate_bulk(to, bytes, true)?;
        let _ = target.page.fill(to % ram::SIZE, bytes, pattern, size);
        self.wrote(target, to, bytes as u64, Access::Operand);
        Ok(bytes)
    }

    #[inline]
    fn fault(&mut self, exception: Exception) -> Stop {
        self.raise(exception)
    }

    fn last_fault(&self) -> Exception {
        self.exception
    }

    #[inline]
    fn intercept(&mut self, intercept: Intercept) -> Stop {
        self.come_out(intercept)
    }

    fn intercepts(&self, vector: u8) -> bool {
        self.exception_intercepts >> (vector & 31) & 1 != 0
    }

    fn trap_after(&mut self, dr6: u64) {
        self.later_trap |= dr6;
        self.set_attention(attention::TRAP, true);
    }

    fn invalidate_page(&mut self, linear: u64) {
        self.drop_page(linear);
    }

    fn invalidate_pcid(&mut self, kind: u64, pcid: u64, linear: u64) {
        self.drop_pcid(kind, pcid, linear);
    }

    fn serialize(&mut self) {
        // What this vCPU has written is known. What others have is not; what comes from outside the
        // machine is seen at the next entry.
        if self.shared.vcpus.load(std::sync::atomic::Ordering::Relaxed) > 1 {
            self.itlb.flush_all();
        }
        self.leave_block = true;
    }

    fn pause(&mut self) {
        // Whom it waits for may have no processor of the host.
        self.pauses = self.pauses.wrapping_add(1);
        let vcpus = self.shared.vcpus.load(std::sync::atomic::Ordering::Relaxed);
        if vcpus > 1 && self.pauses.is_multiple_of(PAUSES) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }

    fn random(&mut self, seed: bool) -> Option<u64> {
        crate::host::random(seed)
    }

    fn tsc(&mut self) -> u64 {
        self.time_stamp()
    }

    fn offers(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    #[inline(always)]
    fn address_register(&self, n: u8) -> u64 {
        self.gprs[usize::from(n & 31)]
    }

    #[inline(always)]
    fn linear64(&self, seg: Seg, offset: u64) -> u64 {
        match seg {
            Seg::Fs | Seg::Gs => self.segments[seg as usize].base.wrapping_add(offset),
            _ => offset,
        }
    }
}
