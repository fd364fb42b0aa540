//! How modules are called: by the names of their files, in which `-` and `_` are the same.
//!
//! See: Linux, include/linux/moduleparam.h, `MODULE_NAME_LEN`; kmod, libkmod/libkmod-util.c, `modname_normalize` and `path_to_modname`.

/// How a module's file may end: as it is, or packed by `make modules_install`.
const ENDINGS: [&str; 4] = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"];

/// `MODULE_NAME_LEN` is 56, with the zero at the end.
const LONGEST: usize = 55;

/// Linux's `__NEW_UTS_LEN`.
const LONGEST_RELEASE: usize = 64;

/// A module's name in the one way that the kernel has for it. None if no module can be called so.
pub(super) fn canonical(name: &str) -> Option<String> {
    let usable =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+');
    let is_name = (1..=LONGEST).contains(&name.len()) && name.bytes().all(usable);
    is_name.then(|| name.replace('-', "_"))
}

/// The name of the module that is in the file at `path`. None if it isn't a module's file.
pub(super) fn of_file(path: &str) -> Option<String> {
    let file = path.rsplit('/').next().unwrap_or(path);
    ENDINGS.iter().find_map(|ending| file.strip_suffix(ending)).and_then(canonical)
}

/// The path of a module's file, if it is one below the folder of modules.
pub(super) fn path(path: &str) -> Option<&str> {
    let within = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let plain =
        path.len() < 1024 && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    (within && plain && of_file(path).is_some()).then_some(path)
}

/// The path that the module's file has when it is not packed.
pub(super) fn unpacked(path: &str) -> &str {
    let ending = ENDINGS.iter().find(|ending| path.ends_with(**ending));
    match ending {
        Some(ending) => &path[..path.len() - ending.len() + ".ko".len()],
        None => path,
    }
}

/// Whether this is the name of a kernel's release, and so of a folder.
pub(super) fn is_release(text: &str) -> bool {
    let usable = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    (1..=LONGEST_RELEASE).contains(&text.len())
        && text.bytes().all(usable)
        && !matches!(text, "." | "..")
}

#[cfg(test)]
#[path = "name_test.rs"]
mod name_test;
