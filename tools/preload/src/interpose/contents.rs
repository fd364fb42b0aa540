//! Reading and mapping descriptors.
//!
//! Both are the kernel's own. But statistics are made those of now before they are read, and a vCPU's mapping gets the page that all
//! vCPUs of a machine share.

use libc::{c_int, c_void, off_t, size_t, ssize_t};

use virt::Errno;

use super::{answer, fail};
use crate::descriptors::DESCRIPTORS;
use crate::mappings::MAPPINGS;
use crate::next::Next;

type Read = unsafe extern "C" fn(c_int, *mut c_void, size_t) -> ssize_t;
type ReadChecked = unsafe extern "C" fn(c_int, *mut c_void, size_t, size_t) -> ssize_t;
type ReadAt = unsafe extern "C" fn(c_int, *mut c_void, size_t, off_t) -> ssize_t;
type ReadAtChecked = unsafe extern "C" fn(c_int, *mut c_void, size_t, off_t, size_t) -> ssize_t;
type Map = unsafe extern "C" fn(*mut c_void, size_t, c_int, c_int, c_int, off_t) -> *mut c_void;

// Each declares a function of the C library's that reads, and what stands before it.
macro_rules! readers {
    ($($next:ident: $type:ty = $name:ident($($argument:ident: $of:ty),*), $call:expr;)*) => {
        $(
            // SAFETY: as the C library declares it.
            static $next: Next<$type> = unsafe { Next::of(concat!(stringify!($name), "\0")) };

            /// # Safety
            /// As the C library's.
            #[cfg_attr(feature = "interpose", unsafe(no_mangle))]
            pub unsafe extern "C" fn $name(descriptor: c_int, $($argument: $of),*) -> ssize_t {
                if let Some(object) = DESCRIPTORS.get(descriptor) {
                    object.read();
                }
                // SAFETY: the caller's promise.
                unsafe {
                    match $next.get() {
                        Some(next) => next(descriptor, $($argument),*),
                        None => $call(descriptor) as ssize_t,
                    }
                }
            }
        )*

        /// Looks up all of these.
        pub(super) fn look_up() {
            $($next.look_up();)*
            MMAP.look_up();
            MMAP64.look_up();
        }
    };
}

readers! {
    READ: Read = read(to: *mut c_void, size: size_t),
        |from: c_int| libc::syscall(libc::SYS_read, from, to, size);
    PREAD: ReadAt = pread(to: *mut c_void, size: size_t, at: off_t),
        |from: c_int| libc::syscall(libc::SYS_pread64, from, to, size, at);
    PREAD64: ReadAt = pread64(to: *mut c_void, size: size_t, at: off_t),
        |from: c_int| libc::syscall(libc::SYS_pread64, from, to, size, at);
    // What programs call that are built with _FORTIFY_SOURCE.
    READ_CHECKED: ReadChecked = __read_chk(to: *mut c_void, size: size_t, room: size_t),
        |from: c_int| libc::syscall(libc::SYS_read, from, to, size.min(room));
    PREAD_CHECKED: ReadAtChecked =
        __pread_chk(to: *mut c_void, size: size_t, at: off_t, room: size_t),
        |from: c_int| libc::syscall(libc::SYS_pread64, from, to, size.min(room), at);
    PREAD64_CHECKED: ReadAtChecked =
        __pread64_chk(to: *mut c_void, size: size_t, at: off_t, room: size_t),
        |from: c_int| libc::syscall(libc::SYS_pread64, from, to, size.min(room), at);
}

// SAFETY: as the C library declares it.
static MMAP: Next<Map> = unsafe { Next::new(c"mmap") };
// SAFETY: likewise.
static MMAP64: Next<Map> = unsafe { Next::new(c"mmap64") };

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    size: size_t,
    access: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { map(&MMAP, address, size, access, flags, descriptor, offset) }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    size: size_t,
    access: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { map(&MMAP64, address, size, access, flags, descriptor, offset) }
}

unsafe fn map(
    next: &Next<Map>,
    address: *mut c_void,
    size: size_t,
    access: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: off_t,
) -> *mut c_void {
    let object = Some(descriptor).filter(|_| flags & libc::MAP_ANONYMOUS == 0);
    let object = object.and_then(|descriptor| DESCRIPTORS.get(descriptor));
    let private = flags & libc::MAP_TYPE == libc::MAP_PRIVATE || access & libc::PROT_EXEC != 0;
    if let Some(object) = &object
        && let Err(Errno(errno)) = object.check_mapping(offset as usize, size, private)
    {
        fail(errno);
        return libc::MAP_FAILED;
    }
    // SAFETY: the caller's promise.
    let mapped = unsafe {
        match next.get() {
            Some(next) => next(address, size, access, flags, descriptor, offset),
            None => std::ptr::with_exposed_provenance_mut(libc::syscall(
                libc::SYS_mmap,
                address,
                size,
                access,
                flags,
                descriptor,
                offset,
            ) as usize),
        }
    };
    if flags & libc::MAP_FIXED != 0 && mapped != libc::MAP_FAILED {
        // It takes the place of what was there.
        MAPPINGS.gone(mapped.addr() as u64, size as u64);
    }
    let Some(object) = object.filter(|_| mapped != libc::MAP_FAILED) else { return mapped };
    // SAFETY: it was mapped just now, for the caller, who has not heard of it yet.
    let done = unsafe { object.mapped(mapped.expose_provenance(), offset as usize, size) };
    if done.is_err() {
        // SAFETY: likewise.
        unsafe { libc::munmap(mapped, size) };
        answer(done.map(|()| 0));
        return libc::MAP_FAILED;
    }
    mapped
}
