//! The files in which depmod says what depends on what, which are text: `modules.dep` and those beside it.
//!
//! See: depmod(8), modules.dep(5), and kmod, tools/depmod.c. Those with `.bin` in their names say the same, and are not read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::table::{Module, Table};
use super::{Error, name};

/// `path: paths`: of each module, all that it depends on; what is loaded first is last.
pub(super) const DEPENDENCIES: &str = "modules.dep";
/// `alias PATTERN NAME`.
pub(super) const ALIASES: &str = "modules.alias";
/// `softdep NAME pre: NAMES post: NAMES`.
pub(super) const SOFT: &str = "modules.softdep";
/// A path a line, of what is part of the kernel.
pub(super) const BUILTIN: &str = "modules.builtin";

/// More than any of them has.
const LIMIT: u64 = 32 << 20;
/// More lines than any of them has. An alias is 40 bytes, a module some 60.
const MOST_LINES: usize = 1 << 19;

/// What such a file says, if there is one.
pub(super) fn read(folder: &Path, file: &str) -> Result<Option<String>, Error> {
    let path = folder.join(file);
    // What isn't a file may block, or never end.
    match fs::metadata(&path) {
        Ok(data) if data.is_file() => {}
        Ok(_) => return Err(Error::TooMuch { path, what: "is no file" }),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::read(&path)(error)),
    }
    let mut text = String::new();
    let file = File::open(&path).map_err(Error::read(&path))?;
    file.take(LIMIT + 1).read_to_string(&mut text).map_err(Error::read(&path))?;
    if text.len() as u64 > LIMIT {
        return Err(Error::TooMuch { path, what: "is larger than such a file is" });
    }
    Ok(Some(text))
}

/// The table that depmod has made.
pub(super) fn read_table(folder: &Path) -> Result<Table, Error> {
    let mut table = Table::default();
    for (file, parse) in [
        (DEPENDENCIES, dependency as Parse),
        (ALIASES, alias as Parse),
        (SOFT, soft_dependency as Parse),
    ] {
        let Some(text) = read(folder, file)? else { continue };
        if let Err(line) = lines(&text, &mut table, parse) {
            return Err(Error::Line { path: folder.join(file), line });
        }
    }
    Ok(table)
}

/// Reads a line into a table. None if it makes no sense.
type Parse = fn(&str, &mut Table) -> Option<()>;

/// Reads each line that says something. The error is the number of one that makes no sense.
fn lines(text: &str, table: &mut Table, parse: Parse) -> Result<(), usize> {
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if index >= MOST_LINES || parse(line, table).is_none() {
            return Err(index + 1);
        }
    }
    Ok(())
}

fn dependency(line: &str, table: &mut Table) -> Option<()> {
    let (path, depends) = line.split_once(':')?;
    let path = name::path(path)?;
    let depends = depends.split_ascii_whitespace().map(|path| name::of_file(name::path(path)?));
    let module = Module { path: path.to_string(), depends: depends.collect::<Option<_>>()? };
    table.add(name::of_file(path)?, module);
    Some(())
}

fn alias(line: &str, table: &mut Table) -> Option<()> {
    // A pattern may have blanks in it.
    let (pattern, module) = line.strip_prefix("alias ")?.trim().rsplit_once([' ', '\t'])?;
    let module = name::canonical(module)?;
    // What can't be said in a guest's own file isn't needed there.
    if is_word(pattern.trim()) {
        table.aliases.push((pattern.trim().to_string(), module));
    }
    Some(())
}

fn soft_dependency(line: &str, table: &mut Table) -> Option<()> {
    let rest = line.strip_prefix("softdep ")?.trim();
    let (module, wishes) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    let module = name::canonical(module)?;
    let wishes = soft_words(wishes);
    table.soft.entry(module).or_default().extend(wishes.map(str::to_string));
    Some(())
}

/// The names in `pre: NAMES post: NAMES`.
pub(super) fn soft_words(text: &str) -> impl Iterator<Item = &str> {
    text.split_ascii_whitespace().filter(|word| is_word(word) && !word.ends_with(':'))
}

/// Whether it is a word of these files.
pub(super) fn is_word(text: &str) -> bool {
    (1..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The names of what is part of the kernel. What makes no sense is not there.
pub(super) fn builtin(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| name::of_file(line.trim())).collect()
}

/// The three files, of which [`DEPENDENCIES`] is the last.
pub(super) fn write(table: &Table) -> Result<Vec<(&'static str, String)>, Error> {
    let all: Vec<(&str, &str)> =
        table.modules.iter().map(|(name, module)| (name.as_str(), module.path.as_str())).collect();
    Ok(vec![
        (ALIASES, aliases(table, |_| true)),
        (SOFT, soft_dependencies(table, |_| true)),
        (DEPENDENCIES, dependencies(table, &all)?),
    ])
}

/// [`DEPENDENCIES`] with these modules, names and paths: of each all that it depends on, as far as it is one of them.
pub(super) fn dependencies(table: &Table, modules: &[(&str, &str)]) -> Result<String, Error> {
    let paths: BTreeMap<&str, &str> = modules.iter().copied().collect();
    let mut text = String::new();
    for (name, path) in modules {
        let _ = write!(text, "{path}:");
        let closure = table.closure(&[*name])?;
        for (dependency, _) in closure.modules.iter().rev() {
            if let Some(path) = paths.get(dependency).filter(|_| dependency != name) {
                let _ = write!(text, " {path}");
            }
        }
        text.push('\n');
        if text.len() as u64 > LIMIT {
            return Err(Error::Folder("its modules depend on more than modules do".to_string()));
        }
    }
    Ok(text)
}

/// [`ALIASES`] of the modules that are `wanted`.
pub(super) fn aliases(table: &Table, wanted: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for (pattern, module) in table.aliases.iter().filter(|(_, module)| wanted(module)) {
        let _ = writeln!(text, "alias {pattern} {module}");
    }
    text
}

/// [`SOFT`] of the modules that are `wanted`.
pub(super) fn soft_dependencies(table: &Table, wanted: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for (module, wishes) in table.soft.iter().filter(|(module, _)| wanted(module)) {
        let wishes: Vec<&str> = wishes.iter().map(String::as_str).collect();
        let _ = writeln!(text, "softdep {module} pre: {}", wishes.join(" "));
    }
    text
}

#[cfg(test)]
#[path = "text_test.rs"]
mod text_test;
