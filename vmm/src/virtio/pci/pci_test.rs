use std::sync::Mutex;

use super::super::Kind;
use super::super::queue::driver::Driver;
use super::super::queue::{Buffer, Served, write};
use super::*;
use crate::pci::config::register;
use crate::pci::msix::{Message, control};

const ADDRESS: u32 = 0xc000_0000;

/// A device that fills what it is given with a number, where it is notified.
#[derive(Default)]
struct Filler {
    active: Mutex<Option<Active>>,
    resets: Mutex<u32>,
    event: Option<EventFd>,
}

impl Device for Filler {
    fn kind(&self) -> Kind {
        Kind { id: 42, class: [0xff, 0, 0] }
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![16, 16]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }
    fn activate(&self, active: Active) {
        *self.active.lock().unwrap() = Some(active);
    }
    fn queue_event(&self, _queue: u16) -> Option<EventFd> {
        self.event.clone()
    }
    fn notify(&self, queue: u16) {
        let mut active = self.active.lock().unwrap();
        let Active { queues, interrupt, .. } = active.as_mut().unwrap();
        let queue = queues[usize::from(queue)].as_mut().unwrap();
        let fill = |memory: &GuestMemoryMmap, chain: &super::super::queue::Chain| {
            Ok(Served::Written(write(memory, &chain.writable, &[0x5a; 8])? as u32))
        };
        if queue.serve(fill).is_err() {
            interrupt.ask_for_reset();
        }
    }
    fn reset(&self) {
        *self.active.lock().unwrap() = None;
        *self.resets.lock().unwrap() += 1;
    }
}

#[derive(Default)]
struct Machine {
    messages: Mutex<Vec<Message>>,
    line: Mutex<Vec<bool>>,
    notifications: Mutex<Vec<IoEventFd>>,
}

/// A type of this crate's own.
struct Signals(Arc<Machine>);

impl Notifications for Signals {
    fn add(&self, notification: IoEventFd) -> bool {
        self.0.notifications.lock().unwrap().push(notification);
        true
    }
    fn remove(&self, notification: &IoEventFd) {
        self.0.notifications.lock().unwrap().retain(|other| other != notification);
    }
}

struct Bench {
    machine: Arc<Machine>,
    device: Arc<Filler>,
    function: VirtioFunction,
    driver: Driver,
}

impl Bench {
    fn new(event: Option<EventFd>) -> Self {
        let (machine, driver) = (Arc::new(Machine::default()), Driver::new());
        let device = Arc::new(Filler { event, ..Filler::default() });
        let (line, send) = (Arc::clone(&machine), Arc::clone(&machine));
        let around = Surroundings {
            memory: Arc::clone(&driver.memory),
            wrote: Arc::new(|_, _| {}),
            line: Arc::new(move |level| line.line.lock().unwrap().push(level)),
            send: Arc::new(move |message| send.messages.lock().unwrap().push(message)),
            notifications: Arc::new(Signals(Arc::clone(&machine))),
        };
        let function = VirtioFunction::new(Arc::clone(&device) as _, around, ADDRESS);
        Self { machine, device, function, driver }
    }

    fn set(&self, offset: u64, size: usize, value: u64) {
        self.function.write(offset, &value.to_le_bytes()[..size]);
    }

    fn get(&self, offset: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        self.function.read(offset, &mut bytes[..size]);
        u64::from_le_bytes(bytes)
    }

    fn config(&self, offset: u8) -> u32 {
        let mut bytes = [0; 4];
        self.function.read_config(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// As a driver does it, with queue 1 alone.
    fn start(&self) {
        self.set(0x14, 1, 3);
        self.set(0x08, 4, 1);
        self.set(0x0c, 4, 1);
        self.set(0x14, 1, 0xb);
        assert_eq!(self.get(0x14, 1), 0xb);
        self.set(0x16, 2, 1);
        for (n, ring) in (0..).zip(self.driver.rings()) {
            self.set(0x20 + n * 8, 8, ring);
        }
        self.set(0x1c, 2, 1);
        self.set(0x14, 1, 0xf);
    }

    fn notify(&self, queue: u64) {
        self.set(at::NOTIFY + queue * 4, 2, queue);
    }
}

#[test]
fn the_capabilities_lead_to_all_structures() {
    let bench = Bench::new(None);
    assert_eq!(bench.config(0), u32::from(VENDOR) | (0x1040 + 42) << 16);
    let mut at = bench.config(0x34) as u8;
    let mut found = Vec::new();
    while at != 0 {
        let first = bench.config(at);
        match first as u8 {
            VENDOR_CAPABILITY => {
                found.push((first >> 24, bench.config(at + 8), bench.config(at + 12)))
            }
            msix::CAPABILITY => {
                assert_eq!(first >> 16, 2, "a vector for each queue and one for the configuration");
                assert_eq!((bench.config(at + 4), bench.config(at + 8)), (0x4000, 0x5000));
            }
            other => panic!("capability {other}"),
        }
        at = (first >> 8) as u8;
    }
    let expected = [(1, 0, 0x38), (3, 0x1000, 1), (4, 0x2000, 0x1000), (2, 0x3000, 8), (5, 0, 0)];
    assert_eq!(found, expected);
    assert_eq!(bench.get(at::DEVICE + 7, 2), 0x0707);
}

#[test]
fn a_driver_sets_it_up_and_is_interrupted_by_the_line() {
    let mut bench = Bench::new(None);
    bench.start();
    let head = bench.driver.send(&[], &[Buffer { address: 0x8000, size: 3 }]);
    bench.notify(1);
    assert_eq!(bench.driver.take(), Some((head.into(), 3)));
    assert_eq!(bench.machine.line.lock().unwrap().last(), Some(&true));
    assert_eq!(bench.config(4) >> 16 & 8, 8, "the status says so");
    assert_eq!((bench.get(at::ISR, 1), bench.get(at::ISR, 1)), (1, 0));
    assert_eq!(bench.machine.line.lock().unwrap().last(), Some(&false));
}

#[test]
fn it_interrupts_by_messages_where_they_are_enabled() {
    let mut bench = Bench::new(None);
    bench.set(at::TABLE + 16, 8, 0xfee0_0000);
    bench.set(at::TABLE + 24, 4, 0x31);
    bench.set(at::TABLE + 28, 4, 0);
    let at = bench.function.lock().msix;
    bench.function.write_config(at + 2, &[0, control::ENABLE]);
    bench.set(0x16, 2, 1);
    bench.set(0x1a, 2, 1);
    assert_eq!(bench.get(0x1a, 2), 1);
    bench.start();
    bench.driver.send(&[], &[Buffer { address: 0x8000, size: 3 }]);
    bench.notify(1);
    let expected = Message { address: 0xfee0_0000, data: 0x31 };
    assert_eq!(*bench.machine.messages.lock().unwrap(), [expected]);
    bench.set(0x14, 1, 0);
    assert_eq!(bench.get(0x1a, 2), 0xffff);
    assert!(bench.function.interrupt.vector(Some(1)) == 0xffff);
}

#[test]
fn a_queue_that_is_not_there_and_a_device_that_is_not_ready_are_not_notified() {
    let mut bench = Bench::new(None);
    bench.driver.send(&[], &[Buffer { address: 0x8000, size: 3 }]);
    bench.notify(1);
    bench.start();
    bench.notify(2);
    bench.set(at::NOTIFY + 0xffc, 2, 0);
    assert_eq!(bench.driver.take(), None);
    bench.notify(1);
    assert!(bench.driver.take().is_some());
    bench.set(0x14, 1, 0);
    bench.notify(1);
    assert_eq!(*bench.device.resets.lock().unwrap(), 1);
    bench.set(0x14, 1, 0);
    assert_eq!(*bench.device.resets.lock().unwrap(), 1, "it was already");
}

#[test]
fn a_bad_driver_is_asked_for_reset_until_it_does() {
    let mut bench = Bench::new(None);
    bench.start();
    bench.driver.send(&[], &[Buffer { address: u64::MAX - 1, size: 3 }]);
    bench.notify(1);
    assert_eq!(bench.get(0x14, 1), 0x4f);
    assert_eq!(bench.get(at::ISR, 1), 2);
    bench.set(0x14, 1, 0);
    assert_eq!(bench.get(0x14, 1), 0);
}

#[test]
fn rings_that_are_nowhere_are_not_used() {
    let bench = Bench::new(None);
    bench.set(0x16, 2, 0);
    bench.set(0x20, 8, 1 << 40);
    bench.set(0x1c, 2, 1);
    bench.start();
    assert_eq!(bench.get(0x14, 1), 0x4f);
    assert!(bench.device.active.lock().unwrap().is_none());
}

#[test]
fn notifications_signal_events_where_the_memory_is() {
    let event = EventFd::new().unwrap();
    let bench = Bench::new(Some(event.clone()));
    let places = || -> Vec<_> {
        bench.machine.notifications.lock().unwrap().iter().map(|one| one.at).collect()
    };
    assert_eq!(places(), []);
    bench.function.write_config(register::COMMAND, &command::MEMORY.to_le_bytes());
    assert_eq!(places(), [0xc000_3000, 0xc000_3004].map(IoAddress::Mmio));
    bench.function.write_config(register::BAR0, &0xd000_0000_u32.to_le_bytes());
    assert_eq!(places(), [0xd000_3000, 0xd000_3004].map(IoAddress::Mmio));
    bench.function.write_config(register::COMMAND, &[0, 0]);
    assert_eq!(places(), []);
    bench.start();
    bench.notify(1);
    assert_eq!(event.take(), 1, "also where the hypervisor does not");
}

#[test]
fn its_memory_is_reached_by_configuration_space() {
    let bench = Bench::new(None);
    let access = bench.function.lock().access;
    let through = |offset: u32, size: u32| {
        bench.function.write_config(access + 8, &offset.to_le_bytes());
        bench.function.write_config(access + 12, &size.to_le_bytes());
    };
    through(0x12, 2);
    assert_eq!(bench.config(access + 16), 2, "the number of queues");
    through(0x14, 1);
    bench.function.write_config(access + 16, &[3]);
    assert_eq!(bench.get(0x14, 1), 3);
    for (offset, size) in [(0x14, 3), (0x14, 0), (0x14, u32::MAX), (u32::MAX, 4), (0x5fff, 4)] {
        through(offset, size);
        bench.config(access + 16);
        bench.function.write_config(access + 16, &[1, 2, 3, 4]);
    }
}

#[test]
fn no_access_makes_it_panic() {
    let mut bench = Bench::new(None);
    bench.start();
    bench.driver.send(&[], &[Buffer { address: 0x8000, size: 3 }]);
    for offset in (0..u64::from(WINDOW)).step_by(3) {
        for size in 1..=8 {
            bench.get(offset, size);
            if !(at::NOTIFY..at::NOTIFY + 8).contains(&offset) {
                bench.set(offset, size, 0x0102_0304_0506_0708_u64.wrapping_mul(offset));
            }
        }
    }
    for offset in 0..=0xff {
        for size in [1, 2, 4] {
            bench.function.write_config(offset, &[0xff; 4][..size]);
            bench.function.read_config(offset, &mut [0; 4][..size]);
        }
    }
}
