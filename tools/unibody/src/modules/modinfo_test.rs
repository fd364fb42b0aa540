use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::modules::fixture::{module, of_sections};

const INFO: [&str; 7] = [
    "license=GPL",
    "alias=fs-xfs",
    "alias=with a blank",
    "softdep=pre: crc32c sha256",
    "depends=libcrc32c,virtio-ring",
    "name=xfs",
    "parm=x:a=b",
];

fn expected() -> ModInfo {
    ModInfo {
        depends: ["libcrc32c", "virtio_ring"].map(str::to_string).to_vec(),
        aliases: vec!["fs-xfs".into()],
        soft: ["crc32c", "sha256"].map(str::to_string).to_vec(),
    }
}

fn read_bytes(bytes: &[u8]) -> Result<ModInfo, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(bytes).unwrap();
    read(file.path())
}

#[test]
fn a_module_says_what_it_depends_on() {
    assert_eq!(read_bytes(&module(&INFO)).unwrap(), expected());
    assert_eq!(read_bytes(&module(&["depends=", "name=a"])).unwrap(), ModInfo::default());
    assert_eq!(
        parse(b"depends=a\0\0\0\0alias=x"),
        ModInfo { depends: vec!["a".into()], aliases: vec!["x".into()], soft: vec![] }
    );
}

#[test]
fn a_packed_module_says_the_same() {
    let bytes = module(&INFO);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    assert_eq!(read_bytes(&gzip.finish().unwrap()).unwrap(), expected());
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    xz.write_all(&bytes).unwrap();
    assert_eq!(read_bytes(&xz.finish().unwrap()).unwrap(), expected());
    let zstd =
        ruzstd::encoding::compress_to_vec(&bytes[..], ruzstd::encoding::CompressionLevel::Fastest);
    assert_eq!(read_bytes(&zstd).unwrap(), expected());
}

#[test]
fn what_is_no_module_is_an_error_in_words() {
    let large = vec![b'x'; MOST_INFO as usize + 1];
    for (bytes, why) in [
        (b"".to_vec(), ""),
        (b"text".to_vec(), ""),
        (of_sections(&[(".text", b"x")]), "it has no section .modinfo"),
        (of_sections(&[(".modinfo", &large)]), "its section .modinfo is larger"),
        (b"\x1f\x8bxx".to_vec(), "the gzip stream"),
    ] {
        let error = read_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains("is no kernel module: ") && error.contains(why), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = read(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("is no kernel module: it is no file"), "{error}");
}

proptest! {
    #[test]
    fn any_section_is_read(section in prop::collection::vec(any::<u8>(), 0..200)) {
        parse(&section);
    }

    #[test]
    fn entries_are_read_in_any_order(entries in prop::collection::vec("(depends|alias|softdep)=[a-z,: -]{0,12}", 0..8)) {
        let section: Vec<u8> = entries.join("\0").into_bytes();
        let info = parse(&section);
        prop_assert!(info.depends.iter().all(|name| name::canonical(name).as_deref() == Some(name)));
        prop_assert!(info.aliases.iter().chain(&info.soft).all(|word| text::is_word(word)));
    }

    /// A module with wrong bytes in its headers.
    #[test]
    fn a_damaged_module_is_read_or_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = module(&INFO);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = section(bytes.as_slice());
    }
}
