use std::io::Write;

use super::deb::Destination;
use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_path_buf();
    let store = Store::of_user(|name| (name == "XDG_CACHE_HOME").then(|| path.clone())).unwrap();
    (folder, store)
}

fn package(version: &str) -> Vec<Package> {
    vec![Package { name: "linux".into(), version: version.into(), sha256: version.repeat(8) }]
}

fn fill(staging: &mut Staging<'_>) {
    for (path, text) in [
        ("boot/vmlinuz-6.1", "kernel"),
        ("usr/lib/modules/6.1/a.ko", "module"),
        ("bin/busybox", "tools"),
        ("usr/share/doc/x", "not kept"),
    ] {
        staging.file(path, path.contains("bin/"), &mut text.as_bytes()).unwrap();
    }
}

fn put(store: &Store, version: &str) -> Guest {
    let lock = store.lock(|| ()).unwrap();
    let mut staging = store.stage(&lock).unwrap();
    fill(&mut staging);
    let manifest = Manifest::new(package(version), staging.files()).unwrap();
    staging.commit(manifest).unwrap()
}

#[test]
fn what_was_committed_is_found_again() {
    let (_folder, store) = store();
    assert!(store.current().is_none());
    put(&store, "1");
    let guest = store.current().unwrap();
    assert_eq!(fs::read(guest.kernel()).unwrap(), b"kernel");
    assert_eq!(fs::metadata(guest.busybox()).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(guest.manifest.release, "6.1");
    assert!(guest.is_whole());
    assert!(!store.root().join("staging").exists());
}

#[test]
fn a_kernel_that_cannot_be_unpacked_stays_as_it_is() {
    let (_folder, store) = store();
    let lock = store.lock(|| ()).unwrap();
    let mut staging = store.stage(&lock).unwrap();
    fill(&mut staging);
    let mut manifest = Manifest::new(package("1"), staging.files()).unwrap();
    staging.unpack_kernel(&mut manifest).unwrap();
    let guest = staging.commit(manifest).unwrap();
    assert_eq!(guest.manifest.unpacked, None);
    let names = fs::read_dir(guest.folder().join("boot")).unwrap();
    assert_eq!(names.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["vmlinuz-6.1"]);
}

#[test]
fn an_unpacked_kernel_is_the_one_that_is_used() {
    let (_folder, store) = store();
    let lock = store.lock(|| ()).unwrap();
    let mut staging = store.stage(&lock).unwrap();
    fill(&mut staging);
    let mut manifest = Manifest::new(package("1"), staging.files()).unwrap();
    fs::write(staging.guest().join("boot/unpacked-6.1"), "unpacked").unwrap();
    manifest.files.push(Entry { path: "boot/unpacked-6.1".into(), size: 8 });
    manifest.unpacked = Some("boot/unpacked-6.1".into());
    staging.commit(manifest).unwrap();
    let guest = store.current().unwrap();
    assert_eq!(fs::read(guest.kernel()).unwrap(), b"unpacked");
    fs::remove_file(guest.kernel()).unwrap();
    assert!(store.current().is_none());
}

#[test]
fn a_new_guest_replaces_the_old_and_the_one_before_goes() {
    let (_folder, store) = store();
    let first = put(&store, "1");
    let second = put(&store, "2");
    assert!(first.folder().exists(), "another process may be about to open it");
    let third = put(&store, "3");
    assert_eq!(store.current().unwrap().folder(), fs::canonicalize(third.folder()).unwrap());
    assert!(!first.folder().exists() && second.folder().exists());
}

/// What a process leaves behind that is killed.
fn leave(store: &Store, finish: impl FnOnce(&Path)) {
    let lock = store.lock(|| ()).unwrap();
    let mut staging = store.stage(&lock).unwrap();
    fill(&mut staging);
    finish(&staging.folder);
    std::mem::forget(staging);
}

#[test]
fn what_an_interrupted_pull_leaves_is_not_taken_for_whole() {
    let (_folder, store) = store();
    leave(&store, |_| ());
    assert!(store.current().is_none());
    // Killed while it wrote the manifest, whose place is not its final one.
    leave(&store, |folder| {
        fs::write(folder.join("guest").join(MANIFEST), "{\"format\":1").unwrap()
    });
    assert!(store.current().is_none());
    let guest = put(&store, "1");
    assert!(guest.kernel().exists());
    leave(&store, |_| ());
    assert_eq!(store.current().unwrap().manifest, guest.manifest, "the old one stays in use");
    put(&store, "2");
    assert_eq!(store.current().unwrap().manifest.packages, package("2"));
}

#[test]
fn a_failed_pull_leaves_nothing() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let (_folder, store) = store();
    let lock = store.lock(|| ()).unwrap();
    let mut staging = store.stage(&lock).unwrap();
    assert!(staging.file("bin/busybox", true, &mut b"tools".chain(Broken)).is_err());
    drop(staging);
    assert!(!store.root().join("staging").exists());
    assert!(store.current().is_none());
}

#[test]
fn damage_is_seen() {
    let damages: [fn(&Guest); 4] = [
        |guest| fs::write(guest.kernel(), "kern").unwrap(),
        |guest| fs::remove_file(guest.busybox()).unwrap(),
        |guest| fs::write(guest.folder().join(MANIFEST), "{}").unwrap(),
        |guest| {
            let path = guest.folder().join(MANIFEST);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replace("\"format\": 4", "\"format\": 3")).unwrap();
        },
    ];
    for damage in damages {
        let (_folder, store) = store();
        damage(&put(&store, "1"));
        assert!(store.current().is_none());
        // The same packages again: their folder is there already.
        put(&store, "1");
        assert!(store.current().is_some());
    }
}

#[test]
fn what_no_start_needs_is_missed_by_the_next_pull() {
    let damages: [fn(&Guest); 4] = [
        |guest| fs::remove_file(guest.folder().join("lib/modules/6.1/a.ko")).unwrap(),
        |guest| fs::write(guest.folder().join("lib/modules/6.1/a.ko"), "mod").unwrap(),
        |guest| fs::remove_file(guest.folder().join(CONTENTS)).unwrap(),
        |guest| fs::write(guest.folder().join(CONTENTS), "[{}]").unwrap(),
    ];
    for damage in damages {
        let (_folder, store) = store();
        damage(&put(&store, "1"));
        assert!(store.current().is_some_and(|guest| !guest.is_whole()));
        put(&store, "1");
        assert!(store.current().is_some_and(|guest| guest.is_whole()));
    }
}

#[test]
fn a_manifest_can_not_lead_out_of_its_folder() {
    let (folder, store) = store();
    fs::write(folder.path().join("secret"), "kernel").unwrap();
    let guest = put(&store, "1");
    let path = guest.folder().join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    let outside = "../../../secret";
    assert_eq!(fs::read(guest.folder().join(outside)).unwrap(), b"kernel");
    fs::write(path, text.replace("boot/vmlinuz-6.1", outside)).unwrap();
    assert!(store.current().is_none());
}

#[test]
fn one_pulls_at_a_time() {
    let (_folder, store) = store();
    let lock = store.lock(|| panic!("nobody else is here")).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let other = store.clone();
    let thread = std::thread::spawn(move || {
        let waiting = sender.clone();
        let _lock = other.lock(|| waiting.send("waits").unwrap()).unwrap();
        sender.send("has it").unwrap();
    });
    assert_eq!(receiver.recv().unwrap(), "waits");
    assert!(receiver.try_recv().is_err());
    drop(lock);
    assert_eq!(receiver.recv().unwrap(), "has it");
    thread.join().unwrap();
}

#[test]
fn packages_of_an_older_and_a_newer_layout_are_understood() {
    assert_eq!(kept("boot/vmlinuz-6.1"), Some("boot/vmlinuz-6.1"));
    assert_eq!(kept("usr/bin/busybox"), Some("bin/busybox"));
    assert_eq!(kept("usr/lib/modules/6.1/x.ko"), Some("lib/modules/6.1/x.ko"));
    assert_eq!(kept("usr/share/bin/busybox"), None);
    assert_eq!(kept("boot/config-6.1"), None);
    assert_eq!(kernel_release("lib/modules/6.17.0/vmlinuz"), Some("6.17.0"));
    assert_eq!(kernel_release("lib/modules/6.17.0/kernel/vmlinuz"), None);
    let entry = |path: &str| Entry { path: path.into(), size: 1 };
    assert_eq!(Manifest::new(vec![], &[entry("bin/busybox")]), Err("a kernel"));
    assert_eq!(Manifest::new(vec![], &[entry("boot/vmlinuz-1")]), Err("BusyBox"));
}

#[test]
fn the_store_is_where_caches_are() {
    let of = |cache: &str, home: &str| {
        let (cache, home) = (PathBuf::from(cache), PathBuf::from(home));
        Store::of_user(|name| Some(if name == "HOME" { home.clone() } else { cache.clone() }))
            .map(|store| store.root().display().to_string())
    };
    assert_eq!(of("/c", "/h").unwrap(), "/c/unibody");
    assert_eq!(of("", "/h").unwrap(), "/h/.cache/unibody");
    assert_eq!(of("relative", "/h").unwrap(), "/h/.cache/unibody");
    assert!(matches!(of("", ""), Err(Error::NoHome)));
}

#[test]
fn a_file_s_checksum_is_sha_256() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"abc").unwrap();
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256(file.path()).unwrap(), expected);
}

/// A guest whose modules are some, with what depmod makes of them or without.
fn put_with_modules(store: &Store, described: bool) -> Guest {
    let lock = store.lock(|| ()).unwrap();
    let mut staging = store.stage(&lock).unwrap();
    fill(&mut staging);
    fs::remove_file(staging.guest().join("lib/modules/6.1/a.ko")).unwrap();
    staging.files.retain(|entry| !entry.path.ends_with("a.ko"));
    modules::fixture::kernel(&staging.guest().join("lib/modules/6.1"));
    let manifest = Manifest::new(package("1"), staging.files()).unwrap();
    if described {
        staging.describe_modules(&manifest).unwrap();
    }
    staging.commit(manifest).unwrap()
}

#[test]
fn what_depends_on_what_is_said_beside_the_modules() {
    let (_folder, store) = store();
    let guest = put_with_modules(&store, true);
    let path = guest.modules().join("modules.dep");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko"));
    assert!(guest.is_whole());
    // It is looked at as all that was pulled.
    fs::write(path, "").unwrap();
    assert!(!guest.is_whole());
}

#[test]
fn an_older_guest_is_described_when_that_is_needed() {
    let (_folder, store) = store();
    let guest = put_with_modules(&store, false);
    assert!(!modules::is_described(&guest.modules()));
    assert!(store.current().is_some(), "it is usable without");
    store.describe_modules(&guest, || ()).unwrap();
    assert!(modules::is_described(&guest.modules()) && guest.is_whole());
    let names = fs::read_dir(guest.modules()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().ends_with(".partial")));
    // Once.
    fs::write(guest.modules().join("modules.dep"), "kernel/other.ko:\n").unwrap();
    store.describe_modules(&guest, || panic!("nobody has the lock")).unwrap();
    let text = fs::read_to_string(guest.modules().join("modules.dep")).unwrap();
    assert_eq!(text, "kernel/other.ko:\n");
}

#[test]
fn modules_that_say_nothing_do_not_stop_a_pull() {
    let (_folder, store) = store();
    let lock = store.lock(|| ()).unwrap();
    let mut staging = store.stage(&lock).unwrap();
    fill(&mut staging);
    let manifest = Manifest::new(package("1"), staging.files()).unwrap();
    staging.describe_modules(&manifest).unwrap();
    let guest = staging.commit(manifest).unwrap();
    assert!(guest.is_whole() && !modules::is_described(&guest.modules()));
}
