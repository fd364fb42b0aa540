//! A 16550 UART on the port bus, around `vm-superio`'s registers.
//!
//! Bytes from the guest go to the output of its [`Ends`], and wait there for room; bytes for it wait in the input until there is room in
//! the UART's FIFO and the guest asserts RTS: its flow control, which keeps its own buffers from overflowing.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Registers, Trigger};

use super::Line;
use super::stream::{Ends, Queue};
use crate::bus::Device;

/// Ports of one UART.
pub const PORTS: u16 = 8;

const DATA: u16 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const INTERRUPT_IDENTIFICATION: u16 = 2;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u16 = 4;
/// Received data available, in the interrupt enable register.
const RECEIVER_INTERRUPT: u8 = 1 << 0;
/// In the line control register: the first two registers are the divisor's.
const DIVISOR_LATCH: u8 = 1 << 7;
/// How many bytes `vm-superio`'s FIFO holds.
const FIFO_SIZE: usize = 64;
/// Request to send, in the modem control register.
const RTS: u8 = 1 << 1;

/// The interrupt line. As on an ISA card, an interrupt is an edge.
struct Edge(Line);

impl Trigger for Edge {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        (self.0)(true);
        (self.0)(false);
        Ok(())
    }
}

struct Output(Arc<Queue>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct State {
    registers: Registers<Edge, NoEvents, Output>,
    ready_to_receive: bool,
}

/// A UART.
pub struct Serial {
    state: Mutex<State>,
    input: Arc<Queue>,
}

impl Serial {
    /// A UART that interrupts through `line`.
    pub fn new(line: Line, ends: Ends) -> Self {
        let registers = Registers::new(Edge(line), Output(ends.output));
        Self { state: Mutex::new(State { registers, ready_to_receive: false }), input: ends.input }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes may be waiting in the input queue.
    pub fn receive(&self) {
        self.fill(&mut self.lock());
    }

    /// Asserts the receiver's interrupt again if there is still something to receive.
    ///
    /// `vm-superio` takes it back with every byte that is read, where a UART holds it until its
    /// FIFO is empty; and a driver that reads a batch at a time asks by the identification
    /// register whether it may go. Writing the enable register back sets what is pending.
    fn hold_interrupt(state: &mut State) {
        let registers = &mut state.registers;
        let divisor_latch = registers.read(LINE_CONTROL) & DIVISOR_LATCH != 0;
        if registers.fifo_capacity() < FIFO_SIZE && !divisor_latch {
            let enabled = registers.read(INTERRUPT_ENABLE);
            if enabled & RECEIVER_INTERRUPT != 0 {
                // The edge can't fail.
                let _ = registers.write(INTERRUPT_ENABLE, enabled);
            }
        }
    }

    fn fill(&self, state: &mut State) {
        let room = state.registers.fifo_capacity();
        if !state.ready_to_receive || room == 0 {
            return;
        }
        let bytes = self.input.take(room);
        // There is room, and the edge can't fail; in loopback mode the line is disconnected.
        let _ = state.registers.enqueue_raw_bytes(&bytes);
    }
}

impl Device for Serial {
    fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(first) = data.first_mut() else { return };
        let mut state = self.lock();
        if offset == INTERRUPT_IDENTIFICATION {
            Self::hold_interrupt(&mut state);
        }
        *first = state.registers.read(offset as u8);
        if offset == DATA {
            self.fill(&mut state);
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let [value, ..] = *data else { return };
        let mut state = self.lock();
        // Neither the output nor the edge can fail.
        let _ = state.registers.write(offset as u8, value);
        if offset == MODEM_CONTROL {
            state.ready_to_receive = value & RTS != 0;
            self.fill(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Fixture {
        serial: Serial,
        input: Arc<Queue>,
        output: Arc<Queue>,
        edges: Arc<AtomicUsize>,
    }

    fn fixture() -> Fixture {
        let edges = Arc::new(AtomicUsize::new(0));
        let ends = Ends::default();
        let (input, output) = (Arc::clone(&ends.input), Arc::clone(&ends.output));
        let line: Line = {
            let edges = Arc::clone(&edges);
            Arc::new(move |level| {
                edges.fetch_add(usize::from(level), Ordering::Relaxed);
            })
        };
        Fixture { serial: Serial::new(line, ends), input, output, edges }
    }

    fn read(serial: &Serial, offset: u16) -> u8 {
        let mut data = [0];
        serial.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn the_guests_bytes_come_out_in_order() {
        let f = fixture();
        for byte in 0..=255 {
            f.serial.write(0, &[byte]);
        }
        assert_eq!(f.output.take(usize::MAX), (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn input_waits_for_the_guests_rts_and_then_arrives_whole() {
        let f = fixture();
        f.serial.write(1, &[1]);
        let sent: Vec<u8> = (0..200).collect();
        f.input.push(&sent);
        f.serial.receive();
        assert_eq!(f.edges.load(Ordering::Relaxed), 0);
        f.serial.write(MODEM_CONTROL, &[RTS | 1 << 3]);
        assert_eq!(f.edges.load(Ordering::Relaxed), 1);
        let mut received = Vec::new();
        while read(&f.serial, 5) & 1 != 0 {
            received.push(read(&f.serial, 0));
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn the_receivers_interrupt_holds_until_everything_is_read() {
        let f = fixture();
        f.serial.write(MODEM_CONTROL, &[RTS | 1 << 3]);
        f.serial.write(1, &[RECEIVER_INTERRUPT]);
        f.input.push(b"abc");
        f.serial.receive();
        let mut received = Vec::new();
        // A driver that reads one byte for each time that it is told of some.
        while read(&f.serial, INTERRUPT_IDENTIFICATION) & 1 == 0 {
            received.push(read(&f.serial, DATA));
        }
        assert_eq!(received, b"abc");
    }

    #[test]
    fn without_rts_what_is_left_stays_in_the_queue() {
        let f = fixture();
        f.input.push(&[7; 200]);
        f.serial.write(MODEM_CONTROL, &[RTS]);
        f.serial.write(MODEM_CONTROL, &[0]);
        let mut received = 0;
        while read(&f.serial, 5) & 1 != 0 {
            read(&f.serial, 0);
            received += 1;
        }
        assert_eq!(received + f.input.take(1000).len(), 200);
        assert!(received <= 64);
    }
}
