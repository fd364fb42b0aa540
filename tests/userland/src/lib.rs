//! Other people's programs as tests of a guest: built or unpacked once, kept, and put into an initial file system.
//!
//! - [`shelf`]: where what was built is kept;
//! - [`apt`]: the distribution's packages and their sources, as an ordinary user;
//! - [`debian`]: a root file system of Debian's packages;
//! - [`kernel`]: the kernel's sources;
//! - [`selftests`]: the kernel's own tests of x86, from these;
//! - [`kvm_selftests`]: its own tests of KVM, and the table of what they come to;
//! - [`valgrind`]: Valgrind's tests of instructions, from its sources;
//! - [`own`]: small programs of the project's own; for the host [`vmm`]: a VMM, [`bad_arguments`]: calls of one that are wrong, and
//!   [`pressure`]: one whose guest's memory is disturbed; `c_program` builds these;
//! - [`image`]: the file system that a list of test programs runs in;
//! - [`report`]: what the programs said in there;
//! - [`qemu`]: the same list under QEMU's software CPU;
//! - [`command`]: programs that all this runs.
//!
//! What it takes, `cargo xtask setup` installs. The tests themselves are end-to-end tests of the
//! command line, in `tools/unibody/tests`.

#![forbid(unsafe_code)]

pub mod apt;
pub mod bad_arguments;
mod c_program;
pub mod command;
pub mod debian;
pub mod image;
pub mod kernel;
pub mod kvm_selftests;
pub mod own;
pub mod pressure;
pub mod qemu;
pub mod report;
pub mod selftests;
pub mod shelf;
pub mod valgrind;
pub mod vmm;

pub use shelf::Shelf;
