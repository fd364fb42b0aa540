//! [`KvmVcpu`]: KVM_RUN, and KVM's exits as [`Exit`]s.
//!
//! The ioctl (`ioctl.rs`), and what it leaves in the mapping, are this crate's own and not `kvm-ioctls`', for the instructions that
//! an exit takes.
//!
//! An answer goes to where the exit has its data, and in with the next KVM_RUN. A string of port accesses that is longer than
//! an [`Exit`] carries is several of them.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use arch_x86::cpuid::{Table, kernel_table};
use arch_x86::exception::Exception;
use arch_x86::guest_debug::GuestDebug;
use arch_x86::regs::State;
use arch_x86::vcpu::{Answer, Data, Exit};
use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_EXIT_DEBUG, KVM_EXIT_HLT, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN,
    KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO, KVM_EXIT_SET_TPR, KVM_EXIT_SHUTDOWN, kvm_cpuid_entry2,
};
use kvm_ioctls::VcpuFd;
use rustix::io::Errno;

use super::debug::{self, Debugger};
use super::ioctl;
use super::kick::{Here, Kicked};
use super::stuck::Stuck;
use super::vm::Shared;
use super::{transfer, watch};
use crate::pause::Pass;
use crate::{Counts, Error, Vcpu};

/// A vCPU of KVM's.
pub struct KvmVcpu {
    id: u32,
    fd: VcpuFd,
    kicked: Arc<Kicked>,
    vm: Arc<Shared>,
    pass: Pass,
    waiting: Option<Waiting>,
    /// The VMM was told that it halts for good.
    told: bool,
    debugger: Debugger,
    /// Something is to be done before each entry, and after each exit: it steps, or some chips are this process's.
    attended: bool,
}

/// Data that an exit has, or waits for: so many bytes of the mapping that the vCPU and the kernel share.
struct Waiting {
    /// The first byte that the VMM has not had, or given.
    at: NonNull<u8>,
    /// How many of these there are.
    left: usize,
    access: Access,
}

// SAFETY: the mapping belongs to the vCPU, and goes with it to another thread.
unsafe impl Send for Waiting {}

impl Waiting {
    /// The answer to the last exit goes to where it is waited for. Gives the next part of the data, if there is one.
    #[inline(always)]
    fn complete(&mut self, answer: &Answer) -> Option<Exit> {
        if self.left == 1
            && let Access::In { .. } = self.access
            && let Answer::Data(data) = answer
            && let Some(byte) = data.as_slice().first()
        {
            // One byte of a port, most often.
            // SAFETY: it is left in the shared mapping, which nothing refers to while KVM_RUN is not called.
            unsafe { self.at.write(*byte) };
            return None;
        }
        self.take(answer);
        self.next_part()
    }

    /// What was read goes to where it is waited for.
    #[inline]
    fn take(&mut self, answer: &Answer) {
        let bytes = match (answer, self.access) {
            (_, Access::Out { .. }) => return,
            (Answer::Data(data), _) => data.as_slice(),
            // Nobody's.
            (Answer::None | Answer::Refused, _) => &[0xff; Data::MAX],
        };
        let count = bytes.len().min(self.left);
        // SAFETY: so many bytes are left there, as above.
        unsafe { self.at.copy_from_nonoverlapping(NonNull::from(bytes).cast(), count) };
        self.advance(count);
    }

    /// The VMM had, or gave, `count` bytes of those that were left.
    #[inline]
    fn advance(&mut self, count: usize) {
        let count = count.min(self.left);
        // SAFETY: there are so many in the mapping.
        self.at = unsafe { self.at.add(count) };
        self.left -= count;
    }

    /// The next part of the data that the VMM has not had, or given.
    #[inline]
    fn next_part(&mut self) -> Option<Exit> {
        let left = self.left;
        if left == 0 {
            return None;
        }
        Some(match self.access {
            Access::In { port, size } => {
                let count = left.min(Data::MAX) / usize::from(size.max(1));
                Exit::In { port, size, count: count as u8 }
            }
            Access::MmioRead { gpa } => Exit::MmioRead { gpa, size: left as u8 },
            Access::Out { port, size } => {
                let count = left.min(Data::MAX);
                let mut data = Data::zeroed(count);
                let to = NonNull::from(data.as_mut_slice()).cast();
                // SAFETY: so many bytes are left there, as above.
                unsafe { self.at.copy_to_nonoverlapping(to, count) };
                self.advance(count);
                Exit::Out { port, size, data }
            }
        })
    }
}

/// What the data is of. Port accesses are of `size` bytes each.
#[derive(Clone, Copy)]
enum Access {
    In { port: u16, size: u8 },
    Out { port: u16, size: u8 },
    MmioRead { gpa: u64 },
}

impl KvmVcpu {
    pub(super) fn new(vm: Arc<Shared>, kicked: Arc<Kicked>, id: u32) -> Result<Self, Error> {
        let failed = |error: kvm_ioctls::Error| Error::Vcpu { id, error: error.into() };
        let fd = vm.fd.create_vcpu(id.into()).map_err(failed)?;
        let khz = fd.get_tsc_khz().map_err(failed)?;
        let supported = &vm.supported;
        let leaves = supported.cpuid.as_slice().iter().map(|e| (e.function, index_of(e)));
        let leaf = |function, index| supported.leaf(function, index);
        let table = kernel_table(leaves, leaf, supported.deadline, [id, vm.cpus], khz)
            .map_err(|errno| Error::Vcpu { id, error: io::Error::from_raw_os_error(errno.0) })?;
        fd.set_cpuid2(&entries(&table, id)?).map_err(failed)?;
        let pass = vm.gate.pass();
        let debugger = Debugger::default();
        let attended = vm.split.is_some();
        Ok(Self { id, fd, kicked, vm, pass, waiting: None, told: false, debugger, attended })
    }

    /// The answer to the last exit goes to where its data is. Gives the next part of that.
    #[inline(always)]
    fn complete(&mut self, answer: &Answer) -> Option<Exit> {
        let part = self.waiting.as_mut()?.complete(answer);
        if part.is_none() {
            self.waiting = None;
        }
        part
    }

    /// The exit, if it is an access.
    #[inline]
    fn access(&mut self) -> Option<Exit> {
        let run = self.fd.get_kvm_run();
        let start = NonNull::from(&mut *run).cast::<u8>();
        match run.exit_reason {
            KVM_EXIT_IO => {
                // SAFETY: the exit is one of a port's, of which the union has `io`.
                let io = unsafe { run.__bindgen_anon_1.io };
                let (port, size) = (io.port, io.size);
                // SAFETY: the kernel says where in the mapping the data is.
                let at = unsafe { start.add(io.data_offset as usize) };
                let is_out = u32::from(io.direction) == KVM_EXIT_IO_OUT;
                if io.count == 1 && !is_out {
                    // The most frequent one.
                    let access = Access::In { port, size };
                    self.waiting = Some(Waiting { at, left: size.into(), access });
                    return Some(Exit::In { port, size, count: 1 });
                }
                let len = usize::from(size) * io.count as usize;
                let access =
                    if is_out { Access::Out { port, size } } else { Access::In { port, size } };
                Some(self.wait(at, len, access))
            }
            KVM_EXIT_MMIO => {
                // SAFETY: the exit is one of which the union has `mmio`.
                let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
                let (gpa, len) = (mmio.phys_addr, (mmio.len as usize).min(mmio.data.len()));
                if mmio.is_write != 0 {
                    return Some(Exit::MmioWrite { gpa, data: Data::new(&mmio.data[..len]) });
                }
                let at = NonNull::from(&mut mmio.data).cast();
                Some(self.wait(at, len, Access::MmioRead { gpa }))
            }
            _ => None,
        }
    }

    #[inline]
    fn wait(&mut self, at: NonNull<u8>, left: usize, access: Access) -> Exit {
        let waiting = Waiting { at, left, access };
        self.waiting.insert(waiting).next_part().unwrap_or(Exit::Interrupted)
    }

    /// Runs the guest until there is an exit for the VMM. Compiled once for each kind of vCPU, so that one that is not attended
    /// pays nothing for that.
    #[inline(always)]
    fn run_as<const ATTENDED: bool>(&mut self, answer: &Answer) -> Result<Exit, Error> {
        if let Some(part) = self.complete(answer) {
            return Ok(part);
        }
        let immediate_exit = NonNull::from(&mut self.fd.get_kvm_run().immediate_exit);
        let here = Here::new(&self.kicked, immediate_exit);
        loop {
            here.reset();
            if !self.vm.gate.enter(&mut self.pass) {
                return Ok(Exit::Interrupted);
            }
            let prepared = if ATTENDED { self.prepare() } else { Ok(false) };
            let Ok(finishing) = prepared else {
                self.vm.gate.leave(&self.pass);
                return prepared.map(|_| Exit::Interrupted);
            };
            let came = ioctl::run(&self.fd);
            self.vm.gate.leave(&self.pass);
            self.kicked.count();
            if came.is_ok()
                && let Some(exit) = self.access()
            {
                if ATTENDED && self.attend(&exit)? {
                    continue;
                }
                return Ok(exit);
            }
            if let Some(end) = self.seldom(came, finishing) {
                return end;
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn run_attended(&mut self, answer: &Answer) -> Result<Exit, Error> {
        self.run_as::<true>(answer)
    }

    /// What is done before an entry of a vCPU that is attended. Gives whether KVM_RUN only finishes an instruction in whose middle
    /// it has come out: KVM does not always tell that the step is done then.
    fn prepare(&mut self) -> Result<bool, Error> {
        // Who raises an interrupt after this kicks.
        if let Some(split) = &self.vm.split {
            split.offer_interrupt(&self.vm, &mut self.fd)?;
        }
        if !self.debugger.steps() {
            return Ok(false);
        }
        self.debugger.begin_step(&mut self.fd).map_err(|error| Error::Run { error })
    }

    /// What is done after an access that a vCPU that is attended came out for. Gives whether it was to a chip that is this
    /// process's: then it is done, with all parts of its data.
    fn attend(&mut self, exit: &Exit) -> Result<bool, Error> {
        if self.debugger.steps() {
            self.debugger.came_out();
        }
        let mut next = Some(*exit);
        while let Some(exit) = next {
            let Some(split) = &self.vm.split else { return Ok(false) };
            let Some(answer) = split.answer(&self.vm, &exit)? else { return Ok(false) };
            next = self.complete(&answer);
        }
        Ok(true)
    }

    /// What else comes of KVM_RUN, by what the ioctl gave; `None` if the vCPU is to be run again. Out of the way, for it takes
    /// registers and stack.
    #[cold]
    #[inline(never)]
    fn seldom(&mut self, came: Result<(), Errno>, finishing: bool) -> Option<Result<Exit, Error>> {
        if let Err(errno) = came {
            return match errno {
                Errno::INTR | Errno::AGAIN => self.again(finishing),
                errno => Some(Err(Error::Run { error: errno.into() })),
            };
        }
        let run = self.fd.get_kvm_run();
        let details = &run.__bindgen_anon_1;
        Some(match run.exit_reason {
            KVM_EXIT_INTR | KVM_EXIT_IRQ_WINDOW_OPEN | KVM_EXIT_SET_TPR => {
                return self.again(finishing);
            }
            KVM_EXIT_DEBUG => {
                // SAFETY: the exit is one of which the union has `debug`.
                let debug = unsafe { details.debug.arch };
                match self.debugger.exit(&debug) {
                    Some(exit) => Ok(exit),
                    None => match debug::give_back(&self.fd, debug.dr6) {
                        Ok(()) => return self.again(finishing),
                        Err(error) => Err(Error::Run { error }),
                    },
                }
            }
            KVM_EXIT_IOAPIC_EOI => {
                // SAFETY: the exit is one of which the union has `eoi`.
                let vector = unsafe { details.eoi.vector };
                if let Some(split) = &self.vm.split {
                    split.end(&self.vm, vector);
                }
                return self.again(finishing);
            }
            KVM_EXIT_HLT => Ok(Exit::Halted),
            KVM_EXIT_SHUTDOWN => Ok(Exit::Shutdown),
            KVM_EXIT_MEMORY_FAULT => {
                // SAFETY: the exit is one of which the union has `memory_fault`.
                Ok(Exit::BadMemory { gpa: unsafe { details.memory_fault.gpa } })
            }
            _ => {
                let stuck = Stuck::of(run);
                self.tell(&stuck)
            }
        })
    }

    /// It is to be run again, unless it is to come out.
    fn again(&mut self, finishing: bool) -> Option<Result<Exit, Error>> {
        if finishing {
            return Some(debug::stepped(&self.fd).map_err(|error| Error::Run { error }));
        }
        let was_told = self.told;
        self.told = watch::is_deaf(&self.fd);
        (self.told && !was_told).then_some(Ok(Exit::Halted))
    }

    /// Where the guest got stuck, and why.
    #[inline(never)]
    fn tell(&self, stuck: &Stuck) -> Result<Exit, Error> {
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        let (bytes, len) = self.instruction();
        if stuck.is_instruction() {
            return Ok(Exit::Unsupported { bytes, len });
        }
        let bytes = bytes[..usize::from(len)].to_vec();
        Err(Error::Stuck { vcpu: self.id, why: stuck.to_string(), rip, bytes: Bytes(bytes) })
    }

    /// The bytes at RIP, as far as they can be read.
    fn instruction(&self) -> ([u8; 15], u8) {
        let mut bytes = [0; 15];
        let Ok(state) = transfer::read(&self.fd) else { return (bytes, 0) };
        let linear = state.segments[1].base.wrapping_add(state.rip);
        let mut len = 0;
        for (n, byte) in bytes.iter_mut().enumerate() {
            let Ok(found) = self.fd.translate_gva(linear.wrapping_add(n as u64)) else { break };
            let read =
                (found.valid != 0).then(|| self.vm.regions.read_byte(found.physical_address));
            let Some(read) = read.flatten() else { break };
            *byte = read;
            len += 1;
        }
        (bytes, len)
    }
}

/// The bytes of an instruction, as people read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separated = self.0.iter().enumerate();
        separated.into_iter().try_for_each(|(n, byte)| {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{byte:02x}")
        })
    }
}

fn index_of(entry: &kvm_cpuid_entry2) -> Option<u32> {
    (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0).then_some(entry.index)
}

/// A table as KVM takes it.
fn entries(table: &Table, id: u32) -> Result<CpuId, Error> {
    let entry = |entry: &arch_x86::cpuid::Entry| {
        let [eax, ebx, ecx, edx] = entry.leaf;
        kvm_cpuid_entry2 {
            function: entry.function,
            index: entry.index.unwrap_or(0),
            flags: if entry.index.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax,
            ebx,
            ecx,
            edx,
            ..kvm_cpuid_entry2::default()
        }
    };
    let all: Vec<_> = table.entries().iter().map(entry).collect();
    CpuId::from_entries(&all)
        .map_err(|error| Error::Vcpu { id, error: io::Error::other(format!("{error:?}")) })
}

impl Vcpu for KvmVcpu {
    // Goes into the loop of who calls it: for a call, registers and copies of exit and answer were an eighth of the instructions that
    // an exit took in this process.
    #[inline]
    fn run(&mut self, answer: Answer) -> Result<Exit, Error> {
        if self.attended { self.run_attended(&answer) } else { self.run_as::<false>(&answer) }
    }

    fn state(&self) -> Result<State, Error> {
        transfer::read(&self.fd)
    }

    fn set_state(&mut self, state: &State) -> Result<(), Error> {
        transfer::write(&self.fd, state)
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<(), Error> {
        transfer::set_msr(&self.fd, index, value)
    }

    fn inject(&mut self, exception: Exception) -> Result<(), Error> {
        let vector = exception.vector;
        debug::inject(&self.fd, exception).map_err(|error| Error::Inject { vector, error })
    }

    fn nmi(&mut self) -> Result<(), Error> {
        let action = "make an NMI pending";
        self.fd.nmi().map_err(|errno| Error::Kvm { action, error: errno.into() })
    }

    fn set_debug(&mut self, debug: &GuestDebug) -> Result<(), Error> {
        let action = "debug the guest";
        self.debugger.set(&self.fd, debug).map_err(|error| Error::Kvm { action, error })?;
        self.attended = self.vm.split.is_some() || self.debugger.steps();
        Ok(())
    }

    fn counts(&self) -> Option<Counts> {
        None
    }
}

#[cfg(test)]
#[path = "vcpu_test.rs"]
mod vcpu_test;
