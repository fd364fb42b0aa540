//! Capabilities of a thread, with the interface of the crate `capng` as far as virtiofsd's library uses it.
//!
//! That crate is linked with libcap-ng, which who builds this project would have to have. So the workspace has this one in its place
//! (`[patch.crates-io]`). What is changed is a thread's own sets ([`update`], [`clear`]), which nobody sees before they are given to the kernel
//! ([`apply`]). See: capabilities(7), `libcap-ng`'s capng_update(3) and capng_apply(3).

#![forbid(unsafe_code)]

use std::cell::Cell;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// A capability's number.
pub type Capability = u32;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such capability.
    #[error("there is no capability of that name or number")]
    Unknown,
    /// The kernel does not say which ones the thread has.
    #[error("cannot get the thread's capabilities: {0}")]
    Get(Errno),
    /// The kernel does not let it have those.
    #[error("cannot set the thread's capabilities: {0}")]
    Set(Errno),
}

/// Of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// One of a thread's sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type(u8);

impl Type {
    /// What the kernel looks at.
    pub const EFFECTIVE: Self = Self(1);
    /// What the thread may make effective.
    pub const PERMITTED: Self = Self(2);
    /// What a program that it becomes may have.
    pub const INHERITABLE: Self = Self(4);

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Type {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Which sets are meant: the bounding set, for which virtiofsd asks beside the others, is left alone here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set(());

impl Set {
    /// The three that are a thread's.
    pub const CAPS: Self = Self(());
    /// These, and the bounding set.
    pub const BOTH: Self = Self(());
}

/// What becomes of a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is taken out.
    DROP,
    /// It is put in.
    ADD,
}

/// A change.
#[derive(Clone, Copy, Debug)]
pub struct CUpdate {
    /// What becomes of it.
    pub action: Action,
    /// In which sets.
    pub cap_type: Type,
    /// Of what.
    pub capability: Capability,
}

thread_local! {
    /// Sets that were changed, and that the kernel does not have yet.
    static CHANGED: Cell<Option<CapabilitySets>> = const { Cell::new(None) };
}

/// Names without `CAP_`, by number. See: `linux/capability.h`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

fn bit(capability: Capability) -> Result<CapabilitySet> {
    let is_known = (capability as usize) < NAMES.len();
    is_known.then(|| CapabilitySet::from_bits_retain(1 << capability)).ok_or(Error::Unknown)
}

fn of_thread() -> Result<CapabilitySets> {
    capabilities(None).map_err(Error::Get)
}

/// Forgets what was changed: the sets are the thread's again.
///
/// # Errors
/// When the kernel does not say which those are.
pub fn get_caps_process() -> Result<()> {
    let sets = of_thread()?;
    CHANGED.set(Some(sets));
    Ok(())
}

/// Takes everything out.
pub fn clear(_sets: Set) {
    let none = CapabilitySet::empty();
    CHANGED.set(Some(CapabilitySets { effective: none, permitted: none, inheritable: none }));
}

/// Makes changes.
///
/// # Errors
/// When there is no such capability, or the kernel does not say which ones the thread has.
pub fn update(changes: Vec<CUpdate>) -> Result<()> {
    let mut sets = CHANGED.get().map_or_else(of_thread, Ok)?;
    for CUpdate { action, cap_type, capability } in changes {
        let bit = bit(capability)?;
        for (kind, set) in [
            (Type::EFFECTIVE, &mut sets.effective),
            (Type::PERMITTED, &mut sets.permitted),
            (Type::INHERITABLE, &mut sets.inheritable),
        ] {
            if cap_type.has(kind) {
                set.set(bit, action == Action::ADD);
            }
        }
    }
    CHANGED.set(Some(sets));
    Ok(())
}

/// Gives what was changed to the kernel.
///
/// # Errors
/// When it refuses.
pub fn apply(_sets: Set) -> Result<()> {
    match CHANGED.take() {
        Some(sets) => set_capabilities(None, sets).map_err(Error::Set),
        None => Ok(()),
    }
}

/// Whether a set has a capability, as the kernel sees it.
#[must_use]
pub fn have_capability(which: Type, capability: Capability) -> bool {
    let (Ok(sets), Ok(bit)) = (of_thread(), bit(capability)) else { return false };
    (which.has(Type::EFFECTIVE) && sets.effective.contains(bit))
        || (which.has(Type::PERMITTED) && sets.permitted.contains(bit))
        || (which.has(Type::INHERITABLE) && sets.inheritable.contains(bit))
}

/// The number of a capability whose name is given without `CAP_`.
///
/// # Errors
/// When there is none.
pub fn name_to_capability(name: &str) -> Result<Capability> {
    let number = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name));
    number.map(|number| number as Capability).ok_or(Error::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        let number = |name| name_to_capability(name).unwrap();
        assert_eq!([number("CHOWN"), number("fsetid"), number("SETFCAP")], [0, 4, 31]);
        assert_eq!(bit(number("FSETID")), Ok(CapabilitySet::FSETID));
        assert_eq!(bit(number("CHECKPOINT_RESTORE")), Ok(CapabilitySet::CHECKPOINT_RESTORE));
        assert_eq!(name_to_capability("CAP_CHOWN"), Err(Error::Unknown));
        assert_eq!([bit(41), bit(64)], [Err(Error::Unknown); 2]);
    }

    #[test]
    fn one_that_is_dropped_is_gone_until_it_is_added_in_this_thread_alone() {
        let capability = name_to_capability("FSETID").unwrap();
        let change = move |action| {
            update(vec![CUpdate { action, cap_type: Type::EFFECTIVE, capability }]).unwrap();
            apply(Set::CAPS)
        };
        let had = have_capability(Type::EFFECTIVE, capability);
        let has_after = std::thread::spawn(move || {
            change(Action::DROP).unwrap();
            let without = have_capability(Type::EFFECTIVE, capability);
            // Who has it permitted may have it back.
            (without, change(Action::ADD).is_ok())
        });
        assert_eq!(has_after.join().unwrap(), (false, had));
        assert_eq!(have_capability(Type::EFFECTIVE, capability), had);
    }

    #[test]
    fn what_is_cleared_is_nothing() {
        let after = std::thread::spawn(|| {
            clear(Set::BOTH);
            apply(Set::BOTH).unwrap();
            (0..=40).any(|number| have_capability(Type::PERMITTED, number))
        });
        assert!(!after.join().unwrap());
    }
}
