//! Guests on the project's own module, in the nest: a part of the gate, [`GATE`], and its long form, [`SOAK`].
//!
//! The script runs the guests of `tests/guests` that are about a machine, and some end-to-end tests; a guest is traced; then it boots a stock
//! kernel with one processor and with two, as an ordinary user, tries to remove the module under a guest, kills that, removes the module and loads
//! it again; and so on. As an ordinary user as well, it makes sequences of ioctls that
//! nobody would write, which are of the fuzz target's (`fuzz/`). Beside kvm_amd, whose the processor is while that has a VM, there
//! is no guest. As `/dev/kvm` it runs the kernel's own tests of KVM ([`selftests`]), and Debian's QEMU. Then the kernel has to have nothing to
//! complain of.

pub(super) mod selftests;

use super::gate::programs::strip;
use super::options::{Extra, Options};
use super::whole;
use crate::{fuzz, tree};
use anyhow::{Context, Result};
use selftests::Selftests;
use std::fs;
use std::time::Duration;

/// What the nest runs: one script, a file for each subject.
const SCRIPT: &str = concat!(
    include_str!("tests.sh"),
    include_str!("own_module/failed.sh"),
    include_str!("own_module/start.sh"),
    include_str!("own_module/bodies.sh"),
    include_str!("own_module/trace.sh"),
    include_str!("own_module/rounds.sh"),
    include_str!("own_module/fuzz.sh"),
    include_str!("own_module/beside_kvm_amd.sh"),
    include_str!("own_module/selftests.sh"),
    include_str!("own_module/qemu.sh"),
);

/// Where the fuzz target and its inputs are.
const FUZZ: &str = "nest/fuzz";

/// How much of it there is.
pub struct Extent {
    /// Programs of tests, and words for each.
    tests: &'static [&'static str],
    /// How often who writes to a disk is killed.
    kills: u32,
    rounds: u32,
    /// Of the fuzz target's.
    seconds: u32,
    timeout: Duration,
}

/// The guests of the tests that are about a machine.
const BODIES: &str = "architecture module:: module_split::";

/// A few rounds. Of the end-to-end tests, what the module has to do with: that memory which is given back is not the guest's any more;
/// and a driver that does wrong to all devices.
pub const GATE: Extent = Extent {
    tests: &[BODIES, "balloon", "hostile"],
    kills: 1,
    rounds: 3,
    seconds: 60,
    timeout: Duration::from_secs(1500),
};

/// Many, and all tests of devices.
pub const SOAK: Extent = Extent {
    tests: &[BODIES, "balloon", "hostile", "disk", "console --skip soft::", "vsock --skip soft::"],
    kills: 20,
    rounds: 20,
    seconds: 600,
    timeout: Duration::from_secs(6000),
};

/// What is to be booted. `tests`: what [`super::gate::programs`] has built.
///
/// On one processor: on two of QEMU's, which are threads, a guest with two of its own hangs, or shuts down, once in some fifty boots. Three reasons
/// are known, all of them QEMU's:
/// - `helper_vmrun` of 7.2 forgets the interrupt shadow, so that an interrupt comes between STI and HLT, and the guest halts behind it
///   (`benches/kvm/ipi.c` shows it; mended in QEMU by "fix INHIBIT_IRQ/TF/RF handling for VMRUN", June 2024);
/// - it leaves `exception_index` set behind an interrupt that EVENTINJ has it deliver: when the processor's thread is woken without an
///   interrupt, the guest has it once more, with RFLAGS.IF clear, too. With such a wake each millisecond 4 of 8 boots failed on the module, and 3 of
///   3 on kvm_amd; when that was mended none of 30, and none of 6. On one processor it happens as well, where the clock
///   counts instructions: `cargo xtask bench devices --nest` stood still in four runs, its guest at a lock with interrupts off that its own interrupted
///   code held, and in none of two when that was mended;
/// - whichever processor loads x87's state (FXRSTOR, XRSTOR: `cpu_set_fpus`) has `cpu_clear_ignne` clear a bit of the *first* processor's
///   `hflags2`, read and written back without a lock, also if the bit is not set. What that one changes there meanwhile is lost, and nested
///   paging is such a bit. Lost at VMRUN, the guest's tables are looked for at the host's addresses: a triple fault. Lost at #VMEXIT, the host runs
///   with it on, exits once more, and its own state is what the guest goes on with. Both were seen in a log of such boots under QEMU 10.0,
///   which has this as 7.2 does; 2 in 100 failed so. Under 7.2, with a thread on the second processor that does FLDENV over and over, a guest
///   on the first, which does CPUID, failed within 15 seconds in 5 of 8 runs on the module, and in 3 of 4 on kvm_amd; when QEMU did not write where the
///   bit is clear, in none of 8, and none of 4.
pub fn options(tests: &[Extra], extent: &Extent) -> Result<Options> {
    let Selftests { files: programs, calls } = Selftests::find(|test| !test.is_long)?;
    let mut command = ["env", "UNIBODY_TEST_LIMIT=600"].map(str::to_owned).to_vec();
    command.push(format!("UNIBODY_KILLS={}", extent.kills));
    command.extend(whole::command(SCRIPT, "own_module"));
    command.extend([extent.rounds.to_string(), extent.seconds.to_string()]);
    command.extend([format!("/{FUZZ}"), fuzz::MAX_LEN.to_owned()]);
    command.extend(extent.tests.iter().map(|&words| words.to_owned()));
    command.push("--".to_owned());
    command.extend(calls);
    let mut files = super::qemu()?;
    files.extend_from_slice(tests);
    files.extend(programs);
    files.extend(fuzz_target()?);
    Ok(Options {
        module: true,
        memory: "3G".to_owned(),
        timeout: extent.timeout,
        files,
        command,
        console: "console-module.log",
        ..Options::default()
    })
}

/// The fuzz target, as `cargo xtask fuzz` builds it, and the inputs in the tree.
fn fuzz_target() -> Result<Vec<Extra>> {
    let (program, inputs) = fuzz::build("ioctls")?;
    let folder = tree::target().join(FUZZ);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create '{}'", folder.display()))?;
    let from = folder.join("ioctls");
    strip(&program, &from)?;
    let mut files = vec![Extra { from, to: format!("{FUZZ}/ioctls") }];
    for from in inputs {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let to = format!("{FUZZ}/corpus/{name}");
        files.push(Extra { from, to });
    }
    Ok(files)
}
