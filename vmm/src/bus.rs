//! The port bus: finds the device that an access is for.
//!
//! Devices are shared between vCPUs' threads and hold their own locks. A port where nobody
//! answers reads as all ones, and takes what is written.

use std::sync::Arc;

/// A device on the bus. Called on vCPUs' threads.
pub trait Device: Send + Sync {
    /// Reads `data.len()` (1, 2 or 4) bytes at `offset` from the device's first port.
    fn read(&self, offset: u16, data: &mut [u8]);
    /// Writes them.
    fn write(&self, offset: u16, data: &[u8]);
}

/// Two devices want the same port.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("ports {first:#x}–{last:#x} are taken")]
pub struct Taken {
    /// The first port of the refused range.
    pub first: u16,
    /// Its last.
    pub last: u16,
}

struct Range {
    first: u16,
    device: Arc<dyn Device>,
}

/// The devices by port.
pub struct Bus {
    ranges: Vec<Range>,
    /// For each port, which of the ranges has it, counted from 1; 0: it is nobody's.
    by_port: Box<[u8; PORTS]>,
}

/// As many as a number of 16 bits can name.
const PORTS: usize = 1 << 16;

impl Default for Bus {
    fn default() -> Self {
        Self { ranges: Vec::new(), by_port: Box::new([0; PORTS]) }
    }
}

impl Bus {
    /// Puts a device on ports `first..=last`.
    ///
    /// # Errors
    /// When one of them is another's already, or there are 255 devices.
    pub fn insert(&mut self, first: u16, last: u16, device: Arc<dyn Device>) -> Result<(), Taken> {
        let taken = Taken { first, last };
        let number = u8::try_from(self.ranges.len() + 1).map_err(|_| taken)?;
        let ports = self.by_port.get_mut(first.into()..=last.into()).ok_or(taken)?;
        if ports.iter().any(|port| *port != 0) {
            return Err(taken);
        }
        ports.fill(number);
        self.ranges.push(Range { first, device });
        Ok(())
    }

    #[inline]
    fn find(&self, port: u16) -> Option<(&dyn Device, u16)> {
        let at = usize::from(self.by_port[usize::from(port)]);
        let range = self.ranges.get(at.wrapping_sub(1))?;
        Some((&*range.device, port - range.first))
    }

    /// Reads `data.len()` bytes from `port`. Where nobody answers they stay as they are: they should be all ones.
    #[inline]
    pub fn read(&self, port: u16, data: &mut [u8]) {
        if let Some((device, offset)) = self.find(port) {
            device.read(offset, data);
        }
    }

    /// Writes `data` to `port`.
    pub fn write(&self, port: u16, data: &[u8]) {
        if let Some((device, offset)) = self.find(port) {
            device.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u8);

    impl Device for Echo {
        fn read(&self, offset: u16, data: &mut [u8]) {
            data.fill(self.0 + offset as u8);
        }
        fn write(&self, _: u16, _: &[u8]) {}
    }

    fn read(bus: &Bus, port: u16) -> u8 {
        let mut data = [0xff];
        bus.read(port, &mut data);
        data[0]
    }

    #[test]
    fn an_access_finds_its_device_and_offset() {
        let mut bus = Bus::default();
        bus.insert(0x3f8, 0x3ff, Arc::new(Echo(0x10))).unwrap();
        bus.insert(0x70, 0x71, Arc::new(Echo(0x20))).unwrap();
        assert_eq!(read(&bus, 0x3f8), 0x10);
        assert_eq!(read(&bus, 0x3ff), 0x17);
        assert_eq!(read(&bus, 0x71), 0x21);
        assert_eq!([read(&bus, 0x6f), read(&bus, 0x72), read(&bus, 0x400)], [0xff; 3]);
    }

    #[test]
    fn overlapping_ranges_are_refused() {
        let mut bus = Bus::default();
        bus.insert(0x60, 0x64, Arc::new(Echo(0))).unwrap();
        for (first, last) in [(0x60, 0x60), (0x5f, 0x60), (0x64, 0x70), (0x50, 0x80), (0x62, 0x63)]
        {
            let refused = bus.insert(first, last, Arc::new(Echo(0)));
            assert_eq!(refused, Err(Taken { first, last }));
        }
        bus.insert(0x65, 0x65, Arc::new(Echo(0))).unwrap();
    }
}
