use proptest::prelude::*;

use super::*;
use crate::modules::fixture::fill;

/// What the files say.
fn table(dependencies: &str, aliases: &str, soft: &str) -> Result<Table, Error> {
    let folder = tempfile::tempdir().unwrap();
    fill(
        folder.path(),
        &[
            (DEPENDENCIES, dependencies.as_bytes()),
            (ALIASES, aliases.as_bytes()),
            (SOFT, soft.as_bytes()),
        ],
    );
    read_table(folder.path())
}

/// As kmod's depmod writes them.
const DEPMOD: &str = "\
kernel/drivers/virtio/virtio_ring.ko.xz:
kernel/drivers/virtio/virtio.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
";

#[test]
fn what_depmod_writes_is_understood() {
    let aliases = "# Aliases extracted from modules themselves.\nalias virtio:d00000002v* virtio_blk\n\
                   alias of:N*T*C with blanks virtio_blk\nalias fs-xfs xfs\n";
    let soft = "# Soft dependencies extracted from modules themselves.\n\
                softdep xfs pre: crc32c sha256 post: x\nsoftdep xfs gcm\n";
    let table = table(DEPMOD, aliases, soft).unwrap();
    let blk = &table.modules["virtio_blk"];
    assert_eq!(blk.path, "kernel/drivers/block/virtio_blk.ko.xz");
    assert_eq!(blk.depends, ["virtio", "virtio_ring"]);
    let aliases = [("virtio:d00000002v*", "virtio_blk"), ("fs-xfs", "xfs")];
    assert_eq!(table.aliases, aliases.map(|(a, b)| (a.to_string(), b.to_string())));
    let soft: Vec<&str> = table.soft["xfs"].iter().map(String::as_str).collect();
    assert_eq!(soft, ["crc32c", "gcm", "sha256", "x"]);
}

#[test]
fn what_is_written_lists_what_is_loaded_first_last() {
    let table = table(DEPMOD, "", "").unwrap();
    let paths = [("virtio", "v.ko"), ("virtio_ring", "r.ko"), ("virtio_blk", "b.ko")];
    let text = dependencies(&table, &paths).unwrap();
    assert_eq!(text, "v.ko: r.ko\nr.ko:\nb.ko: v.ko r.ko\n");
    let some = dependencies(&table, &paths[1..]).unwrap();
    assert_eq!(some, "r.ko:\nb.ko: r.ko\n", "what isn't there is not named");
}

#[test]
fn a_line_that_makes_no_sense_is_named() {
    for (dependencies, aliases, file, line) in [
        ("kernel/a.ko:\nkernel/b.ko\n", "", DEPENDENCIES, 2),
        ("../../../etc/a.ko:\n", "", DEPENDENCIES, 1),
        ("/etc/a.ko:\n", "", DEPENDENCIES, 1),
        ("a.ko: ../b.ko\n", "", DEPENDENCIES, 1),
        ("a.ko: b.txt\n", "", DEPENDENCIES, 1),
        ("a.ko:\n", "# x\n\nalias x\n", ALIASES, 3),
        ("a.ko:\n", "aliases x y\n", ALIASES, 1),
    ] {
        let error = table(dependencies, aliases, "").unwrap_err().to_string();
        assert!(error.starts_with(&format!("line {line} of ")), "{error}");
        assert!(error.ends_with(&format!("/{file}' is not what depmod writes")), "{error}");
    }
}

#[test]
fn a_table_is_a_file_of_text() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(read(folder.path(), DEPENDENCIES).unwrap(), None);
    fs::create_dir(folder.path().join(DEPENDENCIES)).unwrap();
    assert!(read(folder.path(), DEPENDENCIES).is_err());
    fs::write(folder.path().join(ALIASES), b"alias \xff x\n").unwrap();
    assert!(matches!(read(folder.path(), ALIASES), Err(Error::Read { .. })));
    let large = File::create(folder.path().join(SOFT)).unwrap();
    large.set_len(LIMIT + 1).unwrap();
    assert!(matches!(read(folder.path(), SOFT), Err(Error::TooMuch { .. })));
}

/// Lines of such a file, and what looks like it.
fn text() -> impl Strategy<Value = String> {
    let word = "[a-c:/.*\\-]{0,6}(\\.ko)?";
    let line = prop_oneof![
        (word, word, word).prop_map(|(a, b, c)| format!("{a}: {b} {c}")),
        (word, word).prop_map(|(a, b)| format!("alias {a} {b}")),
        (word, word).prop_map(|(a, b)| format!("softdep {a} pre: {b}")),
        ".{0,20}",
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn any_text_is_a_table_or_an_error(text in text()) {
        for parse in [dependency as Parse, alias, soft_dependency] {
            let mut table = Table::default();
            let _ = lines(&text, &mut table, parse);
            let paths = table.modules.values().all(|module| {
                !module.path.starts_with('/') && module.path.split('/').all(|part| part != "..")
            });
            prop_assert!(paths);
        }
        let _ = builtin(&text);
    }

    /// What is written is read as what it was.
    #[test]
    fn a_table_comes_back(edges in prop::collection::vec((0usize..8, 0usize..8), 0..12)) {
        let mut before = Table::default();
        for name in 0..8 {
            // None depends on a later one: no circle.
            let depends = edges.iter().filter(|(from, to)| *from == name && to < from);
            let depends = depends.map(|(_, to)| format!("m{to}")).collect();
            before.add(format!("m{name}"), Module { path: format!("k/m{name}.ko"), depends });
            before.aliases.push((format!("alias-{name}*"), format!("m{name}")));
        }
        before.soft.insert("m1".into(), ["m2".to_string(), "x-y".to_string()].into());
        let files = write(&before).unwrap();
        let [aliases, soft, dependencies] = &files[..] else { panic!("{files:?}") };
        let after = table(&dependencies.1, &aliases.1, &soft.1).unwrap();
        prop_assert_eq!(&after.aliases, &before.aliases);
        prop_assert_eq!(&after.soft, &before.soft);
        for name in before.modules.keys() {
            let all = |table: &Table| {
                let closure = table.closure(&[name]).unwrap();
                closure.modules.iter().map(|(name, _)| name.to_string()).collect::<BTreeSet<_>>()
            };
            prop_assert_eq!(all(&after), all(&before));
        }
    }
}
