//! Small guest programs that nail down the architecture end to end.
//!
//! A test assembles a program, puts it into a [`Guest`], runs it through the public traits of `hv`
//! and looks at what the program reported through ports. Its body is generic over
//! [`Hypervisor`], and [`on_every_engine!`] makes a test of it for each back end there is.
//!
//! - [`guest`]: a machine with its vCPUs, and what it reported: [`Log`];
//! - [`layout`]: where things lie in it, its ports and selectors;
//! - [`paging`]: page tables in every format;
//! - [`qemu`]: QEMU's TCG, to compare with; [`kvm`]: Linux's own KVM, and the project's module;
//! - [`differences`]: where those are known to deviate;
//! - [`programs`]: the assembler, and the handlers that report exceptions;
//! - [`states`]: registers to start with in each mode.
//!
//! The programs themselves are in `tests/architecture`.

#![forbid(unsafe_code)]

pub mod differences;
pub mod guest;
pub mod kvm;
pub mod layout;
pub mod paging;
pub mod programs;
pub mod qemu;
pub mod states;

pub use guest::{Guest, Log, Memory, Trap};
pub use hv::in_process::InProcess;
pub use hv::{Error, Hypervisor, MemoryFlags, MemoryId, Vcpu, Vm, x86};
pub use iced_x86::IcedError;
pub use iced_x86::code_asm;
pub use layout::{at, port, selector};

/// The software CPU with everything translated, at its first execution.
pub const TRANSLATED: InProcess = InProcess { jit_cache: 4 << 20, ..InProcess::INTERPRETER };

/// The same, and the interpreter checks it, where there is one vCPU.
pub const IN_LOCKSTEP: InProcess = InProcess { lockstep: true, ..TRANSLATED };

/// Makes a test of each body for each engine: `fn name(engine) { … }`, where `engine` is a
/// `&impl Hypervisor`. Once in a module.
///
/// A new back end is one more module here.
#[macro_export]
macro_rules! on_every_engine {
    ($($(#[$attribute:meta])* fn $name:ident($engine:ident) $body:block)*) => {
        $crate::on_the_software_cpu! { $($(#[$attribute])* fn $name($engine) $body)* }

        pub mod kvm {
            /// This module, and the bodies in it.
            pub const BODIES: (&str, &[&str]) = (module_path!(), &[$(stringify!($name)),*]);

            $(#[test] fn $name() {
                let place = (module_path!(), stringify!($name));
                let engine = $crate::kvm::open();
                $crate::differences::run($crate::kvm::DIFFERENCES, place, &engine, super::$name);
            })*
        }

        mod module {
            $(#[test] fn $name() {
                let place = (module_path!(), stringify!($name));
                let engine = $crate::kvm::open_module();
                let known = $crate::kvm::MODULE_DIFFERENCES;
                $crate::differences::run(known, place, &engine, super::$name);
            })*
        }
    };
}

/// The same for bodies that are about interrupts: on KVM also with the chips in this process.
#[macro_export]
macro_rules! on_every_irqchip {
    ($($(#[$attribute:meta])* fn $name:ident($engine:ident) $body:block)*) => {
        $crate::on_every_engine! { $($(#[$attribute])* fn $name($engine) $body)* }

        pub mod kvm_split {
            $(#[test] fn $name() {
                let place = (module_path!(), stringify!($name));
                let engine = $crate::kvm::Split($crate::kvm::open());
                let known = $crate::kvm::SPLIT_DIFFERENCES;
                $crate::differences::run(known, place, &engine, super::$name);
            })*
        }

        mod module_split {
            $(#[test] fn $name() {
                let place = (module_path!(), stringify!($name));
                let engine = $crate::kvm::Split($crate::kvm::open_module());
                let known = $crate::kvm::MODULE_DIFFERENCES;
                $crate::differences::run(known, place, &engine, super::$name);
            })*
        }
    };
}

/// The same for bodies that are about what only the software CPU shows, in each of its ways.
#[macro_export]
macro_rules! on_the_software_cpu {
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
    };
}

/// The same for bodies that are about the processor alone, which KVM runs guests on as it is: QEMU's TCG runs them, too. Where
/// it is known to deviate stands in [`qemu::differences`].
#[macro_export]
macro_rules! on_every_processor {
    ($($(#[$attribute:meta])* fn $name:ident($engine:ident) $body:block)*) => {
        $crate::on_the_software_cpu! { $($(#[$attribute])* fn $name($engine) $body)* }

        pub mod qemu {
            /// This module, and the bodies in it.
            pub const BODIES: (&str, &[&str]) = (module_path!(), &[$(stringify!($name)),*]);

            $(#[test] fn $name() {
                let place = (module_path!(), stringify!($name));
                let known = $crate::qemu::differences::DIFFERENCES;
                $crate::differences::run(known, place, &$crate::qemu::Qemu, super::$name);
            })*
        }
    };
}
