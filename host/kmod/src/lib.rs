//! The Linux kernel module.
//!
//! Compiled from the same `abi`, `virt` and `arch/x86` as the user-space
//! hypervisor, and linked by Kbuild with `glue/`, a thin layer of C over what
//! the kernel offers as macros and inline functions only. The modules:
//!
//! - [`allocator`]: the heap;
//! - [`printk`]: the kernel's log;
//! - [`panic`]: what becomes of a panic;
//! - [`selftest`]: the core's test bodies, run when the module is loaded.
//!
//! `cargo xtask module` builds it. For now the module only loads: there is no
//! device node yet.
#![no_std]

extern crate alloc;

mod allocator;
#[cfg(feature = "selftest")]
mod allocator_test;
mod panic;
mod printk;
#[cfg(feature = "selftest")]
mod selftest;

// The interface's definitions are compiled for the kernel from the first day
// on, though nothing serves them yet.
use abi as _;
use core::ffi::c_int;

/// Linux's `EINVAL`: what a load that must not go on gives back.
#[cfg(feature = "selftest")]
const EINVAL: c_int = 22;

/// Loads the module: 0, or a negative error number. Called once by `glue.c`,
/// in process context.
#[unsafe(no_mangle)]
extern "C" fn unibody_init() -> c_int {
    // Later decodes happen where nothing may be allocated.
    arch_x86::build_tables();
    #[cfg(feature = "selftest")]
    if selftest::run().is_err() {
        return -EINVAL;
    }
    printk::print!(printk::Level::Info, "loaded");
    0
}

/// Unloads the module. Called by `glue.c`, in process context, after
/// [`unibody_init`] succeeded and when nothing uses the module any more.
#[unsafe(no_mangle)]
extern "C" fn unibody_exit() {
    printk::print!(printk::Level::Info, "unloaded");
}
