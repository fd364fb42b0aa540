//! What a host does not give: more memory, files, threads or processors than there may be. Each is told in one line, with what to do.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use support::{engine, is_root, outcome, own_file, program, run, tiny_kernel};

/// A user of its own, whose threads are counted apart from other tests'.
const USER: u32 = 65533;

/// A kernel that switches the machine off at once, and an initrd: with an init of its own nothing is pulled.
fn files() -> &'static [PathBuf; 2] {
    // Written once a process: its tests may be threads.
    static FILES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    // mov dx, 0x604; mov ax, 0x3400; out dx, ax: as ACPI's tables say. jmp $
    const OFF: [u8; 12] = [0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xeb, 0xfe];
    FILES.get_or_init(|| {
        [own_file("off-at-once", &tiny_kernel(&OFF)), own_file("no-files", b"070701")]
    })
}

/// `unibody run` of a guest that switches itself off at once, with a limit of `prlimit`'s.
fn limited(limit: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let [kernel, initrd] = files();
    let mut words: Vec<String> = Vec::new();
    if is_root() {
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
        words.extend(["setpriv".into(), "--clear-groups".into()]);
        words.extend(ids);
    }
    words.extend(["prlimit".into(), limit.into(), program().display().to_string()]);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(run()).arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
    command.args(["--cmdline", "rdinit=/none"]).args(arguments);
    outcome(command)
}

/// What `limited` came to: whether it worked, or else with one line that has all of `said`.
fn works(limit: &str, arguments: &[&str], said: &[&str]) -> bool {
    let (status, stdout, stderr) = limited(limit, arguments);
    if status == Some(0) {
        assert_eq!((stdout.as_str(), stderr.as_str()), ("", ""), "{limit}");
        return true;
    }
    assert_eq!((status, stdout.as_str()), (Some(125), ""), "{limit}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{limit}: {stderr}");
    assert!(stderr.starts_with("unibody: cannot "), "{limit}: {stderr}");
    assert!(said.iter().all(|part| stderr.contains(part)), "{limit}: {stderr}");
    eprintln!("{limit}: {}", stderr.trim_end());
    false
}

/// Wherever that happens.
#[test]
fn files_that_run_out_are_told() {
    // The first is what the loader opens.
    let refused = (4..100).take_while(|n| {
        !works(&format!("--nofile={n}"), &[], &["files open", "raise the limit (ulimit -n)"])
    });
    assert!((1..90).contains(&refused.count()));
}

/// Whichever can't be started, and nothing waits for it.
#[test]
fn threads_that_run_out_are_told() {
    if !is_root() {
        eprintln!("only root can be another user, whose threads are known: not tested");
        return;
    }
    let refused = (1..100).take_while(|n| {
        !works(&format!("--nproc={n}"), &["--cpus", "3"], &["threads", "ulimit -u"])
    });
    assert!((3..90).contains(&refused.count()));
}

/// Each vCPU comes out at the end, though no signal can be queued.
#[test]
fn signals_that_run_out_are_not_missed() {
    assert!(works("--sigpending=0", &["--cpus", "3"], &[]));
}

#[test]
fn memory_that_this_process_may_not_have_is_told() {
    let limit = format!("--as={}", 900 << 20);
    let said = ["memory from the host", "ulimit -v", "Give it less with --memory"];
    assert!(!works(&limit, &["--memory", "1G"], &said));
    assert!(works(&limit, &["--memory", "64M"], &said));
}

#[test]
fn more_processors_than_there_can_be_are_refused() {
    let said = ["a guest has at most ", " processors here, and not 1000000", "give it fewer"];
    assert!(!works("--core=0", &["--cpus", "1000000"], &said), "{}", engine());
}
