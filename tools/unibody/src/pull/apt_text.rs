//! Reads what `apt-get` and `apt-cache` print, in the C locale.

/// A package that can be downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// Where it is.
    pub(crate) uri: String,
    /// The file's name once downloaded.
    pub(crate) file: String,
    /// The file's size.
    pub(crate) size: u64,
    /// The file's SHA-256, unless apt knows it by another checksum.
    pub(crate) sha256: Option<String>,
}

/// Reads `apt-get --print-uris download`: `'URI' FILE SIZE SHA256:…`, a line for each.
pub(crate) fn offers(printed: &str) -> Vec<Offer> {
    printed.lines().filter_map(offer).collect()
}

fn offer(line: &str) -> Option<Offer> {
    let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut fields = rest.split_whitespace();
    let (file, size) = (fields.next()?, fields.next()?.parse().ok()?);
    let sha256 = fields.next().and_then(|sum| sum.strip_prefix("SHA256:")).map(str::to_lowercase);
    // It becomes part of a path.
    if file.contains('/') {
        return None;
    }
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?.to_string(), parts.next()?);
    // The only character of a version that a file's name can't have.
    let version = version.replace("%3a", ":");
    Some(Offer { name, version, uri: uri.into(), file: file.into(), size, sha256 })
}

/// Reads `apt-cache show`: the names of all packages that those shown depend on, the first of
/// alternatives only.
pub(crate) fn dependencies(printed: &str) -> Vec<String> {
    let fields = printed.lines().filter_map(|line| {
        line.strip_prefix("Depends:").or_else(|| line.strip_prefix("Pre-Depends:"))
    });
    let name = |dependency: &str| {
        let end = |c: char| c.is_whitespace() || matches!(c, '|' | '(' | ':' | '[');
        dependency.trim().split(end).next().unwrap_or_default().to_string()
    };
    fields.flat_map(|field| field.split(',').map(name).collect::<Vec<_>>()).collect()
}

/// What went wrong with a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Its address, and what else apt says of it.
    pub(crate) source: String,
    /// In apt's words.
    pub(crate) reason: String,
    /// It could be reached, but not be trusted.
    pub(crate) is_signature: bool,
}

impl Trouble {
    /// Whether the file with this address comes from the source.
    pub(crate) fn concerns(&self, uri: &str) -> bool {
        let base = self.source.split_whitespace().next().unwrap_or_default();
        let base = base.split("/dists/").next().unwrap_or_default().trim_end_matches('/');
        let below = uri.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'));
        !base.is_empty() && below
    }
}

/// Reads the warnings and errors of `apt-get update` and `download` about single sources.
pub(crate) fn troubles(printed: &str) -> Vec<Trouble> {
    printed.lines().filter_map(trouble).collect()
}

fn trouble(line: &str) -> Option<Trouble> {
    let text = message(line)?;
    // The second is what apt 3 says.
    for mark in ["GPG error: ", "OpenPGP signature verification failed: "] {
        if let Some((_, rest)) = text.split_once(mark) {
            let (source, reason) = rest.split_once(": ")?;
            return Some(Trouble {
                source: source.to_string(),
                reason: reason.to_string(),
                is_signature: true,
            });
        }
    }
    if let Some((_, rest)) = text.split_once("The repository '") {
        let (source, reason) = rest.split_once("' ")?;
        let is_signature = !reason.contains("does not have a Release file");
        return Some(Trouble { source: source.into(), reason: reason.into(), is_signature });
    }
    let (source, reason) = text.strip_prefix("Failed to fetch ")?.split_once(' ')?;
    Some(Trouble { source: source.into(), reason: reason.trim().into(), is_signature: false })
}

/// The text of a warning or an error.
fn message(line: &str) -> Option<&str> {
    let marks = ["W: ", "E: ", "Warning: ", "Error: "];
    marks.iter().find_map(|mark| line.strip_prefix(mark))
}

/// The first error, or whatever comes closest to one.
pub(crate) fn first_error(printed: &str) -> String {
    let mut lines = printed.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().find(|line| line.starts_with("E: ") || line.starts_with("Error: "));
    let line = error.or_else(|| lines.next_back()).unwrap_or("it does not say why");
    message(line).unwrap_or(line).to_string()
}

/// Whether apt says that it had no space.
pub(crate) fn is_disk_full(printed: &str) -> bool {
    let marks = ["No space left on device", "Disk quota exceeded", "enough free space"];
    marks.iter().any(|mark| printed.contains(mark))
}

#[cfg(test)]
#[path = "apt_text_test.rs"]
mod apt_text_test;
