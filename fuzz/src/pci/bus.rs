//! [`Bus`]: the root with two functions, ways to access it, and what has to hold of it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hv::{IoAddress, IoEventFd};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm::bus::Device as _;
use vmm::pci::Function;
use vmm::pci::config::{command, register};
use vmm::pci::msix::{self, Message};
use vmm::pci::root::{Access, AddressPort, DataPort, ECAM_SIZE, Ports, Root};
use vmm::virtio::Device;
use vmm::virtio::pci::{Notifications, Surroundings, VirtioFunction, WINDOW};

use super::device::Probe;

/// How many functions there are; and how many queues the first has, of which each other has one more.
pub const FUNCTIONS: usize = 2;
const QUEUES: usize = 2;

const ECAM: u64 = 0xe000_0000;
/// Where the first function's memory is at first.
const PLACE: u32 = 0xc000_0000;

/// Where in a function's memory what is, and registers of its common configuration. See: VIRTIO 1.2, 4.1.4.3.
mod at {
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const STATUS: u64 = 0x14;
}

/// The bit of PCI's status register by which the line is seen.
const INTERRUPT_STATUS: u32 = 1 << 3;

/// How something is accessed.
#[derive(Clone, Copy)]
pub enum Way {
    /// The data port, at an offset.
    Port(u8),
    /// Configuration space as memory.
    Ecam(u32),
    /// Memory.
    Memory(u64),
}

/// Where a hypervisor would signal events.
#[derive(Default)]
struct Registered(Mutex<Vec<u64>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(notification: &IoEventFd) -> u64 {
    match notification.at {
        IoAddress::Mmio(address) => address,
        IoAddress::Port(port) => panic!("port {port:#x} is no memory"),
    }
}

impl Notifications for Registered {
    /// As KVM does, which signals one event for each place.
    fn add(&self, notification: IoEventFd) -> bool {
        let (mut all, address) = (lock(&self.0), address(&notification));
        let is_new = !all.contains(&address);
        if is_new {
            all.push(address);
        }
        is_new
    }

    fn remove(&self, notification: &IoEventFd) {
        let (mut all, address) = (lock(&self.0), address(notification));
        let place = all.iter().position(|one| *one == address);
        all.remove(place.expect("what is removed was added"));
    }
}

/// A function, and what is seen of it.
struct Seen {
    probe: Arc<Probe>,
    function: Arc<VirtioFunction>,
    line: Arc<AtomicBool>,
    messages: Arc<Mutex<Vec<Message>>>,
    registered: Arc<Registered>,
    /// Its configuration space at first.
    before: [u8; 256],
    /// Where in it are the messages' capability, and that of accesses by configuration space. See: VIRTIO 1.2, 4.1.4.9.
    msix: u8,
    access: u8,
    /// How many messages it may still send.
    due: usize,
}

/// The bus.
pub struct Bus {
    root: Arc<Root>,
    address: AddressPort,
    data: DataPort,
    functions: Vec<Seen>,
    /// Where functions have been.
    places: Vec<u64>,
    /// No two have been at one place: who comes second is not looked for by the hypervisor, also when the first has gone.
    were_apart: bool,
    /// Which register is looked at next.
    turn: u8,
}

impl Seen {
    fn new(number: usize, memory: &Arc<GuestMemoryMmap>, registered: &Arc<Registered>) -> Self {
        let (line, messages) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (level, sent) = (Arc::clone(&line), Arc::clone(&messages));
        let around = Surroundings {
            memory: Arc::clone(memory),
            wrote: Arc::new(|_, _| {}),
            line: Arc::new(move |up| level.store(up, Ordering::Relaxed)),
            send: Arc::new(move |message| lock(&sent).push(message)),
            notifications: Arc::clone(registered) as Arc<dyn Notifications>,
        };
        let probe = Probe::new(QUEUES + number);
        let device = Arc::clone(&probe) as Arc<dyn Device>;
        let function = VirtioFunction::new(device, around, PLACE + number as u32 * WINDOW);
        let function = Arc::new(function);
        let mut seen = Self {
            probe,
            function,
            line,
            messages,
            registered: Arc::clone(registered),
            before: [0; 256],
            msix: 0,
            access: 0,
            due: 0,
        };
        seen.before = std::array::from_fn(|offset| seen.byte(offset as u8));
        let mut capability = seen.byte(0x34);
        while capability != 0 {
            match (seen.byte(capability), seen.byte(capability + 3)) {
                (msix::CAPABILITY, _) => seen.msix = capability,
                (_, 5) => seen.access = capability,
                _ => {}
            }
            capability = seen.byte(capability + 1);
        }
        seen
    }

    fn byte(&self, offset: u8) -> u8 {
        let mut byte = [0];
        self.function.read_config(offset, &mut byte);
        byte[0]
    }

    fn dword(&self, offset: u8) -> u32 {
        let mut bytes = [0; 4];
        self.function.read_config(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn has_command(&self, bit: u16) -> bool {
        self.dword(register::COMMAND) & u32::from(bit) != 0
    }

    /// Where its registers say that it is.
    fn window(&self) -> Option<Range<u64>> {
        let start = u64::from(self.dword(register::BAR0));
        let is_on = start != 0 && self.has_command(command::MEMORY);
        is_on.then_some(start..start + u64::from(WINDOW))
    }

    /// Whether the guest may change a byte of its configuration space, or the function itself does.
    fn may_change(&self, offset: u8) -> bool {
        let registers =
            [(register::COMMAND, 4), (register::BAR0, 4), (register::INTERRUPT_LINE, 1)];
        let capabilities = [(self.msix + 3, 1), (self.access + 4, 16)];
        let is_in = |(start, size): &(u8, u8)| (*start..start + size).contains(&offset);
        registers.iter().chain(&capabilities).any(is_in)
    }

    /// Whether it is the register by which the function's memory is accessed, and not what it seems.
    fn is_other_side(&self, offset: u8) -> bool {
        (self.access + 16..self.access + 20).contains(&offset)
    }

    /// The entries of its table that are not masked, if none is masked by the function.
    fn open_entries(&self) -> Vec<Message> {
        let control = self.byte(self.msix + 3);
        if control & (msix::control::ENABLE | msix::control::MASK) != msix::control::ENABLE {
            return Vec::new();
        }
        let table = u64::from(self.dword(self.msix + 4) & !7);
        let entry = |vector: u64| {
            let mut bytes = [0; 16];
            for (word, at) in bytes.chunks_mut(4).zip((table + vector * msix::ENTRY..).step_by(4)) {
                self.function.read(at, word);
            }
            let [address, rest] =
                [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte])));
            let is_open = rest >> 32 & 1 == 0;
            is_open.then_some(Message { address, data: rest as u32 })
        };
        (0..=u64::from(self.dword(self.msix) >> 16 & 0x7ff)).filter_map(entry).collect()
    }

    fn check(&mut self) {
        for first in (0..=252).step_by(4).filter(|offset| !self.is_other_side(*offset)) {
            for (offset, byte) in (first..=255).zip(self.dword(first).to_le_bytes()) {
                let is_right = byte == self.before[usize::from(offset)] || self.may_change(offset);
                assert!(is_right, "byte {offset:#x} is {byte:#x}");
            }
        }
        assert_eq!(self.dword(register::BAR0) & (WINDOW - 1), 0);
        let open = self.open_entries();
        for message in lock(&self.messages).drain(..) {
            assert!(open.contains(&message), "{message:x?} is none of {open:x?}");
            self.due = self.due.checked_sub(1).expect("there was a reason");
        }
        let has_reason = self.dword(register::COMMAND) >> 16 & INTERRUPT_STATUS != 0;
        let wanted = has_reason && !self.has_command(command::INTERRUPT_DISABLE);
        assert_eq!(self.line.load(Ordering::Relaxed), wanted, "the line");
    }
}

impl Bus {
    /// As it is when the guest begins.
    pub fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]);
        let memory = Arc::new(memory.expect("the host has memory"));
        let registered = Arc::default();
        let functions: Vec<_> =
            (0..FUNCTIONS).map(|number| Seen::new(number, &memory, &registered)).collect();
        let all = functions.iter().map(|seen| Arc::clone(&seen.function) as Arc<dyn Function>);
        let root = Arc::new(Root::new(ECAM, all.collect()));
        let ports = Ports::new(Arc::clone(&root));
        let (address, data) = (AddressPort(Arc::clone(&ports)), DataPort(ports));
        let mut bus =
            Self { root, address, data, functions, places: Vec::new(), were_apart: true, turn: 0 };
        for number in 0..FUNCTIONS {
            let command = bus.register(number, 0);
            bus.write(Way::Ecam(command), &command::MEMORY.to_le_bytes());
        }
        bus
    }

    /// Writes to the port that says what the data port is.
    pub fn address(&self, bytes: &[u8]) {
        self.address.write(0, bytes);
        let mut back = [0; 4];
        self.address.read(0, &mut back);
        assert!(bytes.len() != 4 || back == bytes, "{back:x?}");
    }

    /// Reads.
    pub fn read(&self, way: Way, size: usize) {
        self.get(way, &mut [0xff; 8][..size]);
    }

    fn get(&self, way: Way, data: &mut [u8]) {
        match way {
            // No instruction reads 8 bytes of a port.
            Way::Port(offset) => {
                let size = data.len().min(4);
                self.data.read(offset.into(), &mut data[..size]);
            }
            Way::Ecam(offset) => self.root.access(ecam(offset), Access::Read(data)),
            Way::Memory(place) => self.root.access(place, Access::Read(data)),
        }
    }

    /// Writes.
    pub fn write(&mut self, way: Way, data: &[u8]) {
        match way {
            Way::Port(offset) => self.data.write(offset.into(), &data[..data.len().min(4)]),
            Way::Ecam(offset) => self.root.access(ecam(offset), Access::Write(data)),
            Way::Memory(place) => self.root.access(place, Access::Write(data)),
        }
        let windows: Vec<_> = self.windows().map(|window| window.start).collect();
        for place in windows {
            if !self.places.contains(&place) {
                self.places.push(place);
            }
        }
    }

    fn windows(&self) -> impl Iterator<Item = Range<u64>> {
        self.functions.iter().filter_map(Seen::window)
    }

    /// Where a register of a function's is as memory: one that has something behind it.
    pub fn register(&self, function: usize, which: u8) -> u32 {
        let seen = &self.functions[function];
        let registers = [
            register::COMMAND,
            register::COMMAND + 1,
            register::BAR0,
            register::BAR0 + 2,
            seen.msix + 2,
            seen.msix + 3,
            seen.access + 8,
            seen.access + 12,
            seen.access + 16,
        ];
        let number = function as u32 + 1;
        number << 15 | u32::from(registers[usize::from(which) % registers.len()])
    }

    /// A place in a function's memory; where that was, if it is off.
    pub fn place(&self, function: usize, offset: u16) -> u64 {
        let start = self.functions[function].window().map(|window| window.start);
        start.unwrap_or(PLACE.into()) + u64::from(offset) % u64::from(WINDOW)
    }

    /// Does what a driver does, in short.
    pub fn make_ready(&mut self, function: usize) {
        let function = &self.functions[function].function;
        let write = |at, bytes: &[u8]| function.write(at, bytes);
        write(at::STATUS, &[0]);
        write(at::STATUS, &[3]);
        for (half, features) in [(0_u32, 0_u32), (1, 1)] {
            write(at::DRIVER_FEATURE_SELECT, &half.to_le_bytes());
            write(at::DRIVER_FEATURE, &features.to_le_bytes());
        }
        write(at::STATUS, &[11]);
        write(at::STATUS, &[15]);
    }

    /// A function has something to interrupt for: a queue, of which some may not be there, or its configuration.
    pub fn raise(&mut self, function: usize, queue: u8) {
        let seen = &mut self.functions[function];
        let queue = (queue % 8 != 7).then_some(u16::from(queue % 8));
        seen.due += usize::from(seen.probe.raise(queue));
    }

    /// Looks whether all holds that has to.
    ///
    /// # Panics
    /// When something does not.
    pub fn check(&mut self) {
        self.functions.iter_mut().for_each(Seen::check);
        self.check_places();
        self.check_notifications();
        self.check_ways();
    }

    /// Who answers where.
    fn check_places(&self) {
        for place in &self.places {
            let here = |seen: &&Seen| seen.window().is_some_and(|window| window.contains(place));
            let owners: Vec<_> = self.functions.iter().filter(here).collect();
            let is_ecam = (ECAM..ECAM + ECAM_SIZE).contains(place);
            if is_ecam && owners.is_empty() {
                continue;
            }
            let mut data = [0xff; 2];
            self.get(Way::Memory(place + at::NUM_QUEUES), &mut data);
            let answers = |seen: &&Seen| {
                let offset = place - seen.window().unwrap_or_default().start;
                let mut own = [0xff; 2];
                seen.function.read(offset + at::NUM_QUEUES, &mut own);
                own == data
            };
            let is_right = match owners.is_empty() {
                true => data == [0xff; 2],
                false => owners.iter().any(answers),
            };
            assert!(is_right, "{place:#x}: {data:x?}");
        }
    }

    /// Where the hypervisor looks for notifications.
    fn check_notifications(&mut self) {
        let Some(first) = self.functions.first() else { return };
        let mut registered = lock(&first.registered.0).clone();
        let mut places: Vec<_> = self.windows().map(|window| window.start + 0x3000).collect();
        for list in [&mut registered, &mut places] {
            list.sort_unstable();
            list.dedup();
        }
        let is_known = |place: &u64| places.contains(place);
        assert!(registered.iter().all(is_known), "{registered:x?} are not all of {places:x?}");
        self.were_apart &= self.windows().count() == places.len();
        assert!(
            !self.were_apart || registered.len() == places.len(),
            "{registered:x?}, {places:x?}"
        );
    }

    /// Ports and memory show the same: of one register, another one each time. The port's address stays what the guest has it.
    fn check_ways(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        let (number, offset) = (usize::from(self.turn / 64) % FUNCTIONS, self.turn % 64 * 4);
        let seen = &self.functions[number];
        if seen.is_other_side(offset) {
            return;
        }
        let mut before = [0; 4];
        self.address.read(0, &mut before);
        let device = number as u32 + 1;
        self.address.write(0, &(1 << 31 | device << 11 | u32::from(offset)).to_le_bytes());
        let [mut port, mut memory] = [[0xff; 4]; 2];
        self.get(Way::Port(0), &mut port);
        assert_eq!(u32::from_le_bytes(port), seen.dword(offset));
        let place = device << 15 | u32::from(offset);
        // Unless somebody's memory is there.
        if !self.windows().any(|window| window.contains(&ecam(place))) {
            self.get(Way::Ecam(place), &mut memory);
            assert_eq!(port, memory, "{place:#x}");
        }
        self.address.write(0, &before);
    }
}

fn ecam(offset: u32) -> u64 {
    ECAM + u64::from(offset) % ECAM_SIZE
}
