//! PCI under a guest that writes anything anywhere: [`run`].
//!
//! The bytes are accesses, of each size and at each place, to the ports and the memory of configuration space and to the memory of two functions,
//! and what these have to interrupt for. After each of them `bus` is asked whether what has to hold does: what is read-only stays as it is; ports and
//! memory show the same; a function answers where its register says, and nowhere else; the hypervisor looks for notifications there; a message
//! is sent as the table has it, and only where none of the masks forbids it; the line is up while there is a reason that the guest has not
//! taken, unless it wants none.
//!
//! See: PCI Local Bus Specification 3.0, 6.1, 6.2, 6.8.2.

mod bus;
mod device;

use self::bus::{Bus, FUNCTIONS, Way};
use crate::input::Input;

/// How many steps an input has at most.
const MOST_STEPS: usize = 200;

/// Makes the steps that the bytes are.
///
/// # Panics
/// When something comes of it that may not.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut bus = Bus::new();
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut bus, &mut input);
        bus.check();
    }
}

fn step(bus: &mut Bus, input: &mut Input<'_>) {
    let function = usize::from(input.u8()) % FUNCTIONS;
    match input.u8() % 11 {
        0 => bus.address(input.bytes(4)),
        1 => bus.read(Way::Port(input.u8() % 4), size(input)),
        2 => {
            let (offset, size) = (input.u8() % 4, size(input));
            bus.write(Way::Port(offset), &value(input, size)[..size]);
        }
        3 => bus.read(Way::Ecam(input.u32()), size(input)),
        4 => {
            let (offset, size) = (input.u32(), size(input));
            bus.write(Way::Ecam(offset), &value(input, size)[..size]);
        }
        // Registers behind which there is something.
        5 | 6 => {
            let (register, size) = (bus.register(function, input.u8()), size(input));
            bus.write(Way::Ecam(register), &value(input, size)[..size]);
        }
        7 => bus.read(Way::Memory(bus.place(function, input.u16())), size(input)),
        8 => {
            let (place, size) = (bus.place(function, input.u16()), size(input));
            bus.write(Way::Memory(place), &value(input, size)[..size]);
        }
        9 => bus.make_ready(function),
        _ => bus.raise(function, input.u8()),
    }
}

fn size(input: &mut Input<'_>) -> usize {
    1 << (input.u8() % 4)
}

/// A value: as many of its bytes are written as there are to be.
fn value(input: &mut Input<'_>, size: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    let taken = input.bytes(size);
    bytes[..taken.len()].copy_from_slice(taken);
    bytes
}
