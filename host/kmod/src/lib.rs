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
//! - [`file`]: open files of who makes calls;
//! - [`pages`], [`fpu`], [`processor`]: for engines: pages, a guest's x87 and vector registers, processors;
//! - [`device`]: the device's node; [`virtualization`], on while there are VMs; [`vm`], [`vcpu`], [`statistics`]: what has
//!   descriptors, as [`descriptor`] has it; [`shared`], the pages that programs map; [`mm`], whose memory a VM's is;
//! - [`sleep_lock`]: the lock of calls that are made one after the other;
//! - [`deferred`]: what has to wait for process context;
//! - [`allocator`]: the heap; [`arena`], what of it is never given up;
//! - [`printk`]: the kernel's log; [`trace`], its trace events;
//! - [`panic`]: what becomes of a panic;
//! - [`selftest`]: the core's test bodies, run when the module is loaded.
//!
//! `cargo xtask module` builds it. Which engine there is says [`engine_hardware`]; while the module with the test bodies is loaded the
//! node is of their own.
#![no_std]

extern crate alloc;

mod allocator;
#[cfg(feature = "selftest")]
mod allocator_test;
mod arena;
mod deferred;
mod descriptor;
pub mod device;
#[cfg(feature = "selftest")]
mod device_test;
mod event;
mod file;
mod fpu;
#[cfg(feature = "selftest")]
mod host_test;
pub mod kernel;
#[cfg(feature = "selftest")]
mod kernel_test;
mod lock;
mod memory;
mod mm;
mod pages;
mod panic;
mod parker;
#[cfg(feature = "selftest")]
mod platform_test;
mod printk;
mod processor;
#[cfg(feature = "selftest")]
mod selftest;
mod shared;
mod sleep_lock;
mod statistics;
#[cfg(feature = "selftest")]
mod test_engine;
mod thread;
mod time;
mod timer;
mod trace;
mod vcpu;
mod virtualization;
#[cfg(feature = "selftest")]
mod virtualization_test;
mod vm;
mod watch;

use core::ffi::c_int;

use arch_x86::hardware::Virtualization;
use engine_hardware::Hardware;
use kernel::Kernel;
use virt::Errno;

/// Loads the module: 0, or a negative error number. Called once by `glue.c`,
/// in process context.
#[unsafe(no_mangle)]
extern "C" fn unibody_init() -> c_int {
    match virtualization::begin().and_then(|()| load().inspect_err(|_| virtualization::end())) {
        Ok(()) => {
            printk::print!(printk::Level::Info, "loaded");
            0
        }
        Err(errno) => {
            deferred::wait_for_all();
            arena::release();
            -errno.0
        }
    }
}

/// What there is to do.
#[allow(unreachable_code, reason = "with the bodies the node is of another engine")]
fn load() -> Result<(), Errno> {
    // Later decodes happen where nothing may be allocated.
    arena::fill(arch_x86::build_tables);
    #[cfg(feature = "selftest")]
    {
        selftest::run().map_err(|()| Errno::EINVAL)?;
        // Their own engine, which any processor has.
        return device::register::<test_engine::TestVirtualization>();
    }
    device::register::<Hardware<Kernel>>()
}

/// The kernel has crashed. Called by it on each processor, in an NMI or where it crashed, while there are VMs; nothing that was interrupted
/// goes on. See: [`virtualization`].
#[unsafe(no_mangle)]
extern "C" fn unibody_crash() {
    Hardware::<Kernel>::crash();
}

/// Unloads the module. Called by `glue.c`, in process context, after
/// [`unibody_init`] succeeded and when nothing uses the module any more.
#[unsafe(no_mangle)]
extern "C" fn unibody_exit() {
    device::deregister();
    virtualization::end();
    deferred::wait_for_all();
    arena::release();
    printk::print!(printk::Level::Info, "unloaded");
}
