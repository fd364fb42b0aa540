use vmm::boot::cpio::Reader;

use super::*;

/// An archive's parts, as they lie in the guest's memory.
fn together(parts: Vec<Input>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(part.head(usize::MAX).unwrap());
    }
    bytes
}

#[test]
fn the_userland_has_init_busybox_and_its_links() {
    let applets = ["bin/sh", "usr/bin/awk", "bin/sh", "odd/place"].map(str::to_string);
    let archive = together(userland(Input::bytes(&b"tools"[..]), &applets, None).unwrap());
    let entries: Vec<_> = Reader::new(&archive).collect::<Result<_, _>>().unwrap();
    let find = |name: &str| entries.iter().find(|entry| entry.name == name.as_bytes());
    assert_eq!(find("init").unwrap().data, INIT);
    assert_eq!(find("bin/busybox").unwrap().data, b"tools");
    assert_eq!(find("bin/sh").unwrap().data, b"/bin/busybox");
    assert_eq!(find("usr/bin/awk").unwrap().data, b"/bin/busybox");
    assert!(find("odd/place").is_none());
    for name in ["dev/console", "dev/null", "etc/passwd", "etc/group", "tmp", "proc"] {
        assert!(find(name).is_some(), "{name}");
    }
}

#[test]
fn the_overlay_has_nothing_but_what_init_takes() {
    let archive = together(overlay(None).unwrap());
    let names: Vec<String> = Reader::new(&archive)
        .map(|entry| String::from_utf8_lossy(entry.unwrap().name).into_owned())
        .collect();
    assert_eq!(names, ["dev", "init", "dev/console"]);
}

#[test]
fn modules_and_their_list_are_where_init_looks() {
    let modules = || ForGuest {
        release: "6.1".into(),
        files: vec![
            ("kernel/fs/xfs.ko".into(), Input::bytes(&b"xfs"[..])),
            ("kernel/virtio.ko".into(), Input::bytes(&b"virtio"[..])),
        ],
        tables: vec![("modules.dep", "kernel/fs/xfs.ko:\n".into())],
        loaded: vec!["kernel/virtio.ko".into()],
        later: vec!["kernel/fs/xfs.ko".into()],
        missing: Vec::new(),
    };
    let tools = || Input::bytes(&b"tools"[..]);
    for parts in [userland(tools(), &[], Some(modules())), overlay(Some(modules()))] {
        let archive = together(parts.unwrap());
        let entries: Vec<_> = Reader::new(&archive).collect::<Result<_, _>>().unwrap();
        let find = |name: &str| entries.iter().find(|entry| entry.name == name.as_bytes());
        let data = |name: &str| find(name).unwrap_or_else(|| panic!("{name}")).data;
        assert_eq!(data(".unibody/modules/6.1/kernel/fs/xfs.ko"), b"xfs");
        assert_eq!(data(".unibody/modules/6.1/kernel/virtio.ko"), b"virtio");
        assert_eq!(data(".unibody/modules/6.1/modules.dep"), b"kernel/fs/xfs.ko:\n");
        assert_eq!(data(".unibody/loaded"), b"/.unibody/modules/6.1/kernel/virtio.ko\n");
        assert_eq!(data(".unibody/later"), b"/.unibody/modules/6.1/kernel/fs/xfs.ko\n");
        // What may be a link in a person's own file system stays as it is.
        assert!(find("lib/modules").is_none());
    }
}
