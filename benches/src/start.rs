//! From a program's start to the guest's, on this host: until the thread of the first vCPU is there, which has nothing else to do than to
//! enter the guest. When KVM enters one in the nest, [`crate::kvm`] says.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::median;

/// Longer than a start ever takes.
const LIMIT: Duration = Duration::from_secs(10);

/// How often it is started.
const STARTS: usize = 25;

/// What is asked, in milliseconds.
const ASKED: f64 = 15.0;

/// Prints it, of the guest that `unibody pull` has fetched, for each engine that can be had.
pub fn measure(unibody: &Path) -> anyhow::Result<()> {
    for engine in ["soft", "kvm"] {
        if engine == "kvm" && fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            continue;
        }
        let mut times =
            (0..STARTS).map(|_| start(unibody, engine)).collect::<anyhow::Result<Vec<_>>>()?;
        times.sort_by(f64::total_cmp);
        let [least, most] = [times[0], times[STARTS - 1]];
        println!(
            "start to the first instruction of a stock kernel, --engine {engine}: {:.1} ms (asked {ASKED}; {STARTS} from {least:.1} to {most:.1})",
            median(times)
        );
    }
    Ok(())
}

/// Milliseconds from just before the program is started.
fn start(unibody: &Path, engine: &str) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut child = Command::new(unibody)
        .args(["run", "--quiet", "--root", "none", "--engine", engine, "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run unibody")?;
    let result = until_vcpu(&mut child, start);
    // It may have ended already.
    let _ = child.kill();
    child.wait()?;
    result
}

fn until_vcpu(child: &mut Child, start: Instant) -> anyhow::Result<f64> {
    let threads = format!("/proc/{}/task", child.id());
    while start.elapsed() < LIMIT {
        if has_vcpu(Path::new(&threads)) {
            return Ok(start.elapsed().as_secs_f64() * 1e3);
        }
        if let Some(status) = child.try_wait()? {
            bail!("it ended before its guest was there: {status}");
        }
        // Looking takes a processor that the start needs.
        std::thread::sleep(Duration::from_micros(200));
    }
    bail!("no vCPU's thread within {LIMIT:?}")
}

fn has_vcpu(threads: &Path) -> bool {
    let Ok(threads) = fs::read_dir(threads) else { return false };
    threads
        .flatten()
        .any(|thread| fs::read(thread.path().join("comm")).is_ok_and(|name| name == b"vcpu0\n"))
}
