use super::*;

#[test]
fn files_have_the_names_of_their_modules() {
    for (path, name) in [
        ("kernel/drivers/char/hw_random/virtio-rng.ko", Some("virtio_rng")),
        ("virtio_blk.ko.xz", Some("virtio_blk")),
        ("kernel/a.ko.zst", Some("a")),
        ("kernel/a.ko.gz", Some("a")),
        ("kernel/a.ko.lz4", None),
        ("kernel/.ko", None),
        ("kernel/a.o", None),
        ("kernel/a b.ko", None),
        ("modules.dep", None),
    ] {
        assert_eq!(of_file(path).as_deref(), name, "{path}");
    }
    assert_eq!(of_file(&format!("{}.ko", "a".repeat(55))).map(|name| name.len()), Some(55));
    assert_eq!(of_file(&format!("{}.ko", "a".repeat(56))), None);
}

#[test]
fn paths_lead_nowhere_else() {
    for good in ["a.ko", "kernel/fs/a.ko.xz", "updates/dkms/a-b.ko"] {
        assert_eq!(path(good), Some(good));
    }
    for bad in
        ["/a.ko", "../a.ko", "kernel/../../a.ko", "kernel//a.ko", "./a.ko", "a", "a:b.ko", ""]
    {
        assert_eq!(path(bad), None, "{bad}");
    }
}

#[test]
fn a_file_that_was_packed_loses_that_ending() {
    assert_eq!(unpacked("kernel/a.ko.xz"), "kernel/a.ko");
    assert_eq!(unpacked("kernel/a.ko"), "kernel/a.ko");
}

#[test]
fn a_release_is_a_name_of_a_folder() {
    assert!(is_release("6.1.0-57-cloud-amd64") && is_release("6.12.0+"));
    for bad in ["", ".", "..", "6.1/x", "6.1 x", "6.1\n"] {
        assert!(!is_release(bad), "{bad:?}");
    }
}
