//! Memory and the distribution, as Linux and the distribution's own files tell them.

use std::fs;

use super::report::{Distribution, Memory};

/// The host's memory.
pub(super) fn memory() -> Option<Memory> {
    memory_of(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// See: Linux, Documentation/filesystems/proc.rst, "meminfo".
fn memory_of(text: &str) -> Option<Memory> {
    let bytes = |field: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory { total: bytes("MemTotal")?, available: bytes("MemAvailable")? })
}

/// The distribution.
pub(super) fn distribution() -> Distribution {
    let release = ["/etc/os-release", "/usr/lib/os-release"];
    let text = release.into_iter().find_map(|path| fs::read_to_string(path).ok());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_apt = std::env::split_paths(&path).any(|folder| folder.join("apt-get").is_file());
    Distribution { name: text.as_deref().and_then(name_of), has_apt }
}

/// See: os-release(5).
fn name_of(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    let name = value.trim_matches(['"', '\'']);
    (!name.is_empty()).then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let text = "MemTotal:        4030840 kB\nMemFree:  5 kB\nMemAvailable:    100 kB\n";
        let expected = Memory { total: 4_030_840 << 10, available: 100 << 10 };
        assert_eq!(memory_of(text), Some(expected));
        assert_eq!(memory_of("MemTotal: much\n"), None);
        assert_eq!(memory_of("MemTotal: 99999999999999999999 kB\n"), None);
    }

    #[test]
    fn the_distribution_is_named_as_it_names_itself() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(name_of(text).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(name_of("PRETTY_NAME=Arch\n").as_deref(), Some("Arch"));
        assert_eq!(name_of("PRETTY_NAME=\"\"\nNAME=x\n"), None);
    }
}
