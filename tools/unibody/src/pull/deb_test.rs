use std::collections::BTreeMap;
use std::io::Write;

use proptest::prelude::*;

use super::super::ar::ar_test::archive;
use super::*;

/// A destination in memory that can be full.
#[derive(Default)]
struct Memory {
    files: BTreeMap<String, (bool, Vec<u8>)>,
    room: Option<usize>,
}

impl Destination for Memory {
    fn file(&mut self, path: &str, executable: bool, contents: &mut dyn Read) -> io::Result<()> {
        let mut data = Vec::new();
        contents.read_to_end(&mut data)?;
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(data.len()).ok_or(io::ErrorKind::StorageFull)?;
        }
        self.files.insert(path.into(), (executable, data));
        Ok(())
    }
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header
}

/// A tar archive with a file of this name, also one that the crate would not write.
fn tar_with(name: &str, data: &[u8]) -> Vec<u8> {
    let mut header = header(tar::EntryType::Regular, 0o644, data.len());
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, data).unwrap();
    builder.into_inner().unwrap()
}

fn usual_tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_data(&mut header(tar::EntryType::Directory, 0o755, 0), "./bin/", [].as_slice())
        .unwrap();
    for (name, mode, data) in [("./bin/tool", 0o755, b"run".as_slice()), ("./doc", 0o644, b"text")]
    {
        builder
            .append_data(&mut header(tar::EntryType::Regular, mode, data.len()), name, data)
            .unwrap();
    }
    let long = format!("./{}/file", "x".repeat(150));
    builder
        .append_data(&mut header(tar::EntryType::Regular, 0o644, 1), long, b"l".as_slice())
        .unwrap();
    let mut link = header(tar::EntryType::Symlink, 0o777, 0);
    builder.append_link(&mut link, "./link", "/etc").unwrap();
    builder.into_inner().unwrap()
}

fn deb(name: &str, data: &[u8]) -> Vec<u8> {
    archive(&[("debian-binary", b"2.0\n"), ("control.tar.xz", b"not looked at"), (name, data)])
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn all_compressions_give_the_same_files() {
    let tar = usual_tar();
    let packed = [
        ("data.tar", tar.clone()),
        ("data.tar.gz", gzip(&tar)),
        ("data.tar.xz", xz(&tar)),
        ("data.tar.zst", zstd(&tar)),
    ];
    for (name, data) in packed {
        let mut memory = Memory::default();
        unpack(deb(name, &data).as_slice(), &mut memory).unwrap_or_else(|e| panic!("{name}: {e}"));
        let long = format!("{}/file", "x".repeat(150));
        let expected = BTreeMap::from([
            ("bin/tool".to_string(), (true, b"run".to_vec())),
            ("doc".to_string(), (false, b"text".to_vec())),
            (long, (false, b"l".to_vec())),
        ]);
        assert_eq!(memory.files, expected, "{name}");
    }
}

#[test]
fn a_file_that_would_leave_the_package_is_refused() {
    for name in ["../x", "a/../../x", "/etc/passwd", "./..", "a/.."] {
        let mut memory = Memory::default();
        let result = unpack(deb("data.tar", &tar_with(name, b"x")).as_slice(), &mut memory);
        assert!(matches!(result, Err(Error::Path(_))), "{name}: {result:?}");
        assert!(memory.files.is_empty());
    }
}

#[test]
fn a_link_is_never_followed_because_it_is_never_made() {
    let mut builder = tar::Builder::new(Vec::new());
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
        let mut link = header(kind, 0o777, 0);
        builder.append_link(&mut link, "lib", "/etc").unwrap();
    }
    builder
        .append_data(&mut header(tar::EntryType::Regular, 0o644, 1), "lib/x", b"1".as_slice())
        .unwrap();
    let mut memory = Memory::default();
    unpack(deb("data.tar", &builder.into_inner().unwrap()).as_slice(), &mut memory).unwrap();
    assert_eq!(memory.files.keys().collect::<Vec<_>>(), ["lib/x"]);
}

#[test]
fn a_device_or_an_unknown_format_is_refused() {
    let mut device = header(tar::EntryType::Char, 0o666, 0);
    device.set_path("dev").unwrap();
    device.set_device_major(1).unwrap();
    device.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&device, [].as_slice()).unwrap();
    let tar = builder.into_inner().unwrap();
    let kind = |bytes: Vec<u8>| unpack(bytes.as_slice(), &mut Memory::default()).unwrap_err();
    assert!(matches!(kind(deb("data.tar", &tar)), Error::Kind('3')));
    assert!(matches!(kind(deb("data.tar.lzo", &tar)), Error::Compression(_)));
    assert!(matches!(kind(b"text".to_vec()), Error::Archive(_)));
    assert!(matches!(kind(archive(&[("data.tar", &tar)])), Error::NotAPackage));
    assert!(matches!(kind(archive(&[("debian-binary", b"3.0\n")])), Error::Version(_)));
    assert!(matches!(kind(archive(&[("debian-binary", b"2.0\n")])), Error::NotAPackage));
}

#[test]
fn a_claim_of_too_much_is_refused_before_anything_is_read() {
    let mut header = header(tar::EntryType::Regular, 0o644, 0);
    header.set_path("big").unwrap();
    for size in [MAX_SIZE + 1, u64::MAX >> 1, u64::MAX] {
        header.set_size(size);
        header.set_cksum();
        let bytes = deb("data.tar", header.as_bytes());
        assert!(unpack(bytes.as_slice(), &mut Memory::default()).is_err());
    }
}

#[test]
fn a_package_that_is_cut_off_is_never_taken_for_whole() {
    for (name, data) in [("data.tar.xz", xz(&usual_tar())), ("data.tar.gz", gzip(&usual_tar()))] {
        let bytes = deb(name, &data);
        // The last bytes are the stream's own checks, which lie behind the end of the tar archive.
        for length in 0..bytes.len() - 64 {
            let result = unpack(&bytes[..length], &mut Memory::default());
            assert!(result.is_err(), "{name}: {length} of {}", bytes.len());
        }
    }
}

#[test]
fn a_full_disk_is_told_from_a_damaged_package() {
    let bytes = deb("data.tar", &usual_tar());
    let mut memory = Memory { room: Some(4), ..Memory::default() };
    match unpack(bytes.as_slice(), &mut memory).unwrap_err() {
        Error::Write { path, source } => {
            assert_eq!((path.as_str(), source.kind()), ("doc", io::ErrorKind::StorageFull));
        }
        other => panic!("{other}"),
    }
    let mut damaged = xz(&usual_tar());
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    let result = unpack(deb("data.tar.xz", &damaged).as_slice(), &mut Memory::default());
    assert!(matches!(result, Err(Error::Damaged(_))), "{result:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_data_are_unpacked_or_refused(
        data in proptest::collection::vec(any::<u8>(), 0..2000),
        name in prop_oneof![Just("data.tar"), Just("data.tar.gz"), Just("data.tar.xz"), Just("data.tar.zst")],
    ) {
        let _ = unpack(deb(name, &data).as_slice(), &mut Memory::default());
    }

    #[test]
    fn a_damaged_tar_archive_gives_no_path_outside(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        packed: bool,
    ) {
        let mut tar = usual_tar();
        if packed {
            tar = xz(&tar);
        }
        for (place, byte) in changes {
            let place = place.index(tar.len());
            tar[place] = byte;
        }
        let mut memory = Memory::default();
        let name = if packed { "data.tar.xz" } else { "data.tar" };
        let _ = unpack(deb(name, &tar).as_slice(), &mut memory);
        for path in memory.files.keys() {
            prop_assert!(!path.starts_with('/') && path.split('/').all(|part| part != ".."));
        }
    }

    #[test]
    fn a_cleaned_path_is_relative_and_stays_below(path in "[a./\0]{0,12}") {
        if let Ok(clean) = relative(path.as_bytes()) {
            prop_assert!(!clean.starts_with('/') && !clean.contains('\0'));
            prop_assert!(clean.is_empty() || clean.split('/').all(|p| !matches!(p, "" | "." | "..")));
            prop_assert_eq!(relative(clean.as_bytes()).unwrap(), clean);
        }
    }
}
