use vm_memory::GuestMemoryMmap;

use super::*;

fn platform() -> Platform {
    Platform {
        apic_ids: vec![0, 1],
        local_apic: layout::LOCAL_APIC,
        io_apic: IoApic { id: 2, address: layout::IO_APIC },
        power: Power {
            sci: 9,
            pm1a_event: 0x600,
            pm1a_control: 0x604,
            timer: Some(0x608),
            s5_sleep_type: 5,
            power_button: true,
        },
        reset: Reset { port: 0xcf9, value: 0x0e },
        uarts: [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)]
            .map(|(port, irq)| Uart { port, irq })
            .to_vec(),
        rtc: Some(Rtc { port: 0x70, irq: 8 }),
        i8042: false,
        pvpanic: Some(0x505),
        fw_cfg: Some(0x510),
        pci: Some(Pci {
            ecam: 0xe000_0000,
            memory: 0xc000_0000..0xe000_0000,
            lines: (16..24).collect(),
        }),
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at `address`, with its checksum looked at.
fn table(tables: &Tables, address: u64, signature: &[u8; 4]) -> Vec<u8> {
    let start = (address - tables.address) as usize;
    let bytes = &tables.bytes[start..];
    let bytes = &bytes[..u32_at(bytes, 4) as usize];
    assert_eq!(&bytes[..4], signature);
    if signature != b"FACS" {
        assert_eq!(sum(bytes), 0, "{signature:?}");
    }
    bytes.to_vec()
}

/// Follows the pointers as a guest does: RSDP, XSDT, FADT and MADT.
fn fadt_and_madt(tables: &Tables) -> (Vec<u8>, Vec<u8>) {
    assert_eq!(&tables.bytes[..8], b"RSD PTR ");
    assert_eq!((sum(&tables.bytes[..20]), sum(&tables.bytes[..36])), (0, 0));
    let xsdt = table(tables, u64_at(&tables.bytes, 24), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 3 * 8);
    (table(tables, u64_at(&xsdt, 36), b"FACP"), table(tables, u64_at(&xsdt, 44), b"APIC"))
}

/// The MADT's structures: type and what follows the length.
fn structures(madt: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &madt[44..];
    let mut found = Vec::new();
    while let [kind, length, ..] = *rest {
        let (structure, after) = rest.split_at(usize::from(length));
        found.push((kind, structure[2..].to_vec()));
        rest = after;
    }
    found
}

#[test]
fn fixed_hardware_is_where_the_platform_says() {
    let tables = tables(&platform(), layout::ACPI).unwrap();
    let (fadt, _) = fadt_and_madt(&tables);
    assert_eq!(fadt.len(), 276);
    assert_eq!(u16_at(&fadt, 46), 9); // SCI_INT
    assert_eq!((u32_at(&fadt, 48), fadt[52], fadt[53]), (0, 0, 0)); // no SMI
    assert_eq!((u32_at(&fadt, 56), fadt[88]), (0x600, 4)); // PM1a event
    assert_eq!((u32_at(&fadt, 64), fadt[89]), (0x604, 2)); // PM1a control
    assert_eq!((u32_at(&fadt, 76), fadt[91]), (0x608, 4)); // PM timer
    assert_eq!(u16_at(&fadt, 109), 0b101); // ISA devices; no 8042, no VGA
    let flags = u32_at(&fadt, 112);
    assert_eq!(flags & 1 << 4, 0); // fixed power button
    assert_ne!(flags & 1 << 8, 0); // 32-bit timer
    assert_ne!(flags & 1 << 10, 0); // reset register
    assert_eq!(flags & 1 << 20, 0); // not hardware-reduced
    assert_eq!(fadt[116..120], [1, 8, 0, 1]); // reset: an I/O port, a byte
    assert_eq!((u64_at(&fadt, 120), fadt[128]), (0xcf9, 0x0e));
    assert_eq!(u64_at(&fadt, 148 + 4), 0x600);
    assert_eq!(u64_at(&fadt, 172 + 4), 0x604);
    let facs = table(&tables, u64::from(u32_at(&fadt, 36)), b"FACS");
    assert_eq!(facs.len(), 64);
    assert_eq!(u64_at(&fadt, 140), u64::from(u32_at(&fadt, 40)));
}

#[test]
fn absent_things_are_declared_absent() {
    let mut platform = platform();
    platform.rtc = None;
    platform.i8042 = true;
    platform.power.timer = None;
    platform.power.power_button = false;
    let tables = tables(&platform, layout::ACPI).unwrap();
    let (fadt, _) = fadt_and_madt(&tables);
    assert_eq!(u16_at(&fadt, 109), 0b10_0111);
    assert_eq!((u32_at(&fadt, 76), fadt[91]), (0, 0));
    assert_ne!(u32_at(&fadt, 112) & 1 << 4, 0);
}

#[test]
fn processors_and_interrupts_are_described() {
    let tables = tables(&platform(), layout::ACPI).unwrap();
    let (_, madt) = fadt_and_madt(&tables);
    assert_eq!((u32_at(&madt, 36), u32_at(&madt, 40)), (0xfee0_0000, 1));
    assert_eq!(
        structures(&madt),
        [
            (0, vec![0, 0, 1, 0, 0, 0]),
            (0, vec![1, 1, 1, 0, 0, 0]),
            (1, vec![2, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]),
            (2, vec![0, 0, 2, 0, 0, 0, 0, 0]),
            (2, vec![0, 9, 9, 0, 0, 0, 0x0d, 0]),
            (4, vec![0xff, 0, 0, 1]),
        ]
    );
}

#[test]
fn big_apic_ids_are_x2apic() {
    let mut platform = platform();
    platform.apic_ids = vec![254, 255, 0x1_0002];
    let tables = tables(&platform, layout::ACPI).unwrap();
    let structures = structures(&fadt_and_madt(&tables).1);
    assert_eq!(structures[0], (0, vec![0, 254, 1, 0, 0, 0]));
    assert_eq!(structures[1], (9, vec![0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]));
    assert_eq!(structures[2], (9, vec![0, 0, 2, 0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0]));
    assert_eq!(structures[7], (10, vec![0, 0, 255, 255, 255, 255, 1, 0, 0, 0]));
}

#[test]
fn the_dsdt_has_the_devices_and_s5() {
    let contains = |dsdt: &[u8], bytes: &[u8]| dsdt.windows(bytes.len()).any(|w| w == bytes);
    let mut platform = platform();
    let dsdt = dsdt::dsdt(&platform);
    assert_eq!(sum(&dsdt), 0);
    assert_eq!(u32_at(&dsdt, 4) as usize, dsdt.len());
    assert!(contains(&dsdt, b"\x08_S5_\x12\x07\x04\x0a\x05\x00\x00\x00"));
    for name in [&b"COM1"[..], b"COM4", b"RTC_", b"PCI0", b"_PRT"] {
        assert!(contains(&dsdt, name), "{name:?}");
    }
    // COM1: I/O 0x3f8, 8 ports; interrupt 4, shared with COM3, edge, high.
    assert!(contains(&dsdt, &[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x89, 6, 0, 0b1011, 1, 4, 0, 0, 0]));
    // The id is a string, and it is there, works and is shown.
    assert!(contains(&dsdt, b"\x08_HID\x0dQEMU0001\0"));
    assert!(contains(&dsdt, &[0x47, 1, 5, 5, 5, 5, 1, 1]));
    assert!(contains(&dsdt, b"QEMU0002") && contains(&dsdt, &[0x47, 1, 0x10, 5, 0x10, 5, 1, 12]));
    assert!(!contains(&dsdt, b"KBD_"));
    platform.i8042 = true;
    assert!(contains(&dsdt::dsdt(&platform), b"KBD_"));
}

#[test]
fn pci_is_told_where_its_registers_memory_and_lines_are() {
    let contains = |dsdt: &[u8], bytes: &[u8]| dsdt.windows(bytes.len()).any(|w| w == bytes);
    let mut platform = platform();
    let made = tables(&platform, layout::ACPI).unwrap();
    let xsdt = table(&made, u64_at(&made.bytes, 24), b"XSDT");
    let mcfg = table(&made, u64_at(&xsdt, 52), b"MCFG");
    assert_eq!((mcfg.len(), u64_at(&mcfg, 44), u64_at(&mcfg, 52)), (60, 0xe000_0000, 0));

    let dsdt = dsdt::dsdt(&platform);
    // Memory from 0xc000_0000 to 0xdfff_ffff, of 0x2000_0000 bytes; I/O 0xcf8, 8 ports; 1 MiB at 0xe000_0000.
    let memory = [0, 0, 0, 0xc0, 0xff, 0xff, 0xff, 0xdf, 0, 0, 0, 0, 0, 0, 0, 0x20];
    assert!(contains(&dsdt, &memory));
    assert!(contains(&dsdt, &[0x47, 1, 0xf8, 0xc, 0xf8, 0xc, 1, 8]));
    assert!(contains(&dsdt, &[0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0, 0x10, 0]));
    // INTA of device 3, all functions: GSI 19, by no link.
    assert!(contains(&dsdt, &[0x12, 11, 4, 0xc, 0xff, 0xff, 3, 0, 0, 0, 0xa, 19]));

    platform.pci = None;
    let without = dsdt::dsdt(&platform);
    assert!(!contains(&without, b"PCI0") && !contains(&without, b"_PRT"));
    let made = tables(&platform, layout::ACPI).unwrap();
    assert_eq!(table(&made, u64_at(&made.bytes, 24), b"XSDT").len(), 36 + 2 * 8);
}

#[test]
fn tables_go_to_guest_memory() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let rsdp = place(&memory, &platform()).unwrap();
    assert_eq!(rsdp, layout::ACPI);
    let mut signature = [0; 8];
    memory.read_slice(&mut signature, GuestAddress(rsdp)).unwrap();
    assert_eq!(&signature, b"RSD PTR ");

    let many = Platform { apic_ids: (0..1 << 14).collect(), ..platform() };
    assert!(matches!(place(&memory, &many), Err(Error::TooBig { .. })));
    let none = Platform { apic_ids: Vec::new(), ..platform() };
    assert!(matches!(place(&memory, &none), Err(Error::NoCpus)));
    let ports = Platform { uarts: vec![Uart { port: 0, irq: 0 }; 10], ..platform() };
    assert!(matches!(place(&memory, &ports), Err(Error::TooMany { count: 10, .. })));
}
