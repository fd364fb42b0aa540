//! The kernel's own tests of x86 (`tools/testing/selftests/x86`): [`build`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::image::Image;
use crate::{Shelf, command};

/// Where Debian's packages `linux-source-*` put their archives.
const SOURCES: &str = "/usr/src";
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
    let archive = newest_source()?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let version = name.split(".tar").next().unwrap_or_default();
    let size = archive.metadata()?.len();
    let kept = shelf.get(&format!("selftests-4-{version}-{size}"), |folder| {
        unpack(&archive, folder)?;
        compile(folder)?;
        Image::make(folder, busybox, 150)
    })?;
    Ok(Image::in_folder(&kept))
}

/// The kernel's sources, of the newest version that is there.
fn newest_source() -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(SOURCES)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("linux-source-") && name.contains(".tar.") {
            found.push(path);
        }
    }
    found.sort();
    found
        .pop()
        .context("no sources of a kernel in /usr/src: `cargo xtask setup` installs linux-source")
}

/// Takes the tests out of the archive.
fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(folder);
    tar.args(["--strip-components=1", "--wildcards"]);
    command::run(tar.args(PARTS.map(|part| format!("*/{part}"))))?;
    Ok(())
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
