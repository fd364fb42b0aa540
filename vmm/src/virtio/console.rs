//! [`Console`]: terminals and lines between guest and host, which the guest finds by name.
//!
//! A port's host side is what a UART has, too: [`Ends`]. What the guest writes goes there as far as there is room, and the rest stays in the
//! guest's memory; what is for the guest goes as far as it gave buffers. Nobody waits: one thread ([`Lane`]) serves all queues when there
//! are bytes or room on the host's side. A queue that the driver notifies of is served on the vCPU's thread that does so: Linux waits in a loop
//! until the device has taken what it writes to a terminal, and to wake another thread takes longer than to copy that.
//!
//! A driver without multiport has the first port alone, which is a terminal. `port` moves bytes, `message` is the control queues' language.
//!
//! See: VIRTIO 1.2, 5.3.

mod message;
mod port;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guest_protocol::WindowSize;
use hv::Event;

use self::message::FromDriver;
use self::port::{Full, Port};
use super::interrupt::Interrupt;
use super::lane::Lane;
use super::queue::{self, Broken, Served, Virtqueue};
use super::{Active, Device, Kind};
use crate::devices::stream::Ends;

/// Features. See: VIRTIO 1.2, 5.3.3.
mod feature {
    pub const SIZE: u64 = 1 << 0;
    pub const MULTIPORT: u64 = 1 << 1;
}

/// How many buffers a queue holds. Linux gives a page for each to receive in, and has them as long as there is the port.
const QUEUE_SIZE: u16 = 16;

/// The queues on which the driver is told of ports, and on which it answers. See: VIRTIO 1.2, 5.3.2.
const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;

/// What a port is, on the host's side.
pub struct PortConfig {
    /// What the guest's programs find it by.
    pub name: String,
    /// Whether the guest has a terminal of it: Linux's `hvc`.
    pub is_console: bool,
    /// The host's ends.
    pub ends: Ends,
}

/// The device.
pub struct Console {
    ports: Vec<PortConfig>,
    /// Whether the console has a size.
    has_size: bool,
    lane: Lane<Serving>,
    size: Arc<Mutex<WindowSize>>,
}

/// What is served.
struct Serving {
    ports: Vec<Port>,
    /// To the driver, and from it.
    control: [Option<Virtqueue>; 2],
    interrupt: Arc<Interrupt>,
    has_multiport: bool,
    size: Arc<Mutex<WindowSize>>,
    has_size: bool,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

impl Role {
    fn of(queue: u16) -> Self {
        let port = match queue {
            CONTROL_RECEIVE => return Self::ControlReceive,
            CONTROL_TRANSMIT => return Self::ControlTransmit,
            0 | 1 => 0,
            _ => usize::from(queue / 2 - 1),
        };
        if queue.is_multiple_of(2) { Self::Receive(port) } else { Self::Transmit(port) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Console {
    /// A console with these ports, of which there is at least one. `size` is the window's, if there is one.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn new(ports: Vec<PortConfig>, size: Option<WindowSize>) -> io::Result<Self> {
        let lane = Lane::new()?;
        for port in &ports {
            port.ends.input.tell_of_bytes(lane.event());
            port.ends.output.tell_of_room(lane.event());
        }
        Ok(Self {
            ports,
            has_size: size.is_some(),
            lane,
            size: Arc::new(Mutex::new(size.unwrap_or_default())),
        })
    }

    /// The window has another size. Without effect if it had none.
    pub fn resize(&self, size: WindowSize) {
        *lock(&self.size) = size;
        if self.has_size && self.lane.with(Serving::tell_size).is_some() {
            self.lane.event().signal();
        }
    }

    /// Gives the host what the guest has written and what was not taken before the guest's end, and waits for room for it. To be called when
    /// no vCPU runs any more. Who closes an end ends the wait.
    pub fn flush(&self) {
        self.lane.stop();
        self.lane.with(Serving::flush);
    }

    fn serving(&self, active: Active) -> Serving {
        let mut queues = active.queues;
        let mut take = |number: usize| queues.get_mut(number).and_then(Option::take);
        let mut pair = |first: u16| [first, first + 1].map(|number| take(number.into()));
        let has_multiport = active.features & feature::MULTIPORT != 0;
        let control = pair(CONTROL_RECEIVE);
        let port = |(number, port): (u16, &PortConfig)| {
            let first = if number == 0 { 0 } else { number * 2 + 2 };
            Port::new(port.name.clone(), port.is_console, port.ends.clone(), pair(first))
        };
        let mut ports: Vec<_> = (0..).zip(&self.ports).map(port).collect();
        if let Some(first) = ports.first_mut().filter(|_| !has_multiport) {
            first.is_open = true;
        }
        Serving {
            ports,
            control,
            interrupt: active.interrupt,
            has_multiport,
            size: Arc::clone(&self.size),
            has_size: active.features & feature::SIZE != 0,
        }
    }
}

impl Serving {
    /// Serves one queue, or all, if the driver keeps to the rules. Gives whether there may be more to do now.
    fn serve(&mut self, role: Option<Role>) -> bool {
        if self.interrupt.needs_reset() {
            return false;
        }
        let served = match role {
            None => self.serve_all(),
            Some(role) => self.serve_one(role),
        };
        served.unwrap_or_else(|Broken| {
            self.interrupt.ask_for_reset();
            false
        })
    }

    fn serve_all(&mut self) -> Result<bool, Broken> {
        let mut more = self.hear()? | self.say()?;
        for port in &mut self.ports {
            more |= port.transmit(Full::Leave)? | port.receive()?;
        }
        Ok(more)
    }

    fn serve_one(&mut self, role: Role) -> Result<bool, Broken> {
        match role {
            Role::Receive(port) => self.ports.get_mut(port).ok_or(Broken)?.receive(),
            Role::Transmit(port) => {
                let port = self.ports.get_mut(port).ok_or(Broken)?;
                port.transmit(port.when_notified())
            }
            Role::ControlReceive => self.say(),
            Role::ControlTransmit => Ok(self.hear()? | self.say()?),
        }
    }

    fn flush(&mut self) {
        for port in &mut self.ports {
            while !self.interrupt.needs_reset() && port.transmit(Full::Wait) == Ok(true) {}
        }
    }

    /// Hears what the driver says. Each port that it opens is served.
    fn hear(&mut self) -> Result<bool, Broken> {
        let [_, Some(queue)] = &mut self.control else { return Ok(false) };
        let (ports, has_size) = (&mut self.ports, self.has_size);
        let mut more_of_ports = false;
        let more = queue.serve(|memory, chain| {
            let mut head = [0; message::HEAD];
            let size = queue::size_of(&chain.readable);
            if size >= head.len() as u64 {
                let head_only = queue::part(&chain.readable, 0, head.len() as u64);
                queue::read(memory, &head_only, &mut head)?;
                more_of_ports |= act(ports, FromDriver::read(head), has_size)?;
            }
            Ok(Served::Written(0))
        })?;
        Ok(more | more_of_ports)
    }

    /// Says what there is to say, as far as the driver has buffers for it.
    fn say(&mut self) -> Result<bool, Broken> {
        let [Some(queue), _] = &mut self.control else { return Ok(false) };
        if !self.ports.iter().any(Port::has_message) {
            return Ok(false);
        }
        let (ports, size) = (&mut self.ports, *lock(&self.size));
        let mut is_silent = false;
        let more = queue.serve(|memory, chain| {
            let mut all = ports.iter_mut().enumerate();
            let Some(message) = all.find_map(|(number, port)| port.message(number, size)) else {
                is_silent = true;
                return Ok(Served::Later);
            };
            Ok(Served::Written(queue::write(memory, &chain.writable, &message)? as u32))
        })?;
        Ok(more && !is_silent)
    }

    fn tell_size(&mut self) {
        match self.has_multiport {
            true => self.ports.iter_mut().filter(|port| port.is_open).for_each(Port::tell_size),
            false => self.interrupt.configuration(),
        }
    }
}

/// Does what the driver says. A port that there is not is nobody's. Gives whether there may be more to do now.
fn act(ports: &mut [Port], said: Option<FromDriver>, has_size: bool) -> Result<bool, Broken> {
    match said {
        None => {}
        Some(FromDriver::DeviceReady) => ports.iter_mut().for_each(Port::announce),
        Some(FromDriver::PortReady(number)) => {
            ports.get_mut(number).into_iter().for_each(|port| port.introduce(has_size));
        }
        Some(FromDriver::PortOpen(number, open)) => {
            if let Some(port) = ports.get_mut(number) {
                port.is_open = open;
                return port.receive();
            }
        }
    }
    Ok(false)
}

impl Device for Console {
    fn kind(&self) -> Kind {
        Kind { id: 3, class: [0x07, 0x80, 0] }
    }

    fn features(&self) -> u64 {
        feature::MULTIPORT | if self.has_size { feature::SIZE } else { 0 }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.ports.len() * 2 + 2]
    }

    fn config(&self) -> Vec<u8> {
        let size = *lock(&self.size);
        let mut config = [size.cols, size.rows].map(u16::to_le_bytes).concat();
        config.extend((self.ports.len() as u32).to_le_bytes());
        config
    }

    fn activate(&self, active: Active) {
        let interrupt = Arc::clone(&active.interrupt);
        let serving = self.serving(active);
        if self.lane.start("console-ports", serving, |serving| serving.serve(None)).is_err() {
            interrupt.ask_for_reset();
        }
    }

    fn notify(&self, queue: u16) {
        self.lane.serve_here(|serving| serving.serve(Some(Role::of(queue))));
    }

    /// What the driver has sent is taken first, also if that waits for the host: Linux resets its devices when it is switched off.
    fn reset(&self) {
        self.flush();
        self.lane.end();
    }
}

#[cfg(test)]
#[path = "console/console_test.rs"]
mod console_test;
