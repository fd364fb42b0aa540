//! What the guest's kernel tells of itself, by devices of QEMU's: that it panics, and what a dump of its memory is read by.

mod support;

use support::{outcome, run, shell, unibody};

/// A script that waits for a driver, which is loaded while the script runs already.
fn when(module: &str, script: &str) -> String {
    format!(
        "n=0
         until grep -q '^{module} .* Live ' /proc/modules; do
             n=$((n + 1)); [ $n -lt 600 ] || exit 1
             sleep 0.1
         done
         {script}"
    )
}

/// A kernel whose console is gone, and that would stand still for ever.
#[test]
fn a_panic_is_told_without_a_console() {
    let script = when(
        "pvpanic_mmio",
        "echo 0 >/proc/sys/kernel/panic
         echo 0 >/sys/class/tty/ttyS0/console
         echo c >/proc/sysrq-trigger",
    );
    let (status, _, stderr) = outcome(shell(&script));
    assert_eq!(status, Some(125), "{stderr}");
    let first = stderr.lines().next().unwrap_or_default();
    assert!(first.contains("the guest's kernel panicked: nothing on its console"), "{stderr}");
}

#[test]
fn the_kernel_tells_what_a_dump_of_its_memory_is_read_by() {
    let mut command = unibody();
    let script = when("qemu_fw_cfg", "uname -r");
    command.args(run()).args(["--verbose", "--", "sh", "-c", &script]);
    let (status, stdout, stderr) = outcome(command);
    assert_eq!(status, Some(0), "{stderr}");
    let told = stderr.lines().find(|line| line.starts_with("unibody: vmcoreinfo: "));
    let release = format!("OSRELEASE={}", stdout.trim());
    assert!(told.is_some_and(|line| line.contains(&release)), "{told:?}");
}
