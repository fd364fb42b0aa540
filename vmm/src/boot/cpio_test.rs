use proptest::prelude::*;

use super::*;

fn sample() -> Writer {
    let mut writer = Writer::new();
    writer.directory("dev", 0o755).unwrap();
    writer.character_device("dev/console", 0o600, 5, 1).unwrap();
    writer.block_device("dev/vda", 0o660, 254, 0).unwrap();
    writer.file("/init", 0o755, b"\x7fELF...").unwrap();
    writer.directory("tmp", 0o1777).unwrap();
    writer.symlink("bin", "usr/bin").unwrap();
    writer
}

fn names(bytes: &[u8]) -> Vec<&str> {
    Reader::new(bytes).map(|e| std::str::from_utf8(e.unwrap().name).unwrap()).collect()
}

#[test]
fn what_is_written_is_read() {
    let bytes = sample().finish();
    let entries: Vec<_> = Reader::new(&bytes).map(Result::unwrap).collect();
    assert_eq!(
        entries.iter().map(|e| (e.name, e.kind(), e.permissions(), e.data)).collect::<Vec<_>>(),
        [
            (&b"dev"[..], Kind::Directory, 0o755, &b""[..]),
            (b"dev/console", Kind::CharacterDevice, 0o600, b""),
            (b"dev/vda", Kind::BlockDevice, 0o660, b""),
            (b"init", Kind::File, 0o755, b"\x7fELF..."),
            (b"tmp", Kind::Directory, 0o1777, b""),
            (b"bin", Kind::Symlink, 0o777, b"usr/bin"),
        ]
    );
    assert_eq!((entries[1].device, entries[2].device), ((5, 1), (254, 0)));
    let inodes: BTreeSet<_> = entries.iter().map(|e| e.inode).collect();
    assert_eq!(inodes.len(), entries.len());
    assert!(entries.iter().all(|e| e.time == 0));
}

#[test]
fn a_file_that_is_apart_lies_between_two_parts() {
    let archive = |data: &[u8]| {
        let mut writer = sample();
        writer.file("tmp/file", 0o644, data).unwrap();
        writer.symlink("link", "init").unwrap();
        writer.finish()
    };
    let parts = |data: &[u8]| {
        let mut writer = sample();
        let mut bytes = writer.file_apart("tmp/file", 0o644, data.len() as u64).unwrap();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        writer.symlink("link", "init").unwrap();
        [bytes, writer.finish()].concat()
    };
    for data in [&b"12345"[..], b"1234", b""] {
        assert_eq!(parts(data), archive(data));
    }
    let mut writer = sample();
    for (name, size) in [("big", 1 << 32), ("init", 1), ("none/file", 1)] {
        assert!(writer.file_apart(name, 0o644, size).is_err(), "{name}");
    }
    assert!(writer.file_apart("big", 0o644, u32::MAX.into()).is_ok());
}

#[test]
fn the_same_calls_give_the_same_bytes() {
    assert_eq!(sample().finish(), sample().finish());
    assert_eq!(sample().finish().len() % 4, 0);
}

#[test]
fn the_first_bytes_are_the_formats() {
    let mut writer = Writer::new();
    writer.file("ab", 0o644, b"xyz").unwrap();
    let bytes = writer.finish();
    let header = "070701\
        00000001000081a40000000000000000000000010000000000000003\
        000000000000000000000000000000000000000300000000";
    assert_eq!(&bytes[..110], header.as_bytes());
    assert_eq!(&bytes[110..120], b"ab\0\0\0\0xyz\0");
    assert!(bytes[120..].ends_with(b"TRAILER!!!\0\0\0\0"));
}

#[test]
fn archives_may_follow_each_other() {
    let mut second = Writer::new();
    second.file("more", 0o644, b"1").unwrap();
    let mut bytes = sample().finish();
    bytes.extend([0; 12]);
    bytes.extend(second.finish());
    assert_eq!(names(&bytes).last(), Some(&"more"));

    bytes.extend(b"\x28\xb5\x2f\xfdcompressed");
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.by_ref().count(), 7);
    assert_eq!(reader.rest(), b"\x28\xb5\x2f\xfdcompressed");
}

#[test]
fn names_that_the_kernel_would_not_unpack_are_refused() {
    let mut writer = sample();
    for name in ["", "/", ".", "..", "a//b", "dev/../x", "dev/", "a\0b", TRAILER] {
        assert_eq!(writer.file(name, 0o644, b""), Err(Error::Name(name.into())), "{name:?}");
    }
    assert_eq!(writer.file("no/x", 0o644, b""), Err(Error::NoParent("no/x".into())));
    assert_eq!(writer.file("init/x", 0o644, b""), Err(Error::NoParent("init/x".into())));
    assert_eq!(writer.directory("init", 0o755), Err(Error::Duplicate("init".into())));
    assert_eq!(writer.symlink("link", ""), Err(Error::Name(String::new())));
    assert_eq!(writer.finish(), sample().finish());
}

#[test]
fn damage_ends_the_reading() {
    let bytes = sample().finish();
    let results: Vec<_> = Reader::new(&bytes[..200]).collect();
    assert_eq!(results.len(), 2);
    assert_eq!(results[1], Err(Error::Truncated(116)));
    let mut bad = bytes.clone();
    bad[116] = b'x';
    assert_eq!(Reader::new(&bad).nth(1), Some(Err(Error::Header(116))));
    assert_eq!(Reader::new(b"070701").next(), Some(Err(Error::Truncated(0))));
    assert_eq!(Reader::new(b"hello").next(), None);
}

proptest! {
    #[test]
    fn files_come_back(files in prop::collection::btree_map("[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..50), 0..9)) {
        let mut writer = Writer::new();
        for (name, data) in &files {
            writer.file(name, 0o644, data).unwrap();
        }
        let bytes = writer.finish();
        let read: Vec<_> = Reader::new(&bytes)
            .map(|e| e.unwrap())
            .map(|e| (String::from_utf8(e.name.to_vec()).unwrap(), e.data.to_vec()))
            .collect();
        prop_assert_eq!(read, files.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn damaged_archives_do_no_harm(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length: prop::sample::Index,
    ) {
        let mut bytes = sample().finish();
        for (index, value) in damage {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let bytes = &bytes[..length.index(bytes.len())];
        prop_assert!(Reader::new(bytes).count() <= bytes.len());
    }
}
