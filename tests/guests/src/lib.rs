//! Small guest programs that nail down the architecture end to end.
//!
//! A test assembles a program, puts it into a [`Guest`], runs it through the public traits of `hv`
//! and looks at what the program reported through ports. Its body is generic over
//! [`Hypervisor`], and [`on_every_engine!`] makes a test of it for each back end there is.
//!
//! - [`guest`]: a machine with its vCPUs, and what it reported: [`Log`];
//! - [`layout`]: where things lie in it, its ports and selectors;
//! - [`paging`]: page tables in every format;
//! - [`qemu`]: QEMU's TCG, to compare with;
//! - [`programs`]: the assembler, and the handlers that report exceptions;
//! - [`states`]: registers to start with in each mode.
//!
//! The programs themselves are in `tests/architecture`.

#![forbid(unsafe_code)]

pub mod guest;
pub mod layout;
pub mod paging;
pub mod programs;
pub mod qemu;
pub mod states;

pub use guest::{Guest, Log, Trap};
pub use hv::in_process::InProcess;
pub use hv::kvm::Kvm;
pub use hv::{Hypervisor, Vcpu, Vm, x86};
pub use iced_x86::IcedError;
pub use iced_x86::code_asm;
pub use layout::{at, port, selector};

/// The software CPU with everything translated, at its first execution.
pub const TRANSLATED: InProcess = InProcess { jit_cache: 4 << 20, ..InProcess::INTERPRETER };

/// The same, and the interpreter checks it, where there is one vCPU.
pub const IN_LOCKSTEP: InProcess = InProcess { lockstep: true, ..TRANSLATED };

/// Linux's own KVM, on the device that the environment names. Where it is not the real thing (an emulation, or none) tests are not to
/// be run on it: the tests' configuration leaves them out, `cargo xtask nest` runs them.
#[must_use]
#[allow(clippy::missing_panics_doc, reason = "a test fails by a panic")]
pub fn kvm() -> Kvm {
    let device = std::env::var_os("UNIBODY_KVM").unwrap_or_else(|| "/dev/kvm".into());
    Kvm::open(device.as_ref()).unwrap_or_else(|error| panic!("{error}"))
}

/// Makes a test of each body for each engine: `fn name(engine) { … }`, where `engine` is a
/// `&impl Hypervisor`. Once in a module.
///
/// A new back end is one more module here.
#[macro_export]
macro_rules! on_every_engine {
    ($($(#[$attribute:meta])* fn $name:ident($engine:ident) $body:block)*) => {
        $($(#[$attribute])* fn $name<H: $crate::Hypervisor>($engine: &H) $body)*

        mod soft {
            $(#[test] fn $name() { super::$name(&$crate::InProcess::INTERPRETER) })*
        }

        mod jit {
            $(#[test] fn $name() { super::$name(&$crate::TRANSLATED) })*
        }

        mod lockstep {
            $(#[test] fn $name() { super::$name(&$crate::IN_LOCKSTEP) })*
        }

        mod kvm {
            $(#[test] fn $name() { super::$name(&$crate::kvm()) })*
        }
    };
}

/// The same for bodies that are about the processor alone: QEMU's TCG runs them, too. Where it is
/// known to deviate stands in [`qemu::differences`].
#[macro_export]
macro_rules! on_every_processor {
    ($($(#[$attribute:meta])* fn $name:ident($engine:ident) $body:block)*) => {
        $crate::on_every_engine! { $($(#[$attribute])* fn $name($engine) $body)* }

        pub mod qemu {
            /// This module, and the bodies in it.
            pub const BODIES: (&str, &[&str]) = (module_path!(), &[$(stringify!($name)),*]);

            $(#[test] fn $name() {
                $crate::qemu::differences::run(module_path!(), stringify!($name), super::$name);
            })*
        }
    };
}
