//! PCI's configuration space and what is behind it, under a guest that writes anything anywhere: see [`fuzz::pci`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzz::pci::run(bytes));
