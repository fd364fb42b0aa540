//! `--disk`: from the words to a virtio-blk device.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;

use signal_hook::consts::SIGXFSZ;
use vmm::disk::{Disk, Format, Options};
use vmm::virtio::Device;
use vmm::virtio::blk::Blk;

use crate::error::{Error, quoted, reason, say};

/// How many queues a disk has at most: more than that are no faster.
const QUEUES: u32 = 4;

const WORDS: &str = "behind FILE come format=raw, format=qcow2, ro, ephemeral or direct, with commas between them; a comma in the \
     file's name is written twice";

/// Reads `FILE[,format=raw|qcow2][,ro][,ephemeral][,direct]`.
pub(crate) fn parse(text: &OsStr) -> Result<Options, String> {
    let mut parts = split(text.as_bytes()).into_iter();
    let path = PathBuf::from(OsString::from_vec(parts.next().unwrap_or_default()));
    if path.as_os_str().is_empty() {
        return Err("it names no file".to_owned());
    }
    let mut options =
        Options { path, format: None, read_only: false, ephemeral: false, direct: false };
    for part in parts {
        match part.as_slice() {
            b"format=raw" => options.format = Some(Format::Raw),
            b"format=qcow2" => options.format = Some(Format::Qcow2),
            b"ro" => options.read_only = true,
            b"ephemeral" => options.ephemeral = true,
            b"direct" => options.direct = true,
            other => {
                return Err(format!("'{}' is not known: {WORDS}", String::from_utf8_lossy(other)));
            }
        }
    }
    if options.read_only && options.ephemeral {
        return Err("ro and ephemeral exclude each other".to_owned());
    }
    Ok(options)
}

/// The parts between single commas. Of two that follow each other one is a comma of the part's.
pub(super) fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    parts
}

/// Images that are written to.
#[derive(Default)]
pub(crate) struct Disks(Vec<(PathBuf, Arc<Disk>)>);

impl Disks {
    /// The guest is at its end: what it has written is on the medium, or the person is told that it is not.
    pub(crate) fn close(self) {
        for (path, disk) in self.0 {
            if let Err(error) = disk.flush() {
                let disk = quoted(&path);
                say(&format!(
                    "unibody: not all that the guest wrote is on disk {disk}: {}",
                    reason(&error)
                ));
            }
        }
    }
}

/// Opens the images, and makes devices of them. `cheap_exits`: see [`hv::Vm::CHEAP_EXITS`].
pub(crate) fn open(
    options: &[Options],
    cpus: u32,
    cheap_exits: bool,
) -> Result<(Disks, Vec<Arc<dyn Device>>), Error> {
    // An image that may not become larger (setrlimit(2)) is the guest's I/O error, and not the end of this process. If the signal cannot be
    // handled, it is.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    let mut disks = Disks::default();
    let device = |(number, options): (usize, &Options)| {
        let failed = |why: &dyn std::fmt::Display| {
            Error::new(format!("cannot use disk {}", quoted(&options.path)), why)
        };
        let disk = Disk::open(options).map_err(|error| advise(failed(&error), &error))?;
        let disk = Arc::new(disk);
        if !options.read_only && !options.ephemeral {
            disks.0.push((options.path.clone(), Arc::clone(&disk)));
        }
        let serial = format!("unibody-{number}");
        let queues = cpus.min(QUEUES) as u16;
        let device =
            Blk::new(disk, &serial, queues, cheap_exits).map_err(|error| failed(&error))?;
        Ok(Arc::new(device) as Arc<dyn Device>)
    };
    let devices = options.iter().enumerate().map(device).collect::<Result<_, _>>()?;
    Ok((disks, devices))
}

/// What to do.
fn advise(failed: Error, error: &vmm::disk::Error) -> Error {
    use vmm::disk::Error as Why;
    match error {
        Why::Locked(_) => {
            failed.advise("End that, or give both the disk read-only (--disk FILE,ro)")
        }
        Why::Ambiguous => failed.advise("Say which it is: --disk FILE,format=qcow2, or format=raw"),
        Why::Format { .. } => {
            failed.advise("Give an image of that format, or say another (--disk FILE,format=raw)")
        }
        Why::OddSize(_) => failed.advise("Make it larger with truncate(1), or give another file"),
        Why::Open(_) | Why::NotAFile => {
            failed.advise("Make one with truncate --size 1G FILE, or with qemu-img create")
        }
        Why::Tables(vmm::disk::qcow2::Error::Damaged(_)) => failed.advise(
            "Repair a copy of it with qemu-img check -r all, or give it read-only (--disk FILE,ro)",
        ),
        Why::Tables(_) => failed.advise(
            "Make another of it with qemu-img convert -O qcow2, or give it with ro or ephemeral",
        ),
        Why::Ephemeral(_) => failed.advise("Make room in the folder for temporary files (TMPDIR)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Options, String> {
        parse(OsStr::new(text))
    }

    #[test]
    fn words_come_behind_the_file() {
        let plain = parsed("a.img").unwrap();
        assert_eq!(plain.path, PathBuf::from("a.img"));
        assert_eq!(
            (plain.format, plain.read_only, plain.ephemeral, plain.direct),
            (None, false, false, false)
        );
        let all = parsed("b,format=qcow2,ephemeral,direct").unwrap();
        assert_eq!((all.format, all.ephemeral, all.direct), (Some(Format::Qcow2), true, true));
        assert_eq!(parsed("b,format=raw,ro").unwrap().format, Some(Format::Raw));
    }

    #[test]
    fn a_file_may_have_commas() {
        assert_eq!(parsed("a,,b,,,ro").unwrap().path, PathBuf::from("a,b,"));
        assert!(parsed("a,,b,,,ro").unwrap().read_only);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["", ",ro", "a,", "a,rw", "a,format=vmdk", "a,ro,ephemeral", "a,b"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
