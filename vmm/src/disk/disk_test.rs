use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder, Storage, StorageOpenOptions};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

pub(super) const MIB: u64 = 1 << 20;

/// An image in a folder of its own.
pub(super) struct Image {
    pub(super) folder: TempDir,
    pub(super) options: Options,
}

impl Image {
    fn new(name: &str, format: Option<Format>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let options = Options { path, format, read_only: false, ephemeral: false, direct: false };
        Self { folder, options }
    }

    pub(super) fn raw(size: u64) -> Self {
        let image = Self::new("image", None);
        HostFile::create(&image.options.path).unwrap().set_len(size).unwrap();
        image
    }

    pub(super) fn qcow2(size: u64) -> Self {
        let image = Self::new("image.qcow2", None);
        let file = HostFile::create_new(&image.options.path).unwrap();
        drop(file);
        let file = File::open(StorageOpenOptions::new().filename(&image.options.path).write(true))
            .unwrap();
        Qcow2::<File>::create_builder(file).size(size).create().unwrap();
        image
    }

    /// A qcow2 image of 1 MiB, over a backing file of any name.
    pub(super) fn over(base: &str) -> Self {
        let image = Self::new("image.qcow2", None);
        drop(HostFile::create_new(&image.options.path).unwrap());
        let file = File::open(StorageOpenOptions::new().filename(&image.options.path).write(true));
        let create = Qcow2::<File>::create_builder(file.unwrap()).size(MIB);
        create.backing(base.into(), "raw".into()).create().unwrap();
        image
    }

    pub(super) fn open(&self) -> Result<Disk, Error> {
        Disk::open(&self.options)
    }

    /// Has its first bytes be a value, whatever its format is.
    pub(super) fn fill(&self, value: u8, size: usize) {
        write(&self.open().unwrap(), 0, vec![value; size]);
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.options.path).unwrap()
    }
}

pub(super) fn read(disk: &Disk, offset: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; size];
    disk.read(&[VolatileSlice::from(&mut bytes[..])], offset).unwrap();
    bytes
}

pub(super) fn write(disk: &Disk, offset: u64, mut bytes: Vec<u8>) {
    disk.write(&[VolatileSlice::from(&mut bytes[..])], offset).unwrap();
}

#[test]
fn what_was_written_is_there() {
    let image = Image::raw(MIB);
    let disk = image.open().unwrap();
    assert_eq!((disk.size(), disk.is_read_only()), (MIB, false));
    assert_eq!(read(&disk, 512, 512), [0; 512]);
    write(&disk, 512, vec![7; 1024]);
    disk.flush().unwrap();
    drop(disk);
    let disk = image.open().unwrap();
    assert_eq!(read(&disk, 0, 2048), [vec![0; 512], vec![7; 1024], vec![0; 512]].concat());
    disk.write_zeroes(512, 512).unwrap();
    disk.discard(1024, 512).unwrap();
    assert_eq!(read(&disk, 512, 512), [0; 512]);
}

#[test]
fn a_qcow2_image_keeps_what_was_written() {
    let mut image = Image::qcow2(MIB);
    image.fill(5, 70144);
    image.options.read_only = true;
    let disk = image.open().unwrap();
    assert_eq!((disk.size(), disk.is_read_only()), (MIB, true));
    assert_eq!(read(&disk, 65536, 8192), [vec![5; 4608], vec![0; 3584]].concat());
}

#[test]
fn of_nothing_comes_nothing() {
    for image in [Image::raw(MIB), Image::qcow2(MIB)] {
        let disk = image.open().unwrap();
        for offset in [0, 512, MIB] {
            assert!(read(&disk, offset, 0).is_empty());
            write(&disk, offset, Vec::new());
            disk.discard(offset, 0).unwrap();
            disk.write_zeroes(offset, 0).unwrap();
        }
        assert_eq!(read(&disk, 0, 512), [0; 512]);
    }
}

#[test]
fn a_raw_image_keeps_its_bytes_where_they_are() {
    let image = Image::raw(MIB);
    write(&image.open().unwrap(), 4096, b"abc".repeat(512));
    let bytes = image.bytes();
    assert_eq!((bytes.len() as u64, &bytes[4096..4102]), (MIB, &b"abcabc"[..]));
}

#[test]
fn what_is_ephemeral_is_gone() {
    for mut image in [Image::raw(MIB), Image::qcow2(MIB)] {
        image.fill(1, 512);
        let before = image.bytes();
        image.options.ephemeral = true;
        let disk = image.open().unwrap();
        write(&disk, 0, vec![2; 512]);
        disk.write_zeroes(1024, 512).unwrap();
        disk.flush().unwrap();
        assert_eq!((read(&disk, 0, 512), read(&disk, 512, 512)), (vec![2; 512], vec![0; 512]));
        drop(disk);
        assert!(image.bytes() == before);
        image.options.read_only = true;
        image.options.ephemeral = false;
        assert_eq!(read(&image.open().unwrap(), 0, 512), [1; 512]);
        assert_eq!(std::fs::read_dir(image.folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn two_do_not_write_to_one_image() {
    let mut image = Image::raw(MIB);
    let first = image.open().unwrap();
    let refused = image.open().map(|_| ()).unwrap_err();
    assert_eq!(refused.to_string(), format!("process {} uses it", std::process::id()));
    image.options.read_only = true;
    assert!(image.open().is_err(), "nor does one read what another writes");
    drop(first);
    let (_first, _second) = (image.open().unwrap(), image.open().unwrap());
    image.options.read_only = false;
    assert!(image.open().is_err());
}

#[test]
fn a_backing_file_is_read_and_kept_from_being_written() {
    let base = Image::raw(MIB);
    write(&base.open().unwrap(), 0, vec![9; 512]);
    let mut top = Image::over(base.options.path.to_str().unwrap());
    top.options.ephemeral = true;
    let disk = top.open().unwrap();
    assert_eq!(read(&disk, 0, 512), [9; 512]);
    assert!(base.open().is_err(), "it is in use");
    write(&disk, 0, vec![3; 512]);
    drop(disk);
    assert_eq!(read(&base.open().unwrap(), 0, 512), [9; 512]);
}

#[test]
fn a_backing_file_that_is_not_there_is_told_by_its_name() {
    let mut top = Image::over("/nowhere/base");
    top.options.read_only = true;
    let error = top.open().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("/nowhere/base"), "{error}");
}

#[test]
fn a_backing_file_that_becomes_shorter_is_an_error_and_one_that_is_short_is_not() {
    let base = Image::raw(MIB / 2);
    base.fill(9, 65536);
    let name = base.options.path.to_str().unwrap().to_owned();
    for ephemeral in [false, true] {
        let mut top = Image::over(&name);
        top.options.ephemeral = ephemeral;
        let disk = top.open().unwrap();
        write(&disk, 0, vec![3; 512]);
        assert_eq!(read(&disk, MIB / 2 - 512, 1024), [0; 1024], "it never was there");
        let file = HostFile::options().write(true).open(&base.options.path).unwrap();
        file.set_len(32768).unwrap();
        let mut bytes = vec![0; 512];
        let error = disk.read(&[VolatileSlice::from(&mut bytes[..])], 40960).unwrap_err();
        assert_eq!(error.to_string(), format!("its backing file '{name}' has become shorter"));
        // Nothing is invented when it is as long again, either.
        file.set_len(MIB / 2).unwrap();
        assert!(disk.read(&[VolatileSlice::from(&mut bytes[..])], 40960).is_err());
        assert!(disk.write(&[VolatileSlice::from(&mut bytes[..])], 0).is_err());
        assert!(disk.flush().is_err());
    }
}

#[test]
fn a_qcow2_image_that_is_cut_to_what_it_was_at_first_is_an_error() {
    let image = Image::qcow2(MIB);
    let disk = image.open().unwrap();
    let before = image.bytes().len() as u64;
    write(&disk, 0, vec![3; 65536]);
    disk.flush().unwrap();
    let file = HostFile::options().write(true).open(&image.options.path).unwrap();
    file.set_len(before).unwrap();
    let mut bytes = vec![0; 512];
    assert!(disk.read(&[VolatileSlice::from(&mut bytes[..])], 0).is_err());
}

#[test]
fn an_image_that_names_itself_is_refused() {
    let mut image = Image::over("./image.qcow2");
    // What is named is of the same format, and so names itself again.
    let mut bytes = image.bytes();
    let at = bytes.windows(3).position(|word| word == b"raw").unwrap();
    let name = bytes.windows(13).position(|word| word == b"./image.qcow2").unwrap();
    assert!(at < name);
    bytes[at..at + 3].copy_from_slice(b"\0\0\0");
    std::fs::write(&image.options.path, bytes).unwrap();
    image.options.read_only = true;
    let error = image.open().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("names it twice, or itself"), "{error}");
}

#[test]
fn contents_do_not_say_what_a_raw_image_is() {
    let image = Image::raw(MIB);
    write(&image.open().unwrap(), 0, [&qcow2::header::MAGIC[..], &[0; 508]].concat());
    assert!(matches!(image.open(), Err(Error::Ambiguous)));
    let mut named = Image { folder: image.folder, options: image.options };
    named.options.format = Some(Format::Raw);
    assert_eq!(read(&named.open().unwrap(), 0, 4), qcow2::header::MAGIC);
    named.options.format = Some(Format::Qcow2);
    named.options.read_only = true;
    assert!(matches!(named.open(), Err(Error::Format { .. })));
}

#[test]
fn what_is_no_image_is_refused() {
    let mut image = Image::raw(1000);
    assert!(matches!(image.open(), Err(Error::OddSize(1000))));
    image.options.path = image.folder.path().to_path_buf();
    image.options.read_only = true;
    assert!(matches!(image.open(), Err(Error::NotAFile)));
    image.options.path = "/dev/null".into();
    assert!(matches!(image.open(), Err(Error::NotAFile)));
    image.options.path = "/nowhere".into();
    assert!(matches!(image.open(), Err(Error::Open(_))));
}

#[test]
fn what_is_shorter_than_it_says_is_an_error_and_no_harm() {
    let mut image = Image::qcow2(MIB);
    image.fill(5, 65536);
    image.options.read_only = true;
    let size = image.bytes().len() as u64;
    for length in (0..size).step_by(0x4000) {
        HostFile::options().write(true).open(&image.options.path).unwrap().set_len(length).unwrap();
        if let Ok(disk) = image.open() {
            let mut bytes = vec![0; 65536];
            let _ = disk.read(&[VolatileSlice::from(&mut bytes[..])], 0);
        }
    }
}

/// What is done to a disk and a model of it.
#[derive(Clone, Debug)]
enum Operation {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Read(u64, u64),
    Reopen,
}

/// Sectors of the disk that it is done to.
const SECTORS: u64 = 1024;

fn operation() -> impl Strategy<Value = Operation> {
    let range =
        || (0..SECTORS).prop_flat_map(|first| (Just(first), 1..=(SECTORS - first).min(300)));
    prop_oneof![
        4 => (range(), 1_u8..).prop_map(|((at, count), value)| Operation::Write(at, count, value)),
        1 => range().prop_map(|(at, count)| Operation::Zero(at, count)),
        3 => range().prop_map(|(at, count)| Operation::Read(at, count)),
        1 => Just(Operation::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_is_as_a_model_of_it(qcow2 in any::<bool>(), operations in prop::collection::vec(operation(), 1..24)) {
        let size = SECTORS * SECTOR;
        let image = if qcow2 { Image::qcow2(size) } else { Image::raw(size) };
        let mut model = vec![0; size as usize];
        let mut disk = image.open().unwrap();
        let bytes = |at: u64, count: u64| (at * SECTOR) as usize..((at + count) * SECTOR) as usize;
        for operation in operations {
            match operation {
                Operation::Write(at, count, value) => {
                    model[bytes(at, count)].fill(value);
                    write(&disk, at * SECTOR, vec![value; (count * SECTOR) as usize]);
                }
                Operation::Zero(at, count) => {
                    model[bytes(at, count)].fill(0);
                    disk.write_zeroes(at * SECTOR, count * SECTOR).unwrap();
                }
                Operation::Read(at, count) => {
                    let found = read(&disk, at * SECTOR, (count * SECTOR) as usize);
                    prop_assert!(found == model[bytes(at, count)]);
                }
                Operation::Reopen => {
                    drop(disk);
                    disk = image.open().unwrap();
                }
            }
        }
        prop_assert!(read(&disk, 0, model.len()) == model);
    }

    #[test]
    fn no_bytes_are_an_image_that_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 100..4096)) {
        let mut image = Image::new("image.qcow2", None);
        image.options.read_only = true;
        let mut all = qcow2::header::MAGIC.to_vec();
        all.extend([0, 0, 0, 3]);
        all.extend(bytes);
        std::fs::write(&image.options.path, all).unwrap();
        if let Ok(disk) = image.open() {
            let mut bytes = vec![0; 512];
            let _ = disk.read(&[VolatileSlice::from(&mut bytes[..])], 0);
        }
    }
}
