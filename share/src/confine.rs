//! Confines the process to the folder that it is in: [`confine`].
//!
//! By Landlock, which an ordinary user may ask for: beneath the folder may be read, or read and written; elsewhere no file may be opened,
//! made, renamed or removed, no TCP connection be made, and no process outside be signalled or traced. What Landlock does not know of, as
//! setting an owner or an attribute, virtiofsd does to files that it has opened beneath the folder. Other than by a namespace, users keep
//! their numbers.
//!
//! On a kernel before 5.19 Landlock denies that a file is moved to another folder (EXDEV: mv(1) copies it).
//!
//! See: Linux, `Documentation/userspace-api/landlock.rst`.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

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

/// Confines this thread, and those that it starts, for good.
pub(crate) fn confine(read_only: bool) -> Result<(), Error> {
    set_no_new_privs(true).map_err(Error::Rights)?;
    give_up_capabilities().map_err(Error::Rights)?;
    let all = AccessFs::from_all(NEWEST);
    let beneath = if read_only { AccessFs::from_read(NEWEST) } else { all };
    let folder = PathFd::new(".").map_err(|error| Error::Landlock(error.to_string()))?;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        // Nothing here is executed.
        .add_rule(PathBeneath::new(folder, beneath & !AccessFs::Execute))?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(Error::NoLandlock),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
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
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::net::TcpStream;
    use std::path::{Path, PathBuf};

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
    fn confined<T: Send>(read_only: bool, work: impl FnOnce() -> T + Send) -> T {
        let confined = || {
            confine(read_only).unwrap();
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
        confined(false, || {
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
        confined(true, || {
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

    #[test]
    fn rights_are_given_up_and_nothing_is_connected_to() {
        let (_outer, _) = folder();
        let (sets, connected) =
            confined(false, || (capabilities(None).unwrap(), TcpStream::connect(("127.0.0.1", 9))));
        assert!((sets.permitted - OF_ROOT).is_empty() && sets.effective == sets.permitted);
        // Where Landlock knows of it; nobody listens there.
        let kind = connected.unwrap_err().kind();
        assert!(
            [ErrorKind::PermissionDenied, ErrorKind::ConnectionRefused].contains(&kind),
            "{kind}"
        );
    }
}
