//! What the command prints, on its way from the files that QEMU writes to this program's streams.
//!
//! Through files, because then the machine never waits for a reader, and a clock that counts instructions
//! is not disturbed by one.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// A file that grows, and where to copy it.
pub struct Output<W> {
    file: File,
    name: &'static str,
    to: W,
}

impl<W: Write> Output<W> {
    /// Makes the file. `name` is the stream's, for errors.
    pub fn create(path: &Path, name: &'static str, to: W) -> Result<Output<W>> {
        let cannot_create = || format!("cannot create '{}'", path.display());
        File::create(path).with_context(cannot_create)?;
        Ok(Output { file: File::open(path).with_context(cannot_create)?, name, to })
    }

    /// Copies what was written since the last time.
    pub fn copy(&mut self) -> Result<()> {
        io::copy(&mut self.file, &mut self.to)
            .and_then(|_| self.to.flush())
            .with_context(|| format!("cannot write to {}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::Output;

    #[test]
    fn each_byte_is_copied_once() {
        let path = std::env::temp_dir().join(format!("xtask-output-{}", std::process::id()));
        let mut output = Output::create(&path, "nowhere", Vec::new()).expect("there is room");
        for part in ["a\r\n", "", "\0b"] {
            let mut file = std::fs::File::options().append(true).open(&path).expect("it is there");
            std::io::Write::write_all(&mut file, part.as_bytes()).expect("there is room");
            output.copy().expect("memory has room");
        }
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(output.to, b"a\r\n\0b");
    }
}
