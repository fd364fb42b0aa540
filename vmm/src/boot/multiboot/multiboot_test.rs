use vm_memory::GuestMemoryMmap;

use super::super::start::Mode;
use super::super::{CommandLine, Protocol, fixture};
use super::*;

const RAM: u64 = 64 << 20;

/// Places the Multiboot kernel in `file`.
fn placed(
    file: Vec<u8>,
    modules: Vec<Vec<u8>>,
    ram: u64,
) -> (GuestMemoryMmap, Result<Placed, linux::Error>) {
    let memory = fixture::memory(ram);
    let kernel = Kernel::from_bytes(file, 1 << 20).unwrap();
    assert!(kernel.is_multiboot());
    let mut command_line = CommandLine::new(kernel.command_line_limit());
    command_line.append("x.elf one two").unwrap();
    let boot = Boot {
        ram,
        protocol: Protocol::default(),
        command_line: &command_line,
        rsdp: Some(0xe_0000),
        rng_seed: None,
    };
    let modules = modules.into_iter().map(Input::bytes).collect();
    let placed = linux::place(&memory, kernel, modules, &boot);
    (memory, placed)
}

fn word(memory: &GuestMemoryMmap, address: u64) -> u64 {
    u64::from(memory.read_obj::<u32>(GuestAddress(address)).unwrap())
}

fn text(memory: &GuestMemoryMmap, address: u64) -> String {
    let bytes = (address..).map(|a| memory.read_obj::<u8>(GuestAddress(a)).unwrap());
    bytes.take_while(|byte| *byte != 0).map(char::from).collect()
}

/// A kernel whose only segment lies at `address`.
fn kernel_at(address: u64, memory_size: u64) -> Vec<u8> {
    let text = fixture::multiboot_header(1, &[]);
    fixture::elf(address, &[(address, &text, memory_size)], None)
}

#[test]
fn a_kernel_starts_as_the_specification_says() {
    let (memory, result) = placed(fixture::multiboot_elf32(&[0xfa, 0xf4], 3), Vec::new(), RAM);
    let start = result.unwrap().start;
    assert_eq!((start.rax, start.rbx, start.rip), (0x2bad_b002, layout::MULTIBOOT, 0x10_000c));
    assert_eq!((start.mode, start.cr0, start.efer), (Mode::Protected, 0x11, 0));
    assert_eq!(start.rflags, 2, "interrupts are off");
    for segment in [start.code, start.data] {
        assert_eq!((segment.base, segment.limit), (0, u32::MAX));
    }
    assert_eq!(word(&memory, 0x10_000c) & 0xffff, 0xf4fa);
}

#[test]
fn the_information_says_what_there_is() {
    let (memory, result) =
        placed(fixture::multiboot_elf32(&[0xf4], 3), vec![b"a module".to_vec()], RAM);
    let placed = result.unwrap();
    let module = placed.initrd.unwrap();
    let information = placed.start.rbx;
    let field = |offset| word(&memory, information + offset);
    assert_eq!(field(0), 0b10_0100_1101);
    assert_eq!((field(4), field(8)), (639, (RAM >> 10) - 1024));
    assert_eq!(text(&memory, field(16)), "x.elf one two");
    assert_eq!(field(20), 1);
    let list = field(24);
    let words: Vec<u64> = (0..4).map(|index| word(&memory, list + index * 4)).collect();
    assert_eq!(words, [module.start, module.end, 0, 0]);
    assert_eq!(module, 0x10_1000..0x10_1008, "the page behind the kernel");
    assert_eq!(text(&memory, module.start), "a module");
    assert_eq!(text(&memory, field(64)), "Unibody");

    let expected = super::super::memory_map::memory_map(RAM);
    assert_eq!(field(44), 24 * expected.len() as u64);
    for (entry, index) in expected.iter().zip(0..) {
        let at = field(48) + index * 24;
        assert_eq!(word(&memory, at), 20);
        let read = |offset| memory.read_obj::<u64>(GuestAddress(at + offset)).unwrap();
        assert_eq!((read(4), read(12)), (entry.address, entry.size));
        assert_eq!(word(&memory, at + 20), entry.kind as u64);
    }
}

#[test]
fn nothing_is_placed_over_a_kernel_in_low_memory() {
    for (address, size) in
        [(0x4000, 0x5000), (0x4000, 0x1_0000), (0x9000, 1000), (0x8000, 0x9_0000)]
    {
        let (_, result) = placed(kernel_at(address, size), vec![vec![1; 100]], RAM);
        let placed = result.unwrap();
        let (information, module) = (placed.start.rbx, placed.initrd.unwrap());
        let behind = placed.kernel.end.next_multiple_of(PAGE);
        let expected = if address + size <= layout::MULTIBOOT { layout::MULTIBOOT } else { behind };
        assert_eq!(information, expected);
        assert!(module.start >= placed.kernel.end && module.start % PAGE == 0);
        assert!(information < module.start || information >= module.end);
    }
    // What does not fit below video memory goes above it.
    let (_, result) = placed(kernel_at(0x8000, 0x9_0000), vec![vec![1; 0x1_0000]], RAM);
    assert_eq!(result.unwrap().initrd.unwrap().start, layout::HIGH_RAM);
}

#[test]
fn what_does_not_fit_is_refused() {
    let file = || fixture::multiboot_elf32(&[0xf4], 3);
    let (_, result) = placed(file(), vec![vec![0; 8 << 20]], 8 << 20);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("8388608 bytes") && error.contains("more memory"), "{error}");
    let (_, result) = placed(kernel_at(0x10_0000, 16 << 20), Vec::new(), 8 << 20);
    assert!(result.unwrap_err().to_string().contains("the kernel needs memory up to"));
    let (_, result) = placed(kernel_at(0x10_0000, 7 << 20), Vec::new(), 8 << 20);
    assert!(result.is_ok());
}
