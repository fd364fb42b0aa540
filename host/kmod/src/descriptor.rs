//! What a descriptor is of: [`Object`], with what programs do to it, which the kernel hands on by `glue/descriptor.c`.
//!
//! An object lives as long as the descriptor's file, and whatever maps it holds that. All of it is in process context.

use alloc::boxed::Box;
use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::mem::ManuallyDrop;
use core::ptr::{NonNull, null_mut};

use virt::Errno;

use crate::allocator::boxed;
use crate::file::File;
use crate::memory;

// SAFETY: these are the glue's functions (glue/descriptor.c), with these types.
unsafe extern "C" {
    /// A descriptor of this process's that nobody sees yet, with its file; or a negative error number.
    fn unibody_descriptor_reserve(
        name: *const c_char,
        positions: bool,
        file: *mut *mut File,
    ) -> c_int;
    /// It is there, of an object.
    fn unibody_descriptor_install(descriptor: c_int, file: *mut File, object: *mut c_void);
    /// It will not be.
    fn unibody_descriptor_give_up(descriptor: c_int, file: *mut File);
}

/// The device, a VM, a vCPU, statistics, or a VM's device for VFIO.
pub trait Object: Send + Sync + 'static {
    /// Answers an ioctl.
    ///
    /// # Errors
    /// As Linux's KVM.
    fn ioctl(&self, number: u32, argument: u64) -> Result<u32, Errno> {
        let _ = (number, argument);
        Err(Errno::ENOTTY)
    }

    /// Whether it is one to be read, at any offset.
    fn is_read(&self) -> bool {
        false
    }

    /// Fills a buffer with what there is from an offset on, if it is one to be read.
    ///
    /// # Errors
    /// `EINVAL` if it is not.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let _ = (offset, buffer);
        Err(Errno::EINVAL)
    }

    /// Whether `count` pages from a number on may be mapped; `plain`: shared, and not to be executed.
    ///
    /// # Errors
    /// `ENODEV` if none may be, `EINVAL` if not so.
    fn may_map(&self, first: u64, count: u64, plain: bool) -> Result<(), Errno> {
        let _ = (first, count, plain);
        Err(Errno::ENODEV)
    }

    /// The page of this number, of those that the kernel hands out; it is there as long as this is.
    fn page(&self, number: u64) -> Option<NonNull<u8>> {
        let _ = number;
        None
    }
}

/// What a file has of an object: a pointer to one of these, on the heap.
type Kept = Box<dyn Object>;

/// Makes an object one that a file can keep.
///
/// # Errors
/// `ENOMEM`.
fn keep(object: impl Object) -> Result<*mut c_void, Errno> {
    let object: Kept = boxed(object)?;
    Ok(Box::into_raw(boxed(object)?).cast())
}

/// Gives an object a descriptor of this process's, which is closed when that executes a program.
///
/// # Errors
/// `ENOMEM`, and when the process has too many.
pub fn install(name: &CStr, object: impl Object) -> Result<u32, Errno> {
    Reserved::new(name, object.is_read())?.install(object)
}

/// A descriptor that nobody sees yet, for an object that is not there yet.
pub struct Reserved {
    descriptor: u32,
    file: *mut File,
}

impl Reserved {
    /// One of this process's, which is closed when that executes a program.
    ///
    /// # Errors
    /// `ENOMEM`, and when the process or the system has too many.
    pub fn new(name: &CStr, is_read: bool) -> Result<Self, Errno> {
        let mut file = null_mut();
        // SAFETY: the name is a string; the file is written.
        let descriptor =
            unsafe { unibody_descriptor_reserve(name.as_ptr(), is_read, &raw mut file) };
        match u32::try_from(descriptor) {
            Ok(descriptor) => Ok(Self { descriptor, file }),
            Err(_) => Err(Errno(-descriptor)),
        }
    }

    /// Is the object's from now on.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn install(self, object: impl Object) -> Result<u32, Errno> {
        let kept = keep(object)?;
        let this = ManuallyDrop::new(self);
        // SAFETY: both were reserved, and are used up here; the file has the object until it is released.
        unsafe { unibody_descriptor_install(this.descriptor as c_int, this.file, kept) };
        Ok(this.descriptor)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: both were reserved, and are not used any more.
        unsafe { unibody_descriptor_give_up(self.descriptor as c_int, self.file) };
    }
}

/// # Safety
/// It is of [`keep`]'s, and was not released.
unsafe fn object<'a>(kept: *mut c_void) -> &'a dyn Object {
    // SAFETY: the caller's promise.
    unsafe { &**kept.cast::<Kept>() }
}

/// What a file of the device's node has. An error number as a pointer if it can't be.
#[unsafe(no_mangle)]
extern "C" fn unibody_open() -> *mut c_void {
    let opened = crate::device::open().and_then(keep);
    opened.unwrap_or_else(|errno| (errno.0 as isize).wrapping_neg() as *mut c_void)
}

/// # Safety
/// Each of these is called by the glue with what a file has.
#[unsafe(no_mangle)]
unsafe extern "C" fn unibody_release(kept: *mut c_void) {
    // SAFETY: the file has let go of it, and had it alone.
    drop(unsafe { Box::from_raw(kept.cast::<Kept>()) });
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
unsafe extern "C" fn unibody_ioctl(kept: *mut c_void, number: u32, argument: u64) -> c_long {
    // SAFETY: the file is open during the call.
    answer(unsafe { object(kept) }.ioctl(number, argument).map(c_long::from))
}

/// # Safety
/// As above; the offset is the file's.
#[unsafe(no_mangle)]
unsafe extern "C" fn unibody_read(
    kept: *mut c_void,
    to: u64,
    size: usize,
    offset: *mut i64,
) -> c_long {
    // SAFETY: as above; the offset is there, and nobody else's during the call.
    let (object, offset) = unsafe { (object(kept), &mut *offset) };
    let mut part = [0; 256];
    let mut done = 0;
    while done < size {
        let wanted = part.len().min(size - done);
        let count = match object.read(*offset as u64, &mut part[..wanted]) {
            Ok(count) => count,
            Err(errno) => return answer(Err(errno)),
        };
        if count == 0 {
            break;
        }
        let written = memory::write(to.wrapping_add(done as u64), &part[..count]);
        if written.is_err() {
            return if done > 0 { done as c_long } else { answer(Err(Errno::EFAULT)) };
        }
        done += count;
        *offset += count as i64;
    }
    done as c_long
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
unsafe extern "C" fn unibody_may_map(
    kept: *mut c_void,
    first: u64,
    count: u64,
    plain: bool,
) -> c_int {
    // SAFETY: as above.
    answer(unsafe { object(kept) }.may_map(first, count, plain).map(|()| 0)) as c_int
}

/// # Safety
/// As above; what maps it holds the file.
#[unsafe(no_mangle)]
unsafe extern "C" fn unibody_mapped_page(kept: *mut c_void, number: u64) -> *mut u8 {
    // SAFETY: as above.
    unsafe { object(kept) }.page(number).map_or(core::ptr::null_mut(), NonNull::as_ptr)
}

/// What the kernel is given.
fn answer(result: Result<c_long, Errno>) -> c_long {
    result.unwrap_or_else(|errno| -c_long::from(errno.0))
}
