//! What it means that the host refuses something, and what to do: [`explain`].
//!
//! Here is what holds wherever it is met. What is said of memory slots alone stands in `regions`.
//! See: Linux, man-pages, errno(3), setrlimit(2).

use std::io;

use crate::host::Device;

/// What went wrong; and what to do, where that is known.
#[must_use]
pub fn explain(error: &io::Error) -> String {
    let known = match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            "the host is out of memory, or this process may not have as much: end something else that runs there, or raise the \
             limit (ulimit -v)"
        }
        Some(libc::EMFILE) => {
            "this process has as many files open as it may: raise the limit (ulimit -n)"
        }
        Some(libc::ENFILE) => {
            "the host has as many files open as it can: end something else that runs there"
        }
        Some(libc::EAGAIN) => {
            "there are as many threads as there may be: end some, or raise the limit (of this user ulimit -u, of a container its \
             pids.max)"
        }
        Some(libc::EBUSY) => {
            "something else has it, as another hypervisor has the processor: end that"
        }
        _ => return plain(error),
    };
    known.into()
}

/// Why no machine can be made while another hypervisor has the processor, and what to do. Linux's KVM and the project's own module are
/// each other's likeliest.
pub(crate) fn explain_taken(engine: &str) -> &'static str {
    if engine == Device::Unibody.name() {
        "another hypervisor has the processor, as Linux's KVM does while it has a virtual machine: end those (newer kernels: sudo \
         modprobe -r kvm_amd)"
    } else {
        "another hypervisor has the processor, as Unibody's module does while it has a virtual machine: end those"
    }
}

/// Why a vCPU can't be made. See: Linux, Documentation/virt/kvm/api.rst, 4.7.
pub(crate) fn explain_vcpu(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EEXIST) => {
            "the machine has it already: give each another number, and make it once".into()
        }
        Some(libc::EINVAL) => {
            "the machine has no place for it: make that for more, or take a lower number".into()
        }
        _ => explain(error),
    }
}

/// The error; one of the host's within a sentence, and without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(_) => text.split(" (os error").next().unwrap_or_default().to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn number(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn a_refusal_says_what_was_tried_what_went_wrong_and_what_to_do() {
        let says = |error: Error, parts: [&str; 3]| {
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            assert!(!text.contains("os error"), "{text}");
        };
        for (errno, reason, advice) in [
            (libc::ENOMEM, "the host is out of memory", "end something else"),
            (libc::EMFILE, "as many files open as it may", "raise the limit (ulimit -n)"),
            (libc::ENFILE, "the host has as many files open", "end something else"),
            (libc::EAGAIN, "as many threads", "ulimit -u"),
            (libc::EBUSY, "another hypervisor", "end that"),
            (libc::EIO, "input/output error", ""),
        ] {
            let action = "make a virtual machine";
            let made = Error::Kvm { action, error: number(errno) };
            says(made, ["KVM cannot make a virtual machine", reason, advice]);
            let vcpu = Error::Vcpu { id: 3, error: number(errno) };
            says(vcpu, ["cannot make vCPU 3", reason, advice]);
            let run = Error::Run { error: number(errno) };
            says(run, ["cannot go on running the guest", reason, advice]);
            let start = Error::Start(number(errno));
            says(start, ["cannot start the hypervisor's services", reason, advice]);
        }
        for (engine, other) in [("unibody", "Linux's KVM"), ("kvm", "Unibody's module")] {
            let tried = format!("cannot make a virtual machine on {engine}");
            says(Error::Taken { engine }, [tried.as_str(), other, "end those"]);
        }
        let other = Error::Run { error: io::Error::other("QEMU's does not") };
        assert_eq!(other.to_string(), "cannot go on running the guest: QEMU's does not");
        let twice = Error::Vcpu { id: 3, error: number(libc::EEXIST) };
        says(twice, ["cannot make vCPU 3", "has it already", "give each another number"]);
        let beyond = Error::Vcpu { id: 3, error: number(libc::EINVAL) };
        says(beyond, ["cannot make vCPU 3", "has no place for it", "take a lower number"]);
    }
}
