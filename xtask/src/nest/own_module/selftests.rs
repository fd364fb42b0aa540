//! The kernel's own tests of KVM on the project's module as `/dev/kvm`: those that `docs/kvm-selftests.md` says pass on it.
//!
//! Most are a part of `own_module.rs`. What takes minutes, or more than one processor, has a machine of its own in the long form: [`options`].

use crate::nest::options::{Extra, Options};
use crate::nest::whole;
use anyhow::Result;
use std::time::Duration;
use userland::kvm_selftests::table::{self, End, OnModule};
use userland::{Shelf, kvm_selftests};

/// GCC's library, where Debian has it.
const GCC: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";

/// What the nest runs in the long form.
const SCRIPT: &str = concat!(
    include_str!("failed.sh"),
    include_str!("selftests.sh"),
    "\nlook_for_complaints\necho \"$# of the kernel's tests of KVM, which take long\"\n",
);

/// How often as long as on the software CPU a test may take here.
const SLOWER: u32 = 10;

/// Some of the tests.
pub struct Selftests {
    /// Their programs, and what those need.
    pub files: Vec<Extra>,
    /// A call of each: seconds, path and parameters.
    pub calls: Vec<String>,
}

impl Selftests {
    /// Those that pass on the module, by the table, and are meant.
    pub fn find(is_meant: impl Fn(OnModule) -> bool) -> Result<Self> {
        let shelf = Shelf::new(&userland::shelf::folder()?.join("built"))?;
        let programs = kvm_selftests::build(&shelf)?;
        // What ends a thread loads it.
        let library = Extra { from: GCC.into(), to: GCC.trim_start_matches('/').to_owned() };
        let mut found = Self { files: vec![library], calls: Vec::new() };
        for line in table::read(table::DOCUMENT)? {
            let Some(test) = line.module.filter(|test| test.end == End::Pass && is_meant(*test))
            else {
                continue;
            };
            let to = format!("nest/kvm-selftests/{}", line.name);
            let limit = if test.is_long { line.limit * SLOWER } else { line.limit };
            let parameters = line.parameters.join(" ");
            found.calls.push(format!("{} /{to} {parameters}", limit.as_secs()));
            found.files.push(Extra { from: programs.join(&line.name), to });
        }
        Ok(found)
    }
}

/// What is to be booted for those that are long. It has two processors, as the nest has nowhere else where guests run: see `own_module.rs` for
/// what QEMU does there once in a while.
pub fn options() -> Result<Options> {
    let Selftests { files, calls } = Selftests::find(|test| test.is_long)?;
    let mut command = whole::command(SCRIPT, "selftests");
    command.extend(calls);
    Ok(Options {
        module: true,
        cpus: 2,
        memory: "6G".to_owned(),
        timeout: Duration::from_secs(7200),
        files,
        command,
        console: "console-selftests.log",
        ..Options::default()
    })
}
