//! [`KvmVcpu`]: KVM_RUN, and KVM's exits as [`Exit`]s.
//!
//! An answer goes to where the exit has its data, and in with the next KVM_RUN. A string of port accesses that is longer than
//! an [`Exit`] carries is several of them.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use arch_x86::cpuid::{Table, kernel_table};
use arch_x86::regs::State;
use arch_x86::vcpu::{Answer, Data, Exit};
use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_INTERNAL_ERROR_EMULATION, kvm_cpuid_entry2,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::kick::{Here, Kicked};
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
}

/// Data that an exit has, or waits for: so many bytes of the mapping that the vCPU and the kernel share.
struct Waiting {
    at: NonNull<u8>,
    len: usize,
    /// How much of it the VMM had, or gave.
    done: usize,
    access: Access,
}

// SAFETY: the mapping belongs to the vCPU, and goes with it to another thread.
unsafe impl Send for Waiting {}

/// What the data is of. Port accesses are of `size` bytes each.
#[derive(Clone, Copy)]
enum Access {
    In { port: u16, size: u8 },
    Out { port: u16, size: u8 },
    MmioRead { gpa: u64 },
}

/// What comes of KVM_RUN.
enum Came {
    Exit(Exit),
    /// There is data to be passed on.
    Waits(Waiting),
    /// To be run again, unless it is to come out.
    Again,
    /// The guest did something that KVM can't do, or the processor refused it.
    Stuck(Stuck),
    Failed(io::Error),
}

enum Stuck {
    Emulation,
    Internal { suberror: u32 },
    Entry { reason: u64 },
    Unknown { exit: String },
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
        Ok(Self { id, fd, kicked, vm, pass, waiting: None, told: false })
    }

    /// The answer to the last exit goes to where its data is.
    #[inline]
    fn complete(&mut self, answer: &Answer) {
        let Some(waiting) = &mut self.waiting else { return };
        let bytes = match (answer, waiting.access) {
            (_, Access::Out { .. }) => return,
            (Answer::Data(data), _) => data.as_slice(),
            // Nobody's.
            (Answer::None, _) => &[0xff; Data::MAX],
        };
        let count = bytes.len().min(waiting.len - waiting.done);
        // SAFETY: so many bytes of the shared mapping are left there, which nothing refers to while KVM_RUN is not called.
        let to = unsafe { waiting.at.as_ptr().add(waiting.done) };
        match bytes {
            // One byte most often: no call is needed for that.
            // SAFETY: as before.
            [byte] if count == 1 => unsafe { to.write(*byte) },
            // SAFETY: as before.
            bytes => unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count) },
        }
        waiting.done += count;
    }

    /// The next part of the data that the VMM has not had, or given.
    #[inline]
    fn next_part(&mut self) -> Option<Exit> {
        let waiting = self.waiting.as_mut()?;
        let left = waiting.len - waiting.done;
        if left == 0 {
            self.waiting = None;
            return None;
        }
        Some(match waiting.access {
            Access::In { port, size } => {
                let count = left.min(Data::MAX) / usize::from(size.max(1));
                Exit::In { port, size, count: count as u8 }
            }
            Access::MmioRead { gpa } => Exit::MmioRead { gpa, size: left as u8 },
            Access::Out { port, size } => {
                let mut data = Data::zeroed(left.min(Data::MAX));
                let part = data.as_mut_slice();
                // SAFETY: as in `complete`.
                unsafe {
                    let from = waiting.at.as_ptr().add(waiting.done);
                    std::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), part.len());
                }
                waiting.done += part.len();
                Exit::Out { port, size, data }
            }
        })
    }

    /// KVM_RUN, once.
    #[inline]
    fn run_once(&mut self) -> Came {
        let (data, access) = match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => (NonNull::from(data), Access::In { port, size: 0 }),
            Ok(VcpuExit::IoOut(port, data)) => {
                let data = std::ptr::from_ref(data).cast_mut();
                let Some(data) = NonNull::new(data) else { return Came::Again };
                (data, Access::Out { port, size: 0 })
            }
            Ok(VcpuExit::MmioRead(gpa, data)) => (NonNull::from(data), Access::MmioRead { gpa }),
            Ok(VcpuExit::MmioWrite(gpa, data)) => {
                return Came::Exit(Exit::MmioWrite { gpa, data: Data::new(data) });
            }
            Ok(VcpuExit::Hlt) => return Came::Exit(Exit::Halted),
            Ok(VcpuExit::Shutdown) => return Came::Exit(Exit::Shutdown),
            Ok(VcpuExit::MemoryFault { gpa, .. }) => return Came::Exit(Exit::BadMemory { gpa }),
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr) => return Came::Again,
            Ok(VcpuExit::FailEntry(reason, _)) => return Came::Stuck(Stuck::Entry { reason }),
            Ok(VcpuExit::InternalError) => return Came::Stuck(self.internal_error()),
            Ok(other) => return Came::Stuck(Stuck::Unknown { exit: format!("{other:?}") }),
            Err(errno) => {
                return match errno.errno() {
                    libc::EINTR | libc::EAGAIN => Came::Again,
                    _ => Came::Failed(errno.into()),
                };
            }
        };
        let (at, len) = (data.cast(), data.len());
        // SAFETY: the exit is one of a port's, of which the union has `io`; what is not one does not use it.
        let size = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io.size };
        let access = match access {
            Access::In { port, .. } => Access::In { port, size },
            Access::Out { port, .. } => Access::Out { port, size },
            read @ Access::MmioRead { .. } => read,
        };
        Came::Waits(Waiting { at, len, done: 0, access })
    }

    #[cold]
    #[inline(never)]
    fn internal_error(&mut self) -> Stuck {
        // SAFETY: the exit is one of which the union has `internal`.
        let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        match suberror {
            KVM_INTERNAL_ERROR_EMULATION => Stuck::Emulation,
            suberror => Stuck::Internal { suberror },
        }
    }

    /// Where the guest got stuck, and why. Out of the way, for it takes pages of stack.
    #[cold]
    #[inline(never)]
    fn tell(&self, stuck: Stuck) -> Result<Exit, Error> {
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        let (bytes, len) = self.instruction();
        let why = match stuck {
            Stuck::Emulation => return Ok(Exit::Unsupported { bytes, len }),
            Stuck::Internal { suberror } => format!("KVM's internal error {suberror}"),
            Stuck::Entry { reason } => {
                format!("the processor refuses to enter the guest (reason {reason:#x})")
            }
            Stuck::Unknown { exit } => format!("KVM's exit {exit} is not known"),
        };
        let bytes = bytes[..usize::from(len)].to_vec();
        Err(Error::Stuck { vcpu: self.id, why, rip, bytes: Bytes(bytes) })
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
    fn run(&mut self, answer: Answer) -> Result<Exit, Error> {
        self.complete(&answer);
        let immediate_exit = NonNull::from(&mut self.fd.get_kvm_run().immediate_exit);
        let here = Here::new(&self.kicked, immediate_exit);
        loop {
            if let Some(exit) = self.next_part() {
                return Ok(exit);
            }
            here.reset();
            if !self.vm.gate.enter(&mut self.pass) {
                return Ok(Exit::Interrupted);
            }
            let came = self.run_once();
            self.vm.gate.leave(&self.pass);
            self.kicked.count();
            match came {
                Came::Exit(exit) => return Ok(exit),
                Came::Waits(waiting) => self.waiting = Some(waiting),
                Came::Again => {
                    let was_told = self.told;
                    self.told = watch::is_deaf(&self.fd);
                    if self.told && !was_told {
                        return Ok(Exit::Halted);
                    }
                }
                Came::Stuck(stuck) => return self.tell(stuck),
                Came::Failed(error) => return Err(Error::Run { error }),
            }
        }
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

    fn counts(&self) -> Option<Counts> {
        None
    }
}
