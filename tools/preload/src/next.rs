//! The C library's own functions, behind those that stand before them: [`Next`].
//!
//! They are looked up by the library's constructor (`interpose::start`), not at their first call: that may be in a signal's handler, or within
//! the allocator that `dlsym` itself calls. Other libraries' constructors may have run before that: until then a function is
//! its system call, if it is one. That sets `errno` likewise, but is no point at which a thread can be cancelled. Otherwise the
//! C library's is called, or that of the next library which stands before it, since it is such a point, and has what programs expect
//! of it beside the call.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::c_void;

/// A function of this type, by name.
pub(crate) struct Next<F> {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
    function: PhantomData<fn() -> F>,
}

impl<F: Copy> Next<F> {
    /// # Safety
    /// `F` is the type of a pointer to a function that can be called as the C library's of this name.
    pub(crate) const unsafe fn new(name: &'static CStr) -> Self {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        Self { name, address: AtomicPtr::new(null_mut()), function: PhantomData }
    }

    /// The same, with a name that ends with its only 0.
    ///
    /// # Safety
    /// Likewise.
    pub(crate) const unsafe fn of(name: &'static str) -> Self {
        match CStr::from_bytes_with_nul(name.as_bytes()) {
            // SAFETY: the caller's promise.
            Ok(name) => unsafe { Self::new(name) },
            Err(_) => panic!("a name"),
        }
    }

    /// The function, if it was looked up.
    #[inline]
    pub(crate) fn get(&self) -> Option<F> {
        let address = self.address.load(Ordering::Relaxed);
        // SAFETY: `dlsym` gave it for that name, so it is of this type, as `new`'s caller promised; both are addresses.
        (!address.is_null()).then(|| unsafe { std::mem::transmute_copy(&address) })
    }

    /// The function, which is looked up if it was not yet. Not for what the allocator may call.
    pub(crate) fn look_up(&self) -> Option<F> {
        if self.address.load(Ordering::Relaxed).is_null() {
            // SAFETY: the name is a string, and it is asked for as what comes behind this library.
            let address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            self.address.store(address, Ordering::Relaxed);
        }
        self.get()
    }
}
