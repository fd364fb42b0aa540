//! Sequences of ioctls on a device, on up to two VMs and four vCPUs, guests included: see [`fuzz`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzz::run(bytes));
