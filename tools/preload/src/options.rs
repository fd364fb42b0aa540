//! What `unibody with-kvm` was told, which comes in the environment: [`Options`].

use std::ffi::OsStr;

use arch_x86::cpuid::{Leaf, Model};

/// The variable: words with commas between them.
pub const VARIABLE: &str = "UNIBODY_WITH_KVM";

/// What machines are made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes of translated code that the vCPUs of a VM may keep, 0 for none: `no-jit`, or `jit-cache=` a number. `None`: as many
    /// as the software CPU usually has.
    pub jit_cache: Option<usize>,
    /// The processor that guests are offered: `cpu=` a model's name, or `host`.
    pub processor: Processor,
}

/// A processor that guests are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processor {
    /// The best model that the host can be.
    #[default]
    Best,
    /// What the host's is, as far as the software CPU runs it.
    Host,
    /// This one.
    Model(Model),
}

impl Processor {
    /// What it answers.
    #[must_use]
    pub fn hardware(self) -> fn(u32, u32) -> Leaf {
        match self {
            Self::Best => Model::best(&host_cpuid, engine_soft::instructions()).hardware(),
            Self::Host => host_cpuid,
            Self::Model(model) => model.hardware(),
        }
    }
}

/// The processor's own CPUID.
fn host_cpuid(function: u32, index: u32) -> Leaf {
    let answer = core::arch::x86_64::__cpuid_count(function, index);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
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
            } else if word == "cpu=host" {
                options.processor = Processor::Host;
            } else if let Some(model) = word.strip_prefix("cpu=").and_then(Model::named) {
                options.processor = Processor::Model(model);
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
        let processor = |text: &str| Options::of(OsStr::new(text)).processor;
        assert_eq!(processor("no-jit"), Processor::Best);
        assert_eq!(processor("no-jit,cpu=host"), Processor::Host);
        let model = Model::named("unibody-amd-v2").unwrap();
        assert_eq!(processor("cpu=unibody-amd-v2,no-jit"), Processor::Model(model));
        assert_eq!(processor("cpu=unibody-amd-v9"), Processor::Best);
    }
}
