use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

fn word(memory: &GuestMemoryMmap, address: u64) -> u64 {
    memory.read_obj(GuestAddress(address)).unwrap()
}

#[test]
fn descriptors_are_linuxs_boot_gdt() {
    let memory = memory();
    let start = Start::long(0x100_0000);
    start.write_gdt(&memory).unwrap();
    assert_eq!(start.gdt.limit, 47);
    assert_eq!(word(&memory, layout::GDT), 0);
    assert_eq!(word(&memory, layout::GDT + 8), 0);
    assert_eq!(word(&memory, layout::GDT + 0x10), 0x00af_9b00_0000_ffff);
    assert_eq!(word(&memory, layout::GDT + 0x18), 0x00cf_9300_0000_ffff);
    assert_eq!(word(&memory, layout::GDT + 0x20), 0x0000_8b00_0000_0067);
    assert_eq!(word(&memory, layout::GDT + 0x28), 0);

    Start::protected(0x100_0000).write_gdt(&memory).unwrap();
    assert_eq!(word(&memory, layout::GDT + 0x10), 0x00cf_9b00_0000_ffff);
}

#[test]
fn a_descriptor_keeps_its_base() {
    let segment = Segment { selector: 0, base: 0x1234_5678, limit: 0xf_1234, attributes: 0x93 };
    assert_eq!(segment.descriptor(), 0x120f_9334_5678_1234);
}

#[test]
fn page_tables_map_4_gib_onto_themselves() {
    let memory = memory();
    write_page_tables(&memory).unwrap();
    for address in [0u64, 0x20_0000, 0x100_0000, 0xbfff_ffff, 0xfee0_0020, 0xffff_ffff] {
        let pml4e = word(&memory, layout::PAGE_TABLES + (address >> 39 & 511) * 8);
        let pdpte = word(&memory, (pml4e & !0xfff) + (address >> 30 & 511) * 8);
        let pde = word(&memory, (pdpte & !0xfff) + (address >> 21 & 511) * 8);
        assert_eq!((pml4e & 0xfff, pdpte & 0xfff, pde & 0xfff), (3, 3, 0x83));
        assert_eq!(pde & !0x1f_ffff, address & !0x1f_ffff);
    }
    assert_eq!(word(&memory, layout::PAGE_TABLES + layout::PAGE + 4 * 8), 0);
    assert_eq!(word(&memory, layout::PAGE_TABLES + layout::PAGE_TABLES_SIZE), 0);
}

#[test]
fn modes_agree_with_their_control_registers() {
    let long = Start::long(1);
    assert_eq!((long.cr0, long.cr4, long.efer), (0x8000_0011, 0x20, 0x500));
    assert_eq!((long.rsi, long.rbx, long.cr3), (layout::BOOT_PARAMS, 0, layout::PAGE_TABLES));
    let protected = Start::protected(1);
    assert_eq!((protected.cr0, protected.cr4, protected.efer, protected.cr3), (0x11, 0, 0, 0));
    assert_eq!((protected.rsi, protected.rbx), (0, layout::PVH_START_INFO));
}
