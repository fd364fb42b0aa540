//! Unpacks what is wanted of a Debian package: [`unpack`].
//!
//! A package is an `ar` archive (see [`super::ar`]) of `debian-binary`, `control.tar.*` and
//! `data.tar.*`. Only regular files are taken, into whatever [`Destination`] the caller has; links
//! are passed over, so that no file can be led to another place by one. See: deb(5).

use std::io::{self, Read};

use super::ar;

/// The most bytes that a package may unpack to. A kernel with modules has 0.6 GiB.
const MAX_SIZE: u64 = 4 << 30;
/// The most files and directories.
const MAX_ENTRIES: usize = 1_000_000;
/// Linux's `PATH_MAX`.
const MAX_PATH: usize = 4096;
/// The largest dictionary: `xz -9` has 64 MiB, `zstd --ultra -22` 128 MiB.
const MAX_WINDOW: u64 = 128 << 20;

/// Why a package cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The outer archive can't be read.
    #[error(transparent)]
    Archive(#[from] ar::Error),
    /// The outer archive is not a package's.
    #[error("it is no Debian package")]
    NotAPackage,
    /// The format's major version is not 2.
    #[error("its package format {0:?} is not known")]
    Version(String),
    /// The data are packed with something else than xz, zstd or gzip.
    #[error("{0:?} is packed in a way that is not known")]
    Compression(String),
    /// The stream or the tar archive is damaged or cut off.
    #[error("it is damaged: {0}")]
    Damaged(#[source] io::Error),
    /// It unpacks to too much.
    #[error("it unpacks to more than {MAX_SIZE} bytes or {MAX_ENTRIES} files")]
    TooBig,
    /// A path leads out of the package, or is none.
    #[error("it has a file with the name {0:?}")]
    Path(String),
    /// A tar feature that no Debian package uses.
    #[error("it has an entry of the kind {0:?}, which is not known")]
    Kind(char),
    /// The destination did not take a file.
    #[error("cannot write '{path}': {}", crate::error::reason(.source))]
    Write {
        /// The file's path in the package.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Where unpacked files go.
pub(crate) trait Destination {
    /// Is given the file with this path in the package (relative, without `.` and `..`). A file that
    /// is not wanted need not be read.
    fn file(&mut self, path: &str, executable: bool, contents: &mut dyn Read) -> io::Result<()>;
}

/// Offers each regular file of the package to `destination`.
pub(crate) fn unpack(package: impl Read, destination: &mut dyn Destination) -> Result<(), Error> {
    let mut archive = ar::Archive::new(package)?;
    check_version(&mut archive)?;
    while let Some(name) = archive.next_member()? {
        let Some(compression) = name.strip_prefix("data.tar") else {
            continue;
        };
        let contents = archive.contents();
        return match compression {
            "" => unpack_tar(contents, destination),
            ".gz" => unpack_tar(flate2::read::MultiGzDecoder::new(contents), destination),
            ".xz" => {
                let limit_kib = (MAX_WINDOW >> 10) as u32 + 1024;
                let stream = lzma_rust2::XzReader::new_mem_limit(contents, true, limit_kib);
                unpack_tar(stream, destination)
            }
            // One frame: that is what dpkg-deb writes.
            ".zst" => {
                let stream = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    contents, MAX_WINDOW,
                );
                unpack_tar(stream.map_err(|e| Error::Damaged(io::Error::other(e)))?, destination)
            }
            _ => Err(Error::Compression(name)),
        };
    }
    Err(Error::NotAPackage)
}

/// The first member says which version of the format it is.
fn check_version(archive: &mut ar::Archive<impl Read>) -> Result<(), Error> {
    if archive.next_member()?.as_deref() != Some("debian-binary") {
        return Err(Error::NotAPackage);
    }
    let mut version = String::new();
    archive.contents().take(16).read_to_string(&mut version).map_err(Error::Damaged)?;
    if version.starts_with("2.") {
        Ok(())
    } else {
        Err(Error::Version(version.trim_end().to_string()))
    }
}

fn unpack_tar(stream: impl Read, destination: &mut dyn Destination) -> Result<(), Error> {
    // One more than allowed tells "as much" from "more".
    let mut tar = tar::Archive::new(stream.take(MAX_SIZE + 1));
    // Raw: the crate would read names of any length.
    let entries = tar.entries().map_err(Error::Damaged)?.raw(true);
    let mut long_name = None;
    let mut total = 0u64;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(Error::Damaged)?;
        total = total.saturating_add(entry.size());
        if count >= MAX_ENTRIES || total > MAX_SIZE {
            return Err(Error::TooBig);
        }
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            long_name = Some(read_long_name(&mut entry)?);
            continue;
        }
        if kind.is_gnu_longlink() {
            continue;
        }
        let path = match long_name.take() {
            Some(path) => path,
            None => entry.path_bytes().into_owned(),
        };
        let path = relative(&path)?;
        if kind.is_file() {
            take_file(&path, &mut entry, destination)?;
        } else if !(kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
            return Err(Error::Kind(kind.as_byte().into()));
        }
    }
    Ok(())
}

fn take_file(
    path: &str,
    entry: &mut tar::Entry<'_, impl Read>,
    destination: &mut dyn Destination,
) -> Result<(), Error> {
    let executable = entry.header().mode().map_err(Error::Damaged)? & 0o111 != 0;
    let mut contents = Watched { inner: entry, failed: false };
    destination.file(path, executable, &mut contents).map_err(|source| {
        if contents.failed {
            Error::Damaged(source)
        } else {
            Error::Write { path: path.to_string(), source }
        }
    })
}

fn read_long_name(entry: &mut impl Read) -> Result<Vec<u8>, Error> {
    let mut name = Vec::new();
    entry.take(MAX_PATH as u64 + 1).read_to_end(&mut name).map_err(Error::Damaged)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// The path of an archive's entry without `.` and empty parts; refused if it is absolute or has
/// `..`.
pub(crate) fn relative(path: &[u8]) -> Result<String, Error> {
    let refused = || {
        let shown = &path[..path.len().min(100)];
        Error::Path(String::from_utf8_lossy(shown).into_owned())
    };
    let text = std::str::from_utf8(path).map_err(|_| refused())?;
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let bad = text.starts_with('/')
        || text.contains('\0')
        || path.len() > MAX_PATH
        || parts.contains(&"..");
    if bad { Err(refused()) } else { Ok(parts.join("/")) }
}

/// Tells a reader's failures from a writer's, which `io::copy` mixes.
struct Watched<'a, R> {
    inner: &'a mut R,
    failed: bool,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read(buffer);
        if let Err(error) = &result {
            self.failed = error.kind() != io::ErrorKind::Interrupted;
        }
        result
    }
}

#[cfg(test)]
#[path = "deb_test.rs"]
mod deb_test;
