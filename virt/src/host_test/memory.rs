//! Bodies about guest memory and the memory of who makes a call.

use alloc::vec;
use alloc::vec::Vec;

use selftest::{Outcome, check, check_eq};

use super::{Mapped, PAGE, Place};
use crate::host::{BadAddress, Host};

/// Where no process has memory: the other half of the addresses, what is in neither, and what wraps around.
const NOBODYS: [u64; 7] =
    [!0 << 47, 1 << 63, 1 << 60, 1 << 56, 0xffff_8880_0000_0000, u64::MAX - 15, !0 << 39];

/// At every size and alignment, and across the end of a page.
pub fn what_is_written_is_read_back<P: Place>() -> Outcome {
    let (host, pages) = (P::host(), Mapped::<P>::new()?);
    for size in [0_usize, 1, 2, 3, 4, 5, 7, 8, 9, 16, 63, 64, 65, 511, 2048] {
        for offset in (0..17).chain([PAGE - size as u64]) {
            let bytes: Vec<u8> = (0..size).map(|n| (n as u64 * 7 + offset + 1) as u8).collect();
            let mut back = vec![0; size];
            check_eq!(host.write(pages.start + offset, &bytes), Ok(()), "{size} at {offset}");
            check_eq!(host.read(pages.start + offset, &mut back), Ok(()), "{size} at {offset}");
            check!(back == bytes, "{size} bytes at {offset}");
        }
    }
    let mut across = [1; 64];
    check_eq!(host.read(pages.read_only() - 32, &mut across), Ok(()));
    check_eq!(across[32..], [0; 32]);
    Ok(())
}

/// All of them, and gives what was there.
pub fn an_exchange_compares_all_bytes<P: Place>() -> Outcome {
    let (host, pages) = (P::host(), Mapped::<P>::new()?);
    let at = pages.start + 64;
    let all = 0x1111_2222_3333_4444_5555_6666_7777_8888_u128;
    for size in [1_u8, 2, 4, 8, 16] {
        let mask = u128::MAX >> (128 - 8 * u32::from(size));
        check_eq!(host.write(at, &all.to_le_bytes()), Ok(()));
        let old = all & mask;
        // One that is not there.
        for bit in [0, 8 * u32::from(size) - 1] {
            let wrong = old ^ 1 << bit;
            check_eq!(host.compare_exchange(at, size, wrong, 5), Ok(old), "{size}");
        }
        let new = !old & mask;
        check_eq!(host.compare_exchange(at, size, old, new), Ok(old), "{size}");
        let mut bytes = [0; 16];
        check_eq!(host.read(at, &mut bytes), Ok(()));
        check_eq!(u128::from_le_bytes(bytes), all & !mask | new, "{size}");
    }
    check_eq!(host.compare_exchange(at + 1, 4, 0, 0), Err(BadAddress));
    for size in [0, 3, 5, 7, 9, 17, 32, 255] {
        check_eq!(host.compare_exchange(at, size, 0, 0), Err(BadAddress), "{size}");
    }
    Ok(())
}

/// Or not for that.
pub fn memory_that_is_not_there_is_refused<P: Place>() -> Outcome {
    let (host, pages) = (P::host(), Mapped::<P>::new()?);
    for size in [1_u8, 2, 4, 8, 16] {
        let mut bytes = vec![0; usize::from(size)];
        for at in [pages.none(), pages.none() + PAGE - u64::from(size)] {
            check_eq!(host.read(at, &mut bytes), Err(BadAddress), "{size}");
            check_eq!(host.write(at, &bytes), Err(BadAddress), "{size}");
            check_eq!(host.compare_exchange(at, size, 0, 0), Err(BadAddress), "{size}");
        }
        let at = pages.read_only() + 16;
        check_eq!(host.read(at, &mut bytes), Ok(()));
        check_eq!(host.write(at, &bytes), Err(BadAddress), "{size}");
        check_eq!(host.compare_exchange(at, size, 0, 0), Err(BadAddress), "{size}");
        // Also if the value is another one.
        check_eq!(host.compare_exchange(at, size, 1, 0), Err(BadAddress), "{size}");
    }
    // Half of it is there.
    check_eq!(host.read(pages.none() - 3, &mut [0; 8]), Err(BadAddress));
    check_eq!(host.write(pages.read_only() - 3, &[0; 8]), Err(BadAddress));
    check_eq!(host.write(pages.read_only() - 300, &[0; 600]), Err(BadAddress));
    Ok(())
}

/// Guest memory is a process's; whatever a slot's address is.
pub fn memory_of_the_hosts_own_is_refused<P: Place>() -> Outcome {
    let host = P::host();
    for at in NOBODYS {
        for size in [1_u8, 2, 4, 8, 16] {
            let mut bytes = vec![0; usize::from(size)];
            check_eq!(host.read(at & !15, &mut bytes), Err(BadAddress), "{size} at {at:#x}");
            check_eq!(host.write(at & !15, &bytes), Err(BadAddress), "{size} at {at:#x}");
            let exchanged = host.compare_exchange(at & !15, size, 0, 0);
            check_eq!(exchanged, Err(BadAddress), "{size} at {at:#x}");
        }
    }
    // Across the end of all addresses.
    check_eq!(host.read(u64::MAX - 1, &mut [0; 8]), Err(BadAddress));
    check_eq!(host.write(u64::MAX - 1, &[0; 8]), Err(BadAddress));
    Ok(())
}

/// From anywhere, to anywhere, or not.
pub fn a_callers_memory_is_copied<P: Place>() -> Outcome {
    let (host, pages) = (P::host(), Mapped::<P>::new()?);
    let bytes: Vec<u8> = (0..700).map(|n| n as u8).collect();
    let mut back = vec![0; 700];
    check_eq!(host.copy_to_caller(pages.start + 3, &bytes), Ok(()));
    check_eq!(host.copy_from_caller(pages.start + 3, &mut back), Ok(()));
    check!(back == bytes);
    for at in [0, 8, pages.none(), pages.none() - 1].into_iter().chain(NOBODYS) {
        check_eq!(host.copy_from_caller(at, &mut [0; 4]), Err(BadAddress), "{at:#x}");
        check_eq!(host.copy_to_caller(at, &[0; 4]), Err(BadAddress), "{at:#x}");
    }
    for at in [pages.read_only(), pages.read_only() - 1] {
        check_eq!(host.copy_from_caller(at, &mut [0; 4]), Ok(()), "{at:#x}");
        check_eq!(host.copy_to_caller(at, &[0; 4]), Err(BadAddress), "{at:#x}");
    }
    Ok(())
}

/// What is mapped, what could be, and what never.
pub fn what_can_be_a_callers<P: Place>() -> Outcome {
    let (host, pages) = (P::host(), Mapped::<P>::new()?);
    for (at, size) in [(pages.start, 3 * PAGE), (0, 0), (0, 1 << 46), (pages.none(), 1)] {
        check!(host.can_be_callers(at, size), "{size:#x} at {at:#x}");
    }
    for at in NOBODYS {
        check!(!host.can_be_callers(at, 16), "{at:#x}");
    }
    for size in [u64::MAX, u64::MAX - pages.start, 1 << 63, 1 << 57] {
        check!(!host.can_be_callers(pages.start, size), "{size:#x}");
    }
    Ok(())
}
