//! The libraries that a program is linked to, as `ldd` says.

use super::contents::Contents;
use crate::{initramfs, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where the loader looks for libraries that are in unusual directories.
const CACHE: &str = "/etc/ld.so.cache";

/// Adds the loader and the libraries of a program, where they are on this host. Other files need none.
pub fn add(contents: &mut Contents, program: &Path) -> Result<()> {
    let bytes =
        fs::read(program).with_context(|| format!("cannot read '{}'", program.display()))?;
    if initramfs::interpreted(&bytes) != Some(true) {
        return Ok(());
    }
    let output = process::capture(Command::new("ldd").arg(program).env("LC_ALL", "C"))?;
    let libraries = parse(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("cannot find the libraries of '{}'", program.display()))?;
    let cache = Path::new(CACHE).is_file().then(|| CACHE.to_owned());
    for library in libraries.into_iter().chain(cache) {
        let path = library.trim_start_matches('/');
        if !contents.has(path) {
            contents.copy(Path::new(&library), path)?;
        }
    }
    Ok(())
}

/// Reads lines as `libc.so.6 => /lib/libc.so.6 (0x…)`, where the loader has no arrow, and
/// what the kernel provides has no path.
fn parse(printed: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for line in printed.lines() {
        let found = match line.split_once(" => ") {
            Some((name, "not found")) => bail!("there is no {} on this host", name.trim()),
            Some((_, path)) => path,
            None => line,
        };
        let path = found.trim().split(" (0x").next().unwrap_or_default();
        if path.starts_with('/') {
            paths.push(path.to_owned());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn paths_are_read() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        let paths = parse(printed).expect("all are there");
        assert_eq!(paths, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = parse("\tlibfoo.so.1 => not found\n").expect_err("it is missing");
        assert_eq!(error.to_string(), "there is no libfoo.so.1 on this host");
    }
}
