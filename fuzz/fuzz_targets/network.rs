//! A guest's network under frames that no guest would send: see [`fuzz::network`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzz::network::run(bytes));
