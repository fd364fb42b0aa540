//! qcow2 images that nobody would make, read and written to: see [`fuzz::disk_image`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzz::disk_image::run(bytes));
