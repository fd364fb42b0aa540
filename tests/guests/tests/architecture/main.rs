//! Guest programs, by what they nail down.

mod access_rights;
mod apic;
mod code;
mod compatibility;
mod control;
mod debug;
mod debugger;
mod devices;
mod dirty_log;
mod double_faults;
mod events;
mod exceptions;
mod failed_entry;
mod features;
mod gates;
mod interrupts;
mod ioapic;
mod lapic;
mod legacy_chips;
mod live_copy;
mod memory_slots;
mod modes;
mod page_tables;
mod protected16;
mod protected32;
mod real_mode;
mod refusals;
mod smp;
mod storm;
mod task_switch;
mod v86;
mod vendor;
mod waking;

/// What is known of QEMU and of KVM is about bodies that there are.
#[test]
fn each_difference_has_its_bodies() {
    let bodies = [
        access_rights::qemu::BODIES,
        compatibility::qemu::BODIES,
        code::qemu::BODIES,
        debug::qemu::BODIES,
        double_faults::qemu::BODIES,
        exceptions::qemu::BODIES,
        gates::qemu::BODIES,
        modes::qemu::BODIES,
        page_tables::qemu::BODIES,
        protected16::qemu::BODIES,
        protected32::qemu::BODIES,
        real_mode::qemu::BODIES,
        task_switch::qemu::BODIES,
        v86::qemu::BODIES,
    ];
    let known = guests::qemu::differences::DIFFERENCES;
    assert_eq!(guests::differences::without_body(known, &bodies), [""; 0]);
    let bodies = [
        control::kvm::BODIES,
        debugger::breakpoints::kvm::BODIES,
        debugger::injection::kvm::BODIES,
        debugger::steps::kvm::BODIES,
        devices::kvm::BODIES,
        dirty_log::kvm::BODIES,
        events::kvm::BODIES,
        features::kvm::BODIES,
        interrupts::kvm::BODIES,
        ioapic::kvm::BODIES,
        lapic::kvm::BODIES,
        legacy_chips::kvm::BODIES,
        live_copy::kvm::BODIES,
        memory_slots::kvm::BODIES,
        refusals::kvm::BODIES,
        smp::kvm::BODIES,
        storm::kvm::BODIES,
        vendor::kvm::BODIES,
    ];
    assert_eq!(guests::differences::without_body(guests::kvm::DIFFERENCES, &bodies), [""; 0]);
}
