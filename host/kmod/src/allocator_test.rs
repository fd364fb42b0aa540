//! The kernel's heap keeps the promises of a layout.

use ::selftest::{cases, check, check_eq};
use alloc::alloc::{alloc, alloc_zeroed, dealloc, realloc};
use alloc::vec::Vec;
use core::alloc::Layout;

cases! {
    fn blocks_are_aligned() {
        for align in [1, 8, 16, 64, 512, 4096, 8192, 65536] {
            for size in [1, 24, 96, 100, 640, 4096, 5000, 20000] {
                let Ok(layout) = Layout::from_size_align(size, align) else { continue };
                // SAFETY: the size is not zero; the block is used within the
                // layout and freed once, with the layout it came from.
                let address = unsafe {
                    let block = alloc(layout);
                    if !block.is_null() {
                        block.write_bytes(0x5a, size);
                        dealloc(block, layout);
                    }
                    block.addr()
                };
                check!(address != 0, "no {size} bytes");
                check_eq!(address % align, 0, "{size} bytes aligned to {align}");
            }
        }
    }

    fn what_is_never_given_up_has_room() {
        let (left, was_enough) = crate::arena::left();
        // The tables of another version of the decoder may be larger.
        check!(was_enough && left > 32 << 10, "{left} bytes are left");
    }

    fn large_blocks_are_had_and_zeroed() {
        let mut bytes: Vec<u8> = Vec::new();
        check!(bytes.try_reserve_exact(9 << 20).is_ok());
        drop(bytes);
        let Ok(layout) = Layout::from_size_align((9 << 20) + 1, 64) else { return Ok(()) };
        // SAFETY: as above; zeroed bytes are valid to read.
        let (had, sum) = unsafe {
            let block = alloc_zeroed(layout);
            if block.is_null() {
                (false, 0)
            } else {
                let sum = core::slice::from_raw_parts(block, layout.size())
                    .iter()
                    .fold(0_u64, |sum, byte| sum + u64::from(*byte));
                dealloc(block, layout);
                (true, sum)
            }
        };
        check!(had);
        check_eq!(sum, 0);
    }

    fn more_than_there_is_is_refused() {
        let mut bytes: Vec<u8> = Vec::new();
        check!(bytes.try_reserve_exact(1 << 46).is_err());
        check!(bytes.try_reserve_exact(usize::MAX >> 1).is_err());
    }

    fn growth_keeps_the_content() {
        let Ok(layout) = Layout::from_size_align(100, 16) else { return Ok(()) };
        // SAFETY: the block is written before it is read, is grown with the layout it came from, and
        // freed with the one that it then has.
        let kept = unsafe {
            let block = alloc(layout);
            check!(!block.is_null());
            block.write_bytes(0x77, 100);
            let grown = realloc(block, layout, 3 << 20);
            check!(!grown.is_null());
            let kept = core::slice::from_raw_parts(grown, 100).iter().all(|byte| *byte == 0x77);
            dealloc(grown, Layout::from_size_align_unchecked(3 << 20, 16));
            kept
        };
        check!(kept);
    }
}
