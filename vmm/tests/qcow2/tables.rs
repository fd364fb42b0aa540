//! All tables that an image needs are made, and nothing else is changed; what is not to be written to is not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use vmm::disk::qcow2::header::Header;
use vmm::disk::qcow2::{Error, prepare};

/// Of an entry of the first table: nobody else uses the L2 table.
const COPIED: u64 = 1 << 63;

/// Runs qemu-img, and gives whether it found nothing wrong.
fn qemu_img(arguments: &[&str]) -> bool {
    let output = Command::new("qemu-img").args(arguments).output().expect("it is installed");
    output.status.success()
}

/// An image of qemu-img's in a folder of its own.
struct Image {
    _folder: TempDir,
    path: PathBuf,
}

impl Image {
    fn new(options: &str, size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.qcow2");
        let image = Self { _folder: folder, path };
        assert!(qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, image.word(), size]));
        image
    }

    fn word(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn file(&self) -> File {
        File::options().read(true).write(true).open(&self.path).unwrap()
    }

    fn prepare(&self) -> Result<(), Error> {
        prepare(&self.file())
    }

    /// Writes with QEMU.
    fn write(&self, commands: &[&str]) {
        let mut command = Command::new("qemu-io");
        for words in commands {
            command.args(["-c", words]);
        }
        assert!(command.arg(&self.path).output().expect("it is installed").status.success());
    }

    fn is_whole(&self) -> bool {
        qemu_img(&["check", "-q", "-f", "qcow2", self.word()])
    }

    fn header(&self) -> Header {
        Header::read(&self.file()).unwrap()
    }

    /// Has 8 bytes of the file be a number.
    fn poke(&self, offset: u64, value: u64) {
        self.file().write_all_at(&value.to_be_bytes(), offset).unwrap();
    }

    fn peek(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file().read_exact_at(&mut bytes, offset).unwrap();
        u64::from_be_bytes(bytes)
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn images_of_every_kind_have_their_tables_and_are_whole() {
    for (options, size) in [
        ("cluster_size=64k", "1T"),
        ("cluster_size=64k", "0"),
        ("cluster_size=64k,compat=0.10", "3G"),
        ("cluster_size=512", "40M"),
        ("cluster_size=512,refcount_bits=64", "9M"),
        ("cluster_size=4k,refcount_bits=1", "10G"),
        ("cluster_size=2M,refcount_bits=8", "100G"),
        ("cluster_size=4k,preallocation=metadata", "100M"),
    ] {
        let image = Image::new(options, size);
        image.prepare().unwrap();
        assert!(image.is_whole(), "{options}, {size}");
        let header = image.header();
        let entries = (0..header.l1_entries).map(|index| image.peek(header.l1_offset + index * 8));
        assert!(entries.into_iter().all(|entry| entry & COPIED != 0), "{options}, {size}");
        let before = length(&image.path);
        image.prepare().unwrap();
        assert_eq!(length(&image.path), before, "{options}, {size}");
        assert!(image.is_whole(), "{options}, {size}");
    }
}

#[test]
fn what_is_in_an_image_stays() {
    for options in ["cluster_size=64k", "cluster_size=512"] {
        let image = Image::new(options, "20M");
        image.write(&["write -P 5 1M 100k", "write -P 6 19M 1M", "discard 19M 64k"]);
        let before = image.path.with_extension("before");
        fs::copy(&image.path, &before).unwrap();
        image.prepare().unwrap();
        assert!(image.is_whole());
        assert!(qemu_img(&["compare", "-q", before.to_str().unwrap(), image.word()]));
    }
}

#[test]
fn what_would_be_destroyed_is_not_written_to() {
    type Spoil = fn(&Image);
    type IsTold = fn(&Error) -> bool;
    let spoils: [(Spoil, IsTold); 9] = [
        // The first table is its own second one.
        (|image| image.poke(image.header().l1_offset, image.header().l1_offset | COPIED), damaged),
        // An L2 table is the header, another table's, begins within a cluster, is nobody's own, or behind the end.
        (|image| image.poke(image.header().l1_offset, 0x1000 | COPIED), damaged),
        (
            |image| {
                let at = image.header().l1_offset;
                image.poke(at, image.peek(at) + 512);
            },
            damaged,
        ),
        (
            |image| {
                let at = image.header().l1_offset;
                image.poke(at, image.peek(at) & !COPIED);
            },
            damaged,
        ),
        (|image| image.poke(image.header().l1_offset, 0x7fff_0000 | COPIED), short),
        // Blocks of refcounts that are the table of them, are not counted, or behind the end.
        (
            |image| {
                let at = image.header().refcount_table_offset;
                image.poke(at, at);
            },
            damaged,
        ),
        (
            |image| {
                let block = image.peek(image.header().refcount_table_offset);
                image.file().write_all_at(&[0; 64], block).unwrap();
            },
            damaged,
        ),
        (|image| image.poke(image.header().refcount_table_offset, 0x7fff_0000), short),
        (
            |image| assert!(qemu_img(&["snapshot", "-c", "one", image.word()])),
            |error| matches!(error, Error::Lacks(_)),
        ),
    ];
    for (number, (spoil, is_told)) in spoils.into_iter().enumerate() {
        let image = Image::new("cluster_size=64k", "20M");
        image.write(&["write 1M 64k"]);
        spoil(&image);
        let before = fs::read(&image.path).unwrap();
        let error = image.prepare().unwrap_err();
        assert!(is_told(&error), "{number}: {error}");
        assert!(fs::read(&image.path).unwrap() == before, "{number}");
    }
}

fn damaged(error: &Error) -> bool {
    matches!(error, Error::Damaged(_))
}

fn short(error: &Error) -> bool {
    matches!(error, Error::Short)
}

#[test]
fn a_header_without_sense_is_refused() {
    // Offset, bytes: versions, clusters, tables, features.
    for (at, bytes) in [
        (0, &[0; 4][..]),
        (4, &[0, 0, 0, 4]),
        (20, &[0, 0, 0, 8]),
        (20, &[0, 0, 0, 22]),
        (24, &[0xff; 8]),
        (32, &[0, 0, 0, 1]),
        (36, &[0; 4]),
        (40, &[0xff; 8]),
        (48, &[0xff; 8]),
        (48, &[0, 0, 0, 0, 0, 0, 1, 0]),
        (56, &[0; 4]),
        (56, &[0xff; 4]),
        (79, &[1]),
        (79, &[2]),
        (79, &[4]),
        (72, &[1]),
        (99, &[7]),
    ] {
        let image = Image::new("cluster_size=64k", "20M");
        image.file().write_all_at(bytes, at).unwrap();
        assert!(image.prepare().is_err(), "{bytes:?} at {at}");
    }
}

#[test]
fn a_shortened_image_is_refused_wherever_it_ends() {
    let image = Image::new("cluster_size=512", "256k");
    image.write(&["write 0 64k"]);
    let all = length(&image.path);
    let whole = fs::read(&image.path).unwrap();
    let mut refused = 0;
    for end in (0..all).step_by(256) {
        fs::write(&image.path, &whole).unwrap();
        image.file().set_len(end).unwrap();
        refused += u32::from(image.prepare().is_err());
    }
    assert!(refused > 2, "its tables are not at its end alone");
}
