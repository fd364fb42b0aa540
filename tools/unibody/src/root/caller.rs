//! What of the person who calls is found in a guest whose root is the host's: who it is ([`user`]), and the environment ([`environment`]).

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use guest_protocol::User;
use rustix::process::{getgid, getgroups, getuid};

use super::Files;

/// What programs show and speak, on whichever system they are.
const EVERYWHERE: [&str; 5] = ["COLORTERM", "NO_COLOR", "LANG", "LANGUAGE", "TZ"];

/// What names files of the host's, which its own root has, and what a person likes to work with there.
const IN_OWN_ROOT: [&str; 32] = [
    "PATH",
    "SHELL",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "LESS",
    "LS_COLORS",
    "MANPATH",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "CC",
    "CXX",
    "CPP",
    "LD",
    "AR",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "ARCH",
    "CROSS_COMPILE",
    "PKG_CONFIG_PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "GOPATH",
    "JAVA_HOME",
    "CI",
];

/// Words of a locale begin so.
const LOCALE: &str = "LC_";

/// Who it is.
pub(crate) fn user() -> User {
    let groups = getgroups().unwrap_or_default();
    User {
        uid: getuid().as_raw(),
        gid: getgid().as_raw(),
        groups: groups.into_iter().map(|group| group.as_raw()).collect(),
    }
}

/// What of the environment is the guest's as well. `is_self`: so is who runs the command.
pub(crate) fn environment(files: &Files, is_self: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let all = env::vars_os().filter(|(name, _)| {
        name.to_str()
            .is_some_and(|name| is_wanted(name, files.has_root(), files.is_hosts(), is_self))
    });
    all.map(|(name, value): (OsString, OsString)| (name.into_vec(), value.into_vec())).collect()
}

fn is_wanted(name: &str, has_root: bool, is_hosts: bool, is_self: bool) -> bool {
    match name {
        "TERM" => true,
        "USER" | "LOGNAME" => has_root && is_self,
        "HOME" => is_hosts && is_self,
        _ if name.starts_with(LOCALE) || EVERYWHERE.contains(&name) => has_root,
        _ => is_hosts && IN_OWN_ROOT.contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_a_system_or_of_a_person_is_there_where_they_are() {
        let wanted = |has_root, is_hosts, is_self| {
            let names = [
                "TERM",
                "LANG",
                "LC_TIME",
                "USER",
                "HOME",
                "PATH",
                "CFLAGS",
                "SSH_AUTH_SOCK",
                "TMPDIR",
            ];
            names
                .into_iter()
                .filter(|name| is_wanted(name, has_root, is_hosts, is_self))
                .collect::<Vec<_>>()
        };
        assert_eq!(wanted(false, false, false), ["TERM"]);
        assert_eq!(wanted(true, false, true), ["TERM", "LANG", "LC_TIME", "USER"]);
        assert_eq!(wanted(true, true, false), ["TERM", "LANG", "LC_TIME", "PATH", "CFLAGS"]);
        assert_eq!(
            wanted(true, true, true),
            ["TERM", "LANG", "LC_TIME", "USER", "HOME", "PATH", "CFLAGS"]
        );
    }
}
