//! [`status_bits`]: what iced-x86 says about arithmetic flags, as bits of RFLAGS. For [`crate::lockstep`] and
//! [`crate::modes`], which want to know what instructions leave undefined.

use arch_x86::regs::rflags;
use iced_x86::RflagsBits;

/// Bits of RFLAGS for iced-x86's; others than those of arithmetic flags are left out.
pub const fn status_bits(bits: u32) -> u64 {
    let names = [
        (RflagsBits::CF, rflags::CF),
        (RflagsBits::PF, rflags::PF),
        (RflagsBits::AF, rflags::AF),
        (RflagsBits::ZF, rflags::ZF),
        (RflagsBits::SF, rflags::SF),
        (RflagsBits::OF, rflags::OF),
    ];
    let (mut n, mut all) = (0, 0);
    while n < names.len() {
        let (name, flag) = names[n];
        if bits & name != 0 {
            all |= flag;
        }
        n += 1;
    }
    all
}
