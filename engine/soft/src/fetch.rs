//! From RIP to a block: instruction fetch and decoding.

use arch_x86::emulate::decode::{MAX_LENGTH, Undecoded, undefined};
use arch_x86::emulate::{Decoded, Insn, Mode, Op, Stop, decode, operand};
use arch_x86::engine::{Features, Intercept};
use arch_x86::exception::Exception;
use arch_x86::mmu::Query;
use iced_x86::{CpuidFeature, Instruction};

use crate::blocks::{Blocks, Found, MAX_BLOCK, Place};
use crate::itlb::Fetched;
use crate::modes::undefined_flags;
use crate::ram::{self, Page};
use crate::traces::Tracer;
use crate::vcpu::{SoftVcpu, attention};
use crate::vector;

/// How many granules of decoded code are compared at each entry. What is more costs as much as to find them anew.
const CHECKED: u32 = 256;

impl SoftVcpu {
    /// The linear address of the next instruction, and how many bytes of code CS's limit
    /// leaves from there on.
    pub(crate) fn code_address(&mut self) -> Result<(u64, u64), Stop> {
        if self.mode64 {
            if !operand::canonical(self, self.rip) {
                return Err(self.raise(Exception::gp(0)));
            }
            return Ok((self.rip, u64::MAX));
        }
        let (base, limit) = self.code_place;
        match u64::from(limit).checked_sub(self.rip) {
            Some(room) => Ok((base.wrapping_add(self.rip) & 0xffff_ffff, room + 1)),
            None => Err(self.raise(Exception::gp(0))),
        }
    }

    /// The block at RIP, which the jump cache does not know.
    pub(crate) fn find_block(&mut self, blocks: &mut Blocks) -> Result<Found, Stop> {
        self.statistics.block_lookups += 1;
        self.drop_code_if_full(blocks);
        let (linear, room) = self.code_address()?;
        let fetched = self.fetch_page(blocks, linear)?;
        self.itlb.mark(linear, fetched.id);
        let (page, mode, cpl) = (fetched.id, self.code_mode, self.cpl);
        let place = Place { page, mode, cpl, rip: self.rip };
        let (space, key) = (self.itlb.space(), self.itlb.key(self.rip));
        if let Some(found) = blocks.find(&place, space, key) {
            return Ok(found);
        }
        let Some(found) = self.build(blocks, place, fetched, linear, room)? else {
            return self.find_crossing(blocks, place, fetched, linear, room);
        };
        blocks.remember(&place, space, key, found);
        Ok(found)
    }

    /// Keeps the memory for decoded code within this vCPU's share.
    fn drop_code_if_full(&mut self, blocks: &mut Blocks) {
        let sharers = self.shared.vcpus.load(std::sync::atomic::Ordering::Relaxed).max(1);
        let options = &self.shared.options;
        let full = blocks.is_full(options.code_instructions / sharers)
            || self.code_pages.len() >= (options.code_pages / sharers).max(2);
        if full || self.itlb.is_used_up() {
            self.drop_code(blocks);
        }
    }

    /// Drops all decoded code.
    pub(crate) fn drop_code(&mut self, blocks: &mut Blocks) {
        blocks.clear();
        self.code_pages.clear();
        self.sync.code.clear();
        self.code_writes.clear();
        self.itlb.restart();
    }

    /// The page of code at `linear`. When it enters the instruction TLB its decoded bytes are
    /// compared with what memory holds now.
    fn fetch_page(&mut self, blocks: &mut Blocks, linear: u64) -> Result<Fetched, Stop> {
        if let Some(fetched) = self.itlb.find(linear) {
            return Ok(fetched);
        }
        let query = Query { linear, fetch: true, user: self.cpl == 3, ..Query::default() };
        let translation = self.walk(query)?;
        let page = self.page_of(translation.gpa, false)?;
        let start = translation.gpa & !(ram::SIZE - 1);
        self.sync.code.enter(start);
        let id = self.code_pages.enter(start);
        let stale = self.code_pages.stale(id, page);
        if stale != 0 {
            blocks.forget(&mut self.code_pages, id, stale);
        }
        let fetched = Fetched { page, id };
        self.itlb.fill(linear, fetched, translation.page_size, translation.global);
        Ok(fetched)
    }

    /// Somebody else may have written to memory, as a VMM does between an exit and the next entry. The decoded bytes of
    /// what is in the instruction TLB are compared with memory, if that is little: most often the guest goes on where it was. What
    /// is much is dropped, and compared when it is used.
    pub(crate) fn check_code(&mut self, blocks: &mut Blocks) {
        let size =
            |noted: &[Fetched]| noted.iter().map(|page| self.code_pages.size(page.id)).sum::<u32>();
        let Some(noted) = self.itlb.noted().filter(|noted| size(noted) < CHECKED) else {
            self.itlb.flush_all();
            return;
        };
        let is_there =
            |page: Page| self.shared.probe.is_none_or(|probe| page.is_there(probe, false));
        if !noted.iter().all(|noted| is_there(noted.page)) {
            // Who goes on there comes out.
            self.flush_translations();
            return;
        }
        for &Fetched { page, id } in noted {
            let stale = self.code_pages.stale(id, page);
            if stale != 0 {
                blocks.forget(&mut self.code_pages, id, stale);
            }
        }
    }

    /// Decodes a block; `None` if its first instruction crosses the page's end.
    fn build(
        &mut self,
        blocks: &mut Blocks,
        place: Place,
        fetched: Fetched,
        linear: u64,
        room: u64,
    ) -> Result<Option<Found>, Stop> {
        let first = blocks.next();
        let start = (linear % ram::SIZE) as usize;
        let mut at = start;
        let mut lockstep = self.lockstep.block(place.mode);
        let modes = self.shared.options.modes;
        let most = if modes.step || modes.poison { 1 } else { MAX_BLOCK };
        while blocks.next() - first < most && at < ram::SIZE as usize {
            let left = room.saturating_sub((at - start) as u64).min(MAX_LENGTH as u64) as usize;
            if left == 0 {
                break;
            }
            let rip = place.rip.wrapping_add((at - start) as u64);
            let bytes = self.code_pages.peek(fetched.id, fetched.page, at, left);
            let limited = bytes.len() == left && left < MAX_LENGTH;
            if modes.poison {
                blocks.note_undefined_flags(undefined_flags(bytes, place.mode));
            }
            let Some(decoded) = lower(bytes, rip, place.mode, self.features) else {
                if at != start {
                    break;
                }
                if limited {
                    // Beyond CS's limit. See: AMD APM vol. 2, 4.12.
                    return Err(self.raise(Exception::gp(0)));
                }
                return Ok(None);
            };
            let len = usize::from(decoded.op.insn.len).max(1);
            if lockstep.ends_before(&bytes[..len.min(bytes.len())], rip) {
                break;
            }
            if self.code_pages.mark(fetched.id, at, len) {
                self.tlb.withhold_writes(self.code_pages.gpa(fetched.id));
            }
            at += len;
            blocks.push(decoded.op);
            if decoded.ends_block {
                break;
            }
        }
        let found = blocks.add(place, first, at - start);
        if !lockstep.is_comparable() {
            blocks.keep_interpreted(found.block);
        }
        self.code_pages.add_block(fetched.id, start, at - start, found.block);
        Ok(Some(found))
    }

    /// Translates a block that is executed again and again.
    #[cold]
    pub(crate) fn translate(&mut self, blocks: &mut Blocks, found: Found, place: &Place) -> Found {
        let Some(tail) = blocks.tail(found.block) else {
            return self.translate_trace(blocks, found);
        };
        let offset = (place.rip.wrapping_add(self.code_place.0) % ram::SIZE) as usize;
        let size = usize::from(found.run.bytes);
        let first = ram::SIZE as usize - offset;
        let head = self.code_pages.kept(place.page, offset, first);
        let bytes = [head, self.code_pages.kept(tail, 0, size - first)].concat();
        blocks.translate(&[(found.block, &bytes)], self.features, |rip| self.itlb.marked(rip))
    }

    /// Translates a block that lies in one page, and what follows it.
    fn translate_trace(&mut self, blocks: &mut Blocks, found: Found) -> Found {
        let marked = |rip| self.itlb.marked(rip);
        let trace = match blocks.follows() {
            true => {
                let pages = &self.code_pages;
                Tracer { blocks, pages, marked: &marked }.trace(found.block)
            }
            false => vec![found.block],
        };
        let extents = trace.iter().map(|block| {
            let place = blocks.place(*block);
            let at = place.rip.wrapping_add(self.code_place.0) % ram::SIZE;
            (*block, place.page, at as usize, blocks.size(*block))
        });
        let extents: Vec<_> = extents.collect();
        let kept = |&(block, page, at, size)| (block, self.code_pages.kept(page, at, size));
        let parts: Vec<_> = extents.iter().map(kept).collect();
        let found = blocks.translate(&parts, self.features, marked);
        // When one of them is dropped the translation is, too.
        for (_, page, at, size) in extents.into_iter().skip(1) {
            self.code_pages.add_block(page, at, size, found.block);
        }
        found
    }

    /// The instruction at RIP, which starts in `head` and ends in the next page.
    fn find_crossing(
        &mut self,
        blocks: &mut Blocks,
        place: Place,
        head: Fetched,
        linear: u64,
        room: u64,
    ) -> Result<Found, Stop> {
        let offset = linear % ram::SIZE;
        let first = (ram::SIZE - offset) as usize;
        let next = linear.wrapping_add(first as u64);
        let next = if self.mode64 { next } else { next & 0xffff_ffff };
        if self.mode64 && !operand::canonical(self, next) {
            return Err(self.raise(Exception::gp(0)));
        }
        let tail = self.fetch_page(blocks, next)?;
        let found = match blocks.find_crossing(&place, tail.id) {
            Some(found) => found,
            None => self.build_crossing(blocks, place, [head, tail], first, room)?,
        };
        // A key says something of one half of the address space.
        if (linear ^ next) >> 63 == 0 {
            let (space, key) = (self.itlb.space(), self.itlb.key(place.rip));
            blocks.remember(&place, space, key, found);
        }
        Ok(found)
    }

    /// Decodes an instruction of which `first` bytes are in the first page.
    fn build_crossing(
        &mut self,
        blocks: &mut Blocks,
        place: Place,
        [head, tail]: [Fetched; 2],
        first: usize,
        room: u64,
    ) -> Result<Found, Stop> {
        let offset = ram::SIZE as usize - first;
        let mut buffer = [0; MAX_LENGTH];
        let (left, right) = buffer.split_at_mut(first.min(MAX_LENGTH));
        left.copy_from_slice(self.code_pages.peek(head.id, head.page, offset, left.len()));
        if !right.is_empty() {
            right.copy_from_slice(self.code_pages.peek(tail.id, tail.page, 0, right.len()));
        }
        let bytes = &buffer[..room.min(MAX_LENGTH as u64) as usize];
        let decoded = lower(bytes, place.rip, place.mode, self.features);
        let rest = decoded.as_ref().and_then(|decoded| {
            usize::from(decoded.op.insn.len).checked_sub(first).filter(|rest| *rest > 0)
        });
        let (Some(decoded), Some(rest)) = (decoded, rest) else {
            // Longer than any instruction, or beyond CS's limit.
            return Err(self.raise(Exception::gp(0)));
        };
        let found = blocks.add_crossing(place, tail.id, decoded.op);
        for (page, offset, size) in [(head.id, offset, first), (tail.id, 0, rest)] {
            if self.code_pages.mark(page, offset, size) {
                self.tlb.withhold_writes(self.code_pages.gpa(page));
            }
            self.code_pages.add_block(page, offset, size, found.block);
        }
        if self.lockstep.is_on() {
            // It compares what is in one page.
            blocks.keep_interpreted(found.block);
        }
        Ok(found)
    }

    /// Drops the blocks that the guest has written to.
    pub(crate) fn drop_written_code(&mut self, blocks: &mut Blocks) {
        self.set_attention(attention::CODE_WRITTEN, false);
        while let Some(write) = self.code_writes.pop() {
            blocks.forget(&mut self.code_pages, write.page, write.granules);
        }
    }
}

/// Decodes one instruction, of whatever kind; `None` if more bytes are needed.
fn lower(bytes: &[u8], rip: u64, mode: Mode, features: Features) -> Option<Decoded<SoftVcpu>> {
    match decode(bytes, rip, mode, features) {
        Ok(decoded) => Some(decoded),
        Err(Undecoded::Truncated) => None,
        Err(Undecoded::Foreign(instruction)) => Some(match vector::lower(&instruction, mode) {
            Some(op) => Decoded { op, ends_block: false },
            None => lacking(&instruction, bytes),
        }),
    }
}

/// An instruction without semantics: #UD if CPUID never offers it, else the engine's fault.
fn lacking(instruction: &Instruction, bytes: &[u8]) -> Decoded<SoftVcpu> {
    let len = instruction.len();
    let mut insn = Insn { len: len as u8, ..Insn::default() };
    if !instruction.cpuid_features().iter().all(|feature| is_base(*feature)) {
        return Decoded { op: Op { exec: undefined, insn }, ends_block: true };
    }
    // `unsupported` has the bytes from the operands' fields, which it does not need otherwise.
    let mut all = [0; MAX_LENGTH];
    let known = len.min(bytes.len()).min(MAX_LENGTH);
    all[..known].copy_from_slice(&bytes[..known]);
    let (disp, rest) = all.split_at(8);
    insn.disp = disp.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    insn.imm = rest[..4].iter().rev().fold(0, |value, byte| value << 8 | i32::from(*byte));
    [insn.reg, insn.rm, insn.extra] = [rest[4], rest[5], rest[6]];
    Decoded { op: Op { exec: unsupported, insn }, ends_block: true }
}

fn unsupported(cpu: &mut SoftVcpu, insn: &Insn) -> Result<(), Stop> {
    let mut bytes = [0; MAX_LENGTH];
    bytes[..8].copy_from_slice(&insn.disp.to_le_bytes());
    bytes[8..12].copy_from_slice(&insn.imm.to_le_bytes());
    bytes[12..].copy_from_slice(&[insn.reg, insn.rm, insn.extra]);
    Err(cpu.come_out(Intercept::Unsupported { bytes, len: insn.len }))
}

/// Whether every CPUID that is offered here has `feature`.
fn is_base(feature: CpuidFeature) -> bool {
    matches!(
        feature,
        CpuidFeature::INTEL8086
            | CpuidFeature::INTEL8086_ONLY
            | CpuidFeature::INTEL186
            | CpuidFeature::INTEL286
            | CpuidFeature::INTEL386
            | CpuidFeature::INTEL486
            | CpuidFeature::CPUID
            | CpuidFeature::X64
            | CpuidFeature::TSC
            | CpuidFeature::MSR
            | CpuidFeature::CX8
            | CpuidFeature::CMOV
            | CpuidFeature::FPU
            | CpuidFeature::FPU287
            | CpuidFeature::FPU387
            | CpuidFeature::MMX
            | CpuidFeature::FXSR
            | CpuidFeature::SSE
            | CpuidFeature::SSE2
            | CpuidFeature::SSE3
            | CpuidFeature::SSSE3
            | CpuidFeature::SSE4_1
            | CpuidFeature::SSE4_2
            | CpuidFeature::SYSCALL
            | CpuidFeature::MULTIBYTENOP
    )
}
