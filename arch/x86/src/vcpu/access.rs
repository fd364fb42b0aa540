//! Instructions that touch devices.
//!
//! When guest code reaches a guest-physical address that no memory slot backs, the engine
//! gives up the instruction, and it is decoded and executed here by [`crate::emulate`], on an
//! [`Emulator`]: the engine's registers, and memory that knows devices. The local APIC and
//! the I/O APIC answer at once; for others the instruction is given up again, the VMM
//! asked, and the instruction executed anew with its answer at hand ([`Replay`]). Writes to
//! devices are kept until the instruction has completed.

use virt::host::Host;
use virt::ioeventfd::IoAddress;
use virt::memory::{Unreached, View};

use super::handle::Completion;
use super::replay::Replay;
use super::{Data, Exit, Vcpu};
use crate::emulate::decode::{MAX_LENGTH, Mode, Undecoded, decode};
use crate::emulate::{Access, Cpu, Feature, Int, Op, Stop, debug};
use crate::engine::{Engine, EngineVcpu, Features, Intercept};
use crate::exception::Exception;
use crate::irqchip::chips::Effects;
use crate::machine::ioapic_offset;
use crate::mmu::{self, Limits, NoMemory, PAGE_SIZE, Paging, PhysMemory, Query, WalkError};
use crate::regs::{Regs, Seg, forward_regs, rflags};
use crate::statistics::VcpuStatistic;

/// Guest-physical memory for the page walk.
pub(super) struct Tables<'a, H> {
    pub view: &'a View,
    pub host: &'a H,
}

impl<H: Host> Tables<'_, H> {
    fn read<const N: usize>(&self, gpa: u64) -> Result<[u8; N], NoMemory> {
        let mut bytes = [0; N];
        self.view.read(self.host, gpa, &mut bytes).map_err(|_| NoMemory { gpa })?;
        Ok(bytes)
    }

    fn exchange(&self, gpa: u64, size: u8, current: u64, new: u64) -> Result<bool, NoMemory> {
        let current = u128::from(current);
        self.view
            .compare_exchange(self.host, gpa, size, current, new.into())
            .map(|found| found == current)
            .map_err(|_| NoMemory { gpa })
    }
}

impl<H: Host> PhysMemory for Tables<'_, H> {
    fn read_u32(&mut self, gpa: u64) -> Result<u32, NoMemory> {
        self.read(gpa).map(u32::from_le_bytes)
    }
    fn read_u64(&mut self, gpa: u64) -> Result<u64, NoMemory> {
        self.read(gpa).map(u64::from_le_bytes)
    }
    fn compare_exchange_u32(&mut self, gpa: u64, current: u32, new: u32) -> Result<bool, NoMemory> {
        self.exchange(gpa, 4, current.into(), new.into())
    }
    fn compare_exchange_u64(&mut self, gpa: u64, current: u64, new: u64) -> Result<bool, NoMemory> {
        self.exchange(gpa, 8, current, new)
    }
}

/// Why an instruction was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Exception(Exception),
    Intercept(Intercept),
    /// A device must be read first.
    Read {
        gpa: u64,
        size: u8,
    },
    /// Earlier rounds of a string instruction have writes to be carried out first.
    Writes,
    BadMemory {
        gpa: u64,
    },
    /// There is no memory to fetch it from.
    NoCode,
}

/// A vCPU on which one instruction is executed with all of its accesses.
pub(super) struct Emulator<'a, E: Engine, H: Host> {
    vcpu: &'a mut Vcpu<E, H>,
    features: Features,
    cause: Option<Cause>,
    /// The data breakpoints that were met: bits of DR6.
    met: u64,
}

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// Executes the instruction at RIP here.
    #[inline(never)]
    pub(super) fn emulate(&mut self) -> Option<Exit> {
        match self.execute(true) {
            Ok(met) => {
                self.advance_past(0, met);
                None
            }
            Err(exit) => exit,
        }
    }

    /// The same, but for what follows from completing it. Gives the data breakpoints that it met, or what is to be done before
    /// it is executed again. `stepped`: a step of the debugger's is one iteration of a string.
    #[inline(never)]
    pub(super) fn execute(&mut self, stepped: bool) -> Result<u64, Option<Exit>> {
        self.statistics.count(VcpuStatistic::InsnEmulation);
        let mut emulator = Emulator::new(self);
        let rip = emulator.rip();
        let op = match emulator.decode() {
            Ok(op) => op,
            Err(None) => return Err(emulator.give_up()),
            Err(exit) => return Err(exit),
        };
        // Behind the instruction while it executes.
        let next = rip.wrapping_add(op.insn.len.into());
        emulator.set_rip(if emulator.mode64() { next } else { next & 0xffff_ffff });
        emulator.vcpu.task_priority.begin(rip);
        let lent = stepped && emulator.vcpu.lend_trap_flag();
        let done = (op.exec)(&mut emulator, &op.insn);
        emulator.vcpu.take_trap_flag_back(lent);
        if done.is_err() {
            emulator.set_rip(rip);
            return Err(emulator.give_up());
        }
        let met = emulator.met;
        self.replay.forget_reads();
        Ok(met)
    }

    /// Carries out the device writes of instructions that have completed. Gives an exit
    /// for one that is the VMM's.
    #[inline(never)]
    pub(super) fn finish_writes(&mut self) -> Option<Exit> {
        while let Some((gpa, size, value)) = self.replay.next_write() {
            let bytes = value.to_le_bytes();
            let bytes = &bytes[..usize::from(size.min(8))];
            if self.lapic.page() == Some(gpa & !(PAGE_SIZE - 1)) {
                self.write_lapic(gpa, bytes);
            } else if let Some(offset) = self.ioapic_offset(gpa) {
                self.write_ioapic(offset, bytes);
            } else if !self.signal(IoAddress::Mmio(gpa), bytes) {
                return Some(Exit::MmioWrite { gpa, data: Data::new(bytes) });
            }
        }
        None
    }

    /// Where `gpa` lies in the I/O APIC's page, if it does.
    fn ioapic_offset(&self, gpa: u64) -> Option<u64> {
        ioapic_offset(gpa).filter(|_| self.machine.setup.has_shared_chips())
    }

    #[inline(never)]
    fn write_lapic(&mut self, gpa: u64, bytes: &[u8]) {
        self.note_page_access(gpa, true);
        let effect = self.lapic.write_page(gpa, bytes, self.machine.host.now());
        self.carry_out(effect);
    }

    #[inline(never)]
    fn write_ioapic(&mut self, offset: u64, bytes: &[u8]) {
        self.machine.with_chips(|chips, _| ((), chips.write_mmio(offset, bytes)));
    }

    /// What the local APIC or the I/O APIC reads as, if it is one of them.
    #[inline(never)]
    fn read_chip(&mut self, gpa: u64, size: u8) -> Option<u64> {
        let mut bytes = [0; 8];
        let part = &mut bytes[..usize::from(size.min(8))];
        if self.lapic.page() == Some(gpa & !(PAGE_SIZE - 1)) {
            self.lapic.read_page(gpa, part, self.machine.host.now());
            self.note_page_access(gpa, false);
        } else if let Some(offset) = self.ioapic_offset(gpa) {
            let no_effects = Effects::default();
            self.machine.with_chips(|chips, _| (chips.read_mmio(offset, part), no_effects));
        } else {
            return None;
        }
        Some(u64::from_le_bytes(bytes))
    }
}

impl<'a, E: Engine, H: Host> Emulator<'a, E, H> {
    pub(super) fn new(vcpu: &'a mut Vcpu<E, H>) -> Self {
        let features = vcpu.features;
        Self { vcpu, features, cause: None, met: 0 }
    }

    /// The data breakpoints that were met: bits of DR6.
    pub(super) fn met(&self) -> u64 {
        self.met
    }

    /// Looks whether an access meets breakpoints.
    fn watch(&mut self, linear: u64, size: usize, write: bool) {
        let (addresses, control) = self.vcpu.breakpoints();
        if debug::armed(control) {
            let kind = if write { debug::Kind::Write } else { debug::Kind::Read };
            let met = debug::matches(&addresses, control, linear, size as u64, kind);
            self.met |= met.unwrap_or(0);
        }
    }

    /// Decodes the instruction at RIP: an exit if it has no semantics, nothing if it cannot be fetched.
    // Not inline: the decoder's frame need not be there while the instruction executes.
    #[inline(never)]
    fn decode(&mut self) -> Result<Op<Self>, Option<Exit>> {
        let mut bytes = [0; MAX_LENGTH];
        let fetched = match self.fetch(&mut bytes) {
            Ok(fetched) => fetched,
            Err(_) => return Err(None),
        };
        match decode(&bytes[..fetched], self.rip(), Mode::of(self), self.features) {
            Ok(decoded) => Ok(decoded.op),
            Err(Undecoded::Foreign(_) | Undecoded::Truncated) => {
                Err(Some(Exit::Unsupported { bytes, len: fetched as u8 }))
            }
        }
    }

    /// Reads as many bytes of the instruction at RIP as can be fetched.
    pub(super) fn fetch(&mut self, bytes: &mut [u8; MAX_LENGTH]) -> Result<usize, Stop> {
        let start = self.segment_base(Seg::Cs).wrapping_add(self.rip());
        let room = (PAGE_SIZE - start % PAGE_SIZE).min(MAX_LENGTH as u64) as usize;
        let gpa = self.translate(start, false, Access::Operand, true)?;
        self.read_code(gpa, &mut bytes[..room])?;
        let rest = &mut bytes[room..];
        if !rest.is_empty() {
            let next = start.wrapping_add(room as u64);
            let next = self.translate(next, false, Access::Operand, true);
            if next.and_then(|gpa| self.read_code(gpa, rest)).is_err() {
                // The instruction may end before that.
                self.cause = None;
                return Ok(room);
            }
        }
        Ok(MAX_LENGTH)
    }

    /// What becomes of an instruction that was given up.
    pub(super) fn give_up(self) -> Option<Exit> {
        match self.cause {
            Some(Cause::Exception(exception)) => {
                self.vcpu.replay = Replay::default();
                self.vcpu.raise(exception);
                None
            }
            Some(Cause::Intercept(intercept)) => self.vcpu.handle(intercept),
            Some(Cause::Read { gpa, size }) => {
                self.vcpu.completion = Completion::Mmio { gpa, size };
                Some(Exit::MmioRead { gpa, size })
            }
            Some(Cause::Writes) => {
                self.vcpu.replay.forget_reads();
                None
            }
            Some(Cause::BadMemory { gpa }) => Some(Exit::BadMemory { gpa }),
            Some(Cause::NoCode) => Some(Exit::Unsupported { bytes: [0; MAX_LENGTH], len: 0 }),
            None => None,
        }
    }

    fn stop(&mut self, cause: Cause) -> Stop {
        self.cause = Some(cause);
        Stop::Intercept
    }

    fn read_code(&mut self, gpa: u64, bytes: &mut [u8]) -> Result<(), Stop> {
        self.vcpu.read_memory(gpa, bytes).map_err(|unreached| {
            self.stop(match unreached {
                Unreached::NoSlot { .. } => Cause::NoCode,
                Unreached::BadAddress { gpa } => Cause::BadMemory { gpa },
            })
        })
    }

    /// The guest-physical address of one byte.
    fn translate(
        &mut self,
        linear: u64,
        write: bool,
        access: Access,
        fetch: bool,
    ) -> Result<u64, Stop> {
        let limits = self.vcpu.cpuid.limits();
        let paging = Paging::of(&self.vcpu.engine, limits);
        let unused = if paging.mode == mmu::Mode::FiveLevel { 7 } else { 16 };
        if self.long_mode() && (linear as i64) << unused >> unused != linear as i64 {
            return Err(self.fault(Exception::gp(0)));
        }
        let user = self.cpl() == 3;
        let query = Query {
            linear,
            write,
            fetch,
            user: user && access == Access::Operand,
            implicit_supervisor: user && access == Access::System,
            ac: self.rflags() & rflags::AC != 0,
        };
        let walk = |view: &View, host: &H| mmu::walk(&paging, query, &mut Tables { view, host });
        match self.vcpu.with_memory(walk) {
            Ok(translation) => Ok(translation.gpa),
            Err(WalkError::Fault(exception)) => Err(self.fault(exception)),
            Err(WalkError::NoMemory { gpa }) => Err(self.stop(Cause::BadMemory { gpa })),
        }
    }

    /// Calls `part` for the piece of each page, with its guest-physical address.
    fn pieces(
        &mut self,
        linear: u64,
        len: usize,
        write: bool,
        access: Access,
    ) -> Result<[(u64, usize); 2], Stop> {
        let room = (PAGE_SIZE - linear % PAGE_SIZE) as usize;
        let first = self.translate(linear, write, access, false)?;
        if len <= room {
            return Ok([(first, len), (0, 0)]);
        }
        let second = self.translate(linear.wrapping_add(room as u64), write, access, false)?;
        Ok([(first, room), (second, len - room)])
    }

    fn read_piece(&mut self, gpa: u64, buffer: &mut [u8]) -> Result<(), Stop> {
        match self.vcpu.read_memory(gpa, buffer) {
            Ok(()) => return Ok(()),
            Err(Unreached::BadAddress { gpa }) => return Err(self.stop(Cause::BadMemory { gpa })),
            Err(Unreached::NoSlot { .. }) => {}
        }
        // A device sees accesses of at most eight bytes.
        let mut at = gpa;
        for chunk in buffer.chunks_mut(8) {
            let size = chunk.len() as u8;
            let value = match self.vcpu.replay.find(at, size) {
                Some(value) => value,
                None => match self.vcpu.read_chip(at, size) {
                    Some(value) => {
                        self.vcpu.replay.answer(at, size, value);
                        value
                    }
                    None => return Err(self.stop(Cause::Read { gpa: at, size })),
                },
            };
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
            at = at.wrapping_add(size.into());
        }
        Ok(())
    }

    fn write_piece(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), Stop> {
        match self.vcpu.write_memory(gpa, bytes) {
            Ok(()) => return Ok(()),
            Err(Unreached::BadAddress { gpa }) => return Err(self.stop(Cause::BadMemory { gpa })),
            Err(Unreached::NoSlot { .. }) => {}
        }
        let mut at = gpa;
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let size = chunk.len() as u8;
            if !self.vcpu.replay.write(at, size, u64::from_le_bytes(word)) {
                return Err(self.stop(Cause::BadMemory { gpa: at }));
            }
            at = at.wrapping_add(size.into());
        }
        Ok(())
    }

    fn compare_exchange_at(
        &mut self,
        gpa: u64,
        size: u8,
        expected: u128,
        new: u128,
    ) -> Result<u128, Unreached> {
        self.vcpu.with_memory(|view, host| view.compare_exchange(host, gpa, size, expected, new))
    }

    /// An access after a write to a device is the next round of a string instruction: the write goes
    /// first.
    fn check_order(&mut self) -> Result<(), Stop> {
        if self.vcpu.replay.has_writes() { Err(self.stop(Cause::Writes)) } else { Ok(()) }
    }
}

impl<E: Engine, H: Host> Cpu for Emulator<'_, E, H> {
    fn load<T: Int>(&mut self, linear: u64, access: Access) -> Result<T, Stop> {
        let mut word = [0; 8];
        self.load_bytes(linear, &mut word[..usize::from(T::SIZE)], access)?;
        Ok(T::truncate(u64::from_le_bytes(word)))
    }

    fn store<T: Int>(&mut self, linear: u64, value: T, access: Access) -> Result<(), Stop> {
        let word = value.zero_extend().to_le_bytes();
        self.store_bytes(linear, &word[..usize::from(T::SIZE)], access)
    }

    fn update<T: Int>(
        &mut self,
        linear: u64,
        lock: bool,
        mut change: impl FnMut(T) -> T,
    ) -> Result<T, Stop> {
        let size = T::SIZE;
        let [(gpa, len), _] = self.pieces(linear, usize::from(size), true, Access::Operand)?;
        let atomic = lock && len == usize::from(size) && gpa % u64::from(size) == 0;
        loop {
            let old = self.load::<T>(linear, Access::Operand)?;
            let new = change(old);
            if atomic {
                let expected = u128::from(old.zero_extend());
                let new = new.zero_extend().into();
                match self.compare_exchange_at(gpa, size, expected, new) {
                    Ok(found) if found == expected => return Ok(old),
                    Ok(_) => continue,
                    Err(Unreached::BadAddress { gpa }) => {
                        return Err(self.stop(Cause::BadMemory { gpa }));
                    }
                    // A device's: what it read as is known, and is changed and written.
                    Err(Unreached::NoSlot { .. }) => {}
                }
            }
            self.store(linear, new, Access::Operand)?;
            return Ok(old);
        }
    }

    fn compare_exchange_16(
        &mut self,
        linear: u64,
        _lock: bool,
        expected: u128,
        new: u128,
    ) -> Result<u128, Stop> {
        let gpa = self.translate(linear, true, Access::Operand, false)?;
        self.watch(linear, 16, true);
        self.compare_exchange_at(gpa, 16, expected, new)
            .map_err(|_| self.stop(Cause::BadMemory { gpa }))
    }

    fn load_bytes(&mut self, linear: u64, buffer: &mut [u8], access: Access) -> Result<(), Stop> {
        self.check_order()?;
        let [(first, len), (second, _)] = self.pieces(linear, buffer.len(), false, access)?;
        self.watch(linear, buffer.len(), false);
        let (low, high) = buffer.split_at_mut(len);
        self.read_piece(first, low)?;
        if high.is_empty() { Ok(()) } else { self.read_piece(second, high) }
    }

    fn store_bytes(&mut self, linear: u64, bytes: &[u8], access: Access) -> Result<(), Stop> {
        self.check_order()?;
        let [(first, len), (second, _)] = self.pieces(linear, bytes.len(), true, access)?;
        self.watch(linear, bytes.len(), true);
        let (low, high) = bytes.split_at(len);
        self.write_piece(first, low)?;
        if high.is_empty() { Ok(()) } else { self.write_piece(second, high) }
    }

    fn probe_write(&mut self, linear: u64, size: usize, access: Access) -> Result<(), Stop> {
        self.pieces(linear, size, true, access).map(|_| ())
    }

    fn fault(&mut self, exception: Exception) -> Stop {
        self.cause = Some(Cause::Exception(exception));
        Stop::Fault
    }

    fn last_fault(&self) -> Exception {
        match self.cause {
            Some(Cause::Exception(exception)) => exception,
            _ => Exception::ud(),
        }
    }

    fn intercept(&mut self, intercept: Intercept) -> Stop {
        self.stop(Cause::Intercept(intercept))
    }

    fn trap_after(&mut self, dr6: u64) {
        self.vcpu.raise(Exception::db(dr6));
    }

    fn invalidate_page(&mut self, _linear: u64) {
        self.vcpu.engine.flush_tlb();
    }

    fn invalidate_pcid(&mut self, _kind: u64, _pcid: u64, _linear: u64) {
        self.vcpu.engine.flush_tlb();
    }

    fn tsc(&mut self) -> u64 {
        self.vcpu.engine.tsc()
    }

    fn offers(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    fn limits(&self) -> Limits {
        self.vcpu.cpuid.limits()
    }
}

impl<E: Engine, H: Host> Regs for Emulator<'_, E, H> {
    forward_regs!(vcpu.engine);
}
