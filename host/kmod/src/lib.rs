//! The Linux kernel module.
//!
//! Compiled from the same `abi`, `virt` and `arch/x86` as the user-space
//! hypervisor, and linked by Kbuild with `glue/`, a thin layer of C over what
//! the kernel offers as macros and inline functions only. The modules:
//!
//! - [`kernel`]: the handle, with [`Host`](virt::Host) and what engines on the processor's virtualization need beyond;
//! - [`memory`]: guest memory at host virtual addresses, and a caller's;
//! - [`time`], [`timer`]: clocks and timers; [`lock`]: the lock that is shared with those;
//! - [`parker`], [`thread`]: where a halted vCPU's thread waits, and what else is wanted of it;
//! - [`event`], [`watch`]: eventfds, and who is told when one is signalled;
//! - [`pages`], [`fpu`], [`processor`]: for engines: pages, a guest's x87 and vector registers, processors;
//! - [`deferred`]: what has to wait for process context;
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
mod deferred;
mod event;
mod fpu;
#[cfg(feature = "selftest")]
mod host_test;
pub mod kernel;
#[cfg(feature = "selftest")]
mod kernel_test;
mod lock;
mod memory;
mod pages;
mod panic;
mod parker;
#[cfg(feature = "selftest")]
mod platform_test;
mod printk;
mod processor;
#[cfg(feature = "selftest")]
mod selftest;
mod thread;
mod time;
mod timer;
mod watch;

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
        deferred::wait_for_all();
        return -EINVAL;
    }
    printk::print!(printk::Level::Info, "loaded");
    0
}

/// Unloads the module. Called by `glue.c`, in process context, after
/// [`unibody_init`] succeeded and when nothing uses the module any more.
#[unsafe(no_mangle)]
extern "C" fn unibody_exit() {
    deferred::wait_for_all();
    printk::print!(printk::Level::Info, "unloaded");
}

// For now: that it compiles.
#[allow(dead_code)]
fn probe() -> bool {
    use arch_x86::hardware::Virtualization as _;
    engine_hardware::Hardware::<kernel::Kernel>::new(kernel::Kernel).is_ok()
}
