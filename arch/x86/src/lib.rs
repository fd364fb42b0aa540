//! The x86 half of the hypervisor core.
//!
//! Implements [`virt::Arch`] and defines [`engine::Engine`]; knows no
//! processes, files or kernels. The modules, each named by the field's term:
//!
//! - [`regs`]: registers, and the accessor trait under which an engine shows
//!   the state that it owns;
//! - [`exception`]: vectors and faults;
//! - [`cpuid`], [`msr`], [`machine_check`]: what the guest is told, and its model-specific registers;
//! - [`msr_policy`]: which of the latter the guest may use;
//! - [`mmu`]: the walk of the guest's page tables;
//! - [`irqchip`]: 8259 pair, 8254, I/O APIC, local APIC;
//! - [`emulate`]: decoding and semantics of instructions;
//! - [`pvclock`]: KVM's paravirtual clock;
//! - [`quirks`]: where KVM does otherwise than a processor;
//! - [`tsc`]: the vCPUs' time stamp counters, which count the same;
//! - [`guest_debug`]: what a debugger wants of a vCPU;
//! - [`engine`]: what runs guest code: the software CPU, SVM, VMX; [`hardware`], the seam of the latter two with the kernel;
//! - [`setup`]: what of a machine is chosen before its first vCPU is made;
//! - [`machine`]: what vCPUs share; [`locked_chips`], those of the chips behind one lock;
//! - [`statistics`]: what is counted;
//! - [`vcpu`]: the run loop: inject, enter, handle the exit;
//! - [`ioctl`]: KVM's interface to it, decoded.
//!
//! The same sources compile into a process and into the kernel module: no
//! floating point, no unbounded allocation, no panic on guest input.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cpuid;
pub mod emulate;
pub mod engine;
pub mod exception;
#[cfg(feature = "selftest")]
pub mod exception_test;
pub mod guest_debug;
pub mod hardware;
pub mod ioctl;
pub mod irqchip;
pub mod locked_chips;
pub mod machine;
pub mod machine_check;
#[cfg(feature = "selftest")]
pub mod machine_check_test;
pub mod mmu;
pub mod msr;
pub mod msr_policy;
#[cfg(feature = "selftest")]
pub mod msr_test;
pub mod pvclock;
#[cfg(feature = "selftest")]
pub mod pvclock_test;
pub mod quirks;
pub mod regs;
pub mod setup;
pub mod statistics;
pub mod tsc;
#[cfg(feature = "selftest")]
pub mod tsc_test;
pub mod vcpu;
pub mod xstate;

#[cfg(feature = "selftest")]
pub mod decoder_test;

/// The test bodies of this crate, a list a file.
#[cfg(feature = "selftest")]
pub const SELFTESTS: &[&[selftest::Case]] = &[
    decoder_test::CASES,
    emulate::alu_test::CASES,
    emulate::bits_test::CASES,
    emulate::branch_test::CASES,
    emulate::decode_test::CASES,
    emulate::mov_test::CASES,
    emulate::random_test::CASES,
    emulate::shift_test::CASES,
    emulate::stack_test::CASES,
    emulate::status_test::CASES,
    emulate::string_test::CASES,
    emulate::system::control_test::CASES,
    emulate::system::debug_test::CASES,
    emulate::system::event_test::CASES,
    emulate::system::far_test::CASES,
    emulate::system::fast_test::CASES,
    emulate::system::flags_test::CASES,
    emulate::system::iret_test::CASES,
    emulate::system::ports_test::CASES,
    emulate::system::segment_test::CASES,
    emulate::system::tables_test::CASES,
    emulate::system::task_test::CASES,
    irqchip::chips_test::CASES,
    irqchip::destination_test::CASES,
    irqchip::i8254_test::CASES,
    irqchip::i8259_test::CASES,
    irqchip::ioapic_test::CASES,
    irqchip::lapic_test::CASES,
    irqchip::lapic_timer_test::CASES,
    irqchip::vectors_test::CASES,
    mmu::walk_test::CASES,
    cpuid::kernel_test::CASES,
    cpuid::model_test::CASES,
    cpuid::policy_test::CASES,
    exception_test::CASES,
    ioctl::coalesced_test::CASES,
    ioctl::cpuid_test::CASES,
    ioctl::debug_test::CASES,
    ioctl::events_test::CASES,
    ioctl::interface_test::CASES,
    ioctl::lapic_test::CASES,
    ioctl::msr_test::CASES,
    ioctl::quirks_test::CASES,
    ioctl::registers_test::CASES,
    ioctl::msr_filter_test::CASES,
    ioctl::resample_test::CASES,
    ioctl::routes_test::CASES,
    ioctl::run_test::CASES,
    ioctl::setup_test::CASES,
    ioctl::slots_test::CASES,
    ioctl::devices_test::CASES,
    ioctl::statistics_test::CASES,
    ioctl::system_test::CASES,
    ioctl::vapic_test::CASES,
    ioctl::vm_test::CASES,
    ioctl::x2apic_api_test::CASES,
    ioctl::xstate_test::CASES,
    machine_check_test::CASES,
    msr_test::CASES,
    pvclock_test::CASES,
    tsc_test::CASES,
    vcpu::accesses_test::CASES,
    vcpu::debug_test::CASES,
    vcpu::eventfd_test::CASES,
    vcpu::inbox_test::CASES,
    vcpu::run_test::CASES,
];

/// Builds the instruction decoder's tables, which it otherwise allocates when
/// it first decodes: call it once from where memory may be had.
pub fn build_tables() {
    const NOP: &[u8] = &[0x90];
    let _ = iced_x86::Decoder::new(64, NOP, iced_x86::DecoderOptions::NONE).decode();
}
