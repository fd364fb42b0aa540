//! Tests of the lazily kept flags.

use selftest::check_eq;

use super::Status;
use crate::regs::rflags;

selftest::cases! {
    fn any_flags_can_be_kept() {
        let bits = [rflags::CF, rflags::PF, rflags::AF, rflags::ZF, rflags::SF, rflags::OF];
        for set in 0..64u64 {
            let flags = (0..6).filter(|n| set >> n & 1 != 0).fold(0, |sum, n| sum | bits[n]);
            let status = Status::from_bits(flags);
            check_eq!(status.bits(), flags);
            check_eq!(status.with_cf(true).bits(), flags | rflags::CF);
            check_eq!(status.with_cf(false).bits(), flags & !rflags::CF);
            let both = status.with_cf_of(false, true).bits();
            check_eq!(both, flags & !rflags::CF | rflags::OF);
        }
    }

    fn sums_and_differences_have_their_flags() {
        use rflags::{AF, CF, OF, PF, SF, ZF};
        let sum = |a: u8, b: u8| {
            let (a, b) = (u64::from(a), u64::from(b));
            Status::sum::<u8>(a, b, a + b).bits()
        };
        check_eq!(sum(0x7f, 1), OF | SF | AF);
        check_eq!(sum(0xff, 1), CF | ZF | AF | PF);
        check_eq!(sum(0x80, 0x80), CF | OF | ZF | PF);
        check_eq!(sum(0x10, 0x20), PF);
        let difference = |a: u64, b: u64| {
            Status::difference::<u64>(a, b, a.wrapping_sub(b)).bits()
        };
        check_eq!(difference(0, 1), CF | SF | AF | PF);
        check_eq!(difference(1 << 63, 1), OF | AF | PF);
        check_eq!(difference(5, 5), ZF | PF);
    }
}
