//! What console and driver say to each other on the control queues.
//!
//! See: VIRTIO 1.2, 5.3.6.2.

use guest_protocol::WindowSize;

/// Bytes of a message's head: a port's number, what it is about, and a value.
pub const HEAD: usize = 8;

/// What messages are about.
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const RESIZE: u16 = 5;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// What the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromDriver {
    /// It is ready to hear of ports.
    DeviceReady,
    /// It knows of this port.
    PortReady(usize),
    /// Somebody in the guest has opened this port, or closed it.
    PortOpen(usize, bool),
}

impl FromDriver {
    /// Reads a message; none if it says nothing that a console does something for.
    #[must_use]
    pub fn read(head: [u8; HEAD]) -> Option<Self> {
        let [p0, p1, p2, p3, e0, e1, v0, v1] = head;
        let port = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
        let value = u16::from_le_bytes([v0, v1]);
        match (u16::from_le_bytes([e0, e1]), value) {
            (event::DEVICE_READY, 1) => Some(Self::DeviceReady),
            (event::PORT_READY, 1) => Some(Self::PortReady(port)),
            (event::PORT_OPEN, _) => Some(Self::PortOpen(port, value != 0)),
            // Something has failed in the driver, or is not a driver's to say.
            _ => None,
        }
    }
}

/// What there is to be said to the driver of one port, in the order in which it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// There is such a port.
    Add,
    /// It is a console: the guest has a terminal of it.
    Console,
    /// The host's end is open. Before the name, by which the guest's programs find the port: they are not to find it closed.
    Open,
    /// Its name.
    Name,
    /// The size of the console's window.
    Size,
}

impl Topic {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Add, Self::Console, Self::Open, Self::Name, Self::Size];
}

/// Topics that are still to be said: there is never more to say than one message of each, however often the driver asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topics(u8);

impl Topics {
    /// This is to be said.
    pub fn add(&mut self, topic: Topic) {
        self.0 |= 1 << topic as u8;
    }

    /// What is said next.
    pub fn take(&mut self) -> Option<Topic> {
        let next = Topic::ALL.into_iter().find(|topic| self.0 & 1 << *topic as u8 != 0)?;
        self.0 &= !(1 << next as u8);
        Some(next)
    }

    /// Whether there is nothing to be said.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A message to the driver.
#[must_use]
pub fn write(topic: Topic, port: usize, name: &str, size: WindowSize) -> Vec<u8> {
    let (event, value) = match topic {
        Topic::Add => (event::PORT_ADD, 1),
        Topic::Console => (event::CONSOLE_PORT, 1),
        Topic::Open => (event::PORT_OPEN, 1),
        Topic::Name => (event::PORT_NAME, 1),
        Topic::Size => (event::RESIZE, 0),
    };
    let mut message = (port as u32).to_le_bytes().to_vec();
    message.extend(event.to_le_bytes());
    message.extend(u16::to_le_bytes(value));
    match topic {
        Topic::Name => message.extend(name.as_bytes()),
        // Linux before 6.15 reads them in the other order, but for stable releases that have been corrected, as Debian's.
        Topic::Size => message.extend([size.cols, size.rows].map(u16::to_le_bytes).concat()),
        _ => {}
    }
    message
}
