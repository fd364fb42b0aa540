//! `unibody with-kvm`: programs that know nothing of Unibody find their `/dev/kvm`.

mod support;
mod vmm;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{is_root, outcome, own_folder, shelf, unibody};
use userland::vmm::Vmm;

/// `unibody with-kvm OPTIONS -- PROGRAM`.
fn with_kvm(options: &[&str], program: &Path) -> Command {
    let mut command = unibody();
    command.arg("with-kvm").args(options).arg("--").arg(program);
    command
}

fn c_vmm() -> Vmm {
    userland::vmm::build(&shelf()).expect("there is a C compiler")
}

/// Has the VMM in C make all its checks.
fn checks_pass(options: &[&str]) {
    let (status, stdout, stderr) = outcome(with_kvm(options, &c_vmm().program));
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    let passed = stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(passed, 24, "{stdout}");
}

#[test]
fn a_vmm_in_c_finds_all_that_it_checks() {
    checks_pass(&[]);
}

#[test]
fn it_finds_the_same_where_all_is_interpreted() {
    checks_pass(&["--no-jit"]);
}

/// Has the program in C make all its calls with bad arguments.
fn bad_arguments_are_refused(options: &[&str]) {
    let program = userland::bad_arguments::build(&shelf()).expect("there is a C compiler");
    let (status, stdout, stderr) = outcome(with_kvm(options, &program));
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    let passed = stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!((passed, stdout.lines().count()), (40, 40), "{stdout}");
}

#[test]
fn bad_arguments_have_linuxs_answer_and_harm_nothing() {
    bad_arguments_are_refused(&[]);
}

#[test]
fn they_have_it_where_all_is_interpreted() {
    bad_arguments_are_refused(&["--no-jit"]);
}

#[test]
fn bad_arguments_are_those_of_every_call_that_there_is() {
    let program = userland::bad_arguments::build(&shelf()).expect("there is a C compiler");
    let mut list = Command::new(program);
    list.arg("--list");
    let (_, tried, _) = outcome(list);
    let mut doctor = unibody();
    doctor.args(["doctor", "--kvm", "--json"]);
    let (_, told, _) = outcome(doctor);
    let told: serde_json::Value = serde_json::from_str(&told).expect("it is JSON");
    let calls = told["ioctls"].as_array().expect("there are ioctls").iter();
    let word = |call: &serde_json::Value, key: &str| call[key].as_str().expect("a word").to_owned();
    let mut told: Vec<String> =
        calls.map(|call| format!("{} {}", word(call, "of"), word(call, "name"))).collect();
    let mut tried: Vec<String> = tried.lines().map(str::to_owned).collect();
    told.sort();
    tried.sort();
    assert_eq!(tried, told);
}

/// Cases of the VMM whose guest's memory is disturbed: those that an ordinary user can have, and in which the guest touches no page that
/// it may not have just then, which is the program's fault here (`tools/preload/src/lib.rs`).
const DISTURBANCES: [&str; 4] = [
    "pages_are_dropped",
    "dropped_pages_are_zeros",
    "pages_are_mapped_anew",
    "a_child_has_the_pages_of_its_time",
];

/// Has a guest look at its memory while the VMM's other thread does such things to it.
fn disturbed_memory_is_right(options: &[&str]) {
    let program = userland::pressure::build(&shelf()).expect("there is a C compiler");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = now.expect("it is past 1970").as_secs().to_string();
    let mut command = with_kvm(options, &program);
    command.args(["/dev/kvm", "0.3", &seed]).args(DISTURBANCES);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "seed {seed}: {stdout}");
    let passed = stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(passed, DISTURBANCES.len(), "seed {seed}: {stdout}");
}

#[test]
fn a_guest_finds_its_memory_whatever_the_vmm_does_to_the_pages() {
    disturbed_memory_is_right(&[]);
}

#[test]
fn it_finds_it_where_all_is_interpreted() {
    disturbed_memory_is_right(&["--no-jit"]);
}

/// This program, where an unprivileged user can reach it.
fn this_program() -> PathBuf {
    let own = std::env::current_exe().expect("it is known");
    let copy = own_folder("with-kvm").join(format!("test-{}", std::process::id()));
    fs::copy(own, &copy).expect("it can be copied");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("it is ours");
    copy
}

/// Set where this program is to be the VMM.
const IS_VMM: &str = "UNIBODY_TEST_IS_VMM";

#[test]
fn a_vmm_on_kvm_ioctls_runs_its_guest() {
    if std::env::var_os(IS_VMM).is_some() {
        return vmm::run();
    }
    let program = this_program();
    let mut command = with_kvm(&[], &program);
    command.args(["--exact", "a_vmm_on_kvm_ioctls_runs_its_guest", "--nocapture"]);
    command.env(IS_VMM, "1");
    let (status, stdout, stderr) = outcome(command);
    fs::remove_file(program).expect("it is ours");
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    let seen: Vec<&str> = stdout.lines().collect();
    // The example counts on it that the page which the guest executes is in the log.
    let expected =
        ["out 0x3f8 0x35", "in 0x3f8 0x35", "write 0x8000 1", "dirty 1", "read 0x8000 1", "halted"];
    assert!(seen.windows(expected.len()).any(|lines| lines == expected), "{stdout}");
}

#[test]
fn a_static_program_is_refused() {
    let program = c_vmm().fixed;
    let (status, stdout, stderr) = outcome(with_kvm(&[], &program));
    assert_eq!((status, stdout.as_str()), (Some(125), ""));
    let said = format!(
        "unibody: cannot give '{}' /dev/kvm: it is linked statically, and loads no library. \
         Use a build of it that is linked with glibc dynamically\n",
        program.display()
    );
    assert_eq!(stderr, said);
}

#[test]
fn a_program_that_is_not_there_is_as_with_a_shell() {
    let (status, stdout, stderr) = outcome(with_kvm(&[], Path::new("no-such-vmm")));
    assert_eq!((status, stdout.as_str()), (Some(127), ""));
    assert_eq!(stderr, "unibody: cannot run 'no-such-vmm': no such file\n");
    let (status, _, stderr) = outcome(with_kvm(&[], Path::new("/etc/passwd")));
    assert_eq!(status, Some(126));
    assert_eq!(stderr, "unibody: cannot run '/etc/passwd': permission denied\n");
    let mut nothing = unibody();
    nothing.arg("with-kvm");
    assert_eq!(outcome(nothing).0, Some(2));
}

#[test]
fn the_program_has_its_arguments_and_its_exit_status_and_so_have_its_children() {
    let script = "printf '%s,' \"$0\" \"$@\"; test -c /dev/kvm && sh -c 'test -w /dev/kvm'; exit 7";
    let mut command = with_kvm(&[], Path::new("sh"));
    command.args(["-c", script, "a b", "", "--no-jit"]);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (Some(7), "a b,,--no-jit,", ""));
    // What the host has is still there for who asks for it.
    let mut command = with_kvm(&[], Path::new("sh"));
    let script = "test -c /dev/kvm; echo $?; unset LD_PRELOAD; sh -c 'test -e /dev/kvm; echo $?'";
    command.args(["-c", script]);
    let host = if Path::new("/dev/kvm").exists() { 0 } else { 1 };
    assert_eq!(outcome(command).1, format!("0\n{host}\n"));
}

#[test]
fn other_programs_work_as_ever() {
    let script = "echo one > file; cat file; ls -la /dev/null | cut -c1; readlink /proc/self/exe >&2; \
                  (sleep 0.01; kill -USR1 $$) & trap 'echo caught' USR1; wait; exec 3<file; cat <&3";
    let folder = own_folder("with-kvm-others");
    let run = |mut command: Command| {
        command.args(["-c", script]).current_dir(&folder);
        outcome(command)
    };
    let (with, without) = (run(with_kvm(&[], Path::new("bash"))), run(as_nobody("bash")));
    assert_eq!(with, without);
    assert!(with.1.contains("caught"), "{}", with.1);
}

/// A program, as the user that runs `unibody` in tests.
fn as_nobody(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
    command
}

#[test]
fn a_place_that_the_loader_can_not_use_is_told() {
    let folder = own_folder("with kvm");
    let mut command = with_kvm(&[], Path::new("true"));
    command.env("XDG_CACHE_HOME", &folder).env_remove("XDG_RUNTIME_DIR");
    let (status, _, stderr) = outcome(command);
    assert_eq!(status, Some(125), "{stderr}");
    assert!(stderr.contains("its path has a colon or a space. Set XDG_CACHE_HOME"), "{stderr}");
}
