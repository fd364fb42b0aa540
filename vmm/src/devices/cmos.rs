//! The real-time clock and its memory: an MC146818's registers as far as a kernel reads
//! the time from them.
//!
//! See: MC146818A data sheet. Not implemented: alarms, periodic and update interrupts, setting
//! the clock (writes to the time are ignored).

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

use crate::bus::Device;

/// Where the index goes.
pub const FIRST_PORT: u16 = 0x70;
/// Where the data is.
pub const LAST_PORT: u16 = 0x71;

/// Seconds since 1970, UTC: handed in, so that tests have their own.
pub type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// The host's clock.
pub fn host_clock() -> Clock {
    Box::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Register B: 24 hours. Numbers are BCD, as in every PC: Linux takes them so whatever the
/// register says.
const CONTROL_B: u8 = 1 << 1;
/// Register D: the battery is fine.
const VALID: u8 = 1 << 7;
/// Where a PC keeps the century.
const CENTURY: u8 = 0x32;

struct State {
    index: u8,
    memory: [u8; 128],
}

/// The clock.
pub struct Cmos {
    clock: Clock,
    state: Mutex<State>,
}

impl Cmos {
    /// A clock that shows `clock`'s time.
    pub fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::new(State { index: 0, memory: [0; 128] }) }
    }

    fn register(&self, index: u8, memory: &[u8; 128]) -> u8 {
        let seconds = i64::try_from((self.clock)()).unwrap_or(0);
        let now =
            OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let year = now.year();
        let number = match index {
            0 => now.second(),
            2 => now.minute(),
            4 => now.hour(),
            6 => now.weekday().number_from_sunday(),
            7 => now.day(),
            8 => u8::from(now.month()),
            9 => year.rem_euclid(100) as u8,
            CENTURY => (year / 100) as u8,
            _ => return Self::other(index, memory),
        };
        (number / 10) << 4 | (number % 10)
    }

    /// Registers that do not show the time.
    fn other(index: u8, memory: &[u8; 128]) -> u8 {
        match index {
            0xb => CONTROL_B,
            0xd => VALID,
            _ => memory.get(usize::from(index)).copied().unwrap_or(0xff),
        }
    }
}

impl Device for Cmos {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        data.fill(0xff);
        if let (1, Some(first)) = (offset, data.first_mut()) {
            *first = self.register(state.index, &state.memory);
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (offset, data) {
            // Bit 7 masks NMIs on a PC: there are none to mask here.
            (0, [index, ..]) => state.index = index & 0x7f,
            (1, [value, ..]) => {
                let index = usize::from(state.index);
                state.memory[index] = *value;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cmos: &Cmos, index: u8) -> u8 {
        cmos.write(0, &[index]);
        let mut data = [0];
        cmos.read(1, &mut data);
        data[0]
    }

    #[test]
    fn the_registers_show_the_time_in_bcd() {
        // 2024-02-29 23:59:58 UTC, a Thursday.
        let cmos = Cmos::new(Box::new(|| 1_709_251_198));
        let shown: Vec<u8> =
            [0, 2, 4, 6, 7, 8, 9, CENTURY].iter().map(|index| read(&cmos, *index)).collect();
        assert_eq!(shown, [0x58, 0x59, 0x23, 5, 0x29, 2, 0x24, 0x20]);
        assert_eq!(read(&cmos, 0xb) & 0b110, 0b010);
    }

    #[test]
    fn the_memory_keeps_what_is_written_and_the_time_does_not_change() {
        let cmos = Cmos::new(Box::new(|| 0));
        cmos.write(0, &[0x8f]);
        cmos.write(1, &[0x5a]);
        assert_eq!(read(&cmos, 0x0f), 0x5a);
        cmos.write(0, &[9]);
        cmos.write(1, &[99]);
        assert_eq!(read(&cmos, 9), 0x70);
    }
}
