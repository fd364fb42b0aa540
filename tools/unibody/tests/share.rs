//! Folders of the host's in a guest: what is read and written there is the host's, by its rules; what is outside stays there; a server that is
//! lost, and shares that can't be.

mod support;

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{finish, is_root, outcome, own_folder, pulled, run, shelf, text, unibody};
use userland::own;

/// A folder that nobody has used, which the program may write to.
fn folder(name: &str) -> PathBuf {
    let name = format!("share-{name}-{}", std::process::id());
    let _ = fs::remove_dir_all(own_folder(&name));
    own_folder(&name)
}

/// Who the program runs as.
fn user() -> u32 {
    own_folder("files").metadata().expect("it is there").uid()
}

/// The words that share a folder as `/s`.
fn share(folder: &Path, more: &str) -> [String; 2] {
    ["--share".into(), format!("{}:/s{more}", folder.display())]
}

/// A guest that runs a script.
fn guest(options: &[String], script: &str) -> Command {
    let mut command = unibody();
    command.args(run()).args(options).args(["--", "/bin/sh", "-c", script]);
    command
}

/// What a script prints, which has to succeed and leave stderr alone.
fn prints(options: &[String], script: &str) -> String {
    let output = finish(guest(options, script), b"");
    let told = (output.status.code(), text(&output.stderr));
    assert_eq!(told, (Some(0), String::new()), "{}", text(&output.stdout));
    text(&output.stdout)
}

/// The program's servers of a folder that run just now.
fn servers(folder: &Path) -> Vec<u32> {
    let folder = folder.canonicalize().expect("it is there");
    let serves = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_server = words.split(|byte| *byte == 0).any(|word| word == b"share-server");
        is_server && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
    };
    let all = fs::read_dir("/proc").expect("it is there").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(serves).collect()
}

#[test]
fn what_is_done_in_the_guest_is_done_on_the_host_as_the_user() {
    let own = folder("files");
    fs::write(own.join("from-host"), "hello\n").expect("it can be written");
    fs::set_permissions(own.join("from-host"), Permissions::from_mode(0o666)).expect("it is ours");
    let script = "set -e; cd /s; cat from-host; echo more >> from-host
        mkdir -p a/b; echo one > a/one; mv a/one a/b/two; ln a/b/two a/three; ln -s b/two a/four
        mkfifo pipe; chmod 640 a/b/two; touch -d '2001-02-03 04:05:06' a/b; echo 0123456789 > cut; truncate -s 4 cut
        cat a/four; echo gone > gone; rm gone; stat -c '%u %h %F' a/b/two pipe; ls a; readlink a/four
        su -s /bin/sh nobody -c 'cat from-host' | tail -n 1";
    let u = user();
    let printed = prints(&share(&own, ""), script);
    assert_eq!(
        printed,
        format!("hello\none\n{u} 2 regular file\n{u} 1 fifo\nb\nfour\nthree\nb/two\nmore\n")
    );

    assert_eq!(fs::read(own.join("from-host")).expect("readable"), b"hello\nmore\n");
    let facts = |name: &str| own.join(name).symlink_metadata().expect(name);
    let two = facts("a/b/two");
    assert_eq!((two.uid(), two.nlink(), two.mode() & 0o7777), (u, 2, 0o640));
    assert_eq!(two.ino(), facts("a/three").ino());
    assert_eq!(fs::read_link(own.join("a/four")).expect("a link"), Path::new("b/two"));
    assert!(facts("pipe").file_type().is_fifo());
    assert_eq!(facts("a/b").mtime(), 981_173_106);
    assert_eq!(fs::read(own.join("cut")).expect("readable"), b"0123");
    assert!(!own.join("gone").exists() && !own.join("a/one").exists());
    assert!(servers(&own).is_empty(), "it ends with the guest");
}

#[test]
fn programs_find_what_a_file_system_has() {
    let own = folder("programs");
    let programs = own::build(&shelf(), &pulled().join("bin/busybox")).expect("it can be built");
    let mut options = share(&own, "").to_vec();
    options.extend(["--initrd".into(), programs.archive.display().to_string()]);
    let printed = prints(&options, "files /s");
    // virtiofsd has no files without a name.
    let rest = printed.strip_prefix("O_TMPFILE: Operation not supported\n").expect(&printed);
    let printed = format!("O_TMPFILE: ok\n{rest}");
    // The same on the host: not each of its file systems has each of these.
    let other = folder("programs-host");
    let mut host = Command::new(programs.folder.join("files"));
    host.arg(&other);
    // Where handles are the administrator's, they lead nowhere else either.
    let expected = text(&finish(host, b"").stdout).replace("Operation not permitted", "ok");
    assert!(expected.starts_with("O_TMPFILE: ok\nmmap: ok\n"), "{expected}");
    assert_eq!(printed, expected);
    assert_eq!(fs::read(own.join("mapped")).expect("readable")[4095..4098], *b"abc");
    assert!(own.join("socket").metadata().expect("it is bound").file_type().is_socket());
}

#[test]
fn what_the_user_may_not_read_or_reach_stays_so() {
    let own = folder("denied");
    let shared = own.join("shared");
    fs::create_dir(&shared).expect("it can be made");
    fs::write(own.join("secret"), "secret").expect("it can be written");
    for (name, mode) in [("closed", 0o000), ("theirs", 0o600)] {
        fs::write(shared.join(name), "secret").expect("it can be written");
        fs::set_permissions(shared.join(name), Permissions::from_mode(mode)).expect("it is ours");
    }
    symlink(own.join("secret"), shared.join("full")).expect("it can be made");
    symlink("../secret", shared.join("relative")).expect("it can be made");
    // Who tests as an ordinary user owns all of these.
    let files = if is_root() { "closed theirs full relative" } else { "closed full relative" };
    let script = format!(
        "cd /s; for file in {files} ../secret ../s/../secret; do cat $file 2>/dev/null && echo read $file; done
        echo x 2>/dev/null > /s/../new; mkdir /s/../folder; ls / | grep -c -e new -e folder; true"
    );
    assert_eq!(prints(&share(&shared, ""), &script), "2\n", "those are the guest's own");
    let mut left: Vec<_> = fs::read_dir(&own)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["secret", "shared"]);
}

#[test]
fn a_share_that_is_read_only_is_not_changed() {
    let own = folder("read-only");
    fs::write(own.join("file"), "as it was").expect("it can be written");
    fs::set_permissions(own.join("file"), Permissions::from_mode(0o666)).expect("it is ours");
    let script = "cd /s; cat file; mount -o remount,rw /s 2>/dev/null; for what in 'echo x > file' 'echo x > new' 'rm file' 'mkdir new' \
        'mv file new' 'chmod 600 file' 'ln file new' 'ln -s file new' 'touch file'; do \
        (eval $what) 2>/dev/null && echo done: $what; done; true";
    assert_eq!(prints(&share(&own, ",ro"), script), "as it was");
    assert_eq!(fs::read_dir(&own).expect("readable").count(), 1);
    assert_eq!(fs::read(own.join("file")).expect("readable"), b"as it was");
    assert_eq!(own.join("file").metadata().expect("it is there").mode() & 0o777, 0o666);
}

#[test]
fn a_tree_of_many_files_is_the_same_from_both_sides() {
    let count = if std::env::var_os("UNIBODY_LONG").is_some() { 10_000 } else { 2_000 };
    let own = folder("tree");
    for number in 0..count {
        let name = own.join(format!("{}/{}", number % 37, number % 11));
        fs::create_dir_all(&name).expect("it can be made");
        let bytes: Vec<u8> =
            (0..number * 7 % 9_000).map(|n: u32| ((n * number) >> 3) as u8).collect();
        fs::write(name.join(format!("file {number}")), bytes).expect("it can be written");
    }
    let script =
        "cd ${1:-/s} && find . -type f | sort | tr '\\n' '\\0' | xargs -0 sha256sum | sha256sum";
    let mut host = Command::new("sh");
    host.args(["-c", script, "sh"]).arg(&own).env("LC_ALL", "C");
    let expected = finish(host, b"");
    assert_eq!(expected.status.code(), Some(0), "{}", text(&expected.stderr));
    assert_eq!(prints(&share(&own, ",ro"), script), text(&expected.stdout));
    let _ = fs::remove_dir_all(own);
}

#[test]
fn several_folders_are_shared_and_two_guests_see_one() {
    let (first, second) = (folder("first"), folder("second"));
    fs::write(second.join("file"), "x").expect("it can be written");
    let mut options = share(&first, "").to_vec();
    options.extend(["--share".into(), format!("{}:/deep/in/there,ro", second.display())]);
    let both = "cat /deep/in/there/file; echo here > /s/told; until grep -q there /s/told; do sleep 0.1; done; cat /s/told";
    let other = "until grep -q here /s/told 2>/dev/null; do sleep 0.1; done; echo there >> /s/told";
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| prints(&share(&first, ""), other));
        (prints(&options, both), other.join().expect("it has not failed"))
    });
    assert_eq!((one.as_str(), two.as_str()), ("xhere\nthere\n", ""));
}

#[test]
fn a_server_that_is_killed_is_told_of_and_the_guest_goes_on() {
    let own = folder("killed");
    fs::write(own.join("file"), "x").expect("it can be written");
    let script =
        "cd /s; cat file; echo; read line; cat file; cat other; echo y > new; cd /; echo over";
    let mut command = guest(&share(&own, ""), script);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("readable");
    assert_eq!(line, "x\n");
    let servers = servers(&own);
    assert_eq!(servers.len(), 1);
    let kill = Command::new("kill").args(["-KILL", &servers[0].to_string()]).status();
    assert!(kill.expect("kill is part of every Debian").success());
    // What it says comes before the guest finds out.
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    line.clear();
    stderr.read_line(&mut line).expect("readable");
    let name = own.display();
    let told = format!(
        "unibody: share '{name}' is lost: its process has ended. The guest has I/O errors there\n"
    );
    assert_eq!(line, told);
    child.stdin.take().expect("piped").write_all(b"\n").expect("it reads");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut rest).expect("readable");
    assert!(rest.ends_with("over\n"), "{rest}");
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut errors).expect("readable");
    for failed in ["'file'", "'other'", "new"] {
        assert!(errors.contains(&format!("{failed}: Input/output error\n")), "{errors}");
    }
    assert!(support::wait(&mut child, &command).success());
}

#[test]
fn shares_that_can_not_be_are_told_of() {
    let own = folder("refused");
    fs::write(own.join("file"), "x").expect("it can be written");
    let mut told = String::new();
    for name in ["none", "file"] {
        let (status, stdout, stderr) = outcome(guest(&share(&own.join(name), ""), "true"));
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{stderr}");
        write!(told, "{stderr}").expect("a string");
    }
    let name = own.display();
    assert_eq!(
        told,
        format!(
            "unibody: cannot share '{name}/none': no such file. Give the path of a folder that you may read\n\
             unibody: cannot share '{name}/file': it is no folder. Give the folder that it is in\n"
        )
    );
    // Without modules that kernel has no such file system.
    let mut options = share(&own, "").to_vec();
    let kernel = fs::read_dir(pulled().join("boot")).expect("it is pulled").flatten().next();
    let kernel = kernel.expect("there is one").path().display().to_string();
    options.extend(["--kernel".into(), kernel]);
    let (status, stdout, stderr) = outcome(guest(&options, "true"));
    assert_eq!((status, stdout.as_str()), (Some(125), ""), "{stderr}");
    assert!(stderr.contains("on /s: the guest's kernel has no virtiofs"), "{stderr}");
    assert!(stderr.contains("CONFIG_VIRTIO_FS"), "{stderr}");
}
