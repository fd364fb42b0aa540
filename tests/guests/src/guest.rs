//! [`Guest`]: a machine with its vCPUs, and [`Log`], what its programs reported.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use hv::x86::{Answer, Data, Exit, State};
use hv::{Error, Hypervisor, Irqchip, MemoryFlags, MemoryId, Vcpu, Vm, VmConfig};
use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, CodeLabel};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestRegionMmap, MemoryRegionAddress, MmapRegion,
};

use crate::layout::{RAM, at, port};
use crate::paging::{Format, Tables, pte};
use crate::programs::{assemble, end, write_handlers};
use crate::states;

/// How long a guest may live: much longer than any takes, on the busiest machine.
const LIMIT: Duration = Duration::from_secs(30);

/// How many exceptions a guest may report: more than any raises on its way.
const MAX_TRAPS: usize = 1000;

/// A guest's RAM: a file, which another process can map too. Or another region, whose addresses count from its start here.
#[derive(Clone)]
pub struct Memory {
    region: Arc<GuestRegionMmap>,
    /// Whom a write is told: address, and bytes.
    wrote: Option<Arc<dyn Fn(u64, u64) + Send + Sync>>,
}

#[allow(clippy::missing_panics_doc, reason = "a test that reaches beyond RAM is wrong")]
impl Memory {
    /// Zeros, of which no guest knows yet, for guest-physical `gpa`.
    #[must_use]
    pub fn region(gpa: u64, size: u64) -> Self {
        let region = GuestRegionMmap::from_range(GuestAddress(gpa), size as usize, None);
        Self { region: Arc::new(region.expect("memory for a guest")), wrote: None }
    }

    /// The same that this process may not write to.
    #[must_use]
    pub fn read_only_region(gpa: u64, size: u64) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let mapping = MmapRegion::build(None, size as usize, libc::PROT_READ, flags);
        let region = GuestRegionMmap::new(mapping.expect("memory for a guest"), GuestAddress(gpa));
        Self { region: Arc::new(region.expect("an address of a guest's")), wrote: None }
    }

    /// As a machine takes it.
    #[must_use]
    pub fn to_region(&self) -> Arc<GuestRegionMmap> {
        Arc::clone(&self.region)
    }

    /// Whether somebody else has it, too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.region) > 1
    }

    fn new() -> Self {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).map(File::from).expect("a file");
        file.set_len(RAM).expect("a file that grows");
        let file = Some(FileOffset::new(file, 0));
        let region = GuestRegionMmap::from_range(GuestAddress(0), RAM as usize, file);
        Self { region: Arc::new(region.expect("memory for a guest")), wrote: None }
    }

    /// Writes `bytes` at `gpa`.
    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        self.region.write_slice(bytes, MemoryRegionAddress(gpa)).expect("an address in RAM");
        if let Some(wrote) = &self.wrote {
            wrote(gpa, bytes.len() as u64);
        }
    }

    /// Reads bytes at `gpa`.
    #[must_use]
    pub fn read<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.region.read_slice(&mut bytes, MemoryRegionAddress(gpa)).expect("an address in RAM");
        bytes
    }

    /// Writes a quadword.
    pub fn write_u64(&self, gpa: u64, value: u64) {
        self.write(gpa, &value.to_le_bytes());
    }

    /// Reads a quadword.
    #[must_use]
    pub fn read_u64(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.read(gpa))
    }

    /// Reads a doubleword.
    #[must_use]
    pub fn read_u32(&self, gpa: u64) -> u32 {
        u32::from_le_bytes(self.read(gpa))
    }
}

/// An exception (or an interrupt that no handler of the test's own took), as the handler saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// The vector.
    pub vector: u32,
    /// The error code; 0 where there is none.
    pub error: u32,
    /// The RIP that was pushed.
    pub rip: u64,
    /// The CS that was pushed.
    pub cs: u32,
    /// The RFLAGS that were pushed.
    pub flags: u32,
    /// CR2.
    pub cr2: u64,
    /// DR6; the handler clears it.
    pub dr6: u32,
}

impl Trap {
    /// How many doublewords make one.
    const WORDS: usize = 9;

    fn new(words: &[u32]) -> Self {
        let wide = |n: usize| u64::from(words[n]) | u64::from(words[n + 1]) << 32;
        Self {
            vector: words[0],
            error: words[1],
            rip: wide(2),
            cs: words[4],
            flags: words[5],
            cr2: wide(6),
            dr6: words[8],
        }
    }
}

/// What a guest reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What went to [`port::VALUE`].
    pub values: Vec<u32>,
    /// The exceptions that the handlers of [`crate::programs`] saw.
    pub traps: Vec<Trap>,
    partial: Vec<u32>,
}

impl Log {
    /// Vectors and error codes of the exceptions.
    #[must_use]
    pub fn faults(&self) -> Vec<(u32, u32)> {
        self.traps.iter().map(|trap| (trap.vector, trap.error)).collect()
    }

    /// Takes what was written to a port of the log's. Gives false if it is none.
    fn take(&mut self, number: u16, data: &Data) -> bool {
        let words = data.as_slice().chunks_exact(4);
        let words = words.map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        match u32::from(number) {
            port::VALUE => self.values.extend(words),
            port::TRAP => {
                self.partial.extend(words);
                if self.partial.len() >= Trap::WORDS {
                    self.traps.push(Trap::new(&self.partial));
                    self.partial.clear();
                    let last = self.traps.last();
                    assert!(self.traps.len() < MAX_TRAPS, "the guest went astray: {last:x?}");
                }
            }
            _ => return false,
        }
        true
    }
}

/// Ends a guest that does not end by itself.
struct Watchdog {
    expired: Arc<AtomicBool>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    fn new<V: Vm>(vm: Arc<V>) -> Self {
        let expired = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = mpsc::channel();
        let flag = Arc::clone(&expired);
        let thread = std::thread::spawn(move || {
            if stopped.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                flag.store(true, Ordering::SeqCst);
                vm.interrupt_vcpus();
            }
        });
        Self { expired, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A machine with RAM, page tables, descriptor tables and exception handlers, whose first
/// vCPU is in 64-bit mode at [`at::CODE`].
pub struct Guest<H: Hypervisor> {
    /// The machine.
    pub vm: Arc<H::Vm>,
    /// Its RAM.
    pub memory: Memory,
    /// What the machine calls that.
    pub ram: MemoryId,
    /// Its vCPUs; those behind the first wait for start-up.
    pub vcpus: Vec<<H::Vm as Vm>::Vcpu>,
    /// The page tables.
    pub tables: Tables,
    watchdog: Watchdog,
}

#[allow(clippy::missing_panics_doc, reason = "a test fails by a panic")]
impl<H: Hypervisor> Guest<H> {
    /// A machine with one vCPU.
    pub fn new(engine: &H) -> Self {
        Self::with_cpus(engine, 1)
    }

    /// A machine with several vCPUs.
    pub fn with_cpus(engine: &H, cpus: u32) -> Self {
        let config = VmConfig { cpus, irqchip: Irqchip::default() };
        let vm = Arc::new(engine.create_vm(config).expect("a machine"));
        let mut memory = Memory::new();
        // As a VMM does. It does not keep the machine.
        let machine = Arc::downgrade(&vm);
        memory.wrote = Some(Arc::new(move |start, size| {
            machine.upgrade().iter().for_each(|vm: &Arc<H::Vm>| vm.wrote(start, size));
        }));
        let ram = vm.add_memory(memory.to_region(), MemoryFlags::default());
        let ram = ram.expect("memory that fits");
        let vcpus = (0..cpus).map(|id| vm.create_vcpu(id).expect("a vCPU")).collect();
        let tables = default_tables(&memory);
        states::write_tables(&memory);
        write_handlers(&memory);
        let watchdog = Watchdog::new(Arc::clone(&vm));
        let mut guest = Self { vm, memory, ram, vcpus, tables, watchdog };
        guest.set_state(&guest.long_mode());
        guest
    }

    /// A machine whose program in 64-bit mode is `program`.
    pub fn with_program(
        engine: &H,
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Self {
        let guest = Self::new(engine);
        guest.code(at::CODE, program);
        guest
    }

    /// The same, which begins with these registers, and ends behind `program`.
    pub fn with_registers(
        engine: &H,
        registers: &[(u8, u64)],
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Self {
        let mut guest = Self::with_program(engine, |a| {
            program(a)?;
            end(a)
        });
        let mut state = guest.long_mode();
        for (register, value) in registers {
            state.gprs[usize::from(*register)] = *value;
        }
        guest.set_state(&state);
        guest
    }

    /// 64-bit mode at [`at::CODE`].
    #[must_use]
    pub fn long_mode(&self) -> State {
        states::long_mode(self.tables.root())
    }

    /// Puts a 64-bit program at `address`.
    pub fn code(
        &self,
        address: u64,
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) {
        self.labelled(address, |a| program(a).map(|()| []));
    }

    /// Puts a 64-bit program at `address`; gives the addresses of its labels.
    pub fn labelled<const N: usize>(
        &self,
        address: u64,
        program: impl FnOnce(&mut CodeAssembler) -> Result<[CodeLabel; N], IcedError>,
    ) -> [u64; N] {
        let (bytes, labels) = assemble(64, address, program);
        self.memory.write(address, &bytes);
        labels
    }

    /// Puts a program of 16 or 32 bits at `address`, assembled for `offset`.
    pub fn code_of_bits(
        &self,
        bits: u32,
        address: u64,
        offset: u64,
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) {
        self.memory.write(address, &assemble(bits, offset, |a| program(a).map(|()| [])).0);
    }

    /// Makes `program` the handler of `vector` in 64-bit mode: it is to end with IRETQ.
    pub fn handler(
        &self,
        vector: u8,
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) {
        let address = at::HANDLERS + u64::from(vector) * 256;
        let (bytes, []) = assemble(64, address, |a| program(a).map(|()| []));
        assert!(bytes.len() <= 256, "the handler runs into the next one");
        self.memory.write(address, &bytes);
        self.gate(vector, states::gate(address, 0, 0));
    }

    /// Sets the gate of `vector`.
    pub fn gate(&self, vector: u8, gate: [u64; 2]) {
        for (n, word) in (0..).zip(gate) {
            self.memory.write_u64(at::IDT + u64::from(vector) * 16 + n * 8, word);
        }
    }

    /// Sets the gate of `vector` to the handler that reports, on a stack of the interrupt stack table
    /// (0: none), callable from level `dpl`.
    pub fn reporting_gate(&self, vector: u8, ist: u8, dpl: u8) {
        self.gate(vector, states::gate(at::STUBS + u64::from(vector) * 16, ist, dpl));
    }

    /// Tells the exception handlers where to go on: see [`crate::layout::resume`].
    pub fn resume(&self, address: u64) {
        self.memory.write_u64(at::RESUME, address);
    }

    /// The first vCPU's registers.
    #[must_use]
    pub fn state(&self) -> State {
        self.vcpus[0].state().expect("registers that can be read")
    }

    /// Sets the first vCPU's registers.
    pub fn set_state(&mut self, state: &State) {
        self.vcpus[0].set_state(state).expect("registers that can be had");
    }

    /// Runs the first vCPU until it reports its end.
    pub fn run(&mut self) -> Log {
        let mut log = Log::default();
        let exit = self.run_to_exit(Answer::None, &mut log);
        let done = matches!(exit, Exit::Out { port, .. } if u32::from(port) == port::END);
        assert!(done, "{exit:?}; {log:?}; {:x?}", self.state());
        log
    }

    /// Sets the first vCPU's registers, then [`run`](Self::run)s.
    pub fn run_from(&mut self, state: &State) -> Log {
        self.set_state(state);
        self.run()
    }

    /// Runs the first vCPU until there is something that the log does not take.
    pub fn run_to_exit(&mut self, answer: Answer, log: &mut Log) -> Exit {
        let take = |number, data: &Data| log.take(number, data);
        let expired = || self.watchdog.expired.load(Ordering::SeqCst);
        match drive(&mut self.vcpus[0], answer, take, expired, false) {
            Ok(exit) => exit,
            Err(reason) => panic!("{reason}; {log:?}"),
        }
    }

    /// Runs each vCPU on a thread of its own until one reports its end; gives what all reported.
    /// One that halts with interrupts off halts on.
    pub fn run_all(&mut self) -> Log {
        let log = Mutex::new(Log::default());
        let done = AtomicBool::new(false);
        let (vm, expired) = (&self.vm, &self.watchdog.expired);
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .vcpus
                .iter_mut()
                .map(|vcpu| {
                    scope.spawn(|| {
                        let take = |number, data: &Data| {
                            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                            log.take(number, data)
                        };
                        let stop = || done.load(Ordering::SeqCst) || expired.load(Ordering::SeqCst);
                        let exit = drive(vcpu, Answer::None, take, stop, true);
                        done.store(true, Ordering::SeqCst);
                        vm.interrupt_vcpus();
                        exit
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let log = log.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert!(!self.watchdog.expired.load(Ordering::SeqCst), "time is up: {results:x?}; {log:?}");
        let ended = |result: &Result<Exit, String>| matches!(result, Ok(Exit::Out { port, .. }) if u32::from(*port) == port::END);
        assert!(results.iter().any(ended), "{results:x?}; {log:?}");
        log
    }
}

/// Runs a vCPU until there is something that the log does not take; `through_halts`: a halt for
/// good is not that.
fn drive<V: Vcpu>(
    vcpu: &mut V,
    mut answer: Answer,
    mut take: impl FnMut(u16, &Data) -> bool,
    stop: impl Fn() -> bool,
    through_halts: bool,
) -> Result<Exit, String> {
    loop {
        let exit = vcpu.run(answer).map_err(|error: Error| error.to_string())?;
        answer = Answer::None;
        match exit {
            Exit::Interrupted if stop() => {
                return Err(format!("interrupted at {:x?}", vcpu.state()));
            }
            // Left over from an earlier run.
            Exit::Interrupted => {}
            Exit::Out { port, data, .. } if take(port, &data) => {}
            Exit::Halted if through_halts => {}
            exit => return Ok(exit),
        }
    }
}

fn default_tables(memory: &Memory) -> Tables {
    let mut tables = Tables::new(memory, Format::FourLevel, at::TABLES);
    tables.identity(memory, 0, at::USER_CODE, 0x1000, pte::P | pte::W);
    tables.identity(memory, at::USER_CODE, at::USER_STACK, 0x1000, pte::ALL);
    tables.identity(memory, at::USER_STACK, 2 << 20, 0x1000, pte::P | pte::W);
    tables.identity(memory, 2 << 20, RAM, 2 << 20, pte::P | pte::W);
    tables.identity(memory, at::NOWHERE, 1 << 32, 2 << 20, pte::P | pte::W);
    tables
}
