//! Whatever goes wrong is one line that says what was being done, what went wrong and what to do; the
//! exit status is 125, or 2 for a command line that makes no sense. Nothing panics, nothing hangs.

mod support;

use std::process::Command;

use support::{
    as_user, cache, engine, is_root, outcome, own_file, pulled, shell, tiny_kernel, unibody,
};

/// Runs `unibody run` with `arguments`, which must fail with one line that contains all of `said`.
fn refuses(arguments: &[&str], said: &[&str]) {
    let mut command = unibody();
    command.args(support::run()).args(arguments).args(["--", "true"]);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!((status, stdout.as_str()), (Some(125), ""), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("unibody: "), "{stderr}");
    for part in said {
        assert!(stderr.contains(part), "'{part}' is not in: {stderr}");
    }
}

fn refuses_kernel(name: &str, bytes: &[u8], said: &str) {
    let file = own_file(name, bytes);
    let file = file.to_str().expect("a plain path");
    refuses(&["--kernel", file], &[file, said]);
}

/// The pulled kernel, packed.
fn kernel() -> Vec<u8> {
    let files = std::fs::read_dir(pulled().join("boot")).expect("it is there");
    let mut paths = files.map(|file| file.expect("readable").path());
    let packed = paths.find(|path| path.to_string_lossy().contains("/vmlinuz-"));
    std::fs::read(packed.expect("a kernel")).expect("readable")
}

/// Boots a kernel of `code`; gives the exit status and stderr.
fn boot(name: &str, code: &[u8]) -> (Option<i32>, String) {
    let kernel = own_file(name, &tiny_kernel(code));
    let mut command = unibody();
    command.args(support::run()).args(["--kernel"]).arg(kernel).args(["--", "true"]);
    let (status, _, stderr) = outcome(command);
    (status, stderr)
}

#[test]
fn a_kernel_that_is_none_is_told_from_one() {
    refuses(
        &["--kernel", "/no/such/file"],
        &["cannot open kernel '/no/such/file'", "no such file"],
    );
    refuses_kernel("empty", b"", "empty");
    refuses_kernel("text", b"#!/bin/sh\necho hello\n", "text");
    refuses_kernel("noise", &[0x5a; 100_000], "kernel");
}

#[test]
fn a_kernel_for_another_architecture_is_named() {
    let mut arm = tiny_kernel(&[0; 64]);
    arm[18] = 183;
    refuses_kernel("arm", &arm, "64");
    let mut elf32 = tiny_kernel(&[0; 64]);
    elf32[4] = 1;
    refuses_kernel("elf32", &elf32, "32");
}

#[test]
fn a_damaged_kernel_is_refused() {
    let whole = kernel();
    refuses_kernel("truncated-header", &whole[..600], "truncated");
    refuses_kernel("truncated", &whole[..whole.len() / 2], "truncated");
    // Wide enough for LZ4, which has no checksum.
    let mut scratched = whole.clone();
    scratched[whole.len() / 2..][..1 << 16].fill(0xff);
    refuses_kernel("scratched", &scratched, "cannot unpack");
    let mut unknown = whole;
    let header = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
    };
    // The payload: setup sectors, then its offset from there.
    let payload = (usize::from(unknown[0x1f1]) + 1) * 512 + header(&unknown, 0x248);
    unknown[payload..payload + 8].copy_from_slice(b"\x01\x02\x03\x04abcd");
    refuses_kernel("unknown-compression", &unknown, "compress");
}

#[test]
fn memory_that_is_too_little_or_too_much_is_refused() {
    refuses(&["--memory", "4M"], &["memory", "--memory"]);
    refuses(&["--memory", "32M"], &["memory"]);
    refuses(&["--memory", "900T"], &["memory", "--memory"]);
}

#[test]
fn an_initrd_that_can_not_be_used_is_refused() {
    refuses(&["--initrd", "/no/such/file"], &["initrd '/no/such/file'", "no such file"]);
    let mut large = b"070701".to_vec();
    large.resize(100 << 20, b'0');
    let large = own_file("large", &large);
    refuses(
        &["--memory", "96M", "--initrd", large.to_str().expect("plain")],
        &["larger", "--memory"],
    );
    let text = own_file("no-archive", b"hello");
    refuses(&["--initrd", text.to_str().expect("plain")], &["cpio"]);
}

#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error() {
    for (arguments, said) in [
        (["run", "--memroy", "1G"], "--memory"),
        (["run", "--memory", "lots"], "--memory"),
        (["run", "--cpus", "0"], "--cpus"),
        (["run", "--engine", "warp"], "soft"),
        (["pul", "--", "true"], "pull"),
    ] {
        let mut command = unibody();
        command.args(arguments);
        let (status, _, stderr) = outcome(command);
        assert_eq!(status, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "'{said}' is not in: {stderr}");
    }
}

#[test]
fn a_panic_is_told_with_its_line() {
    let mut command = unibody();
    command.args(support::run()).args(["--cmdline", "rdinit=/none", "--", "true"]);
    let (status, _, stderr) = outcome(command);
    assert_eq!(status, Some(125), "{stderr}");
    let first = stderr.lines().next().unwrap_or_default();
    assert!(first.contains("panicked: Kernel panic - not syncing: VFS"), "{stderr}");
    assert!(stderr.lines().count() > 3, "the console's last lines are missing: {stderr}");
}

#[test]
fn a_triple_fault_is_told_with_its_place() {
    // ud2, with an IDT that has no entries.
    let (status, stderr) = boot("triple-fault", &[0x0f, 0x0b]);
    assert_eq!(status, Some(125), "{stderr}");
    let told = stderr.contains("triple fault at RIP 0x100000, CR2 0x");
    // On AMD's processors KVM does not know it.
    let lost = stderr.contains("triple fault; this host's KVM does not tell where");
    assert!(told || engine() != "soft" && lost, "{stderr}");
}

#[test]
fn a_guest_that_halts_for_good_ends() {
    // cli; hlt
    let (status, stderr) = boot("halt", &[0xfa, 0xf4]);
    assert_eq!(status, Some(125), "{stderr}");
    assert!(stderr.contains("halted with interrupts off"), "{stderr}");
}

#[test]
fn a_guest_that_ends_before_its_command_does_says_how() {
    // mov dx, 0x604; mov ax, 0x3400; out dx, ax: as ACPI's tables say. jmp $
    let off = [0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xeb, 0xfe];
    let (status, stderr) = boot("off", &off);
    assert_eq!(status, Some(125), "{stderr}");
    assert!(stderr.contains("ended before its command did: it switched itself off"), "{stderr}");
    // mov al, 0xfe; out 0x64, al: by the keyboard's controller. jmp $
    let (status, stderr) = boot("reset", &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe]);
    assert_eq!(status, Some(125), "{stderr}");
    assert!(stderr.contains("ended before its command did: it reset itself"), "{stderr}");
}

#[test]
fn an_instruction_that_the_engine_lacks_is_told_with_its_bytes() {
    // A vector register to which a device's, the local APIC's, are added.
    let code = [
        0x0f, 0x20, 0xe0, // mov rax, cr4
        0x80, 0xcc, 0x02, // or ah, 2: OSFXSR
        0x0f, 0x22, 0xe0, // mov cr4, rax
        0xb8, 0x00, 0x00, 0xe0, 0xfe, // mov eax, 0xfee00000
        0x0f, 0x58, 0x00, // addps xmm0, [rax]
    ];
    let (status, stderr) = boot("vector-from-device", &code);
    assert_eq!(status, Some(125), "{stderr}");
    for part in ["0f 58 00", "0x10000e", "addps", "report"] {
        assert!(stderr.contains(part), "'{part}' is not in: {stderr}");
    }
}

#[test]
fn a_guest_that_executes_where_it_has_no_memory_is_told_where() {
    // mov eax, 0xfd000000; jmp rax
    let (status, stderr) = boot("astray", &[0xb8, 0, 0, 0, 0xfd, 0xff, 0xe0]);
    assert_eq!(status, Some(125), "{stderr}");
    assert!(stderr.contains("no memory to execute at RIP 0xfd000000"), "{stderr}");
}

#[test]
fn a_signal_ends_the_guest() {
    let mut command = shell("echo up; sleep 1000");
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    let mut first = [0; 3];
    let mut stdout = child.stdout.take().expect("piped");
    std::io::Read::read_exact(&mut stdout, &mut first).expect("it says up");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("it runs").success());
    let status = support::wait(&mut child, &command);
    assert_eq!(status.code(), Some(128 + 15));
}

#[test]
fn without_network_a_later_run_works() {
    if !is_root() {
        eprintln!("only root can take the network away: not tested");
        return;
    }
    assert_eq!(outcome(shell("true")).0, Some(0));
    let mut command = as_user(&cache(), &["unshare", "--net"]);
    command.args(support::run()).args(["--", "echo", "still here"]);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (Some(0), "still here\n", ""));
}
