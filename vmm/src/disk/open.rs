//! From a file of the host's to an image as `imago` has it: [`open_image`], [`overlay`].

use std::fs::File as HostFile;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use imago::file::File;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, FormatCreateBuilder, FormatDriverBuilder, StorageOpenOptions};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::image::Opened;
use super::qcow2::header::MAGIC;
use super::{Error, Format, Options, lock};

/// Backing files and the like, which images name: opened for reading, while nobody writes to them.
#[derive(Clone, Default)]
struct Named {
    direct: bool,
    opened: Opened,
}

impl ImplicitOpenGate<File> for Named {
    fn open_format<F: FormatDriverBuilder<File>>(
        &mut self,
        builder: F,
    ) -> io::Result<FormatAccess<File>> {
        Ok(FormatAccess::new(builder.write(false).open(self.clone())?))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<File> {
        let path = options.get_filename().map(Path::to_path_buf).unwrap_or_default();
        let in_words =
            |error: Error| io::Error::other(format!("backing file '{}': {error}", path.display()));
        let file = open_file(&path, false).map_err(in_words)?;
        storage(file, &path, false, self.direct, &self.opened)
            .map_err(|error| in_words(Error::Open(error)))
    }
}

/// Opens a file of the host's, and locks it.
pub fn open_file(path: &Path, writes: bool) -> Result<HostFile, Error> {
    let mut options = HostFile::options();
    options.read(true).write(writes);
    // Not to wait for a FIFO's other end.
    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path).map_err(Error::Open)?;
    let kind = file.metadata().map_err(Error::Open)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::NotAFile);
    }
    lock::take(&file, writes)?;
    Ok(file)
}

/// For `imago`. From now on the file is accessed past the page cache, if that is wanted.
fn storage(
    file: HostFile,
    path: &Path,
    writes: bool,
    direct: bool,
    opened: &Opened,
) -> io::Result<File> {
    if direct {
        fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::DIRECT)?;
    }
    opened.add(Some(path), &file)?;
    let options = StorageOpenOptions::new().filename(path).write(writes).direct(direct);
    File::from_open_file(file, options)
}

/// What the image is.
pub fn format_of(file: &HostFile, options: &Options) -> Result<Format, Error> {
    if let Some(format) = options.format {
        return Ok(format);
    }
    let by_name = options.path.extension().is_some_and(|name| name == "qcow2" || name == "qcow");
    let mut start = [0; MAGIC.len()];
    let begins_so = match file.read_exact_at(&mut start, 0) {
        Ok(()) => start == MAGIC,
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(Error::Open(error)),
    };
    match (by_name, begins_so) {
        (true, _) => Ok(Format::Qcow2),
        (false, false) => Ok(Format::Raw),
        (false, true) => Err(Error::Ambiguous),
    }
}

/// The blocks of a file that is open. All files that they are in are added to `opened`.
pub fn open_image(
    file: HostFile,
    format: Format,
    options: &Options,
    writes: bool,
    opened: &Opened,
) -> Result<FormatAccess<File>, Error> {
    let name = match format {
        Format::Raw => "a raw image",
        Format::Qcow2 => "a qcow2 image",
    };
    let failed = |error| Error::Format { format: name, error };
    let storage = storage(file, &options.path, writes, options.direct, opened).map_err(failed)?;
    let gate = Named { direct: options.direct, opened: opened.clone() };
    match format {
        Format::Raw => Raw::builder(storage).write(writes).open(gate).map(FormatAccess::new),
        Format::Qcow2 => {
            let builder = Qcow2::<File>::builder(storage).write(writes);
            builder.open(gate).map(FormatAccess::new)
        }
    }
    .map_err(failed)
}

/// What is written goes to an image in a file without a name.
pub fn overlay(base: FormatAccess<File>, opened: &Opened) -> Result<FormatAccess<File>, Error> {
    let failed = Error::Ephemeral;
    let file = tempfile::tempfile().map_err(failed)?;
    opened.add(None, &file).map_err(failed)?;
    let options = StorageOpenOptions::new().write(true);
    let storage = File::from_open_file(file, options).map_err(failed)?;
    let size = base.size();
    let create = Qcow2::<File>::create_builder(storage).size(size);
    let open = |image| Ok(Qcow2::<File>::builder(image).backing(Some(base)).write(true));
    create.create_open(Named::default(), open).map(FormatAccess::new).map_err(failed)
}
