//! Guest programs, by what they nail down.

mod access_rights;
mod apic;
mod code;
mod compatibility;
mod control;
mod debug;
mod devices;
mod exceptions;
mod features;
mod gates;
mod interrupts;
mod ioapic;
mod lapic;
mod legacy_chips;
mod modes;
mod page_tables;
mod protected16;
mod protected32;
mod real_mode;
mod smp;
mod task_switch;
mod v86;
mod vendor;
