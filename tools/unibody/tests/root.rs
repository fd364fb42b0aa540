//! The host's files as a guest's root: who is in it, and where; what is written there, and with `--rw`; what of the host's is out of reach;
//! other roots, and those that can't be.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{
    cache, finish, is_root, outcome, own_folder, program, pulled, run_as_usual, text, unibody,
};

/// A folder that nobody has used, which the program may write to.
fn folder(name: &str) -> PathBuf {
    let name = format!("root-{name}-{}", std::process::id());
    let _ = fs::remove_dir_all(own_folder(&name));
    own_folder(&name)
}

/// A guest that runs a script, called in this folder.
fn guest(cwd: &Path, options: &[&str], script: &str) -> Command {
    let mut command = unibody();
    command.args(run_as_usual()).args(options).args(["--", "/bin/sh", "-c", script]);
    command.current_dir(cwd);
    command
}

/// What a script prints, which has to succeed and leave stderr alone.
fn prints(cwd: &Path, options: &[&str], script: &str) -> String {
    let output = finish(guest(cwd, options, script), b"");
    let told = (output.status.code(), text(&output.stderr));
    assert_eq!(told, (Some(0), String::new()), "{}", text(&output.stdout));
    text(&output.stdout)
}

/// A path in words.
fn words(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Whether a program is on this host.
fn has(name: &str) -> bool {
    let is_there = ["/usr/bin", "/usr/local/bin", "/usr/sbin"]
        .iter()
        .any(|folder| Path::new(folder).join(name).exists());
    if !is_there {
        eprintln!("{name} is not installed: not tested");
    }
    is_there
}

/// Who calls a program, if that can be chosen: somebody with groups.
fn somebody(program: &Path) -> Command {
    let drop = ["--reuid=65534", "--regid=65534", "--groups=27,100"];
    let mut command = Command::new(if is_root() { Path::new("setpriv") } else { program });
    if is_root() {
        command.args(drop).arg(program);
    }
    command.env_clear().env("PATH", "/opt/none:/usr/bin:/bin").env("XDG_CACHE_HOME", cache());
    command
}

#[test]
fn the_command_is_who_calls_where_and_as_it_is_called() {
    let _ = pulled();
    let script =
        "id; pwd; echo $HOME $PATH $LANG $LC_TIME $EDITOR ${SSH_AUTH_SOCK-none}; uname -n; umask";
    let mut command = somebody(&program());
    command.args(run_as_usual()).args(["--", "sh", "-c", script]).current_dir("/usr/share");
    for (name, value) in [
        ("HOME", "/srv"),
        ("LANG", "C.UTF-8"),
        ("LC_TIME", "C"),
        ("EDITOR", "ed"),
        ("SSH_AUTH_SOCK", "x"),
    ] {
        command.env(name, value);
    }
    let id = finish(somebody(Path::new("/usr/bin/id")), b"");
    let expected = format!(
        "{}/usr/share\n/srv /opt/none:/usr/bin:/bin C.UTF-8 C ed none\nunibody\n0022\n",
        text(&id.stdout)
    );
    assert_eq!(outcome(command), (Some(0), expected, String::new()));
}

#[test]
fn without_a_command_it_is_the_callers_shell() {
    if !has("bash") {
        return;
    }
    let mut command = unibody();
    command.args(run_as_usual()).env("SHELL", "/usr/bin/bash").current_dir("/usr/share");
    let output = finish(command, b"echo ${BASH_VERSION:+bash} $PWD; exit 3\n");
    let told = (output.status.code(), text(&output.stdout), text(&output.stderr));
    assert_eq!(told, (Some(3), "bash /usr/share\n".into(), String::new()));
}

#[test]
fn what_the_guest_writes_is_its_own() {
    let own = folder("written");
    fs::write(own.join("kept"), "as it was\n").expect("it can be written");
    fs::set_permissions(own.join("kept"), Permissions::from_mode(0o666)).expect("it is ours");
    let script = "set -e; cat kept; echo more >> kept; cat kept; echo new > new; mkdir a; mv kept a; ls; cat a/kept
        (echo x > /etc/unibody-new) 2>/dev/null || echo denied";
    let printed = prints(&own, &[], script);
    assert_eq!(printed, "as it was\nas it was\nmore\na\nnew\nas it was\nmore\ndenied\n");
    // The guest's root may do as it likes, with its own.
    let script = "set -e; id -u; rm -r /etc/apt; echo x > /etc/unibody-new; cat /etc/unibody-new; rm kept; mv /usr/bin/env /usr/bin/e; \
                  chown 5 /etc/passwd; stat -c %u /etc/passwd; ls /etc/apt 2>/dev/null || pwd";
    let printed = prints(&own, &["--user", "root"], script);
    assert_eq!(printed, format!("0\nx\n5\n{}\n", own.display()));

    assert_eq!(fs::read(own.join("kept")).expect("readable"), b"as it was\n");
    assert_eq!(fs::read_dir(&own).expect("readable").count(), 1);
    assert!(!Path::new("/etc/unibody-new").exists() && Path::new("/usr/bin/env").exists());
}

#[test]
fn what_is_given_with_rw_is_the_hosts() {
    let own = folder("rw");
    fs::create_dir(own.join("in")).expect("it can be made");
    fs::create_dir(own.join("beside")).expect("it can be made");
    for name in ["in", "beside"] {
        fs::set_permissions(own.join(name), Permissions::from_mode(0o777)).expect("it is ours");
    }
    let script = "pwd; id -u; echo new > new; (echo other > ../beside/other) 2>/dev/null; true";
    let within = own.join("in");
    let user = own.metadata().expect("it is there").uid();
    let expected = format!("{}\n{user}\n", within.display());
    assert_eq!(prints(&within, &["--rw", "."], script), expected);
    assert_eq!(fs::read(within.join("new")).expect("it is there"), b"new\n");
    assert_eq!(within.join("new").metadata().expect("it is there").uid(), user);
    assert_eq!(fs::read_dir(own.join("beside")).expect("readable").count(), 0);
    // Where there is no root of the host's, it is at the same place.
    let expected = format!("{}\n0\n", within.display());
    assert_eq!(prints(&within, &["--root", "none", "--rw", "."], script), expected);
}

#[test]
fn the_hosts_programs_run() {
    let own = folder("programs");
    if has("gcc") {
        for (name, code) in [
            (
                "main.c",
                "#include <stdio.h>\nint twice(int);\nint main(void) { printf(\"%d\\n\", twice(21)); }\n",
            ),
            ("twice.c", "int twice(int n) { return 2 * n; }\n"),
        ] {
            fs::write(own.join(name), code).expect("it can be written");
        }
        let script =
            "gcc -O1 -c main.c && gcc -O1 -c twice.c && gcc -o twice main.o twice.o && ./twice";
        assert_eq!(prints(&own, &[], script), "42\n");
    }
    if has("git") {
        let script = "export GIT_CONFIG_GLOBAL=/dev/null; set -e; git init -q repo; cd repo; echo one > file; git add file
            git -c user.name=a -c user.email=b commit -qm first; echo two > file; git status --short; git diff --stat | tail -n 1";
        let expected = " M file\n 1 file changed, 1 insertion(+), 1 deletion(-)\n";
        assert_eq!(prints(&own, &[], script), expected);
        // What one guest has written, the next one reads through the layers.
        assert!(prints(&own, &["--rw", "."], script).contains(" M file"));
        let again = "export GIT_CONFIG_GLOBAL=/dev/null; cd repo; git status --short";
        assert_eq!(prints(&own, &[], again), " M file\n");
    }
}

#[test]
fn a_disk_is_mounted_though_its_file_system_is_a_module() {
    if !has("mkfs.ext4") {
        return;
    }
    let own = folder("disk");
    let disk = own.join("disk.img");
    let file = fs::File::create(&disk).expect("it can be made");
    file.set_len(16 << 20).expect("there is room");
    fs::set_permissions(&disk, Permissions::from_mode(0o666)).expect("it is ours");
    let script = "set -e; mkfs.ext4 -q /dev/vda; mount -t ext4 /dev/vda /mnt; echo hi > /mnt/x; umount /mnt; \
                  mount /dev/vda /mnt; cat /mnt/x; grep -c 10.0.2.3 /etc/resolv.conf";
    let options = ["--user", "root", "--net", "user", "--disk", words(&disk)];
    assert_eq!(prints(Path::new("/"), &options, script), "hi\n1\n");
}

#[test]
fn what_the_user_may_not_read_stays_unread() {
    let own = folder("unread");
    fs::write(own.join("closed"), "secret").expect("it can be written");
    fs::set_permissions(own.join("closed"), Permissions::from_mode(0o000)).expect("it is ours");
    let mut files = format!("{}/closed", own.display());
    if is_root() {
        fs::write(own.join("theirs"), "secret").expect("it can be written");
        fs::set_permissions(own.join("theirs"), Permissions::from_mode(0o600)).expect("it is ours");
        files += &format!(" {}/theirs /etc/shadow", own.display());
    }
    let script = format!(
        "for file in {files}; do cat $file 2>/dev/null && echo read $file; done; echo over"
    );
    for user in ["me", "root"] {
        assert_eq!(prints(&own, &["--user", user], &script), "over\n");
    }
}

#[test]
fn what_is_no_part_of_the_system_is_the_guests_own() {
    let own = folder("hidden");
    fs::write(own.join("secret"), "secret").expect("it can be written");
    fs::set_permissions(own.join("secret"), Permissions::from_mode(0o644)).expect("it is ours");
    let script = "for folder in /proc /sys /dev /run /tmp; do mountpoint -q $folder || echo $folder is none; done
        ls /tmp; cat /proc/1/comm; cat /proc/sys/kernel/hostname; test -e /dev/shm && test -c /dev/ptmx && echo devices";
    assert_eq!(prints(Path::new("/usr"), &[], script), "init\nunibody\ndevices\n");
    // Whoever looks below the layers finds no more.
    let secret = own.join("secret");
    let script = format!(
        "mount -t virtiofs root /mnt || exit; cd /mnt; head -c 1 etc/passwd; echo
        for file in proc/self/environ proc/version sys/kernel/uevent_seqnum .{secret} proc/1/cwd/etc/passwd; do
            cat $file >/dev/null 2>&1 && echo read $file; done
        mount -o remount,rw /mnt; (echo x > usr/new; rm etc/passwd; mkdir new) 2>/dev/null && echo written
        mkdir /tmp/b; mount --bind /mnt/.. /tmp/b; ls /tmp/b/mnt/proc/self/cwd/ >/dev/null 2>&1 && echo root
        cat /mnt/../mnt/../../../.{secret} 2>/dev/null && echo above; echo over",
        secret = secret.display()
    );
    let (status, stdout, stderr) = outcome(guest(Path::new("/"), &["--user", "root"], &script));
    assert_eq!((status, stdout.as_str()), (Some(0), "r\nover\n"), "{stderr}");
    assert!(!Path::new("/usr/new").exists() && !Path::new("/new").exists());
}

#[test]
fn another_tree_may_be_the_root_and_what_is_beside_it_stays_there() {
    let own = folder("tree");
    let tree = own.join("tree");
    for part in ["bin", "etc", "home"] {
        fs::create_dir_all(tree.join(part)).expect("it can be made");
    }
    fs::copy(pulled().join("bin/busybox"), tree.join("bin/busybox")).expect("it is pulled");
    for name in ["sh", "cat", "ls", "pwd", "id", "readlink", "mount"] {
        symlink("busybox", tree.join("bin").join(name)).expect("it can be made");
    }
    fs::write(own.join("secret"), "secret").expect("it can be written");
    symlink(own.join("secret"), tree.join("full")).expect("it can be made");
    symlink("../secret", tree.join("relative")).expect("it can be made");
    fs::write(tree.join("etc/here"), "here\n").expect("it can be written");
    let script =
        "pwd; cat /etc/here; ls /; cat full relative ../secret 2>/dev/null; echo $HOME $PATH";
    let expected = "/\nhere\nbin\ndev\netc\nfull\nhome\nproc\nrelative\nrun\nsys\ntmp\n\
        / /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n";
    assert_eq!(prints(&own, &["--root", words(&tree)], script), expected);
    let script = "echo x > /etc/new; mount -t virtiofs root /home; cd /home; cat etc/here full relative ../secret ../../secret 2>/dev/null; \
                  id -u; pwd";
    let options = ["--root", words(&tree), "--user", "root"];
    assert_eq!(prints(&tree.join("etc"), &options, script), "here\n0\n/home\n");
    assert!(!tree.join("etc/new").exists() && !tree.join("proc").exists());
    assert_eq!(prints(&tree.join("etc"), &["--root", words(&tree)], "pwd"), "/etc\n");
    let script = "readlink /bin/sh; id -u; pwd; ls /etc";
    let expected = "/bin/busybox\n0\n/root\ngroup\nhostname\nhosts\npasswd\nprofile\n";
    assert_eq!(prints(&own, &["--root", "none"], script), expected);
}

#[test]
fn roots_that_can_not_be_are_told_of() {
    let refused = |options: &[&str]| {
        let (status, stdout, stderr) = outcome(guest(Path::new("/"), options, "true"));
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{stderr}");
        stderr
    };
    assert_eq!(
        [
            refused(&["--root", "/nowhere"]),
            refused(&["--root", "/etc/passwd"]),
            refused(&["--rw", "/nowhere"]),
            refused(&["--rw", "/"]),
        ]
        .concat(),
        "unibody: cannot use '/nowhere': no such file. Give the path of a folder that you may read\n\
         unibody: cannot use '/etc/passwd': it is no folder. Give the folder that it is in\n\
         unibody: cannot share '/nowhere': no such file. Give the path of a folder that you may read\n\
         unibody: cannot share '/': it is all that there is. Give --rw a folder in it\n"
    );
    // Without modules that kernel has no such file systems.
    let kernel = fs::read_dir(pulled().join("boot")).expect("it is pulled").flatten().next();
    let kernel = kernel.expect("there is one").path();
    let told = refused(&["--kernel", words(&kernel), "--root", "/"]);
    assert!(told.contains("the guest's kernel has no virtiofs: it takes CONFIG_FUSE_FS"), "{told}");
    let options = ["--kernel", words(&kernel)];
    let (status, stdout, stderr) =
        outcome(guest(&folder("lacking"), &options, "readlink /bin/sh; pwd; id -u"));
    assert_eq!((status, stdout.as_str()), (Some(0), "/bin/busybox\n/root\n0\n"), "{stderr}");
    assert!(stderr.contains("the host's files are not the guest's root"), "{stderr}");
    assert!(stderr.contains("CONFIG_VIRTIO_FS"), "{stderr}");

    let mut command = unibody();
    command.args(run_as_usual()).args([
        "--root",
        "/",
        "--initrd",
        "/nowhere",
        "--cmdline",
        "rdinit=/x",
    ]);
    let (status, _, stderr) = outcome(command);
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.contains("--root is mounted by Unibody's init"), "{stderr}");
}

#[test]
fn a_kernel_that_was_just_built_has_the_modules_of_its_tree() {
    let tree = folder("built");
    let entry = |path: &Path| fs::read_dir(path).expect("it is pulled").flatten().next();
    let modules = entry(&pulled().join("lib/modules")).expect("there are some").path();
    let release = modules.file_name().expect("of a release").to_owned();
    // As `make` leaves them: beside the sources, and listed.
    for part in fs::read_dir(modules.join("kernel")).expect("they are pulled").flatten() {
        symlink(part.path(), tree.join(part.file_name())).expect("it can be made");
    }
    let mut list = Command::new("find");
    list.args(["kernel", "-name", "*.ko"]).current_dir(&modules);
    fs::write(tree.join("modules.order"), finish(list, b"").stdout).expect("it can be written");
    // That is a link to modules which nobody wants here.
    let _ = fs::remove_file(tree.join("arch"));
    for folder in ["include/config", "arch/x86/boot"] {
        fs::create_dir_all(tree.join(folder)).expect("it can be made");
    }
    let told = format!("{}\n", release.display());
    fs::write(tree.join("include/config/kernel.release"), &told).expect("it can be written");
    let kernel = tree.join("arch/x86/boot/bzImage");
    let built = entry(&pulled().join("boot")).expect("there is one").path();
    fs::copy(built, &kernel).expect("it can be copied");

    let script = "uname -r; grep -o -w -e virtiofs -e overlay /proc/filesystems; pwd";
    let printed = prints(Path::new("/usr"), &["--kernel", words(&kernel)], script);
    assert_eq!(printed, format!("{told}virtiofs\noverlay\n/usr\n"));
}
