//! QEMU's TCG as a second implementation of the processor, for the test bodies that are about the
//! processor alone: [`Qemu`].
//!
//! A back end of `hv` for tests only: one vCPU, RAM, and ports; no devices, no pause. The machine's
//! own processor runs a small monitor, and the guest beneath it.
//!
//! - `process`: QEMU's process, and what its trace tells;
//! - `monitor`: the program that runs the guest inside QEMU;
//! - `area`: what the monitor and this process share;
//! - `vmcb`: a guest's registers as the monitor's processor takes them;
//! - `stale`: what QEMU must translate again;
//! - [`differences`]: where QEMU is known to deviate, and why.

mod area;
pub mod differences;
mod monitor;
mod process;
mod stale;
mod vmcb;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hv::x86::{Answer, Data, Exception, Exit, GuestDebug, State, gpr, msr};
use hv::{
    Counts, Error, EventFd, Hypervisor, IoEventFd, MemoryFlags, MemoryId, Vcpu, Vm, VmConfig,
};
use vm_memory::{Address, GuestMemoryRegion, GuestRegionMmap};

use self::area::Area;
use self::process::{Event, Killer, Process};
use self::stale::Stale;
use crate::layout::RAM;

/// QEMU's TCG.
#[derive(Clone, Copy, Debug, Default)]
pub struct Qemu;

impl Hypervisor for Qemu {
    type Vm = QemuVm;

    fn name(&self) -> &'static str {
        "qemu"
    }

    fn create_vm(&self, config: VmConfig) -> Result<QemuVm, Error> {
        if config.cpus != 1 {
            return Err(Error::Start(io::Error::other("under QEMU there is one vCPU")));
        }
        Ok(QemuVm(Arc::default()))
    }
}

#[derive(Default)]
struct Shared {
    ram: Mutex<Option<Arc<GuestRegionMmap>>>,
    /// What ends the process, once there is one.
    killer: Mutex<Option<Killer>>,
    interrupted: AtomicBool,
}

/// A machine under QEMU.
#[derive(Clone, Default)]
pub struct QemuVm(Arc<Shared>);

impl Vm for QemuVm {
    type Vcpu = QemuVcpu;

    fn add_memory(
        &self,
        region: Arc<GuestRegionMmap>,
        flags: MemoryFlags,
    ) -> Result<MemoryId, Error> {
        let (gpa, size) = (region.start_addr().raw_value(), region.len());
        let is_file = region.file_offset().is_some();
        if (gpa, size) != (0, RAM) || !is_file || flags != MemoryFlags::default() {
            let reason = io::Error::other("under QEMU RAM is one file of one size").into();
            return Err(Error::Memory { action: "add", gpa, size, reason });
        }
        *self.0.ram.lock().unwrap_or_else(PoisonError::into_inner) = Some(region);
        Ok(MemoryId::new(0, 0))
    }

    /// RAM is what it is: no body that changes slots runs here, for that is about no processor.
    fn move_memory(&self, _: MemoryId, _: u64) -> Result<(), Error> {
        panic!("under QEMU memory does not move");
    }

    fn remove_memory(&self, _: MemoryId) -> Result<(), Error> {
        panic!("under QEMU memory is not removed");
    }

    fn log_dirty(&self, _: MemoryId, _: bool) -> Result<(), Error> {
        panic!("under QEMU writes are not logged");
    }

    fn take_dirty(&self, _: MemoryId) -> Result<Vec<u64>, Error> {
        panic!("under QEMU writes are not logged");
    }

    fn create_vcpu(&self, _id: u32) -> Result<QemuVcpu, Error> {
        Ok(QemuVcpu {
            vm: Arc::clone(&self.0),
            state: State::at_reset(),
            machine: None,
            running: false,
            next: None,
        })
    }

    /// There are no devices: no body that raises a line runs here.
    fn set_irq(&self, _gsi: u32, _level: bool) {
        panic!("under QEMU there is no interrupt from outside");
    }

    fn add_ioeventfd(&self, _new: IoEventFd) -> Result<(), Error> {
        panic!("under QEMU no write signals an event");
    }

    fn remove_ioeventfd(&self, _old: &IoEventFd) -> Result<(), Error> {
        panic!("under QEMU no write signals an event");
    }

    fn add_irqfd(&self, _gsi: u32, _event: &EventFd) -> Result<(), Error> {
        panic!("under QEMU there is no interrupt from outside");
    }

    fn remove_irqfd(&self, _gsi: u32, _event: &EventFd) -> Result<(), Error> {
        panic!("under QEMU there is no interrupt from outside");
    }

    fn send_msi(&self, _address: u64, _data: u32) {
        panic!("under QEMU there is no interrupt from outside");
    }

    fn pause(&self) {
        panic!("under QEMU a machine does not pause");
    }

    fn resume(&self) {
        panic!("under QEMU a machine does not pause");
    }

    /// For good: the process ends.
    fn interrupt_vcpus(&self) {
        self.0.interrupted.store(true, Ordering::SeqCst);
        let killer = self.0.killer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(killer) = killer {
            killer.kill();
        }
    }
}

/// A process and what is shared with it.
struct Machine {
    process: Process,
    area: Area,
    ram: Arc<GuestRegionMmap>,
    stale: Stale,
}

impl Machine {
    fn start(vm: &Shared) -> io::Result<Self> {
        let ram = vm.ram.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ram = ram.ok_or_else(|| io::Error::other("a machine without memory"))?;
        let file = ram.file_offset().ok_or_else(|| io::Error::other("memory without a file"))?;
        let area = Area::new(file)?;
        let process = Process::start(file)?;
        *vm.killer.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.killer());
        if vm.interrupted.load(Ordering::SeqCst) {
            process.killer().kill();
        }
        Ok(Self { process, area, ram, stale: Stale::default() })
    }
}

/// An access to a port that is not complete yet.
struct Access {
    /// The instruction behind it.
    rip: u64,
    /// For a read: how many bytes of RAX it gives.
    read: Option<u8>,
}

/// A vCPU under QEMU.
pub struct QemuVcpu {
    vm: Arc<Shared>,
    /// The registers: to be set, or as they were at the last exit.
    state: State,
    machine: Option<Machine>,
    /// The guest has not come out since it last was started: there may be more in the trace.
    running: bool,
    next: Option<Access>,
}

impl QemuVcpu {
    /// Starts a run, if none is under way, and waits for what happens.
    fn step(&mut self, answer: Answer) -> io::Result<Exit> {
        if self.vm.interrupted.load(Ordering::SeqCst) {
            return Ok(Exit::Interrupted);
        }
        self.complete(answer);
        let machine = match &mut self.machine {
            Some(machine) => machine,
            none => none.insert(Machine::start(&self.vm)?),
        };
        loop {
            if !self.running {
                machine.stale.write(&machine.ram, &machine.area)?;
                machine.area.write_state(&self.state)?;
                machine.process.go()?;
                self.running = true;
            }
            match machine.process.event()? {
                Event::Out { port, data } => {
                    let size = data.as_slice().len() as u8;
                    return Ok(Exit::Out { port, size, data });
                }
                Event::End(_) if self.vm.interrupted.load(Ordering::SeqCst) => {
                    return Ok(Exit::Interrupted);
                }
                Event::End(why) => return Err(io::Error::other(why)),
                Event::Exit => {}
            }
            self.running = false;
            let exit = machine.area.read_state(&mut self.state)?;
            match exit.code {
                vmcb::Exit::PORT => return port_access(&mut self.next, &self.state, exit),
                vmcb::Exit::HLT => return Ok(Exit::Halted),
                vmcb::Exit::SHUTDOWN => return Ok(Exit::Shutdown),
                vmcb::Exit::MSR => read_efer(&mut self.state)?,
                vmcb::Exit::INVALID => {
                    return Err(io::Error::other("QEMU's processor does not have this state"));
                }
                _ => return Err(io::Error::other(format!("an exit with no meaning: {exit:x?}"))),
            }
        }
    }

    /// Completes the access to a port that the last exit was for.
    fn complete(&mut self, answer: Answer) {
        let Some(access) = self.next.take() else { return };
        self.state.rip = access.rip;
        if let (Some(size), Answer::Data(data)) = (access.read, answer) {
            let rax = &mut self.state.gprs[usize::from(gpr::RAX)];
            *rax = match size {
                1 => *rax & !0xff | data.word() & 0xff,
                2 => *rax & !0xffff | data.word() & 0xffff,
                _ => data.word() & 0xffff_ffff,
            };
        }
    }
}

/// RDMSR of EFER, the only one that comes out: the bit that the monitor needs is not seen.
fn read_efer(state: &mut State) -> io::Result<()> {
    if state.gprs[usize::from(gpr::RCX)] as u32 != msr::EFER {
        return Err(io::Error::other("an MSR that is not intercepted"));
    }
    state.gprs[usize::from(gpr::RAX)] = state.efer & 0xffff_ffff;
    state.gprs[usize::from(gpr::RDX)] = state.efer >> 32;
    state.rip += 2;
    Ok(())
}

/// What an intercepted access to a port is for the VMM. See: AMD APM vol. 2, 15.10.2.
fn port_access(next: &mut Option<Access>, state: &State, exit: vmcb::Exit) -> io::Result<Exit> {
    let has = |bit: u32| exit.info1 >> bit & 1 != 0;
    let port = (exit.info1 >> 16) as u16;
    let size = (exit.info1 >> 4 & 7) as u8;
    if has(2) {
        return Err(io::Error::other(format!("a string of port {port:#x}, which no trace shows")));
    }
    let read = has(0).then_some(size);
    *next = Some(Access { rip: exit.info2, read });
    let data = state.gprs[usize::from(gpr::RAX)].to_le_bytes();
    Ok(match read {
        Some(size) => Exit::In { port, size, count: 1 },
        None => Exit::Out { port, size, data: Data::new(&data[..usize::from(size).min(8)]) },
    })
}

impl Vcpu for QemuVcpu {
    fn run(&mut self, answer: Answer) -> Result<Exit, Error> {
        self.step(answer).map_err(|error| Error::Run { error })
    }

    fn state(&self) -> Result<State, Error> {
        Ok(self.state.clone())
    }

    fn set_state(&mut self, state: &State) -> Result<(), Error> {
        self.next = None;
        self.state = state.clone();
        Ok(())
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<(), Error> {
        Err(Error::Msr { index, value })
    }

    fn inject(&mut self, _: Exception) -> Result<(), Error> {
        panic!("under QEMU nothing is injected");
    }

    fn nmi(&mut self) -> Result<(), Error> {
        panic!("under QEMU there is no interrupt from outside");
    }

    fn set_debug(&mut self, _: &GuestDebug) -> Result<(), Error> {
        panic!("under QEMU nobody debugs");
    }

    fn counts(&self) -> Option<Counts> {
        None
    }
}
