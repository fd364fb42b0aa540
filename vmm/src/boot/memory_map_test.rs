use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn ram_of(map: &[Entry]) -> Vec<(u64, u64)> {
    map.iter().filter(|e| e.kind == Kind::Ram).map(|e| (e.address, e.address + e.size)).collect()
}

#[test]
fn little_memory_is_one_piece_above_1_mib() {
    assert_eq!(ram_of(&memory_map(256 * MIB)), [(0, 0x9_fc00), (MIB, 256 * MIB)]);
    assert_eq!(ram_of(&memory_map(3 * GIB)), [(0, 0x9_fc00), (MIB, 3 * GIB)]);
}

#[test]
fn much_memory_goes_on_above_4_gib() {
    assert_eq!(ram_of(&memory_map(8 * GIB)), [(0, 0x9_fc00), (MIB, 3 * GIB), (4 * GIB, 9 * GIB)]);
}

#[test]
fn the_map_is_ascending_and_within_the_regions() {
    for ram in [2 * MIB, 64 * MIB, 3 * GIB - 4096, 3 * GIB + 4096, 100 * GIB] {
        let map = memory_map(ram);
        assert!(map.windows(2).all(|w| w[0].address + w[0].size <= w[1].address));
        let regions = layout::ram_regions(ram);
        assert_eq!(regions.iter().map(|(_, size)| *size as u64).sum::<u64>(), ram);
        // What is above all of PCI's is for devices.
        let is_memory = |entry: &&Entry| entry.address != u64::from(layout::PCI_CONFIGURATION);
        for entry in map.iter().filter(is_memory) {
            assert!(regions.iter().any(|(start, size)| {
                start.0 <= entry.address && entry.address + entry.size <= start.0 + *size as u64
            }));
        }
    }
}
