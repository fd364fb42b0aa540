use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::*;
use crate::disk::disk_test::{Image, MIB, read, write};

const LIMIT: Duration = Duration::from_secs(20);

/// Tries to read so many bytes: what came of it, and the bytes.
fn try_read(disk: &Disk, offset: u64, size: usize) -> io::Result<(Tried, Vec<u8>)> {
    let mut bytes = vec![0xee; size];
    let memory = [VolatileSlice::from(&mut bytes[..])];
    let tried = disk.try_now(Direction::Read, &memory, offset)?;
    Ok((tried, bytes))
}

fn try_write(disk: &Disk, offset: u64, mut bytes: Vec<u8>) -> io::Result<Tried> {
    disk.try_now(Direction::Write, &[VolatileSlice::from(&mut bytes[..])], offset)
}

/// Reads what is in the host's memory, and so need not be waited for.
fn read_now(disk: &Disk, offset: u64, size: usize) -> Vec<u8> {
    let (tried, bytes) = try_read(disk, offset, size).unwrap();
    assert!(matches!(tried, Tried::Done));
    bytes
}

/// Page-aligned memory in a buffer that is larger.
fn aligned(buffer: &mut [u8], size: usize) -> VolatileSlice<'_> {
    let before = buffer.as_ptr().align_offset(4096);
    VolatileSlice::from(&mut buffer[before..before + size])
}

#[test]
fn of_a_raw_image_what_is_in_memory_is_done_at_once() {
    let image = Image::raw(MIB);
    let disk = image.open().unwrap();
    assert!(matches!(try_write(&disk, 4096, vec![7; 8192]), Ok(Tried::Done)));
    assert_eq!(read_now(&disk, 4096, 8192), [7; 8192]);
    assert_eq!(read(&disk, 3584, 1024), [[0; 512], [7; 512]].concat());
    assert!(matches!(try_read(&disk, 0, 0), Ok((Tried::Elsewhere, _))), "of nothing comes nothing");
}

#[test]
fn of_a_qcow2_image_what_has_its_place_is_done_at_once() {
    let image = Image::qcow2(MIB);
    let disk = image.open().unwrap();
    assert_eq!(read_now(&disk, 512, 8192), [0; 8192], "what is nowhere is zero");
    assert!(matches!(try_write(&disk, 0, vec![7; 512]), Ok(Tried::Elsewhere)), "it has no place");
    write(&disk, 0, vec![7; 65536]);
    write(&disk, 131072, vec![8; 65536]);
    assert!(matches!(try_write(&disk, 512, vec![9; 512]), Ok(Tried::Done)));
    assert_eq!(read_now(&disk, 0, 1536), [[7; 512], [9; 512], [7; 512]].concat());
    assert_eq!(read(&disk, 512, 512), [9; 512]);
    // Part of it is in the file, and part nowhere.
    assert!(matches!(try_read(&disk, 65024, 1024), Ok((Tried::Elsewhere, _))));
    drop(disk);
    assert_eq!(read(&image.open().unwrap(), 512, 512), [9; 512]);
}

#[test]
fn a_backing_file_is_read_at_once_and_never_written_to() {
    let base = Image::raw(MIB);
    base.fill(5, 65536);
    let mut top = Image::over(base.options.path.to_str().unwrap());
    top.options.ephemeral = true;
    let disk = top.open().unwrap();
    assert_eq!(read_now(&disk, 512, 4096), [5; 4096]);
    assert!(matches!(try_write(&disk, 512, vec![6; 512]), Ok(Tried::Elsewhere)));
    write(&disk, 0, vec![6; 65536]);
    assert!(matches!(try_write(&disk, 512, vec![7; 512]), Ok(Tried::Done)));
    assert_eq!(read_now(&disk, 0, 1024), [[6; 512], [7; 512]].concat());
    drop(disk);
    assert_eq!(read(&base.open().unwrap(), 0, 1024), [5; 1024]);
}

#[test]
fn a_file_that_has_become_shorter_is_seen() {
    let image = Image::raw(MIB);
    let disk = image.open().unwrap();
    HostFile::options().write(true).open(&image.options.path).unwrap().set_len(MIB / 2).unwrap();
    // What is behind its end is not there, and the image says why.
    let (tried, _) = try_read(&disk, MIB - 512, 512).unwrap();
    assert!(matches!(tried, Tried::Waits(_)));
    drop(tried);
    assert!(try_read(&disk, 0, 512).is_err(), "nor is what was read before it");
    assert!(try_write(&disk, 0, vec![0; 512]).is_err());
    assert!(disk.file_to_sync().is_err());
}

#[test]
fn what_the_host_could_not_put_on_the_medium_is_lost() {
    let image = Image::raw(MIB);
    let disk = image.open().unwrap();
    assert!(disk.file_to_sync().unwrap().is_some());
    disk.synced(Ok(())).unwrap();
    assert!(try_read(&disk, 0, 512).is_ok());
    assert!(disk.synced(Err(io::ErrorKind::Other.into())).is_err());
    assert!(disk.file_to_sync().is_err());
    assert!(try_read(&disk, 0, 512).is_err());
    assert!(try_write(&disk, 0, vec![1; 512]).is_err());
    let tables = Image::qcow2(MIB).open().unwrap();
    assert!(tables.file_to_sync().unwrap().is_none(), "there is more to flush");
}

#[test]
fn blocks_stay_where_they_are_while_something_is_done_there() {
    let mut image = Image::raw(MIB);
    image.options.direct = true;
    // Not each file system can do without its page cache.
    let Ok(disk) = image.open() else { return };
    let disk = Arc::new(disk);
    let mut buffer = vec![0; 3 * 4096];
    let tried = disk.try_now(Direction::Read, &[aligned(&mut buffer, 4096)], 8192).unwrap();
    let Tried::Waits(place) = tried else { return };
    assert_eq!((place.at().1, place.size(), place.direction()), (8192, 4096, Direction::Read));
    let (told, heard) = channel();
    let other = Arc::clone(&disk);
    let discards = std::thread::spawn(move || {
        other.discard(0, MIB).unwrap();
        told.send(()).unwrap();
    });
    // From now on somebody waits to be alone, and nothing more is begun.
    let until = Instant::now() + LIMIT;
    loop {
        let tried = disk.try_now(Direction::Read, &[aligned(&mut buffer, 4096)], 0).unwrap();
        if matches!(tried, Tried::Elsewhere) {
            break;
        }
        assert!(Instant::now() < until, "nobody waits");
    }
    assert!(heard.try_recv().is_err(), "it has not waited");
    drop(place);
    heard.recv_timeout(LIMIT).unwrap();
    discards.join().unwrap();
    // What is not aligned takes more than that.
    let tried = disk.try_now(Direction::Read, &[aligned(&mut buffer, 512 + 1)], 0).unwrap();
    assert!(matches!(tried, Tried::Elsewhere));
}
