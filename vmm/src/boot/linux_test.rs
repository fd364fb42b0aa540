use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::GuestMemoryMmap;

use super::super::fixture;
use super::super::start::Mode;
use super::super::unpack::Compression;
use super::*;

const RAM: u64 = 64 << 20;

fn bzimage() -> Kernel {
    let file = fixture::bzimage(&fixture::lz4_with_size(&fixture::vmlinux()));
    Kernel::from_bytes(file, RAM).unwrap()
}

fn boot(line: &CommandLine) -> Boot<'_> {
    Boot {
        ram: RAM,
        protocol: Protocol::Linux64,
        command_line: line,
        rsdp: Some(0xe_0000),
        rng_seed: Some([0xa5; 32]),
    }
}

fn line(words: &str) -> CommandLine {
    let mut line = CommandLine::default();
    line.append(words).unwrap();
    line
}

fn text(memory: &GuestMemoryMmap, address: u64) -> String {
    let bytes = (address..).map(|a| memory.read_obj::<u8>(GuestAddress(a)).unwrap());
    bytes.take_while(|byte| *byte != 0).map(char::from).collect()
}

#[test]
fn boot_params_say_where_everything_is() {
    let (memory, line) = (fixture::memory(RAM), line("console=ttyS0 quiet"));
    let archives = vec![Input::bytes(&b"archive"[..]), Input::bytes(&b"more"[..])];
    let placed = place(&memory, bzimage(), archives, &boot(&line)).unwrap();
    assert_eq!(placed.start, Start::long(0x100_1000));
    assert_eq!(placed.kernel, 0x100_0000..0x100_5000);
    assert_eq!(placed.initrd, Some(RAM - 0x1000..RAM - 0x1000 + 12));

    let params: boot_params = memory.read_obj(GuestAddress(placed.start.rsi)).unwrap();
    let hdr = params.hdr;
    assert_eq!(({ hdr.header }, { hdr.boot_flag }), (HEADER_MAGIC, BOOT_FLAG));
    assert_eq!(({ hdr.version }, { hdr.type_of_loader }), (0x20f, 0xff));
    assert_eq!({ hdr.loadflags }, LOADED_HIGH);
    assert_eq!(({ hdr.ramdisk_image }, { hdr.ramdisk_size }), ((RAM - 0x1000) as u32, 12));
    assert_eq!(text(&memory, u64::from(hdr.cmd_line_ptr)), "console=ttyS0 quiet");
    assert_eq!({ params.acpi_rsdp_addr }, 0xe_0000);
    assert_eq!({ params.sentinel }, 0);

    let count = usize::from(params.e820_entries);
    let e820 = { params.e820_table }[..count].to_vec();
    let last = e820.iter().rfind(|entry| { entry.r#type } == 1).unwrap();
    assert_eq!(({ last.addr }, { last.size }, { last.r#type }), (1 << 20, RAM - (1 << 20), 1));

    let mut node = [0u8; 48];
    memory.read_slice(&mut node, GuestAddress(hdr.setup_data)).unwrap();
    assert_eq!(node[..16], [0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0]);
    assert_eq!(node[16..], [0xa5; 32]);
    let gdt: u64 = memory.read_obj(GuestAddress(placed.start.gdt.base + 0x10)).unwrap();
    assert_eq!(gdt, placed.start.code.descriptor());
    let pml4: u64 = memory.read_obj(GuestAddress(placed.start.cr3)).unwrap();
    assert_ne!(pml4, 0);
}

#[test]
fn a_vmlinux_gets_a_header() {
    let kernel = Kernel::from_bytes(fixture::vmlinux(), RAM).unwrap();
    let (memory, line) = (fixture::memory(RAM), CommandLine::default());
    let boot = Boot { rng_seed: None, rsdp: None, ..boot(&line) };
    assert_eq!(place(&memory, kernel, Vec::new(), &boot).unwrap().initrd, None);
    let params: boot_params = memory.read_obj(GuestAddress(layout::BOOT_PARAMS)).unwrap();
    assert_eq!(({ params.hdr.header }, { params.hdr.version }), (HEADER_MAGIC, 0x20c));
    assert_eq!(({ params.hdr.ramdisk_size }, { params.hdr.setup_data }), (0, 0));
    assert_eq!({ params.acpi_rsdp_addr }, 0);
}

#[test]
fn pvh_finds_its_start_info() {
    let (memory, line) = (fixture::memory(RAM), line("panic=-1"));
    let boot = Boot { protocol: Protocol::Pvh, ..boot(&line) };
    let placed = place(&memory, bzimage(), vec![Input::bytes(&b"archive"[..])], &boot).unwrap();
    assert_eq!((placed.start.mode, placed.start.rip), (Mode::Protected, 0x100_0850));

    let info: hvm_start_info = memory.read_obj(GuestAddress(placed.start.rbx)).unwrap();
    assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 1));
    assert_eq!(info.rsdp_paddr, 0xe_0000);
    assert_eq!(text(&memory, info.cmdline_paddr), "panic=-1");
    let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    assert_eq!((module.paddr, module.size), (RAM - 0x1000, 7));
    let map = memory_map(RAM);
    assert_eq!(info.memmap_entries as usize, map.len());
    for (index, expected) in map.iter().enumerate() {
        let address = info.memmap_paddr + 24 * index as u64;
        let entry: hvm_memmap_table_entry = memory.read_obj(GuestAddress(address)).unwrap();
        assert_eq!(
            (entry.addr, entry.size, entry.type_),
            (expected.address, expected.size, expected.kind as u32)
        );
    }
}

#[test]
fn what_does_not_go_is_refused() {
    let (memory, line) = (fixture::memory(RAM), line("quiet"));
    let place = |boot: &Boot<'_>| place(&memory, bzimage(), Vec::new(), boot);
    let result =
        super::place(&memory, bzimage(), vec![Input::bytes(vec![0; RAM as usize])], &boot(&line));
    assert!(matches!(result, Err(Error::Initrd(initrd::Error::TooBig { .. }))));

    let result = place(&Boot { ram: 1 << 20, ..boot(&line) });
    assert!(matches!(result, Err(Error::NoMemory(0x10_0000))));
    let result = place(&Boot { ram: 16 << 20, ..boot(&line) });
    assert!(matches!(result, Err(Error::Kernel(kernel::Error::NoRoom { .. }))));

    let mut long = CommandLine::new(4000);
    long.append(&"x".repeat(2048)).unwrap();
    assert!(matches!(place(&boot(&long)), Err(Error::CommandLine(_))));

    let plain = fixture::elf(0x100_0000, &[(0x100_0000, b"text", 4)], None);
    let plain = Kernel::from_bytes(plain, RAM).unwrap();
    let pvh = Boot { protocol: Protocol::Pvh, ..boot(&line) };
    let result = super::place(&memory, plain, Vec::new(), &pvh);
    assert!(matches!(result, Err(Error::NoPvhEntry)));
}

#[test]
fn a_packed_kernel_that_is_damaged_is_told_when_it_is_placed() {
    let text: Vec<u8> =
        (0..1_000_000u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let vmlinux = fixture::elf(0x100_0000, &[(0x100_0000, &text, 1_000_000)], None);
    let mut packed = fixture::pack(Compression::Gzip, &vmlinux);
    let (memory, line) = (fixture::memory(RAM), line("quiet"));
    let place = |packed: &[u8]| {
        let kernel = Kernel::from_bytes(fixture::bzimage(packed), RAM).unwrap();
        place(&memory, kernel, Vec::new(), &boot(&line)).map_err(|error| error.to_string())
    };
    let half = packed.len() / 2;
    assert_eq!(
        place(&packed[..half]).unwrap_err(),
        "cannot unpack the kernel: the gzip stream is cut off"
    );
    assert!(place(&packed).is_ok());
    let checksum = packed.len() - 8;
    packed[checksum] ^= 1;
    assert_eq!(place(&packed).unwrap_err(), "cannot unpack the kernel: the gzip stream is damaged");
}
