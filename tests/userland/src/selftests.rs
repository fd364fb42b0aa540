//! The kernel's own tests of x86 (`tools/testing/selftests/x86`): [`build`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::image::Image;
use crate::kernel::Sources;
use crate::{Shelf, command};

/// The parts of the kernel's tree that the tests are built from.
const PARTS: [&str; 5] = [
    "tools/testing/selftests/x86",
    "tools/testing/selftests/lib.mk",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kselftest_harness.h",
    "arch/x86/include",
];

/// Builds all of them, for 64 and for 32 bits, without a library that the guest would need.
pub fn build(shelf: &Shelf, busybox: &Path) -> Result<Image> {
    let sources = Sources::newest()?;
    let kept = shelf.get(&format!("selftests-4-{}", sources.version), |folder| {
        sources.unpack(&PARTS, folder)?;
        compile(folder)?;
        Image::make(folder, busybox, 150)
    })?;
    Ok(Image::in_folder(&kept))
}

/// Runs the tests' own makefile; leaves the programs in `folder/programs`.
fn compile(folder: &Path) -> Result<()> {
    let programs = folder.join("programs");
    fs::create_dir(&programs)?;
    let mut make = Command::new("make");
    make.arg("-C").arg(folder.join(PARTS[0])).arg(format!("OUTPUT={}", programs.display()));
    make.args(["KHDR_INCLUDES=", "EXTRA_CFLAGS=-static -w -DCAN_BUILD_32 -DCAN_BUILD_64"]);
    command::run(&mut make)?;
    let programs: Vec<PathBuf> =
        fs::read_dir(&programs)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    for bits in ["_32", "_64"] {
        if !programs.iter().any(|program| program.to_string_lossy().ends_with(bits)) {
            bail!(
                "no program for {} bits was built: `cargo xtask setup` installs gcc-multilib",
                &bits[1..]
            );
        }
    }
    command::run(Command::new("strip").args(&programs))?;
    for part in ["arch", "tools"] {
        fs::remove_dir_all(folder.join(part))?;
    }
    Ok(())
}
