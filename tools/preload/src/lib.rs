//! `/dev/kvm` for programs that have none: a library that the dynamic loader puts before a program's C library
//! (`LD_PRELOAD`), in which what opens `/dev/kvm` gets this hypervisor, in the program's own process.
//!
//! The guest's memory is memory of the program's, at its addresses, so the hypervisor has to be in there. The rest is KVM's interface,
//! as `arch_x86::ioctl` has it; like `hv`, this puts together a machine on the software CPU.
//!
//! What is behind the descriptors:
//! - [`device`], [`vm`], [`vcpu`]: the three kinds, each with its ioctls; [`statistics`], which are read; [`object`]: any of them;
//! - [`pages`]: a descriptor of the kernel's, and the memory that a vCPU shares;
//! - `mappings`: that memory of slots is gone;
//! - [`descriptors`]: which number is of which object;
//! - [`running`]: that this thread is in KVM_RUN, and what a signal does to that; `cancels`: and who cancels it;
//! - [`forks`]: whose process an object is of; [`options`]: what the program is run with.
//!
//! What stands before the C library:
//! - [`interpose`]: its functions; `next`: the C library's own.
//!
//! # What a program sees otherwise than with Linux's KVM
//!
//! - A descriptor is really one of a memfd: `fstat` and `/proc` say so, `read` gives nothing and no error.
//! - An `ioctl` whose number has another letter than KVM's is answered by the kernel, for a memfd (ENOTTY, where the device and a vCPU say
//!   EINVAL).
//! - What makes system calls by itself, past the C library, is not seen: neither is a descriptor that is opened, copied or closed in that way,
//!   nor a handler that is set so.
//! - Some numbers are taken, by the library's own descriptors for events. They can't be closed (EBADF; a range is closed around them), but
//!   `dup2` replaces one without a word, and its events are lost.
//! - A descriptor is not sent to another process (SCM_RIGHTS): EOPNOTSUPP, and a word on stderr. One that is given on at `exec` is closed.
//! - A signal's handler that interrupts KVM_RUN runs before that has returned. So it may make no ioctl of KVM (EBUSY), and must
//!   return: a vCPU whose handler jumps elsewhere can't be used any more.
//! - The path is `/dev/kvm`, as it stands: another one that leads there is the host's own.
//! - Memory of a slot that is not mapped is EFAULT of KVM_RUN's when the guest touches it, as there, if it was so when the run began and is
//!   the first that the guest touches of it. What goes meanwhile, or is in a large page of which the rest is there, is the program's
//!   fault (SIGSEGV).
//!
//! See: Linux, Documentation/virt/kvm/api.rst; ld.so(8).

mod cancels;
pub mod descriptors;
pub mod device;
pub mod forks;
pub mod interpose;
mod mappings;
mod next;
pub mod object;
pub mod options;
pub mod pages;
pub mod running;
pub mod statistics;
pub mod vcpu;
pub mod vm;

use arch_x86::machine::X86;
use engine_soft::SoftEngine;
use host_user::Process;

/// The core's VM on the software CPU.
type CoreVm = virt::Vm<X86<SoftEngine, Process>>;
/// The core's vCPU.
type CoreVcpu = arch_x86::vcpu::Vcpu<SoftEngine, Process>;
/// What the vCPUs of a machine share.
type Machine = arch_x86::machine::Machine<SoftEngine, Process>;
