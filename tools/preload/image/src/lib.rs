//! The library that gives programs `/dev/kvm`, as the bytes of a file that the dynamic loader reads.
//!
//! The build script compiles `tools/preload`. Whoever runs a program with it puts [`LIBRARY`] into a file, and names that in
//! `LD_PRELOAD`.
#![forbid(unsafe_code)]

/// A shared library for x86-64 Linux, with glibc.
pub static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/preload.so"));

/// The variable of the environment that says to the library what machines are made with (`tools/preload/src/options.rs`).
pub const OPTIONS: &str = "UNIBODY_WITH_KVM";

#[cfg(test)]
mod tests {
    use super::{LIBRARY, OPTIONS};

    fn has(bytes: &[u8]) -> bool {
        LIBRARY.windows(bytes.len()).any(|found| found == bytes)
    }

    #[test]
    fn it_is_a_library_for_x86_64() {
        assert_eq!(LIBRARY[..6], *b"\x7fELF\x02\x01", "ELF, 64 bits, little-endian");
        assert_eq!(LIBRARY[16..20], [3, 0, 62, 0], "ET_DYN, EM_X86_64");
    }

    #[test]
    fn it_has_the_names_of_the_c_library() {
        for name in ["open", "openat64", "ioctl", "close", "sigaction", "dup3"] {
            assert!(has(format!("\0{name}\0").as_bytes()), "no {name}");
        }
    }

    #[test]
    fn it_reads_that_variable() {
        assert!(has(OPTIONS.as_bytes()));
    }
}
