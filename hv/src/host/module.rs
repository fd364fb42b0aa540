//! [`Module`]: what can be seen of the project's own module, and of what it needs, without loading it.
//!
//! Only the kernel that runs, the processor and files tell; what root alone may read is told if this user may. Whether guests run on it
//! is another matter, which is tried ([`probe`](mod@crate::probe)).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::processor;

/// The firmware keeps SVM from being switched on. See: AMD APM vol. 2, 15.30.1 (VM_CR), 15.4.
const VM_CR: u64 = 0xc001_0114;
const VM_CR_SVMDIS: u64 = 1 << 4;

/// Where a module is put that is not the kernel's own, below its folder: by hand, and by DKMS.
const FOLDERS: [&str; 3] = ["updates", "updates/dkms", "extra"];

/// How its file is called, packed or not.
const FILES: [&str; 4] = ["unibody.ko", "unibody.ko.xz", "unibody.ko.gz", "unibody.ko.zst"];

/// What there is of the module here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// If it is loaded, the path of its device.
    pub device: Option<PathBuf>,
    /// What the processor has of what it needs.
    pub virtualization: Virtualization,
    /// The kernel that runs.
    pub release: String,
    /// Whether that one's headers are there, with which the module is built.
    pub has_headers: bool,
    /// Its file for that kernel.
    pub installed: Option<Installed>,
    /// Whether the kernel loads no module that nobody it trusts has signed.
    pub wants_signature: bool,
    /// Linux's own module for the same processors.
    pub rival: Rival,
}

/// What the processor has of what the module needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virtualization {
    /// SVM with nested paging, as far as can be seen.
    Svm,
    /// SVM without nested paging.
    NoNestedPaging,
    /// The firmware has switched SVM off.
    Disabled,
    /// VMX, for which the module has no engine yet.
    Vmx,
    /// None.
    None,
}

/// The module's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Where it is.
    pub path: PathBuf,
    /// Whether `modprobe` finds it there.
    pub listed: bool,
}

/// Linux's own kvm_amd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// It is not loaded.
    Absent,
    /// It is, and nobody uses it.
    Idle,
    /// Programs have it open; it has the processor while there is a machine of theirs.
    Used,
    /// It has the processor as long as it is loaded: so newer kernels do.
    Holds,
}

impl Module {
    /// Looks at this host.
    #[must_use]
    pub fn look() -> Self {
        Self::look_below(Path::new("/"), processor::announced())
    }

    /// The same, where `/proc`, `/sys`, `/dev` and `/lib` are those below `root`.
    fn look_below(root: &Path, announced: processor::Announced) -> Self {
        let release = word(root, "proc/sys/kernel/osrelease").unwrap_or_default();
        let modules = root.join("lib/modules").join(&release);
        Self {
            device: root.join("sys/module/unibody").is_dir().then(|| {
                let name = word(root, "sys/module/unibody/parameters/device");
                Path::new("/dev").join(name.unwrap_or("unibody".into()))
            }),
            virtualization: virtualization(root, announced),
            has_headers: modules.join("build/Makefile").is_file(),
            // Of a release without a name it would be the folder of all.
            installed: if release.is_empty() { None } else { installed(&modules) },
            wants_signature: wants_signature(root),
            rival: rival(root),
            release,
        }
    }
}

fn virtualization(root: &Path, announced: processor::Announced) -> Virtualization {
    if !announced.svm {
        return if announced.vmx { Virtualization::Vmx } else { Virtualization::None };
    }
    // Newer kernels take the flag away from their list then; older ones do not look.
    let flags = fs::read_to_string(root.join("proc/cpuinfo")).ok().and_then(|text| flags(&text));
    let is_flagged = flags.is_none_or(|flags| flags.iter().any(|flag| flag == "svm"));
    if !is_flagged || is_locked(root) == Some(true) {
        Virtualization::Disabled
    } else if announced.nested_paging {
        Virtualization::Svm
    } else {
        Virtualization::NoNestedPaging
    }
}

/// The flags of the first processor. See: Linux, Documentation/arch/x86/cpuinfo.rst.
fn flags(cpuinfo: &str) -> Option<Vec<String>> {
    let line =
        cpuinfo.lines().find(|line| line.split(':').next().map(str::trim) == Some("flags"))?;
    Some(line.split(':').nth(1)?.split_whitespace().map(str::to_owned).collect())
}

/// What the register says. Nothing for whoever may not read it, or where the kernel's module `msr` is not loaded.
fn is_locked(root: &Path) -> Option<bool> {
    let registers = fs::File::open(root.join("dev/cpu/0/msr")).ok()?;
    let mut value = [0; 8];
    registers.read_exact_at(&mut value, VM_CR).ok()?;
    Some(u64::from_le_bytes(value) & VM_CR_SVMDIS != 0)
}

/// The file that `modprobe` takes, or one that it would take if it were told of it. See: modprobe(8), depmod(8).
fn installed(modules: &Path) -> Option<Installed> {
    let list = fs::read_to_string(modules.join("modules.dep")).unwrap_or_default();
    let is_it = |file: &&str| {
        let name = Path::new(file).file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| FILES.contains(&name))
    };
    let mut listed = list.lines().filter_map(|line| line.split(':').next());
    if let Some(file) = listed.find(is_it) {
        return Some(Installed { path: modules.join(file), listed: true });
    }
    let mut places = FOLDERS.iter().flat_map(|folder| FILES.map(|file| (folder, file)));
    places.find_map(|(folder, file)| {
        let path = modules.join(folder).join(file);
        path.is_file().then_some(Installed { path, listed: false })
    })
}

/// See: Linux, Documentation/admin-guide/module-signing.rst; kernel_lockdown(7).
fn wants_signature(root: &Path) -> bool {
    let enforced = word(root, "sys/module/module/parameters/sig_enforce");
    let lockdown = fs::read_to_string(root.join("sys/kernel/security/lockdown"));
    enforced.as_deref() == Some("Y") || lockdown.is_ok_and(|text| !text.contains("[none]"))
}

fn rival(root: &Path) -> Rival {
    let module = root.join("sys/module/kvm_amd");
    if !module.is_dir() {
        return Rival::Absent;
    }
    let holds = word(root, "sys/module/kvm/parameters/enable_virt_at_load");
    let users = word(&module, "refcnt").and_then(|count| count.parse::<u64>().ok());
    match users {
        _ if holds.as_deref() == Some("Y") => Rival::Holds,
        Some(0) => Rival::Idle,
        // One that is built in is not counted.
        _ => Rival::Used,
    }
}

/// The first word of a file.
fn word(root: &Path, file: &str) -> Option<String> {
    let text = fs::read_to_string(root.join(file)).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
#[path = "module_test.rs"]
mod module_test;
