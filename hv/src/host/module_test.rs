use super::*;

/// A processor that has all.
const ALL: processor::Announced =
    processor::Announced { svm: true, nested_paging: true, vmx: false };

/// A host made of files. Each test's is its own.
struct Host(PathBuf);

impl Host {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("unibody-{name}-{}", std::process::id()));
        // One that a run which was killed has left.
        let _ = fs::remove_dir_all(&folder);
        let host = Self(folder);
        host.with("proc/sys/kernel/osrelease", "6.1.0-9-test\n")
            .with("proc/cpuinfo", "processor : 0\nflags\t\t: fpu svm npt\nbugs\t: none\n")
    }

    fn with(self, file: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn look(&self) -> Module {
        Module::look_below(&self.0, ALL)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_host_without_any_of_it_is_seen_as_that() {
    let host = Host::new("bare");
    let expected = Module {
        device: None,
        virtualization: Virtualization::Svm,
        release: "6.1.0-9-test".into(),
        has_headers: false,
        installed: None,
        wants_signature: false,
        rival: Rival::Absent,
    };
    assert_eq!(host.look(), expected);
    let nameless =
        host.with("proc/sys/kernel/osrelease", "").with("lib/modules/modules.dep", "unibody.ko:\n");
    assert_eq!(nameless.look().installed, None);
}

#[test]
fn a_module_that_is_loaded_has_a_device() {
    let host = Host::new("loaded").with("sys/module/unibody/refcnt", "0\n");
    assert_eq!(host.look().device, Some("/dev/unibody".into()));
    let host = host.with("sys/module/unibody/parameters/device", "kvm\n");
    assert_eq!(host.look().device, Some("/dev/kvm".into()));
}

#[test]
fn the_processor_and_its_firmware_are_asked() {
    let host = Host::new("processor");
    let of = |host: &Host, announced| Module::look_below(&host.0, announced).virtualization;
    assert_eq!(of(&host, ALL), Virtualization::Svm);
    let old = processor::Announced { nested_paging: false, ..ALL };
    assert_eq!(of(&host, old), Virtualization::NoNestedPaging);
    let intel = processor::Announced { svm: false, nested_paging: false, vmx: true };
    assert_eq!(of(&host, intel), Virtualization::Vmx);
    let none = processor::Announced { vmx: false, ..intel };
    assert_eq!(of(&host, none), Virtualization::None);
    // The kernel has taken it away.
    let host = host.with("proc/cpuinfo", "flags : fpu npt\nflags : svm\n");
    assert_eq!(of(&host, ALL), Virtualization::Disabled);
    let host = host.with("proc/cpuinfo", "");
    assert_eq!(of(&host, ALL), Virtualization::Svm, "nobody says otherwise");
    // Or the register says so.
    // A register is at its number.
    let with_register = |host: Host, value: u64| {
        let host = host.with("dev/cpu/0/msr", "");
        let file = fs::File::options().write(true).open(host.0.join("dev/cpu/0/msr")).unwrap();
        file.write_all_at(&value.to_le_bytes(), VM_CR).unwrap();
        host
    };
    let host = with_register(host, VM_CR_SVMDIS);
    assert_eq!(of(&host, ALL), Virtualization::Disabled);
    let host = with_register(host, 1 << 3);
    assert_eq!(of(&host, ALL), Virtualization::Svm, "only a lock");
}

#[test]
fn the_file_is_where_modprobe_finds_it() {
    let modules = "lib/modules/6.1.0-9-test";
    let host = Host::new("files").with(&format!("{modules}/extra/unibody.ko"), "");
    let found = |host: &Host| host.look().installed.unwrap();
    let folder = host.0.join(modules);
    let unlisted = Installed { path: folder.join("extra/unibody.ko"), listed: false };
    assert_eq!(found(&host), unlisted);
    let list = "kernel/fs/notunibody.ko: x\nupdates/dkms/unibody.ko.xz:\n";
    let host = host.with(&format!("{modules}/modules.dep"), list);
    let listed = Installed { path: folder.join("updates/dkms/unibody.ko.xz"), listed: true };
    assert_eq!(found(&host), listed);
    assert!(!host.look().has_headers);
    let host = host.with(&format!("{modules}/build/Makefile"), "");
    assert!(host.look().has_headers);
}

#[test]
fn what_keeps_a_module_out_is_seen() {
    let host = Host::new("signatures").with("sys/module/module/parameters/sig_enforce", "N\n");
    assert!(!host.look().wants_signature);
    let host = host.with("sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
    assert!(!host.look().wants_signature);
    let host = host.with("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
    assert!(host.look().wants_signature);
    let host = host
        .with("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
        .with("sys/module/module/parameters/sig_enforce", "Y\n");
    assert!(host.look().wants_signature);
}

#[test]
fn who_else_has_the_processor_is_seen() {
    let host = Host::new("rival").with("sys/module/kvm_amd/refcnt", "0\n");
    assert_eq!(host.look().rival, Rival::Idle);
    let host = host.with("sys/module/kvm_amd/refcnt", "3\n");
    assert_eq!(host.look().rival, Rival::Used);
    let host = host.with("sys/module/kvm/parameters/enable_virt_at_load", "N\n");
    assert_eq!(host.look().rival, Rival::Used);
    let host = host.with("sys/module/kvm/parameters/enable_virt_at_load", "Y\n");
    assert_eq!(host.look().rival, Rival::Holds);
}
