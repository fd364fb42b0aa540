use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn outcome(seen: Seen) -> Outcome {
    let mut findings: Vec<_> = Check::ALL.map(|check| Finding { check, seen: Seen::Right }).into();
    findings[4].seen = seen;
    Outcome { findings, speed: Some(1_000_000), elapsed: Duration::from_micros(10_300) }
}

fn tried() -> Tried {
    let wrong = Seen::Wrong("it can't execute an instruction (f0 48)".into());
    Tried { devices: vec![(Device::Kvm, outcome(wrong))], soft: Some(outcome(Seen::Nothing)) }
}

fn key() -> Key {
    Key::of(&[Path::new("/no/such/device"), Path::new("/dev/null")]).expect("every system has it")
}

struct Folder {
    _root: tempfile::TempDir,
    place: Place,
}

impl Folder {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let place = Place(root.path().join("a/unibody"));
        Self { _root: root, place }
    }

    fn file(&self) -> PathBuf {
        self.place.0.join(FILE)
    }

    /// With a file that says what it should.
    fn filled() -> (Self, String) {
        let folder = Self::new();
        folder.place.keep(&key(), &tried()).unwrap();
        let text = fs::read_to_string(folder.file()).unwrap();
        (folder, text)
    }
}

#[test]
fn what_is_kept_is_recalled() {
    let folder = Folder::new();
    assert_eq!(folder.place.recall(&key()), None);
    for tried in [tried(), Tried { soft: None, ..tried() }] {
        folder.place.keep(&key(), &tried).unwrap();
        assert_eq!(folder.place.recall(&key()), Some(tried));
    }
    let names = fs::read_dir(&folder.place.0).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), [FILE], "nothing else is left");
    assert_eq!(fs::metadata(folder.file()).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn it_is_for_one_boot_device_user_and_version() {
    let (folder, _) = Folder::filled();
    let key = key();
    let device = |device: Node| Key { devices: vec![device], ..key.clone() };
    let [node] = &key.devices[..] else { panic!("{key:?}") };
    let Node { number, inode, .. } = node.clone();
    for other in [
        Key { boot: "another".into(), ..key.clone() },
        Key { user: key.user + 1, ..key.clone() },
        Key { version: "0.0.1".into(), ..key.clone() },
        device(Node { path: "/dev/kvm2".into(), ..node.clone() }),
        device(Node { number: number + 1, ..node.clone() }),
        device(Node { inode: inode + 1, ..node.clone() }),
        device(Node { changed: (1, 2), ..node.clone() }),
    ] {
        assert_eq!(folder.place.recall(&other), None, "{other:?}");
    }
    assert!(folder.place.recall(&key).is_some());
    let more = Key::of(&[Path::new("/dev/null"), Path::new("/dev/zero")]);
    assert_eq!(folder.place.recall(&more.unwrap()), None, "there is another device");
    assert_eq!(Key::of(&[Path::new("/no/such/device")]), None);
}

#[test]
fn what_is_malformed_is_as_good_as_nothing_and_replaced() {
    let (folder, text) = Folder::filled();
    let file = folder.file();
    let oversized = format!("{text}{}", " ".repeat(MAX_SIZE as usize));
    let mut wrong: Vec<String> =
        ["", "null", "{}", "[[[[[[[[", "\0\u{1b}[2J", oversized.as_str()].map(String::from).into();
    wrong.push("[".repeat(10_000));
    for (from, to) in [
        ("\"format\": 2", "\"format\": 1"),
        ("\"kvm\"", "\"vmm\""),
        ("\"speed\": 1000000", "\"speed\": -1"),
        ("\"speed\": 1000000", "\"speed\": 1e99"),
        ("\"ring 0\"", "\"ring 1\""),
        ("\"right\": false", "\"right\": true"),
        ("(f0 48)", "\\u001b[2J"),
        ("\"checks\": [", "\"checks\": [], \"more\": ["),
        ("\"checks\": [", "\"checks\": [{\"name\": \"x\", \"right\": true, \"wrong\": null},"),
    ] {
        assert!(text.contains(from), "{from} is not in {text}");
        wrong.push(text.replacen(from, to, 1));
    }
    wrong.extend((0..text.len()).step_by(7).map(|length| text[..length].to_string()));
    for wrong in wrong {
        fs::write(&file, &wrong).unwrap();
        assert_eq!(folder.place.recall(&key()), None, "{wrong}");
    }
    folder.place.keep(&key(), &tried()).unwrap();
    assert_eq!(folder.place.recall(&key()), Some(tried()));
}

#[test]
fn random_bytes_are_no_matter() {
    use proptest::prelude::*;
    let (folder, text) = Folder::filled();
    proptest!(ProptestConfig::with_cases(200), |(at in 0..text.len(), byte: u8)| {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = byte;
        fs::write(folder.file(), bytes).unwrap();
        let _ = folder.place.recall(&key());
    });
}

#[test]
fn only_a_plain_file_of_one_s_own_is_believed() {
    let (folder, text) = Folder::filled();
    let file = folder.file();
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o622);
    assert_eq!(folder.place.recall(&key()), None, "others can write it");
    mode(0o600);
    assert!(folder.place.recall(&key()).is_some());
    if geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
        assert_eq!(folder.place.recall(&key()), None, "it is another's");
    }
    let elsewhere = file.with_extension("elsewhere");
    fs::write(&elsewhere, text).unwrap();
    fs::remove_file(&file).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert_eq!(folder.place.recall(&key()), None, "it is a link");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(folder.place.recall(&key()), None, "it is a folder");
    assert!(folder.place.keep(&key(), &tried()).is_err());
    assert_eq!(fs::read_dir(&folder.place.0).unwrap().count(), 2, "nothing is left behind");
}

#[test]
fn it_is_kept_where_the_environment_says() {
    let own = tempfile::tempdir().unwrap();
    let of = |variables: &[(&str, &Path)]| {
        let found = Place::of_user(|name| {
            let variable = variables.iter().find(|(known, _)| *known == name);
            variable.map(|(_, path)| path.to_path_buf())
        });
        found.map(|place| place.0)
    };
    let (cache, relative) = (Path::new("/x"), Path::new("y"));
    let runtime = ("XDG_RUNTIME_DIR", own.path());
    assert_eq!(of(&[runtime, ("XDG_CACHE_HOME", cache)]), Some(own.path().join("unibody")));
    let cached = Some(PathBuf::from("/x/unibody"));
    for runtime in [relative, Path::new("/no/such/folder"), Path::new("/dev/null")] {
        assert_eq!(of(&[("XDG_RUNTIME_DIR", runtime), ("XDG_CACHE_HOME", cache)]), cached);
    }
    assert_eq!(of(&[("HOME", cache)]), Some("/x/.cache/unibody".into()));
    assert_eq!(of(&[]), None);
}
