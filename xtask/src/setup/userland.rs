//! What it takes to build other people's programs as tests of a guest (`tests/userland`).

use crate::module::packages::Package;
use crate::process;
use std::path::Path;

/// Debian's packages.
pub const PACKAGES: &[Package] = &[
    Package {
        name: "linux-source",
        purpose: "the kernel's own tests of x86 and of KVM",
        test_only: true,
        present: || has_file("/usr/src", |name| name.starts_with("linux-source-")),
    },
    Package {
        name: "gcc-multilib",
        purpose: "those of them that are for 32 bits",
        test_only: true,
        present: || {
            let libraries = Path::new("/usr/lib/gcc/x86_64-linux-gnu");
            Path::new("/usr/lib32/libc.a").exists()
                && libraries.read_dir().is_ok_and(|mut versions| {
                    versions.any(|version| {
                        version.is_ok_and(|version| version.path().join("32/libgcc.a").exists())
                    })
                })
        },
    },
    Package {
        name: "rsync",
        purpose: "installing the kernel's headers, which its tests of KVM are built with",
        test_only: true,
        present: || process::find("rsync").is_some(),
    },
    Package {
        name: "libarchive-tools",
        purpose: "bsdtar, which makes initial file systems",
        test_only: true,
        present: || process::find("bsdtar").is_some(),
    },
];

/// Whether a folder has a file with such a name.
fn has_file(folder: &str, is_meant: fn(&str) -> bool) -> bool {
    Path::new(folder).read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| {
                entry.path().is_file() && is_meant(&entry.file_name().to_string_lossy())
            })
        })
    })
}
