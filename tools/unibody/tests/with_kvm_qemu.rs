//! Debian's QEMU, which knows nothing of Unibody, runs a stock kernel with `-accel kvm` under `unibody with-kvm`.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use support::{OnTerminal, pulled, shelf, unibody};

/// The shell is the guest's first process.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
exec /bin/busybox sh
";

/// An initial file system with BusyBox, and its shell.
fn initrd() -> PathBuf {
    let kept = shelf().get("with-kvm-shell", |folder| {
        let tree = folder.join("image");
        fs::create_dir_all(tree.join("bin"))?;
        fs::create_dir(tree.join("proc"))?;
        fs::copy(pulled().join("bin/busybox"), tree.join("bin/busybox"))?;
        fs::write(tree.join("init"), INIT)?;
        fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
        userland::image::archive(&tree, &folder.join("image.cpio"))
    });
    kept.expect("it can be made").join("image.cpio")
}

fn kernel() -> PathBuf {
    let files = fs::read_dir(pulled().join("boot")).expect("it is there");
    let mut paths = files.map(|file| file.expect("readable").path());
    paths.find(|path| path.to_string_lossy().contains("/vmlinuz-")).expect("a kernel")
}

/// Boots a kernel to a shell, and types into that.
fn boots(machine: &str, processors: &str) {
    let inner = unibody();
    let words = std::iter::once(inner.get_program()).chain(inner.get_args());
    let unibody: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let script = format!(
        "{} with-kvm -- qemu-system-x86_64 -accel kvm -m 256 {machine} -smp {processors} \
         -nodefaults -nographic -no-reboot -serial stdio -kernel {} -initrd {} \
         -append 'console=ttyS0 panic=-1 reboot=t quiet'",
        unibody.join(" "),
        kernel().display(),
        initrd().display()
    );
    let mut terminal = OnTerminal::start(&script);
    terminal.wait_for("# ");
    terminal.type_keys("/bin/busybox grep -c ^processor /proc/cpuinfo; ");
    terminal.type_keys("/bin/busybox uname -r; /bin/busybox echo made-$((6 * 7))\n");
    terminal.wait_for("made-42");
    terminal.type_keys("/bin/busybox poweroff -f\n");
    let (status, shown) = terminal.end();
    assert_eq!(status, Some(0), "{shown}");
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    let release = kernel().to_string_lossy().rsplit("vmlinuz-").next().map(str::to_owned);
    let expected = [processors, release.as_deref().expect("its name has it")];
    // The next line is typed as soon as that is there: it may be shown before this one has ended.
    let is_it = |found: &[&str]| found[..2] == expected && found[2].starts_with("made-42");
    assert!(lines.windows(3).any(is_it), "{shown}");
}

#[test]
fn qemus_microvm_boots_to_a_shell() {
    boots("-M microvm", "1");
}

#[test]
fn so_it_does_with_two_processors_and_the_hosts_model() {
    boots("-M microvm -cpu host", "2");
}

#[test]
fn so_it_does_with_all_chips_in_the_hypervisor() {
    boots("-M microvm,kernel-irqchip=on", "1");
}

#[test]
fn a_pc_boots_by_its_firmware() {
    boots("-M q35", "2");
}
