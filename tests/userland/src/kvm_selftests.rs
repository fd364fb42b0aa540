//! The kernel's own tests of KVM (`tools/testing/selftests/kvm`), for the host: [`build`]; what is expected of each, in [`table`].

pub mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::kernel::Sources;
use crate::{Shelf, command};

/// The parts of the kernel's tree that the tests and the headers are built from.
const PARTS: [&str; 14] = [
    "Makefile",
    "Kbuild",
    "scripts",
    "include",
    "usr",
    "arch/x86",
    "tools/build",
    "tools/include",
    "tools/lib/rbtree.c",
    "tools/arch/x86",
    "tools/testing/selftests/kvm",
    "tools/testing/selftests/rseq",
    "tools/testing/selftests/lib.mk",
    "tools/testing/selftests/kselftest*.h",
];

const TESTS: &str = "tools/testing/selftests/kvm";

/// Later releases of 6.1 took changes over that need what is not in 6.1: a macro in the kernel's headers whose own header the
/// tests' `linux/types.h` does not include, and another name of the tests' `ASSERT_EQ`.
const OPTIONS: &str = "-w -include linux/stddef.h -DTEST_ASSERT_EQ=ASSERT_EQ";

/// Builds all of them, and gives the folder that the programs are in.
pub fn build(shelf: &Shelf) -> Result<PathBuf> {
    let sources = Sources::newest()?;
    let kept = shelf.get(&format!("kvm-selftests-1-{}", sources.version), |folder| {
        let tree = folder.join("tree");
        fs::create_dir(&tree)?;
        sources.unpack(&PARTS, &tree)?;
        compile(&tree, folder)?;
        Ok(fs::remove_dir_all(tree)?)
    })?;
    Ok(kept.join("programs"))
}

/// Runs the tests' own makefile; leaves the programs in `folder/programs`.
fn compile(tree: &Path, folder: &Path) -> Result<()> {
    let mut headers = Command::new("make");
    command::run(headers.arg("-C").arg(tree).args(["ARCH=x86", "headers_install"]))
        .context("cannot install the kernel's headers: `cargo xtask setup` installs rsync")?;
    let built = folder.join("built");
    fs::create_dir(&built)?;
    let mut make = Command::new("make");
    make.arg("-C").arg(tree.join(TESTS)).arg(format!("OUTPUT={}", built.display()));
    make.args(["-j2", "KHDR_INCLUDES=", &format!("EXTRA_CFLAGS={OPTIONS}")]);
    command::run(&mut make)?;
    let programs = folder.join("programs");
    fs::create_dir(&programs)?;
    for part in [built.clone(), built.join("x86_64")] {
        for entry in fs::read_dir(&part)? {
            let entry = entry?;
            let is_object = entry.path().extension().is_some();
            if entry.file_type()?.is_file() && !is_object {
                fs::rename(entry.path(), programs.join(entry.file_name()))?;
            }
        }
    }
    Ok(fs::remove_dir_all(built)?)
}
