//! Virtio devices under a driver that keeps to nothing: see [`fuzz::virtio`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzz::virtio::run(bytes));
