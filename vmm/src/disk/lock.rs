//! Who may have an image open: one who writes to it, or several who read.
//!
//! It is a lock on the open file (flock), which ends with the process, however that ends. Programs that do not ask for it are not kept
//! away.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FlockOperation, flock, major, minor};

/// Somebody has the image.
#[derive(Debug, thiserror::Error)]
#[error("{}", in_words(*.holder))]
pub struct Held {
    /// The process, if the host says which.
    pub holder: Option<u32>,
}

fn in_words(holder: Option<u32>) -> String {
    match holder {
        Some(pid) => format!("process {pid} uses it"),
        None => "another process uses it".to_owned(),
    }
}

/// Takes the lock of a file, to write to it or to read.
///
/// # Errors
/// When somebody else has it. A file system without locks has none: that is no error.
pub fn take(file: &File, writes: bool) -> Result<(), Held> {
    let operation = match writes {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    match flock(file, operation) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Held { holder: holder(file) }),
        _ => Ok(()),
    }
}

/// Who has it, as `/proc/locks` says. See: proc_locks(5).
fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    find(&fs::read_to_string("/proc/locks").ok()?, major(device), minor(device), inode)
}

fn find(locks: &str, major: u32, minor: u32, inode: u64) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        // Who waits has an arrow before.
        let [_, "FLOCK", _, _, pid, place, ..] = words[..] else { return None };
        let pid = pid.parse().ok().filter(|pid| *pid != 0)?;
        (place == file).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 12 fe:00:77 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 13 fe:00:78 0 EOF\n\
            4: FLOCK  ADVISORY  READ 14 fe:00:77 0 EOF\n\
            5: FLOCK  ADVISORY  READ 0 fe:01:77 0 EOF\nx\n";
        assert_eq!(find(locks, 0xfe, 0, 77), Some(14));
        assert_eq!(find(locks, 0xfe, 0, 78), Some(13));
        assert_eq!(
            (find(locks, 0xfe, 1, 77), find(locks, 1, 0, 78), find("", 1, 0, 78)),
            (None, None, None)
        );
    }

    #[test]
    fn one_writes_or_several_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let open = || {
            File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap()
        };
        let [first, second, third] = [(); 3].map(|()| open());
        take(&first, false).unwrap();
        take(&second, false).unwrap();
        let held = take(&third, true).unwrap_err();
        assert_eq!(held.holder, Some(std::process::id()));
        drop((first, second));
        take(&third, true).unwrap();
        assert!(take(&open(), false).is_err());
    }
}
