//! The machine: the only place that composes memory, devices, boot and the hypervisor's vCPUs.
//!
//! [`Machine::new`] puts it together from a [`Config`]; [`Machine::run`] starts a thread for each
//! vCPU and waits until the guest's life ends, as an [`Ending`]. What goes over the serial lines is
//! handed in as [`Ends`]; neither standard streams nor terminals are known here.
//!
//! Its parts: `ports`, who is at which; `pci`, the virtio devices; `platform`, how ACPI tells of all that; `registers` at the start.
//!
//! Neighbours: [`crate::boot`] places the kernel, [`crate::acpi`] describes the machine to it, `hv` runs it.

mod pci;
mod platform;
mod ports;
mod registers;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use hv::host_error::explain;
use hv::x86::{Answer, Data, Exit, State, msr};
use hv::{Counts, Hypervisor, Irqchip, MemoryFlags, Vcpu, Vm, VmConfig};
use vm_memory::GuestMemoryMmap;

use crate::acpi;
use crate::boot::input::Input;
use crate::boot::{self, CommandLine, Kernel, Protocol};
use crate::bus::{Bus, Taken};
use crate::devices::fw_cfg::{self, FwCfg};
use crate::devices::serial::Serial;
use crate::devices::stream::Ends;
use crate::devices::{Line, PowerRequest, Switch};
use crate::memory::{self, Wrote};
use crate::pci::root::{Access, FUNCTIONS, Root};
use crate::virtio;

/// The four UARTs: first port and interrupt, as every PC has the first two. The others have
/// interrupts of their own, which ACPI tells.
pub const UARTS: [(u16, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 10), (0x2e8, 11)];

/// The default command line.
///
/// `cryptomgr.notests`: a Debian kernel spends most of its boot on testing its ciphers.
/// `panic=-1`: a panic resets at once, and the machine ends. `reboot=k`: through the line that
/// the machine has. `earlycon`: a kernel that dies early is heard.
pub const COMMAND_LINE: &str = "console=ttyS0 earlycon=uart8250,io,0x3f8,115200n8 panic=-1 \
     reboot=k cryptomgr.notests 8250.nr_uarts=4 tsc=reliable no_timer_check";

/// What can go wrong in putting a machine together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest's memory can't be had.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The hypervisor refuses.
    #[error(transparent)]
    Hypervisor(#[from] hv::Error),
    /// The ACPI tables do not fit.
    #[error("cannot make the ACPI tables: {0}")]
    Acpi(#[from] acpi::Error),
    /// The kernel, initrd or command line do not fit.
    #[error(transparent)]
    Boot(#[from] boot::linux::Error),
    /// Two devices want one port.
    #[error("cannot place the devices: {0}")]
    Ports(#[from] Taken),
    /// More devices than PCI's bus takes.
    #[error("a machine can have {FUNCTIONS} devices, and not {asked}")]
    TooManyDevices {
        /// How many were asked for.
        asked: usize,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {}", explain(.0))]
    Thread(std::io::Error),
}

/// What a machine is made of.
pub struct Config<'a> {
    /// Bytes of memory.
    pub memory: u64,
    /// How many vCPUs.
    pub cpus: NonZeroU32,
    /// Where its interrupt controllers are.
    pub irqchip: Irqchip,
    /// The kernel.
    pub kernel: Kernel,
    /// The initial file system: archives, or parts of them, one after the other.
    pub initrd: Vec<Input>,
    /// The kernel's command line, whole.
    pub command_line: &'a CommandLine,
    /// Entropy for the guest's start.
    pub rng_seed: Option<[u8; 32]>,
    /// The serial lines. After a push to an input, [`Handle::receive`] is to be called.
    pub lines: [Ends; 4],
    /// Whether there is a device by which the guest ends with a value: [`Ending::Exit`].
    pub debug_exit: bool,
    /// The virtio devices, in the order in which the guest finds them. Without any there is no PCI.
    pub virtio: Vec<Arc<dyn virtio::Device>>,
}

/// How the guest's life ended.
#[derive(Debug)]
pub enum Ending {
    /// It switched itself off.
    PowerOff,
    /// It reset itself.
    Reset,
    /// Its kernel has panicked, and said so to the device for that.
    Panicked,
    /// It wrote to the debug exit device.
    Exit {
        /// What it wrote.
        value: u32,
    },
    /// A triple fault.
    TripleFault {
        /// The vCPU's registers.
        state: Box<State>,
    },
    /// Every vCPU is halted with interrupts off.
    Halted {
        /// The registers of the vCPU that halted last.
        state: Box<State>,
    },
    /// An instruction that the engine lacks.
    Unsupported {
        /// Its bytes, as far as known.
        bytes: Vec<u8>,
        /// The vCPU's registers.
        state: Box<State>,
    },
    /// The host failed.
    Failed(hv::Error),
    /// [`Handle::stop`] was called.
    Stopped,
}

/// A machine that has not been started.
pub struct Machine<V: Vm> {
    shared: Arc<Shared<V>>,
    vcpus: Vec<V::Vcpu>,
    endings: Receiver<Ending>,
}

struct Shared<V> {
    vm: V,
    bus: Bus,
    pci: Option<Arc<Root>>,
    serials: Vec<Arc<Serial>>,
    fw_cfg: Arc<FwCfg>,
    endings: Sender<Ending>,
    ended: AtomicBool,
    halted: AtomicU32,
    cpus: u32,
}

/// A way to reach a machine from other threads.
pub struct Handle<V>(Arc<Shared<V>>);

impl<V> Clone for Handle<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V: Vm> Handle<V> {
    /// Bytes were pushed into the input of serial line `line`.
    pub fn receive(&self, line: usize) {
        if let Some(serial) = self.0.serials.get(line) {
            serial.receive();
        }
    }

    /// Ends the machine's run with [`Ending::Stopped`].
    pub fn stop(&self) {
        self.0.end(Ending::Stopped);
    }

    /// What the guest's kernel says a dump of its memory is read by (its `vmcoreinfo`), in lines, if its driver has told where that is.
    #[must_use]
    pub fn vmcoreinfo(&self) -> Option<String> {
        self.0.fw_cfg.vmcoreinfo()
    }

    /// Brings every vCPU to a halt.
    pub fn pause(&self) {
        self.0.vm.pause();
    }

    /// Lets the vCPUs go on.
    pub fn resume(&self) {
        self.0.vm.resume();
    }
}

impl<V: Vm> Shared<V> {
    /// The first ending counts.
    fn end(&self, ending: Ending) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            let _ = self.endings.send(ending);
            self.vm.interrupt_vcpus();
        }
    }
}

impl<V: Vm> Shared<V> {
    /// An ending of which the vCPU's registers are told.
    fn end_with_state(&self, vcpu: &V::Vcpu, ending: impl FnOnce(Box<State>) -> Ending) {
        self.end(match vcpu.state() {
            Ok(state) => ending(Box::new(state)),
            Err(error) => Ending::Failed(error),
        });
    }
}

impl<V: Vm> Machine<V> {
    /// Puts a machine together and places its kernel and its initial file system, which leave
    /// nothing behind on the host.
    ///
    /// # Errors
    /// When the host lacks what it takes, or what is to be booted does not fit.
    pub fn new(
        hypervisor: &impl Hypervisor<Vm = V>,
        config: Config<'_>,
    ) -> Result<(Self, boot::Placed), Error> {
        let cpus = config.cpus.get();
        let needs_file = config.virtio.iter().any(|device| device.needs_file());
        let apart = if needs_file { 0..0 } else { config.kernel.elf().range() };
        let regions = memory::allocate(config.memory, apart)?;
        let memory = Arc::new(memory::join(regions.clone())?);
        let has_pci = !config.virtio.is_empty();
        let boot = boot::Boot {
            ram: config.memory,
            protocol: Protocol::default(),
            command_line: config.command_line,
            rsdp: None,
            rng_seed: config.rng_seed,
        };
        // Copying a kernel takes most of a start, and the host's part in making a VM much of what is left.
        let (vm, vcpus, placed) = std::thread::scope(|scope| {
            let fill = || {
                fill(
                    &memory,
                    &platform::platform(cpus, has_pci),
                    config.kernel,
                    config.initrd,
                    boot,
                )
            };
            let filling = std::thread::Builder::new().name("boot".into()).spawn_scoped(scope, fill);
            let filling = filling.map_err(Error::Thread)?;
            let vm = hypervisor.create_vm(VmConfig { cpus, irqchip: config.irqchip })?;
            for region in regions {
                vm.add_memory(region, MemoryFlags::default())?;
            }
            let mut vcpus = create_vcpus(&vm, cpus)?;
            let placed = filling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            if let Some(first) = vcpus.first_mut() {
                first.set_state(&registers::initial(&placed.start))?;
            }
            Ok::<_, Error>((vm, vcpus, placed))
        })?;
        let (sender, endings) = channel();
        let writes = vm.clone();
        let wrote: Wrote = Arc::new(move |start, size| writes.wrote(start, size));
        let root = has_pci.then(|| pci::root(&vm, &memory, &wrote, config.virtio));
        let root = root.transpose().map_err(|asked| Error::TooManyDevices { asked })?.map(Arc::new);
        let devices = Devices {
            lines: config.lines,
            fw_cfg: Arc::new(FwCfg::new(
                fw_cfg::Items::new(config.memory, cpus),
                Arc::clone(&memory),
                wrote,
            )),
            debug_exit: config.debug_exit,
        };
        let shared = Shared::assemble(vm, cpus, devices, root, sender)?;
        Ok((Self { shared, vcpus, endings }, placed))
    }

    /// A way to reach the machine from other threads.
    pub fn handle(&self) -> Handle<V> {
        Handle(Arc::clone(&self.shared))
    }

    /// Runs the guest until its life ends. Also tells what was done to run it, where the engine counts
    /// that.
    ///
    /// # Errors
    /// When a thread can't be started.
    pub fn run(self) -> Result<(Ending, Option<Counts>), Error> {
        let mut threads = Vec::new();
        for (id, vcpu) in self.vcpus.into_iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{id}"))
                .spawn(move || shared.run_vcpu(vcpu));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    self.shared.end(Ending::Stopped);
                    join(threads);
                    return Err(Error::Thread(error));
                }
            }
        }
        let ending = self.endings.recv().unwrap_or(Ending::Stopped);
        Ok((ending, join(threads)))
    }
}

/// Makes a machine's vCPUs, as firmware would leave them.
fn create_vcpus<V: Vm>(vm: &V, cpus: u32) -> Result<Vec<V::Vcpu>, hv::Error> {
    let vcpu = |id| {
        let mut vcpu = vm.create_vcpu(id)?;
        // Write-back is the default memory type, MTRRs are on.
        vcpu.set_msr(msr::MTRR_DEFAULT_TYPE, 0x806)?;
        Ok(vcpu)
    };
    (0..cpus).map(vcpu).collect()
}

/// Writes to a guest's memory what it is to find there.
fn fill(
    memory: &GuestMemoryMmap,
    platform: &acpi::Platform,
    kernel: Kernel,
    initrd: Vec<Input>,
    boot: boot::Boot<'_>,
) -> Result<boot::Placed, Error> {
    let rsdp = acpi::place(memory, platform)?;
    Ok(boot::place(memory, kernel, initrd, &boot::Boot { rsdp: Some(rsdp), ..boot })?)
}

fn join(threads: Vec<JoinHandle<Option<Counts>>>) -> Option<Counts> {
    threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).reduce(|a, b| a + b)
}

/// Ends the machine when a vCPU's thread panics, so that nobody waits for it.
struct EndOnPanic<'a, V: Vm>(&'a Shared<V>);

impl<V: Vm> Drop for EndOnPanic<'_, V> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Ending::Stopped);
        }
    }
}

/// What the devices are made from.
struct Devices {
    lines: [Ends; 4],
    fw_cfg: Arc<FwCfg>,
    debug_exit: bool,
}

impl<V: Vm> Shared<V> {
    fn assemble(
        vm: V,
        cpus: u32,
        devices: Devices,
        pci: Option<Arc<Root>>,
        endings: Sender<Ending>,
    ) -> Result<Arc<Self>, Error> {
        let mut result = Ok(());
        let shared = Arc::new_cyclic(|weak: &std::sync::Weak<Self>| {
            let switch: Switch = {
                let weak = weak.clone();
                Arc::new(move |request| {
                    if let Some(shared) = weak.upgrade() {
                        shared.end(match request {
                            PowerRequest::Off => Ending::PowerOff,
                            PowerRequest::Reset => Ending::Reset,
                            PowerRequest::Panicked => Ending::Panicked,
                            PowerRequest::Exit { value } => Ending::Exit { value },
                        });
                    }
                })
            };
            let line = |gsi| -> Line {
                let weak = weak.clone();
                Arc::new(move |level| {
                    if let Some(shared) = weak.upgrade() {
                        shared.vm.set_irq(gsi, level);
                    }
                })
            };
            let uarts = devices.lines.into_iter().zip(UARTS);
            let serials: Vec<_> =
                uarts.map(|(ends, (_, irq))| Arc::new(Serial::new(line(irq), ends))).collect();
            let (mut bus, fw_cfg) = (Bus::default(), devices.fw_cfg);
            result = ports::populate(&mut bus, &serials, &switch)
                .and_then(|()| {
                    ports::insert_qemus(&mut bus, Arc::clone(&fw_cfg), devices.debug_exit, &switch)
                })
                .and_then(|()| ports::insert_pci(&mut bus, pci.as_ref()));
            let ended = AtomicBool::new(false);
            let halted = AtomicU32::new(0);
            Self { vm, bus, pci, serials, fw_cfg, endings, ended, halted, cpus }
        });
        result.map(|()| shared).map_err(Error::Ports)
    }

    /// The life of a vCPU's thread. Gives what was done to run it.
    fn run_vcpu(&self, mut vcpu: V::Vcpu) -> Option<Counts> {
        let _guard = EndOnPanic(self);
        let mut answer = Answer::None;
        let mut halted = false;
        while !self.ended.load(Ordering::Acquire) {
            let exit = vcpu.run(answer);
            if halted {
                halted = false;
                self.halted.fetch_sub(1, Ordering::AcqRel);
            }
            answer = match exit {
                Ok(Exit::In { port, size, count }) => self.port_in(port, size, count),
                Ok(Exit::Out { port, size, data }) => self.port_out(port, size, data),
                Ok(Exit::MmioRead { gpa, size }) => self.memory_read(gpa, size),
                Ok(Exit::MmioWrite { gpa, mut data }) => self.memory_write(gpa, &mut data),
                Ok(Exit::Interrupted) => Answer::None,
                Ok(Exit::Halted) => {
                    halted = true;
                    if self.halted.fetch_add(1, Ordering::AcqRel) + 1 == self.cpus {
                        self.end_with_state(&vcpu, |state| Ending::Halted { state });
                    }
                    Answer::None
                }
                exit => {
                    self.end_for(&vcpu, exit);
                    Answer::None
                }
            };
        }
        vcpu.counts()
    }

    /// Ends the machine for what no guest goes on after.
    #[cold]
    fn end_for(&self, vcpu: &V::Vcpu, exit: Result<Exit, hv::Error>) {
        let failed = |error| hv::Error::Run { error };
        match exit {
            Err(error) => self.end(Ending::Failed(error)),
            Ok(Exit::Shutdown) => {
                self.end_with_state(vcpu, |state| Ending::TripleFault { state });
            }
            Ok(Exit::Unsupported { bytes, len }) => {
                let bytes = bytes[..usize::from(len).min(bytes.len())].to_vec();
                self.end_with_state(vcpu, |state| Ending::Unsupported { bytes, state });
            }
            Ok(Exit::BadMemory { gpa }) => {
                self.end(Ending::Failed(hv::Error::BadMemory { gpa }));
            }
            Ok(Exit::Failed(errno)) => {
                let error = std::io::Error::from_raw_os_error(errno.0);
                self.end(Ending::Failed(failed(error)));
            }
            Ok(exit) => {
                let error = std::io::Error::other(format!("nobody has asked for {exit:?}"));
                self.end(Ending::Failed(failed(error)));
            }
        }
    }

    #[inline]
    fn port_in(&self, port: u16, size: u8, count: u8) -> Answer {
        let mut data = Data::ones(usize::from(size) * usize::from(count));
        for_each_element(data.as_mut_slice(), size, |element| self.bus.read(port, element));
        Answer::Data(data)
    }

    /// Reads where no memory is: what nobody answers for floats.
    fn memory_read(&self, gpa: u64, size: u8) -> Answer {
        let mut data = Data::ones(size.into());
        if let Some(pci) = &self.pci {
            pci.access(gpa, Access::Read(data.as_mut_slice()));
        }
        Answer::Data(data)
    }

    fn memory_write(&self, gpa: u64, data: &mut Data) -> Answer {
        if let Some(pci) = &self.pci {
            pci.access(gpa, Access::Write(data.as_mut_slice()));
        }
        Answer::None
    }

    fn port_out(&self, port: u16, size: u8, mut data: Data) -> Answer {
        for_each_element(data.as_mut_slice(), size, |element| self.bus.write(port, element));
        Answer::None
    }
}

/// Calls `access` for each element of a string of them. There is one most often, for which nothing is divided.
#[inline]
fn for_each_element(data: &mut [u8], size: u8, mut access: impl FnMut(&mut [u8])) {
    let size = usize::from(size);
    if data.len() == size {
        access(data);
    } else {
        data.chunks_mut(size.max(1)).for_each(access);
    }
}
