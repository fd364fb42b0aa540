//! Ranges: where they end, and where what they map does.

use arch_x86::engine::Engine;
use virt::memory::Slot;

use crate::Options;
use crate::test_kernel::{
    Fault, Guest, HUGE, IMAGE, KERNEL, Outside, REGIONS, RESULT, SIZE, Value, number,
};
use crate::test_machine::{RAM, at};
use crate::test_ways::in_every_way;
use crate::vector::Extension;

in_every_way! {
    holes_fault_and_what_is_around_them_does_not,
    accesses_of_all_sizes_are_whole,
    accesses_across_the_end_of_a_slot_come_out,
    slots_that_are_neighbours_lie_where_they_lie,
    a_slot_that_is_removed_is_gone,
}

fn holes_fault_and_what_is_around_them_does_not(options: Options) {
    let mut guest = Guest::new(options);
    guest.map(4, 0);
    guest.map(11, 0);
    for region in REGIONS {
        for page in [3, 4, 5, 10, 11, 12, 5, 3, 12, 4] {
            let address = region + page * SIZE + 0x88;
            let is_hole = page == 4 || page == 11;
            let value = Value(number(page * SIZE + 0x88));
            assert_eq!(guest.read(address), if is_hole { Fault(address, 0) } else { value });
        }
    }
}

/// All sizes around the end of a page, a large page, and the range.
fn accesses_of_all_sizes_are_whole(options: Options) {
    let sizes = if Extension::Avx.host_has() { 0..6 } else { 0..5 };
    for region in REGIONS {
        let mut guest = Guest::new(options);
        guest.map(11, 0);
        guest.read_once(3, region + SIZE);
        for edge in [2 * SIZE + 0x1000, 3 * SIZE, 11 * SIZE] {
            for (size, below) in sizes.clone().flat_map(|size| (0..=72).map(move |n| (size, n))) {
                let bytes = 1 << size;
                let place = edge - below;
                let found = guest.read_once(size, region + place);
                if edge == 11 * SIZE && below < bytes {
                    assert_eq!(found, Fault(region + edge, 0), "{bytes} {below}");
                    continue;
                }
                for n in 0..bytes.div_ceil(8) {
                    let left = (bytes - n * 8).min(8);
                    let mask = u64::MAX >> (64 - left * 8);
                    let value = guest.machine.read_u64(place + n * 8) & mask;
                    let read = guest.machine.read_u64(RESULT + n * 8) & mask;
                    assert_eq!(read, value, "{bytes} {below}");
                }
            }
        }
    }
}

/// Pages of 1 GiB, and RAM has much less.
fn accesses_across_the_end_of_a_slot_come_out(options: Options) {
    let mut guest = Guest::new(options);
    guest.machine.write_u64(at::PDPT + 511 * 8, KERNEL);
    for region in [HUGE, IMAGE + (1 << 30)] {
        guest.read_all(region);
        for (below, expected) in [
            (8, Value(number(RAM - 8))),
            (7, Outside(RAM)),
            (1, Outside(RAM)),
            (0, Outside(RAM)),
            (16, Value(number(RAM - 16))),
        ] {
            assert_eq!(guest.read(region + RAM - below), expected);
        }
        assert_eq!(guest.read(region + RAM + 0x1238), Outside(RAM + 0x1238));
    }
}

/// A second slot, which lies elsewhere in RAM.
fn slot(guest: &Guest, id: u32, gpa: u64, at: u64) -> Slot {
    Slot { id, gpa, size: SIZE / 2, hva: guest.machine.hva() + at, ..Slot::default() }
}

/// One page has two slots: their halves are neighbours on the host, or not.
fn slots_that_are_neighbours_lie_where_they_lie(options: Options) {
    let gpa = 0xf000_0000;
    for second in [8 * SIZE + SIZE / 2, 12 * SIZE] {
        for region in REGIONS {
            let mut guest = Guest::new(options);
            let middle = gpa + SIZE / 2;
            let slots = [slot(&guest, 1, gpa, 8 * SIZE), slot(&guest, 2, middle, second)];
            for slot in slots {
                guest.machine.memory.insert(slot).expect("no overlap");
            }
            guest.map(5, gpa | KERNEL);
            guest.machine.engine.invalidate(gpa, SIZE);
            let address = region + 5 * SIZE;
            let middle = address + SIZE / 2;
            for _ in 0..2 {
                assert_eq!(guest.read(address), Value(number(8 * SIZE)));
                assert_eq!(guest.read(middle), Value(number(second)));
                let straddling = number(8 * SIZE + SIZE / 2 - 8) >> 32 | number(second) << 32;
                assert_eq!(guest.read(middle - 4), Value(straddling));
                assert_eq!(guest.read(address - SIZE), Value(number(4 * SIZE)));
                assert_eq!(guest.read(address + SIZE), Value(number(6 * SIZE)));
            }
        }
    }
}

fn a_slot_that_is_removed_is_gone(options: Options) {
    let gpa = 0xf000_0000;
    for region in REGIONS {
        let mut guest = Guest::new(options);
        guest.machine.memory.insert(slot(&guest, 1, gpa, 8 * SIZE)).expect("no overlap");
        guest.machine.engine.invalidate(gpa, SIZE);
        guest.map(5, gpa | KERNEL);
        let address = region + 5 * SIZE;
        assert_eq!(guest.read(address + 8), Value(number(8 * SIZE + 8)));
        assert_eq!(guest.read(address + SIZE / 2), Outside(gpa + SIZE / 2));
        guest.machine.memory.remove(1).expect("it is there");
        guest.machine.engine.invalidate(gpa, SIZE);
        assert_eq!(guest.read(address + 8), Outside(gpa + 8));
        assert_eq!(guest.read(region + SIZE), Value(number(SIZE)));
        guest.machine.memory.insert(slot(&guest, 1, gpa, 12 * SIZE)).expect("no overlap");
        guest.machine.engine.invalidate(gpa, SIZE);
        assert_eq!(guest.read(address + 8), Value(number(12 * SIZE + 8)));
    }
}
