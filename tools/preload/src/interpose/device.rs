//! Opening `/dev/kvm`, and looking whether it is there: programs look before they open. What they find is a character device that
//! everybody may use, whether the host has one or not.
//!
//! A path is compared as it stands. It is read here before the kernel does: one that is not null is taken to be a string.

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

use libc::{c_int, c_uint, mode_t, stat as Status, stat64 as Status64, statx as StatX};

use super::{answer, fail, install, signals};
use crate::device::Device;
use crate::next::Next;
use crate::object::{Made, Object};
use crate::options::Options;
use crate::pages;

const PATH: &CStr = c"/dev/kvm";
/// What the device's number is on Linux: a misc device's.
const NUMBER: (c_uint, c_uint) = (10, 232);
const MODE: mode_t = libc::S_IFCHR | 0o666;

type Open = unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;
type OpenAt = unsafe extern "C" fn(c_int, *const c_char, c_int, ...) -> c_int;
type Open2 = unsafe extern "C" fn(*const c_char, c_int) -> c_int;
type OpenAt2 = unsafe extern "C" fn(c_int, *const c_char, c_int) -> c_int;
type Stat = unsafe extern "C" fn(*const c_char, *mut Status) -> c_int;
type StatAt = unsafe extern "C" fn(c_int, *const c_char, *mut Status, c_int) -> c_int;
type StatVersion = unsafe extern "C" fn(c_int, *const c_char, *mut Status) -> c_int;
type StatAtVersion = unsafe extern "C" fn(c_int, c_int, *const c_char, *mut Status, c_int) -> c_int;
type Statx = unsafe extern "C" fn(c_int, *const c_char, c_int, c_uint, *mut StatX) -> c_int;
type Access = unsafe extern "C" fn(*const c_char, c_int) -> c_int;
type AccessAt = unsafe extern "C" fn(c_int, *const c_char, c_int, c_int) -> c_int;

// Each declares a function of the C library's, and what stands before it.
macro_rules! functions {
    ($(
        $next:ident: $type:ty = $name:ident($($argument:ident: $of:ty),*), $path:ident, $ours:expr, $call:expr;
    )*) => {
        $(
            // SAFETY: as the C library declares it.
            static $next: Next<$type> = unsafe { Next::of(concat!(stringify!($name), "\0")) };

            /// # Safety
            /// As the C library's.
            #[cfg_attr(feature = "interpose", unsafe(no_mangle))]
            pub unsafe extern "C" fn $name($($argument: $of),*) -> c_int {
                // SAFETY: the caller's promise, for all that is called.
                unsafe {
                    if is_device($path) {
                        return $ours;
                    }
                    match $next.get() {
                        Some(next) => next($($argument),*),
                        None => $call as c_int,
                    }
                }
            }
        )*

        /// Looks up all of these.
        pub(super) fn look_up() {
            $($next.look_up();)*
        }
    };
}

const HERE: c_int = libc::AT_FDCWD;
const NO_FOLLOW: c_int = libc::AT_SYMLINK_NOFOLLOW;

functions! {
    OPEN: Open = open(path: *const c_char, flags: c_int, mode: mode_t), path,
        opened(flags), libc::syscall(libc::SYS_openat, HERE, path, flags, mode);
    OPEN64: Open = open64(path: *const c_char, flags: c_int, mode: mode_t), path,
        opened(flags), libc::syscall(libc::SYS_openat, HERE, path, flags, mode);
    OPENAT: OpenAt = openat(at: c_int, path: *const c_char, flags: c_int, mode: mode_t), path,
        opened(flags), libc::syscall(libc::SYS_openat, at, path, flags, mode);
    OPENAT64: OpenAt = openat64(at: c_int, path: *const c_char, flags: c_int, mode: mode_t), path,
        opened(flags), libc::syscall(libc::SYS_openat, at, path, flags, mode);
    OPEN_2: Open2 = __open_2(path: *const c_char, flags: c_int), path,
        opened(flags), libc::syscall(libc::SYS_openat, HERE, path, flags, 0);
    OPEN64_2: Open2 = __open64_2(path: *const c_char, flags: c_int), path,
        opened(flags), libc::syscall(libc::SYS_openat, HERE, path, flags, 0);
    OPENAT_2: OpenAt2 = __openat_2(at: c_int, path: *const c_char, flags: c_int), path,
        opened(flags), libc::syscall(libc::SYS_openat, at, path, flags, 0);
    OPENAT64_2: OpenAt2 = __openat64_2(at: c_int, path: *const c_char, flags: c_int), path,
        opened(flags), libc::syscall(libc::SYS_openat, at, path, flags, 0);

    STAT: Stat = stat(path: *const c_char, to: *mut Status), path,
        told(to), libc::syscall(libc::SYS_newfstatat, HERE, path, to, 0);
    STAT64: Stat = stat64(path: *const c_char, to: *mut Status), path,
        told(to), libc::syscall(libc::SYS_newfstatat, HERE, path, to, 0);
    LSTAT: Stat = lstat(path: *const c_char, to: *mut Status), path,
        told(to), libc::syscall(libc::SYS_newfstatat, HERE, path, to, NO_FOLLOW);
    LSTAT64: Stat = lstat64(path: *const c_char, to: *mut Status), path,
        told(to), libc::syscall(libc::SYS_newfstatat, HERE, path, to, NO_FOLLOW);
    FSTATAT: StatAt = fstatat(at: c_int, path: *const c_char, to: *mut Status, flags: c_int), path,
        told(to), libc::syscall(libc::SYS_newfstatat, at, path, to, flags);
    FSTATAT64: StatAt = fstatat64(at: c_int, path: *const c_char, to: *mut Status, flags: c_int), path,
        told(to), libc::syscall(libc::SYS_newfstatat, at, path, to, flags);
    // What programs call that were built with a C library before 2.33.
    XSTAT: StatVersion = __xstat(version: c_int, path: *const c_char, to: *mut Status), path,
        told(to), libc::syscall(libc::SYS_newfstatat, HERE, path, to, 0);
    XSTAT64: StatVersion = __xstat64(version: c_int, path: *const c_char, to: *mut Status), path,
        told(to), libc::syscall(libc::SYS_newfstatat, HERE, path, to, 0);
    LXSTAT: StatVersion = __lxstat(version: c_int, path: *const c_char, to: *mut Status), path,
        told(to), libc::syscall(libc::SYS_newfstatat, HERE, path, to, NO_FOLLOW);
    LXSTAT64: StatVersion = __lxstat64(version: c_int, path: *const c_char, to: *mut Status), path,
        told(to), libc::syscall(libc::SYS_newfstatat, HERE, path, to, NO_FOLLOW);
    FXSTATAT: StatAtVersion =
        __fxstatat(version: c_int, at: c_int, path: *const c_char, to: *mut Status, flags: c_int), path,
        told(to), libc::syscall(libc::SYS_newfstatat, at, path, to, flags);
    FXSTATAT64: StatAtVersion =
        __fxstatat64(version: c_int, at: c_int, path: *const c_char, to: *mut Status, flags: c_int), path,
        told(to), libc::syscall(libc::SYS_newfstatat, at, path, to, flags);
    STATX: Statx =
        statx(at: c_int, path: *const c_char, flags: c_int, mask: c_uint, to: *mut StatX), path,
        told_more(to), libc::syscall(libc::SYS_statx, at, path, flags, mask, to);

    ACCESS: Access = access(path: *const c_char, mode: c_int), path,
        allowed(mode), libc::syscall(libc::SYS_faccessat, HERE, path, mode);
    EACCESS: Access = eaccess(path: *const c_char, mode: c_int), path,
        allowed(mode), libc::syscall(libc::SYS_faccessat2, HERE, path, mode, libc::AT_EACCESS);
    EUIDACCESS: Access = euidaccess(path: *const c_char, mode: c_int), path,
        allowed(mode), libc::syscall(libc::SYS_faccessat2, HERE, path, mode, libc::AT_EACCESS);
    FACCESSAT: AccessAt = faccessat(at: c_int, path: *const c_char, mode: c_int, flags: c_int), path,
        allowed(mode), libc::syscall(libc::SYS_faccessat2, at, path, mode, flags);
}

// What has a 64 in its name has the same structure here.
const _: () = assert!(size_of::<Status>() == size_of::<Status64>());

/// Whether a path is the device's.
///
/// # Safety
/// It is null or a string.
#[inline]
unsafe fn is_device(path: *const c_char) -> bool {
    // SAFETY: each byte is read if the one before is not the last.
    let same = |n: usize, byte: u8| unsafe { path.add(n).read() as u8 } == byte;
    !path.is_null() && PATH.to_bytes_with_nul().iter().enumerate().all(|(n, byte)| same(n, *byte))
}

/// Opens the device.
fn opened(flags: c_int) -> c_int {
    if flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL {
        return fail(libc::EEXIST);
    }
    if flags & libc::O_DIRECTORY != 0 {
        return fail(libc::ENOTDIR);
    }
    static OPTIONS: OnceLock<Options> = OnceLock::new();
    let options = *OPTIONS.get_or_init(Options::of_environment);
    signals::guard();
    answer(pages::descriptor(c"kvm", 0).and_then(|descriptor| {
        install(Made { object: Object::device(Device::new(options)), descriptor })
    }))
}

/// Tells of the device.
///
/// # Safety
/// `to` is a structure's that can be written.
unsafe fn told(to: *mut Status) -> c_int {
    // SAFETY: all of it may be zero.
    let mut found: Status = unsafe { std::mem::zeroed() };
    found.st_mode = MODE;
    found.st_nlink = 1;
    found.st_ino = NUMBER.1.into();
    found.st_blksize = 4096;
    found.st_rdev = libc::makedev(NUMBER.0, NUMBER.1);
    // SAFETY: the caller's promise.
    unsafe { to.write(found) };
    0
}

/// The same, in the newer form.
///
/// # Safety
/// As [`told`].
unsafe fn told_more(to: *mut StatX) -> c_int {
    // SAFETY: all of it may be zero.
    let mut found: StatX = unsafe { std::mem::zeroed() };
    found.stx_mask = libc::STATX_BASIC_STATS;
    found.stx_mode = MODE as u16;
    found.stx_nlink = 1;
    found.stx_ino = NUMBER.1.into();
    found.stx_blksize = 4096;
    (found.stx_rdev_major, found.stx_rdev_minor) = NUMBER;
    // SAFETY: the caller's promise.
    unsafe { to.write(found) };
    0
}

/// Whether the device may be used so.
fn allowed(mode: c_int) -> c_int {
    if mode & libc::X_OK != 0 { fail(libc::EACCES) } else { 0 }
}
