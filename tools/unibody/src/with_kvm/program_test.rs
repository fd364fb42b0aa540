use std::fs;

use proptest::prelude::*;

use super::*;

/// An ELF file's header, with `count` program headers right behind it.
fn elf(class: u8, machine: u16, count: u16) -> Vec<u8> {
    let mut bytes = b"\x7fELF".to_vec();
    bytes.extend([class, 1, 1]);
    bytes.resize(18, 0);
    bytes.extend(machine.to_le_bytes());
    bytes.resize(32, 0);
    bytes.extend(64_u64.to_le_bytes());
    bytes.resize(54, 0);
    bytes.extend([56_u16, count].map(u16::to_le_bytes).as_flattened());
    bytes.resize(64, 0);
    bytes
}

fn segment(kind: u32, place: u64, size: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.resize(8, 0);
    bytes.extend(place.to_le_bytes());
    bytes.resize(32, 0);
    bytes.extend(size.to_le_bytes());
    bytes.resize(56, 0);
    bytes
}

/// A program for this machine that asks for this loader.
fn dynamic(loader: &str) -> Vec<u8> {
    let mut bytes = elf(2, 62, 2);
    bytes.extend(segment(1, 0, 0));
    bytes.extend(segment(3, 64 + 2 * 56, loader.len() as u64 + 1));
    bytes.extend(loader.as_bytes());
    bytes.push(0);
    bytes
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn look(&self, bytes: &[u8]) -> Option<Obstacle> {
        let path = self.file("looked-at", bytes, 0o755);
        Program(path).obstacle().map(|(_, obstacle)| obstacle)
    }
}

#[test]
fn a_program_is_found_as_a_shell_finds_it() {
    let folder = Folder::new();
    let (first, second) = (folder.0.path().join("one"), folder.0.path().join("two"));
    fs::create_dir_all(&first).unwrap();
    fs::create_dir_all(second.join("dir")).unwrap();
    let expected = folder.file("two/tool", b"", 0o755);
    folder.file("one/tool", b"", 0o644);
    folder.file("one/data", b"", 0o644);
    let path = std::env::join_paths([&first, &second]).unwrap();
    let find = |name: &str| {
        Program::find(OsStr::new(name), Some(&path))
            .map(|program| program.0)
            .map_err(|error| error.kind())
    };
    assert_eq!(find("tool"), Ok(expected.clone()));
    assert_eq!(find(expected.to_str().unwrap()), Ok(expected));
    assert_eq!(find("data"), Err(ErrorKind::PermissionDenied));
    assert_eq!(find("dir"), Err(ErrorKind::PermissionDenied));
    for name in ["none", "", "/no/such/tool"] {
        assert_eq!(find(name), Err(ErrorKind::NotFound), "{name}");
    }
}

#[test]
fn a_program_that_loads_libraries_is_told_from_others() {
    let folder = Folder::new();
    assert_eq!(folder.look(&dynamic("/lib64/ld-linux-x86-64.so.2")), None);
    assert_eq!(folder.look(&fs::read("/proc/self/exe").unwrap()), None);
    assert_eq!(folder.look(&elf(2, 62, 0)), Some(Obstacle::Static));
    let other = "/lib/ld-musl-x86_64.so.1";
    assert_eq!(folder.look(&dynamic(other)), Some(Obstacle::Loader(other.into())));
    for (class, machine) in [(1, 3), (1, 62), (2, 183)] {
        assert_eq!(folder.look(&elf(class, machine, 0)), Some(Obstacle::Machine));
    }
    // It says that there are headers, and ends before them.
    assert!(matches!(folder.look(&elf(2, 62, 9)), Some(Obstacle::Unreadable(_))));
    assert_eq!(folder.look(b"just text\n"), None);
}

#[test]
fn of_a_script_its_interpreter_counts() {
    let folder = Folder::new();
    let fixed = folder.file("fixed", &elf(2, 62, 0), 0o755);
    let inner = folder.file("inner", format!("#! {} -x\nmore", fixed.display()).as_bytes(), 0o755);
    let outer = folder.file("outer", format!("#!{}", inner.display()).as_bytes(), 0o755);
    assert_eq!(Program(outer).obstacle(), Some((fixed, Obstacle::Static)));
    assert_eq!(folder.look(b"#!/bin/sh\nexec true\n"), None);
    assert_eq!(folder.look(b"#!"), None);
    // One that is its own is the kernel's to refuse.
    let own = folder.0.path().join("looked-at");
    assert_eq!(folder.look(format!("#!{}\n", own.display()).as_bytes()), None);
}

#[test]
fn rights_of_its_own_are_an_obstacle() {
    let folder = Folder::new();
    let path = folder.file("tool", &dynamic("/lib64/ld-linux-x86-64.so.2"), 0o4755);
    // Nothing is gained by what is one's own.
    assert_eq!(Program(path.clone()).obstacle(), None);
    if !geteuid().is_root() {
        eprintln!("only root can make files of others: not tested");
        return;
    }
    for (mode, what) in [(0o4755, "the set-user-ID bit"), (0o2755, "the set-group-ID bit")] {
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let obstacle = Program(path.clone()).obstacle().map(|(_, obstacle)| obstacle);
        assert_eq!(obstacle, Some(Obstacle::Privileged(what)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_looked_at(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        is_elf in any::<bool>(),
        places in proptest::collection::vec((0_usize..260, any::<u8>()), 0..6),
    ) {
        if is_elf {
            bytes = dynamic("/lib64/ld-linux-x86-64.so.2");
            for (place, byte) in places {
                if let Some(at) = bytes.get_mut(place) {
                    *at = byte;
                }
            }
        }
        let folder = Folder::new();
        let _ = folder.look(&bytes);
    }
}
