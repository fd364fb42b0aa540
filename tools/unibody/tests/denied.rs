//! On a host that denies executable memory, or has no Landlock, the guest runs all the same: slower, or without the host's files, and the person is told why.

mod support;

use std::io;
use std::mem::offset_of;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null;

use support::{SOFT, outcome, run_as_usual, unibody};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EACCES as u32;

/// Where the filter finds the low half of a system call's argument.
fn argument(n: usize) -> u32 {
    (offset_of!(libc::seccomp_data, args) + n * size_of::<u64>()) as u32
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const HAS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const END: u32 = libc::BPF_RET | libc::BPF_K;

fn statement(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// A filter of system calls that denies shared mappings which are executable: what programs and libraries are
/// loaded by are private ones.
fn no_executable_memory() -> Vec<libc::sock_filter> {
    vec![
        statement(LOAD, offset_of!(libc::seccomp_data, nr) as u32),
        jump(EQUAL, libc::SYS_mmap as u32, 0, 5),
        statement(LOAD, argument(2)),
        jump(HAS, libc::PROT_EXEC as u32, 0, 3),
        statement(LOAD, argument(3)),
        jump(HAS, libc::MAP_SHARED as u32, 0, 1),
        statement(END, DENY),
        statement(END, ALLOW),
    ]
}

/// One by which there is no Landlock.
fn no_landlock() -> Vec<libc::sock_filter> {
    vec![
        statement(LOAD, offset_of!(libc::seccomp_data, nr) as u32),
        jump(EQUAL, libc::SYS_landlock_create_ruleset as u32, 0, 1),
        statement(END, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        statement(END, ALLOW),
    ]
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the command, and all that it starts, a process with such a filter.
fn deny(command: &mut Command, mut filter: Vec<libc::sock_filter>) {
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the program is valid, and copied.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            check(libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
                null::<libc::c_void>(),
            ))
        }
    };
    // SAFETY: between fork and exec the closure makes system calls only, which are async-signal-safe, and
    // touches no memory but its own.
    unsafe { command.pre_exec(install) };
}

/// `unibody run` with `arguments` on such a host.
fn run_denied(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = unibody();
    command.args(SOFT).args(arguments);
    deny(&mut command, no_executable_memory());
    outcome(command)
}

#[test]
fn a_guest_runs_where_executable_memory_is_denied() {
    let told = "unibody: this host does not let code be translated (permission denied): \
                the guest runs slower\n";
    let expected = (Some(0), "hi\n".to_owned(), told.to_owned());
    assert_eq!(run_denied(&["--", "echo", "hi"]), expected);
}

#[test]
fn who_wants_no_translation_is_told_nothing() {
    let expected = (Some(0), "hi\n".to_owned(), String::new());
    assert_eq!(run_denied(&["--no-jit", "--", "echo", "hi"]), expected);
}

#[test]
fn translated_code_can_not_be_checked_where_there_is_none() {
    let (status, stdout, stderr) = run_denied(&["--lockstep", "--", "true"]);
    assert_eq!((status, stdout.as_str(), stderr.lines().count()), (Some(125), "", 1), "{stderr}");
    assert!(stderr.contains("lets none be translated (permission denied)"), "{stderr}");
}

#[test]
fn without_landlock_the_usual_root_is_busybox_and_the_host_s_an_error() {
    let run = |words: &[&str]| {
        let mut command = unibody();
        command.args(run_as_usual()).args(words).args([
            "--",
            "sh",
            "-c",
            "readlink /bin/sh; id -u",
        ]);
        deny(&mut command, no_landlock());
        outcome(command)
    };
    let (status, stdout, stderr) = run(&[]);
    assert_eq!(
        (status, stdout.as_str(), stderr.lines().count()),
        (Some(0), "/bin/busybox\n0\n", 1)
    );
    assert!(stderr.contains("no Landlock") && stderr.contains("--root none"), "{stderr}");
    let (status, stdout, stderr) = run(&["--root", "/"]);
    assert_eq!((status, stdout.as_str()), (Some(125), ""), "{stderr}");
    assert!(stderr.contains("no Landlock") && stderr.contains("cannot share '/'"), "{stderr}");
    assert_eq!(run(&["--root", "none"]).2, "");
}
