//! From the crates to `unibody.ko`.
//!
//! 1. cargo compiles `host/kmod` and what it depends on, `core` and `alloc`
//!    included, for a target without an operating system: a static library.
//! 2. `ld -r` makes one object of what is reachable from the module's
//!    entry points.
//! 3. objtool finds the calls and returns that the kernel patches, and
//!    writes the tables with which the kernel unwinds. For kernels with IBT
//!    Kbuild has it look at the whole module instead.
//! 4. Kbuild compiles the C glue and links both to a module.
//!
//! What differs between kernels is a matter of their configuration here, and
//! of their version in the C glue alone.

use super::floats;
use super::frames::{self, Frame};
use super::kernel::Headers;
use super::locks;
use super::packages::RUSTC;
use crate::{process, tree};
use anyhow::{Context, Result, bail};
use object::elf::SHF_ALLOC;
use object::{Object, ObjectSection, SectionFlags};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The module that people load.
    Product,
    /// The module that runs the core's test bodies when it is loaded.
    Selftest,
}

impl Flavour {
    fn name(self) -> &'static str {
        match self {
            Flavour::Product => "product",
            Flavour::Selftest => "selftest",
        }
    }
}

/// A module that was built.
pub struct Module {
    /// `unibody.ko`.
    pub file: PathBuf,
    /// What it takes in the kernel's memory.
    pub loaded_bytes: u64,
    /// Functions of the Rust half, tests aside, with a frame that is too large.
    pub large_frames: Vec<Frame>,
}

/// The target: freestanding, without red zone, and without vector registers.
const TARGET: &str = "x86_64-unknown-none";

/// How code for the kernel is generated. The module is linked where the
/// kernel is, in the top 2 GiB; calls go through what the kernel patches
/// against speculative execution, as its own do.
const RUSTFLAGS: &[&str] = &[
    "-Crelocation-model=static",
    "-Ccode-model=kernel",
    "-Zplt=yes",
    "-Cforce-unwind-tables=no",
    "-Cjump-tables=no",
    "-Zcf-protection=branch",
    "-Zretpoline-external-thunk",
    "-Zfunction-return=thunk-extern",
    "-Zindirect-branch-cs-prefix",
    "-Zemit-stack-sizes",
];

/// The entry points of the Rust half: see `host/kmod/glue/glue.h`.
const ENTRY_POINTS: &[&str] = &[
    "unibody_init",
    "unibody_exit",
    "unibody_run_deferred",
    "unibody_expired",
    "unibody_signalled",
    "unibody_open",
    "unibody_release",
    "unibody_ioctl",
    "unibody_read",
    "unibody_may_map",
    "unibody_mapped_page",
    "unibody_pages_change",
    "unibody_pages_changed",
    "unibody_processor_up",
    "unibody_processor_down",
    "unibody_reboot_begins",
    "unibody_crash",
    "unibody_sleep_begins",
    "unibody_sleep_ends",
];

/// The kernel has its own of these; `compiler_builtins` must not bring others.
const MEMORY_FUNCTIONS: &[&str] = &["bcmp", "memcmp", "memcpy", "memmove", "memset", "strlen"];

/// objtool's options by the kernel's configuration. From 6.9 on those against speculative execution have other names.
/// See: Linux, scripts/Makefile.lib, objtool-args-y
const OBJTOOL_OPTIONS: &[(&str, &str)] = &[
    ("HAVE_JUMP_LABEL_HACK", "--hacks=jump_label"),
    ("HAVE_NOINSTR_HACK", "--hacks=noinstr"),
    ("CALL_DEPTH_TRACKING", "--hacks=skylake"),
    ("MITIGATION_CALL_DEPTH_TRACKING", "--hacks=skylake"),
    ("UNWINDER_ORC", "--orc"),
    ("RETPOLINE", "--retpoline"),
    ("MITIGATION_RETPOLINE", "--retpoline"),
    ("RETHUNK", "--rethunk"),
    ("MITIGATION_RETHUNK", "--rethunk"),
    ("SLS", "--sls"),
    ("MITIGATION_SLS", "--sls"),
    ("STACK_VALIDATION", "--stackval"),
    ("HAVE_STATIC_CALL_INLINE", "--static-call"),
    ("HAVE_UACCESS_VALIDATION", "--uaccess"),
];

/// What objtool warns of without need: it does not see, through the compiler's jump from
/// one handler to the next, that what is called for lack of memory does not return.
const KNOWN_WARNINGS: &[&str] = &["handle_alloc_error() falls through to next function"];

/// Builds the module for a kernel.
pub fn build(headers: &Headers, flavour: Flavour) -> Result<Module> {
    let directory = tree::target().join("module").join(flavour.name());
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create '{}'", directory.display()))?;
    let library = compile(headers, flavour)?;
    let object = directory.join("core-with-debug.o");
    link(&library, &object)?;
    let linked = read(&object)?;
    floats::check(&linked)?;
    let large_frames = frames::large(&linked)?;
    let core = directory.join("core.o_shipped");
    strip(&object, &core)?;
    objtool(headers, &core)?;
    kbuild(headers, &directory, flavour)?;
    let file = directory.join("unibody.ko");
    let loaded_bytes = loaded_bytes(&read(&file)?)?;
    Ok(Module { file, loaded_bytes, large_frames })
}

/// The crates, compiled to a static library.
fn compile(headers: &Headers, flavour: Flavour) -> Result<PathBuf> {
    let directory = tree::target().join("module/rust");
    let mut rustflags: Vec<String> = RUSTFLAGS.iter().map(|&flag| flag.to_owned()).collect();
    rustflags.extend(
        padding(headers).map(|bytes| format!("-Zpatchable-function-entry={bytes},{bytes}")),
    );
    rustflags.extend(remapped_paths());
    let mut cargo = process::cargo();
    cargo
        .current_dir(tree::root().join("host/kmod"))
        .args(["build", "--quiet", "--release", "--target", TARGET, "-Zbuild-std=core,alloc"])
        .env("RUSTC", RUSTC)
        // build-std and the -Z code generation options are unstable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &directory)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\x1f"))
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    if flavour == Flavour::Selftest {
        cargo.args(["--features", "selftest"]);
    }
    process::run(&mut cargo).context("cannot compile the crates for the kernel")?;
    locks::check()?;
    Ok(directory.join(TARGET).join("release/libunibody.a"))
}

/// How many bytes of NOPs a kernel has before each function, where it puts code that counts calls on some processors.
/// See: Linux, arch/x86/Makefile, PADDING_CFLAGS; arch/x86/kernel/callthunks.c
fn padding(headers: &Headers) -> Option<&str> {
    headers.value("FUNCTION_PADDING_BYTES").filter(|_| headers.has("CALL_PADDING"))
}

/// What makes file names in the module independent of where it was built: a failed
/// check names its file as the tree does.
fn remapped_paths() -> Vec<String> {
    let mut remaps = vec![format!("--remap-path-prefix={}/=", tree::root().display())];
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    if let Some(home) = cargo_home {
        remaps.push(format!("--remap-path-prefix={}/=", home.join("registry/src").display()));
    }
    remaps
}

/// One object of what is reachable in the library.
fn link(library: &Path, object: &Path) -> Result<()> {
    let builtins = object.with_file_name("builtins.o");
    let members = capture(Command::new("ar").arg("t").arg(library))?;
    let members = String::from_utf8(members).context("ar printed no text")?;
    let Some(member) = members.lines().find(|member| member.starts_with("compiler_builtins-"))
    else {
        bail!("'{}' has no compiler_builtins", library.display());
    };
    let code = capture(Command::new("ar").arg("p").arg(library).arg(member))?;
    write(&builtins, &code)?;
    // Other names for what the kernel has too: who calls it finds it
    // undefined, to be resolved by the kernel, and what is here is unreachable.
    let mut rename = Command::new("objcopy");
    for function in MEMORY_FUNCTIONS {
        rename.arg(format!("--redefine-sym={function}=unused_{function}"));
    }
    process::run(rename.arg(&builtins))?;
    let rest = object.with_file_name("rest.a");
    fs::copy(library, &rest).with_context(|| format!("cannot write '{}'", rest.display()))?;
    process::run(Command::new("ar").arg("d").arg(&rest).arg(member))?;
    let mut ld = Command::new("ld");
    ld.args(["-r", "--gc-sections", "-T"]).arg(tree::root().join("host/kmod/glue/core.lds"));
    for entry in ENTRY_POINTS {
        ld.args(["-u", entry]);
    }
    process::run(ld.arg("-o").arg(object).arg(&rest).arg(&builtins))
}

/// Leaves in the object what is loaded: no debug information, and of the
/// names only the entry points visible to the C half.
fn strip(object: &Path, stripped: &Path) -> Result<()> {
    let mut objcopy = Command::new("objcopy");
    objcopy.args(["--strip-debug", "--remove-section=.stack_sizes"]);
    for entry in ENTRY_POINTS {
        objcopy.arg(format!("--keep-global-symbol={entry}"));
    }
    process::run(objcopy.arg(object).arg(stripped))
}

/// What Kbuild does to objects that it compiles itself.
fn objtool(headers: &Headers, object: &Path) -> Result<()> {
    // Such a kernel's Kbuild runs objtool on the linked module instead.
    let delayed = headers.has("LTO_CLANG") || headers.has("X86_KERNEL_IBT");
    if delayed || !headers.has("OBJTOOL") {
        return Ok(());
    }
    let mut objtool = Command::new(headers.directory.join("tools/objtool/objtool"));
    for (option, argument) in OBJTOOL_OPTIONS {
        if headers.has(option) {
            objtool.arg(argument);
        }
    }
    if let Some(bytes) = padding(headers).filter(|_| headers.has("PREFIX_SYMBOLS")) {
        objtool.arg(format!("--prefix={bytes}"));
    }
    let output = process::capture(objtool.arg("--module").arg(object))?;
    show_warnings(&output.stderr);
    Ok(())
}

/// Prints what there is to say of a module that could be built.
fn show_warnings(said: &[u8]) {
    for warning in String::from_utf8_lossy(said).lines() {
        if !KNOWN_WARNINGS.iter().any(|known| warning.contains(known)) {
            eprintln!("{warning}");
        }
    }
}

/// The C glue and the Rust half, linked to a module.
fn kbuild(headers: &Headers, directory: &Path, flavour: Flavour) -> Result<()> {
    let glue = tree::root().join("host/kmod/glue");
    let files = fs::read_dir(&glue).with_context(|| format!("cannot list '{}'", glue.display()))?;
    for file in files {
        let file = file.with_context(|| format!("cannot list '{}'", glue.display()))?.path();
        let content = read(&file)?;
        let copy = directory.join(file.file_name().unwrap_or_default());
        // An unchanged file keeps its time, and is not compiled again.
        if fs::read(&copy).ok().as_ref() != Some(&content) {
            write(&copy, &content)?;
        }
    }
    // modpost wants to know what the object was made of; this one is not Kbuild's.
    write(&directory.join(".core.o.cmd"), b"")?;
    let mut make = Command::new("make");
    make.arg("-s").arg("-C").arg(&headers.directory);
    make.arg(format!("M={}", directory.display())).arg("modules");
    if flavour == Flavour::Selftest {
        make.arg("SELFTEST=y");
    }
    // Cargo's own job server is not make's.
    make.env_remove("MAKEFLAGS").env_remove("CARGO_MAKEFLAGS");
    let output = process::capture(&mut make).context("Kbuild cannot link the module")?;
    show_warnings(&output.stderr);
    Ok(())
}

/// The bytes of a module that stay in memory.
fn loaded_bytes(module: &[u8]) -> Result<u64> {
    let module = object::File::parse(module).context("Kbuild's module is no ELF file")?;
    let loaded = module.sections().filter(|section| match section.flags() {
        SectionFlags::Elf { sh_flags, .. } => sh_flags.0 & SHF_ALLOC.0 != 0,
        _ => false,
    });
    Ok(loaded.map(|section| section.size()).sum())
}

fn capture(command: &mut Command) -> Result<Vec<u8>> {
    Ok(process::capture(command)?.stdout)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read '{}'", file.display()))
}

fn write(file: &Path, content: &[u8]) -> Result<()> {
    fs::write(file, content).with_context(|| format!("cannot write '{}'", file.display()))
}
