//! What `unibody with-kvm` was told, which comes in the environment: [`Options`].

use std::ffi::OsStr;

/// The variable: words with commas between them.
pub const VARIABLE: &str = "UNIBODY_WITH_KVM";

/// What machines are made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes of translated code that the vCPUs of a VM may keep, 0 for none: `no-jit`, or `jit-cache=` a number. `None`: as many
    /// as the software CPU usually has.
    pub jit_cache: Option<usize>,
}

impl Options {
    /// Reads them. What is not known is passed over: the variable may be of another version's.
    #[must_use]
    pub fn of(text: &OsStr) -> Self {
        let mut options = Self::default();
        for word in text.to_str().unwrap_or_default().split(',') {
            if word == "no-jit" {
                options.jit_cache = Some(0);
            } else if let Some(size) = word.strip_prefix("jit-cache=") {
                options.jit_cache = size.parse().ok().or(options.jit_cache);
            }
        }
        options
    }

    /// Those of this process's environment.
    #[must_use]
    pub fn of_environment() -> Self {
        std::env::var_os(VARIABLE).map_or_else(Self::default, |text| Self::of(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let read = |text: &str| Options::of(OsStr::new(text)).jit_cache;
        assert_eq!(read(""), None);
        assert_eq!(read("no-jit"), Some(0));
        assert_eq!(read("jit-cache=4096"), Some(4096));
        assert_eq!(read("later,jit-cache=8192,x=y"), Some(8192));
        assert_eq!(read("jit-cache=lots"), None);
        assert_eq!(read("jit-cache=99999999999999999999999"), None);
    }
}
