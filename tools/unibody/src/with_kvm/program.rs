//! Which file a program is, and what keeps a library from being loaded into it: [`Program`], [`Obstacle`].
//!
//! See: elf(5), execve(2), ld.so(8), "Secure-execution mode".

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, getxattr};
use rustix::process::{getegid, geteuid};

use crate::error::reason;

/// A file that can be executed.
#[derive(Debug)]
pub(super) struct Program(PathBuf);

/// Why no library is loaded into a program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It has no dynamic loader.
    Static,
    /// It is for another kind of processor.
    Machine,
    /// Its loader is not glibc's.
    Loader(String),
    /// It gets rights that its caller has not.
    Privileged(&'static str),
    /// It cannot be looked at.
    Unreadable(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => f.write_str("it is linked statically, and loads no library"),
            Self::Machine => f.write_str("it is not for x86-64"),
            Self::Loader(loader) => write!(f, "it is loaded by '{loader}', which is not glibc's"),
            Self::Privileged(what) => {
                write!(f, "it has {what}, and so no library of its caller's is loaded into it")
            }
            Self::Unreadable(why) => f.write_str(why),
        }
    }
}

/// Where glibc's loader is on x86-64. See: System V ABI, AMD64 supplement, 5.2.1.
const LOADER: &str = "ld-linux-x86-64.so.2";
/// Scripts whose interpreter is a script, and so on: more than Linux follows.
const DEPTH: usize = 8;
/// What Linux looks at of a script's first line.
const FIRST_LINE: usize = 256;

impl Program {
    /// Finds a program as `execvp` does: a name with a slash is a path, another one is looked for in the folders of `PATH`.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` if there are only such as can't be executed.
    pub(super) fn find(name: &OsStr, folders: Option<&OsStr>) -> io::Result<Self> {
        if name.is_empty() {
            return Err(ErrorKind::NotFound.into());
        }
        if name.as_bytes().contains(&b'/') {
            return executable(name.into()).map(Self);
        }
        let mut error = ErrorKind::NotFound.into();
        for folder in std::env::split_paths(folders.unwrap_or(OsStr::new("/bin:/usr/bin"))) {
            let folder = if folder.as_os_str().is_empty() { ".".into() } else { folder };
            match executable(folder.join(name)) {
                Ok(path) => return Ok(Self(path)),
                Err(other) if other.kind() == ErrorKind::PermissionDenied => error = other,
                Err(_) => {}
            }
        }
        Err(error)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// What keeps a library from being loaded into it, or into the interpreter if it is a script; and which file that is.
    pub(super) fn obstacle(&self) -> Option<(PathBuf, Obstacle)> {
        let mut path = self.0.clone();
        for _ in 0..DEPTH {
            match look(&path) {
                Ok(None) => return None,
                Ok(Some(interpreter)) => path = interpreter,
                Err(obstacle) => return Some((path, obstacle)),
            }
        }
        None
    }
}

fn executable(path: PathBuf) -> io::Result<PathBuf> {
    // Where nobody may look there is nothing.
    let data = path.metadata().map_err(|_| ErrorKind::NotFound)?;
    if data.is_dir() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    access(&path, Access::EXEC_OK)?;
    Ok(path)
}

/// Looks at a file; gives the interpreter of a script.
fn look(path: &Path) -> Result<Option<PathBuf>, Obstacle> {
    let unreadable = |error: io::Error| {
        Obstacle::Unreadable(format!("it cannot be looked at: {}", reason(&error)))
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut head = Vec::new();
    (&file).take(FIRST_LINE as u64).read_to_end(&mut head).map_err(unreadable)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|w| !w.is_empty());
        return Ok(words.next().map(|word| OsStr::from_bytes(word).into()));
    }
    if !head.starts_with(b"\x7fELF") {
        // The shell's, or nobody's.
        return Ok(None);
    }
    let loader = loader(&file, &head)?;
    if loader.rsplit('/').next() != Some(LOADER) {
        return Err(Obstacle::Loader(loader));
    }
    privileges(path, &file).map_or(Ok(None), |what| Err(Obstacle::Privileged(what)))
}

/// The loader that an ELF program asks for.
fn loader(file: &File, head: &[u8]) -> Result<String, Obstacle> {
    const CLASS_64_LITTLE_ENDIAN: [u8; 2] = [2, 1];
    const X86_64: u64 = 62;
    const PT_INTERP: u64 = 3;
    if head.get(4..6) != Some(&CLASS_64_LITTLE_ENDIAN) || number(head, 18, 2) != Some(X86_64) {
        return Err(Obstacle::Machine);
    }
    let damaged = || Obstacle::Unreadable("its program headers are damaged".into());
    let field = |offset, size| number(head, offset, size).ok_or_else(damaged);
    let (table, size, count) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
    if size < 56 {
        return Err(damaged());
    }
    for n in 0..count {
        let mut header = [0; 56];
        let place = table.checked_add(n * size).ok_or_else(damaged)?;
        file.read_exact_at(&mut header, place).map_err(|_| damaged())?;
        if number(&header, 0, 4) != Some(PT_INTERP) {
            continue;
        }
        let (place, len) = (number(&header, 8, 8), number(&header, 32, 8));
        let len = len.and_then(|len| usize::try_from(len).ok()).filter(|len| *len <= 4096);
        let (Some(place), Some(len)) = (place, len) else { return Err(damaged()) };
        let mut path = vec![0; len];
        file.read_exact_at(&mut path, place).map_err(|_| damaged())?;
        let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
        return Ok(String::from_utf8_lossy(path).into_owned());
    }
    Err(Obstacle::Static)
}

/// A little-endian number.
fn number(bytes: &[u8], offset: usize, size: usize) -> Option<u64> {
    let mut word = [0; 8];
    word.get_mut(..size)?.copy_from_slice(bytes.get(offset..offset.checked_add(size)?)?);
    Some(u64::from_le_bytes(word))
}

/// Rights that a program gets beyond those of its caller, who is this process.
fn privileges(path: &Path, file: &File) -> Option<&'static str> {
    let data = file.metadata().ok()?;
    let mode = data.permissions().mode();
    if mode & 0o4000 != 0 && data.uid() != geteuid().as_raw() {
        return Some("the set-user-ID bit");
    }
    if mode & 0o2010 == 0o2010 && data.gid() != getegid().as_raw() {
        return Some("the set-group-ID bit");
    }
    let mut value = [0; 64];
    let has = getxattr(path, "security.capability", &mut value).is_ok_and(|len| len > 0);
    (has && !geteuid().is_root()).then_some("capabilities")
}

#[cfg(test)]
#[path = "program_test.rs"]
mod program_test;
