//! `unibody pull` with the real apt: from a repository on this disk, and from the distribution's where it can't be reached or
//! the disk is full.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use support::{SOFT, as_user, is_root, outcome, own_folder};

/// A package as it is written to the repository.
struct Package {
    name: &'static str,
    version: &'static str,
    depends: &'static str,
    files: Vec<(String, u32, String)>,
}

/// A Debian package of these files.
fn deb(files: &[(String, u32, String)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, format!("./{name}"), text.as_bytes()).expect("in memory");
    }
    let tar = tar.into_inner().expect("in memory");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).expect("in memory");
    let data = gzip.finish().expect("in memory");
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, data) in [("debian-binary", b"2.0\n".to_vec()), ("data.tar.gz", data)] {
        let size = data.len();
        let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100_644);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&data);
        bytes.extend(std::iter::repeat_n(b'\n', size % 2));
    }
    bytes
}

/// A repository, and what apt is told about it.
struct Repository {
    folder: PathBuf,
    cache: PathBuf,
}

impl Repository {
    fn new(name: &str) -> Repository {
        let folder = own_folder(&format!("repository-{name}-{}", std::process::id()));
        let cache = own_folder(&format!("repository-{name}-{}/cache", std::process::id()));
        let repository = Repository { folder, cache };
        repository.sources("");
        let config = format!(
            "Dir::Etc::sourcelist \"{0}/sources.list\";\nDir::Etc::sourceparts \"{0}/none\";\n",
            repository.folder.display()
        );
        repository.write("apt.conf", config.as_bytes());
        repository
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.join(name), bytes).expect("it is our folder");
    }

    /// Adds sources to the repository itself.
    fn sources(&self, others: &str) {
        let own = format!("deb [trusted=yes] file:{} ./\n{others}", self.folder.display());
        self.write("sources.list", own.as_bytes());
    }

    fn publish(&self, packages: &[Package]) {
        let mut index = String::new();
        for package in packages {
            let Package { name, version, depends, .. } = package;
            let bytes = deb(&package.files);
            let file = format!("{name}_{version}_amd64.deb");
            let size = bytes.len();
            let sum: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            self.write(&file, &bytes);
            index.push_str(&format!(
                "Package: {name}\nVersion: {version}\nArchitecture: amd64\n{depends}\
                 Maintainer: nobody <nobody@example.org>\nFilename: ./{file}\nSize: {size}\n\
                 SHA256: {sum}\nDescription: for a test\n\n"
            ));
        }
        self.write("Packages", index.as_bytes());
    }

    /// Publishes a kernel of this version, and BusyBox.
    fn publish_kernel(&self, version: &'static str) {
        let file = |name: &str, mode, text: &str| (name.to_string(), mode, text.to_string());
        let busybox = "#!/bin/sh\necho bin/sh\necho usr/bin/awk\n";
        self.publish(&[
            Package {
                name: "linux-image-cloud-amd64",
                version,
                depends: "Depends: linux-image-1-cloud-amd64, other\n",
                files: vec![],
            },
            Package {
                name: "linux-image-1-cloud-amd64",
                version,
                depends: "Depends: kmod, linux-modules-1 | other\n",
                files: vec![file("boot/vmlinuz-1", 0o644, &format!("kernel {version}"))],
            },
            Package {
                name: "linux-modules-1",
                version,
                depends: "",
                files: vec![file("usr/lib/modules/1/a.ko", 0o644, "module")],
            },
            Package {
                name: "busybox-static",
                version: "1",
                depends: "",
                files: vec![file("bin/busybox", 0o755, busybox), file("usr/share/doc", 0o644, "")],
            },
        ]);
    }

    fn pull(&self) -> Command {
        let mut command = as_user(&self.cache, &[]);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).arg("pull");
        command
    }

    /// What is in use, by its path.
    fn current(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.cache.join("unibody/current").join(path)).ok()
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_pull_brings_what_is_new() {
    let repository = Repository::new("new");
    repository.publish_kernel("1.1");
    let (status, stdout, stderr) = outcome(repository.pull());
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.contains("kernel    1 (new)"), "{stdout}");
    assert!(stdout.contains("package   linux-modules-1 1.1\n"), "{stdout}");
    assert_eq!(repository.current("boot/vmlinuz-1").as_deref(), Some("kernel 1.1"));
    assert_eq!(repository.current("lib/modules/1/a.ko").as_deref(), Some("module"));
    assert_eq!(repository.current("usr/share/doc"), None);
    let manifest = repository.current("manifest.json").expect("it is there");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("it is JSON");
    assert_eq!(manifest["applets"], serde_json::json!(["bin/sh", "usr/bin/awk"]));

    let (status, stdout, _) = outcome(repository.pull());
    assert!(status == Some(0) && stdout.contains("(up to date)"), "{stdout}");

    repository.publish_kernel("1.2");
    let (status, stdout, _) = outcome(repository.pull());
    assert!(status == Some(0) && stdout.contains("linux-image-1-cloud-amd64 1.2"), "{stdout}");
    assert_eq!(repository.current("boot/vmlinuz-1").as_deref(), Some("kernel 1.2"));
}

#[test]
fn a_package_that_is_not_what_the_index_says_is_refused() {
    let repository = Repository::new("other");
    repository.publish_kernel("1.1");
    let package = repository.folder.join("linux-image-1-cloud-amd64_1.1_amd64.deb");
    let mut bytes = fs::read(&package).expect("it is there");
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    fs::write(&package, bytes).expect("it is ours");
    let (status, stdout, stderr) = outcome(repository.pull());
    assert_eq!((status, stdout.as_str()), (Some(125), ""), "{stderr}");
    assert!(stderr.contains("unibody: cannot get a kernel"), "{stderr}");
    assert_eq!(repository.current("manifest.json"), None);
    assert!(!repository.cache.join("unibody/staging").exists());
}

#[test]
fn a_source_that_is_not_needed_may_be_dead() {
    let repository = Repository::new("dead");
    repository.publish_kernel("1.1");
    repository.sources("deb http://127.0.0.1:9/debian stable main\n");
    let (status, stdout, stderr) = outcome(repository.pull());
    assert!(status == Some(0) && stdout.contains("(new)"), "{stderr}");
}

#[test]
fn what_no_source_has_is_named() {
    let repository = Repository::new("empty");
    repository.publish(&[]);
    let (status, _, stderr) = outcome(repository.pull());
    assert_eq!(status, Some(125));
    assert!(stderr.contains("none of apt's sources has linux-image-cloud-amd64"), "{stderr}");
}

#[test]
fn two_pulls_at_a_time_do_not_meet() {
    let repository = Repository::new("two");
    repository.publish_kernel("1.1");
    let both = [repository.pull(), repository.pull()]
        .map(|command| std::thread::spawn(move || outcome(command)));
    for pull in both {
        let (status, stdout, stderr) = pull.join().expect("it ends");
        assert!(status == Some(0) && stdout.contains("kernel    1 "), "{stderr}");
    }
    assert!(repository.current("manifest.json").is_some());
}

#[test]
fn a_machine_without_apt_is_told_what_else_there_is() {
    let cache = own_folder("no-apt");
    let template = as_user(&cache, &[]);
    // Found here, because there is no search path over there.
    let program = match Path::new(template.get_program()) {
        path if path.is_absolute() => path.to_path_buf(),
        name => Path::new("/usr/bin").join(name),
    };
    for words in [&["pull", "--quiet"][..], &["run", "--quiet", "--", "true"]] {
        let mut command = Command::new(&program);
        command.args(template.get_args()).args(words);
        command.env("PATH", "/nonexistent").env("XDG_CACHE_HOME", &cache);
        let (status, stdout, stderr) = outcome(command);
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("no apt-get") && stderr.contains("--kernel"), "{stderr}");
        assert!(stderr.contains("--initrd"), "{stderr}");
    }
}

#[test]
fn without_network_the_first_run_says_what_is_missing() {
    if !is_root() {
        eprintln!("only root can take the network away: not tested");
        return;
    }
    let cache = own_folder(&format!("empty-cache-{}", std::process::id()));
    let mut command = as_user(&cache, &["unshare", "--net"]);
    command.args(SOFT).args(["--", "true"]);
    let (status, _, stderr) = outcome(command);
    std::fs::remove_dir_all(&cache).expect("it is ours");
    assert_eq!(status, Some(125), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains("network") && last.contains("--kernel"), "{stderr}");
}

#[test]
fn a_disk_that_is_full_leaves_nothing_that_is_taken_for_whole() {
    if !is_root() {
        eprintln!("only root can mount a small disk: not tested");
        return;
    }
    let disk = own_folder(&format!("small-disk-{}", std::process::id()));
    let path = disk.to_str().expect("plain");
    let program = support::program();
    let script = format!(
        "mount -t tmpfs -o size=30m,mode=777 none {path}; \
         run() {{ setpriv --reuid=65534 --regid=65534 --clear-groups \
                  env HOME={path} XDG_CACHE_HOME={path} {} \"$@\"; }}; \
         run pull; echo first $?; mount -o remount,size=400m {path}; \
         unshare --net setpriv --reuid=65534 --regid=65534 --clear-groups \
             env HOME={path} XDG_CACHE_HOME={path} {} run -- true; echo second $?; \
         run run -- echo whole; echo third $?",
        program.display(),
        program.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).current_dir("/");
    let (_, stdout, stderr) = outcome(command);
    std::fs::remove_dir(&disk).expect("the mount went with its namespace");
    assert!(stderr.contains("No space left") || stderr.contains("Make some room"), "{stderr}");
    assert_eq!(stdout, "first 125\nsecond 125\nwhole\nthird 0\n", "{stderr}");
}
