//! Small kernels that are not Linux: Multiboot, QEMU's `fw_cfg` and its debug exit.

mod support;

use std::process::Command;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use support::{finish, outcome, own_file, own_folder, text};

const ADDRESS: u32 = 0x10_0000;
const MAGIC: u32 = 0x1bad_b002;
/// Modules are page aligned, memory is told.
const FLAGS: u32 = 3;
/// The header has the addresses.
const ADDRESSES: u32 = 1 << 16;

fn words(words: &[u32]) -> impl Iterator<Item = u8> {
    words.iter().flat_map(|word| word.to_le_bytes())
}

fn header(flags: u32) -> Vec<u8> {
    words(&[MAGIC, flags, 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags)]).collect()
}

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// 32-bit code that is to run at `address`.
fn assemble(address: u32, program: Program) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(32).expect("32 bits");
    program(&mut assembler).expect("instructions that exist");
    assembler.assemble(address.into()).expect("instructions that can be encoded")
}

/// A 32-bit ELF file: `flags` in a Multiboot header, then the program.
fn elf32(flags: u32, program: Program) -> Vec<u8> {
    let text = [header(flags), assemble(ADDRESS + 12, program)].concat();
    let size = text.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    file.extend(words(&[1, ADDRESS + 12, 52, 0, 0]));
    file.extend([52_u16, 32, 1, 40, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    // A segment to be loaded, with a page of zeros behind it.
    file.extend(words(&[1, 84, ADDRESS, ADDRESS, size, size + 0x1000, 7, 4]));
    file.extend(text);
    file
}

/// A 64-bit ELF file of the same, still with 32-bit code.
fn elf64(program: Program) -> Vec<u8> {
    let text = [header(FLAGS), assemble(ADDRESS + 12, program)].concat();
    let quads = |quads: &[u64]| -> Vec<u8> { quads.iter().flat_map(|q| q.to_le_bytes()).collect() };
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0".to_vec();
    file.extend(words(&[1]));
    file.extend(quads(&[u64::from(ADDRESS) + 12, 64, 0]));
    file.extend(words(&[0]));
    file.extend([64_u16, 56, 1, 64, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(words(&[1, 7]));
    let (address, size) = (u64::from(ADDRESS), text.len() as u64);
    file.extend(quads(&[120, address, address, size, size, 8]));
    file.extend(text);
    file
}

/// No ELF file: the header says where everything goes.
fn flat(program: Program) -> Vec<u8> {
    let mut file = header(FLAGS | ADDRESSES);
    file.extend(words(&[ADDRESS, ADDRESS, 0, 0, ADDRESS + 32]));
    file.extend(assemble(ADDRESS + 32, program));
    file
}

/// Behind all of the kernels here.
const BUFFER: u32 = 0x11_0000;
const STACK: u32 = 0x12_0000;
const COM1: u32 = 0x3f8;

/// Subroutines, of which each kernel has the same.
struct Routines {
    /// Prints AL. Changes AH and EDX.
    print: CodeLabel,
    /// Prints the string at ESI, and a new line.
    print_line: CodeLabel,
    /// Prints EAX in hexadecimal digits, and a new line.
    print_number: CodeLabel,
}

impl Routines {
    /// Begins a program: sets the stack, and jumps over the routines.
    fn begin(a: &mut CodeAssembler) -> Result<Self, IcedError> {
        let mut routines = Self {
            print: a.create_label(),
            print_line: a.create_label(),
            print_number: a.create_label(),
        };
        let mut start = a.create_label();
        a.mov(esp, STACK)?;
        a.jmp(start)?;
        routines.print(a)?;
        routines.print_line(a)?;
        routines.print_number(a)?;
        a.set_label(&mut start)?;
        Ok(routines)
    }

    fn print(&mut self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        a.set_label(&mut self.print)?;
        a.mov(ah, al)?;
        a.mov(edx, COM1 + 5)?;
        let mut wait = a.create_label();
        a.set_label(&mut wait)?;
        a.in_(al, dx)?;
        a.test(al, 0x20)?;
        a.je(wait)?;
        a.mov(al, ah)?;
        a.mov(edx, COM1)?;
        a.out(dx, al)?;
        a.ret()
    }

    fn print_line(&mut self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        let mut done = a.create_label();
        a.set_label(&mut self.print_line)?;
        a.lodsb()?;
        a.test(al, al)?;
        a.je(done)?;
        a.call(self.print)?;
        a.jmp(self.print_line)?;
        a.set_label(&mut done)?;
        a.mov(al, u32::from(b'\n'))?;
        a.jmp(self.print)
    }

    fn print_number(&mut self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        let (mut next, mut digit) = (a.create_label(), a.create_label());
        a.set_label(&mut self.print_number)?;
        a.mov(edi, eax)?;
        a.mov(ecx, 8)?;
        a.set_label(&mut next)?;
        a.rol(edi, 4)?;
        a.mov(eax, edi)?;
        a.and(eax, 0xf)?;
        a.add(eax, u32::from(b'0'))?;
        a.cmp(eax, u32::from(b'9'))?;
        a.jbe(digit)?;
        a.add(eax, u32::from(b'a' - b'9' - 1))?;
        a.set_label(&mut digit)?;
        a.call(self.print)?;
        a.dec(ecx)?;
        a.jne(next)?;
        a.mov(al, u32::from(b'\n'))?;
        a.jmp(self.print)
    }
}

/// Ends with `value` at port 0xf4; should that not end it, it halts.
fn end(a: &mut CodeAssembler, value: u32) -> Result<(), IcedError> {
    a.mov(eax, value)?;
    a.out(0xf4, eax)?;
    a.cli()?;
    a.hlt()
}

/// Selects an item of `fw_cfg` and reads `count` bytes of it with one instruction.
fn read_item(a: &mut CodeAssembler, key: u32, count: u32) -> Result<(), IcedError> {
    a.mov(edx, 0x510)?;
    a.mov(eax, key)?;
    a.out(dx, ax)?;
    a.inc(edx)?;
    a.mov(edi, BUFFER)?;
    a.mov(ecx, count)?;
    a.cld()?;
    a.rep().insb()
}

/// Prints what it was started with, and ends with 0x2a.
fn tell(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let routines = Routines::begin(a)?;
    a.call(routines.print_number)?; // EAX: the magic number.
    a.mov(esi, dword_ptr(ebx + 16))?;
    a.call(routines.print_line)?;
    a.mov(eax, dword_ptr(ebx))?;
    a.and(eax, 0b100_1101)?;
    a.call(routines.print_number)?;

    // Each range of RAM in the map: its address, and its size in MiB, rounded up.
    a.mov(ebp, dword_ptr(ebx + 48))?;
    let (mut next, mut skip) = (a.create_label(), a.create_label());
    a.set_label(&mut next)?;
    a.cmp(dword_ptr(ebp + 20), 1)?;
    a.jne(skip)?;
    a.mov(eax, dword_ptr(ebp + 4))?;
    a.call(routines.print_number)?;
    a.mov(eax, dword_ptr(ebp + 12))?;
    a.add(eax, 0xf_ffff)?;
    a.shr(eax, 20)?;
    a.call(routines.print_number)?;
    a.set_label(&mut skip)?;
    a.add(ebp, dword_ptr(ebp))?;
    a.add(ebp, 4)?;
    a.mov(eax, ebp)?;
    a.sub(eax, dword_ptr(ebx + 48))?;
    a.cmp(eax, dword_ptr(ebx + 44))?;
    a.jb(next)?;

    // The modules: how many, and the first one's bytes, which end with a NUL here.
    let mut none = a.create_label();
    a.mov(eax, dword_ptr(ebx + 20))?;
    a.call(routines.print_number)?;
    a.cmp(dword_ptr(ebx + 20), 0)?;
    a.je(none)?;
    a.mov(ebp, dword_ptr(ebx + 24))?;
    a.mov(esi, dword_ptr(ebp))?;
    a.call(routines.print_line)?;
    a.set_label(&mut none)?;

    // fw_cfg: the signature and what is behind it, memory, processors.
    read_item(a, 0, 8)?;
    a.mov(esi, BUFFER)?;
    a.call(routines.print_line)?;
    read_item(a, 3, 8)?;
    a.mov(eax, dword_ptr(BUFFER))?;
    a.call(routines.print_number)?;
    read_item(a, 5, 4)?;
    a.mov(eax, dword_ptr(BUFFER))?;
    a.call(routines.print_number)?;
    end(a, 0x2a)
}

/// Prints each byte that comes in, and ends after a new line.
fn echo(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let routines = Routines::begin(a)?;
    // RTS and DTR.
    a.mov(edx, COM1 + 4)?;
    a.mov(al, 3)?;
    a.out(dx, al)?;
    let mut next = a.create_label();
    a.set_label(&mut next)?;
    a.mov(edx, COM1 + 5)?;
    a.in_(al, dx)?;
    a.test(al, 1)?;
    a.je(next)?;
    a.mov(edx, COM1)?;
    a.in_(al, dx)?;
    a.push(eax)?;
    a.call(routines.print)?;
    a.pop(eax)?;
    a.cmp(al, u32::from(b'\n'))?;
    a.jne(next)?;
    end(a, 0)
}

/// Switches itself off, as the machine's ACPI tables say.
fn power_off(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(edx, 0x604)?;
    a.mov(eax, 0x3400)?;
    a.out(dx, ax)?;
    a.hlt()
}

/// Boots the kernel in `file`, which needs no cache, with an empty one.
fn run(name: &str, file: &[u8], arguments: &[&str]) -> Command {
    let kernel = own_file(name, file);
    let mut command = support::as_user(&own_folder("nothing-is-pulled"), &[]);
    command.args(support::run()).args(["--memory", "64M", "--kernel"]).arg(kernel).args(arguments);
    command
}

/// What [`tell`] prints with these arguments.
fn told(name: &str, arguments: &str, module: Option<&str>) -> String {
    let path = own_folder("files").join(name);
    let command_line = format!("{} {arguments}", path.display());
    let modules = module.map_or("00000000\n".into(), |text| format!("00000001\n{text}\n"));
    format!(
        "2badb002\n{}\n0000004d\n00000000\n00000001\n00100000\n0000003f\n{modules}\
         QEMU\n04000000\n00000001\n",
        command_line.trim_end()
    )
}

#[test]
fn a_multiboot_kernel_finds_what_it_is_told() {
    let arguments = ["--isa-debug-exit", "--cmdline", "first second=2"];
    for (name, file) in [
        ("multiboot.elf", elf32(FLAGS, tell)),
        ("multiboot64.elf", elf64(tell)),
        ("multiboot.bin", flat(tell)),
        // It would like a video mode, which it does not get.
        ("multiboot-video.elf", elf32(FLAGS | 4, tell)),
    ] {
        let (status, stdout, stderr) = outcome(run(name, &file, &arguments));
        assert_eq!((status, stderr.as_str()), (Some(0x55), ""), "{name}: {stdout}");
        assert_eq!(stdout, told(name, "first second=2", None), "{name}");
    }
}

#[test]
fn a_multiboot_kernel_has_a_module_whatever_is_in_it() {
    let module = own_file("module", b"neither cpio nor anything\0");
    let module = module.to_str().expect("plain");
    let command =
        run("multiboot-m.elf", &elf32(FLAGS, tell), &["--isa-debug-exit", "--initrd", module]);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!((status, stderr.as_str()), (Some(0x55), ""), "{stdout}");
    assert_eq!(stdout, told("multiboot-m.elf", "", Some("neither cpio nor anything")));
    let command = run("multiboot-m.elf", &elf32(FLAGS, tell), &["--initrd", "/no/such/file"]);
    let (status, _, stderr) = outcome(command);
    assert_eq!(status, Some(125));
    assert!(stderr.contains("initrd '/no/such/file': no such file"), "{stderr}");
    assert!(stderr.contains("module"), "{stderr}");
}

#[test]
fn a_multiboot_kernel_has_stdin_and_stdout_as_its_serial_port() {
    let output =
        finish(run("echo.elf", &elf32(FLAGS, echo), &["--isa-debug-exit"]), b"hello\nmore");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "hello\n");
}

#[test]
fn a_multiboot_kernel_may_switch_the_machine_off() {
    let (status, stdout, stderr) =
        outcome(run("off.elf", &elf32(FLAGS, power_off), &["--verbose"]));
    assert_eq!((status, stdout.as_str()), (Some(0), ""), "{stderr}");
    assert!(stderr.contains("Multiboot kernel '"), "{stderr}");
}

#[test]
fn without_the_option_there_is_no_debug_exit() {
    let (status, stdout, stderr) = outcome(run("stray.elf", &elf32(FLAGS, tell), &[]));
    assert_eq!(status, Some(125), "{stdout}");
    assert!(stderr.contains("halted with interrupts off"), "{stderr}");
}

#[test]
fn a_multiboot_kernel_that_can_not_be_used_is_refused() {
    let refuses = |name: &str, file: &[u8], said: &str| {
        let (status, stdout, stderr) = outcome(run(name, file, &[]));
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{name}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(name) && stderr.contains(said), "{stderr}");
    };
    refuses("multiboot-demands", &elf32(FLAGS | 8, tell), "demands what is not supported");
    refuses("multiboot-no-elf", &header(FLAGS), "no ELF file");
    let whole = elf32(FLAGS, tell);
    refuses("multiboot-cut-off", &whole[..whole.len() - 1], "cut off");
}

#[test]
fn a_command_for_a_multiboot_kernel_is_a_usage_error() {
    let command = run("multiboot-c.elf", &elf32(FLAGS, tell), &["--", "true"]);
    let (status, _, stderr) = outcome(command);
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.contains("Multiboot"), "{stderr}");
}
