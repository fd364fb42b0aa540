//! Confines the process to the folder that it is in: [`confine`].
//!
//! By Landlock, which an ordinary user may ask for: beneath the folder may be read, or read and written; elsewhere no file may be opened,
//! made, renamed or removed, no TCP connection be made, and no process outside be signalled or traced. What Landlock does not know of, as
//! setting an owner or an attribute, virtiofsd does to files that it has opened beneath the folder. Other than by a namespace, users keep
//! their numbers.
//!
//! Of the host's root as a lower layer, folders can be listed, and files be read but in [`NOT_OF_SYSTEM`]: Landlock can only allow, and what
//! is allowed of a folder is of all in it.
//!
//! On a kernel before 5.19 Landlock denies that a file is moved to another folder (EXDEV: mv(1) copies it).
//!
//! See: Linux, `Documentation/userspace-api/landlock.rst`.

use std::fs;
use std::io;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

use crate::Access;

/// Why it can't be confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel can't.
    #[error(
        "a share's process can't be confined to its folder: this host's kernel has no Landlock (Linux 5.13 or later, with \
         CONFIG_SECURITY_LANDLOCK, and landlock among those of its lsm= if that is given)"
    )]
    NoLandlock,
    /// It should, and does not.
    #[error("a share's process can't be confined to its folder: {0}")]
    Landlock(String),
    /// What is in the host's root can't be found out.
    #[error("a share's process can't be confined to what is in '/': {0}")]
    Root(io::Error),
    /// The kernel does not take rights away.
    #[error("a share's process can't give up rights: {0}")]
    Rights(Errno),
}

impl From<RulesetError> for Error {
    fn from(error: RulesetError) -> Self {
        Self::Landlock(error.to_string())
    }
}

/// The newest of Landlock that is made use of; of an older kernel's, as much as there is.
const NEWEST: ABI = ABI::V6;

/// What root's process keeps: what it takes to make files as a guest asks for, within what root may.
const OF_ROOT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// What is in the host's root, and no part of an installed system: what the kernel makes up, and what is there until the next boot.
const NOT_OF_SYSTEM: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// Whether the kernel can.
pub(crate) fn is_possible() -> bool {
    // A descriptor, which confines nobody yet.
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1));
    ruleset.and_then(Ruleset::create).is_ok()
}

/// Confines this thread, and those that it starts, for good.
pub(crate) fn confine(access: Access) -> Result<(), Error> {
    set_no_new_privs(true).map_err(Error::Rights)?;
    give_up_capabilities().map_err(Error::Rights)?;
    let all = AccessFs::from_all(NEWEST);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    // Nothing here is executed.
    let read = AccessFs::from_read(NEWEST) & !AccessFs::Execute;
    let ruleset = match access {
        Access::ReadWrite => allow(ruleset, Path::new("."), all & !AccessFs::Execute)?,
        Access::Lower if is_root().map_err(Error::Root)? => allow_system(ruleset)?,
        Access::ReadOnly | Access::Lower => allow(ruleset, Path::new("."), read)?,
    };
    match ruleset.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err(Error::NoLandlock),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

/// Whether the folder is the host's root.
fn is_root() -> io::Result<bool> {
    Ok(fs::canonicalize(".")? == Path::new("/"))
}

/// Allows something of a file, or of a folder and all that is in it.
fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Error> {
    let opened = PathFd::new(path).map_err(|error| Error::Landlock(error.to_string()))?;
    Ok(ruleset.add_rule(PathBeneath::new(opened, access))?)
}

/// Allows to read an installed system.
fn allow_system(mut ruleset: RulesetCreated) -> Result<RulesetCreated, Error> {
    ruleset = allow(ruleset, Path::new("."), AccessFs::ReadDir.into())?;
    for entry in fs::read_dir(".").map_err(Error::Root)? {
        let entry = entry.map_err(Error::Root)?;
        let is_of_system = NOT_OF_SYSTEM.iter().all(|name| entry.file_name() != *name);
        // Where a link leads is another entry, or none of it.
        let is_own = entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_file());
        // One that can't be opened, as a file system whose server is gone, can't be read.
        if is_of_system
            && is_own
            && let Ok(opened) = PathFd::new(entry.path())
        {
            ruleset = ruleset.add_rule(PathBeneath::new(opened, AccessFs::ReadFile))?;
        }
    }
    Ok(ruleset)
}

/// An ordinary user's process has none.
fn give_up_capabilities() -> Result<(), Errno> {
    let CapabilitySets { permitted, .. } = capabilities(None)?;
    let kept = permitted & OF_ROOT;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::net::TcpStream;
    use std::path::PathBuf;

    use super::*;

    /// A folder in another, which this process is in from then on. Each test is a process of its own.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("shared");
        fs::create_dir_all(inner.join("sub")).unwrap();
        fs::write(inner.join("file"), "inside").unwrap();
        fs::write(outer.path().join("secret"), "outside").unwrap();
        std::env::set_current_dir(&inner).unwrap();
        (outer, inner)
    }

    /// Does it in a thread that is confined, and then ends.
    fn confined<T: Send>(access: Access, work: impl FnOnce() -> T + Send) -> T {
        let confined = || {
            confine(access).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(confined).join().unwrap())
    }

    /// Landlock denies to move and to link as if to another file system, for which programs know what to do.
    fn denied(result: std::io::Result<()>) {
        let kind = result.unwrap_err().kind();
        assert!([ErrorKind::PermissionDenied, ErrorKind::CrossesDevices].contains(&kind), "{kind}");
    }

    fn outside(outer: &Path) {
        for secret in [PathBuf::from("../secret"), outer.join("secret"), "/proc/self/status".into()]
        {
            denied(File::open(&secret).map(drop));
            denied(File::options().write(true).open(&secret).map(drop));
            denied(fs::remove_file(&secret));
            denied(fs::rename(&secret, "moved"));
        }
        denied(File::create("../new").map(drop));
        denied(fs::create_dir("../new"));
        denied(fs::read_dir("..").map(drop));
        denied(fs::rename("sub", "../new"));
        denied(fs::hard_link("file", "../new"));
        denied(std::os::unix::fs::symlink("file", "../new"));
        denied(fs::read_dir(outer).map(drop));
    }

    #[test]
    fn what_is_outside_is_out_of_reach_and_what_is_inside_is_not() {
        let (outer, _) = folder();
        confined(Access::ReadWrite, || {
            assert_eq!(fs::read("file").unwrap(), b"inside");
            fs::write("sub/new", "more").unwrap();
            fs::rename("sub/new", "moved").unwrap();
            fs::hard_link("moved", "sub/linked").unwrap();
            fs::remove_file("moved").unwrap();
            std::os::unix::fs::symlink("../secret", "link").unwrap();
            assert_eq!(File::open("link").unwrap_err().kind(), ErrorKind::PermissionDenied);
            outside(outer.path());
        });
        // Nobody else is confined.
        assert_eq!(fs::read(outer.path().join("secret")).unwrap(), b"outside");
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_read_only_is_not_written() {
        let (outer, inner) = folder();
        for access in [Access::ReadOnly, Access::Lower] {
            confined(access, || {
                assert_eq!(fs::read("file").unwrap(), b"inside");
                assert_eq!(fs::read_dir(".").unwrap().count(), 2);
                denied(fs::write("file", "changed"));
                denied(fs::write("new", "new"));
                denied(fs::create_dir("sub/new"));
                denied(fs::remove_file("file"));
                denied(fs::rename("file", "sub/file"));
                outside(outer.path());
            });
            assert_eq!(fs::read(inner.join("file")).unwrap(), b"inside");
        }
    }

    #[test]
    fn of_the_hosts_root_what_is_no_system_is_not_read() {
        let (outer, _) = folder();
        let secret = outer.path().join("secret");
        assert!(secret.starts_with("/tmp"), "a test of another temporary folder shows nothing");
        std::env::set_current_dir("/").unwrap();
        confined(Access::Lower, || {
            assert!(!fs::read("etc/passwd").unwrap().is_empty());
            assert!(fs::read_dir(".").unwrap().count() > 5);
            for secret in
                [&secret, Path::new("proc/self/environ"), Path::new("sys/kernel/uevent_seqnum")]
            {
                denied(File::open(secret).map(drop));
            }
            denied(File::open("dev/null").map(drop));
            denied(fs::write("usr/new", "new"));
            denied(fs::write(outer.path().join("new"), "new"));
        });
    }

    #[test]
    fn a_host_that_confines_says_so() {
        assert!(is_possible());
    }

    #[test]
    fn rights_are_given_up_and_nothing_is_connected_to() {
        let (_outer, _) = folder();
        let (sets, connected) = confined(Access::ReadWrite, || {
            (capabilities(None).unwrap(), TcpStream::connect(("127.0.0.1", 9)))
        });
        assert!((sets.permitted - OF_ROOT).is_empty() && sets.effective == sets.permitted);
        // Where Landlock knows of it; nobody listens there.
        let kind = connected.unwrap_err().kind();
        assert!(
            [ErrorKind::PermissionDenied, ErrorKind::ConnectionRefused].contains(&kind),
            "{kind}"
        );
    }
}
