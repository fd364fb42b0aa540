//! What selectors mean to the host's kernel: [`are_linuxs`], [`descriptor`].

use std::arch::asm;

/// Selectors that everybody may use on Linux, and their access rights as LAR gives them: 32-bit code,
/// data, and 64-bit code. See: Linux, arch/x86/include/asm/segment.h.
const FLAT: [(u16, u32); 3] = [(0x23, 0x00cf_fb00), (0x2b, 0x00cf_f300), (0x33, 0x00af_fb00)];
/// The entry that tells programs on which processor they run; its limit does.
pub const PROCESSOR: u16 = 0x7b;

/// LAR and LSL: access rights and limit of the segment that `selector` means, if level 3 may know.
fn look_up(selector: u16) -> Option<(u32, u32)> {
    let (mut rights, mut limit): (u32, u32) = (0, 0);
    let (known, limited): (u8, u8);
    // SAFETY: both only read a descriptor, and say by ZF whether they did.
    unsafe {
        asm!(
            "lar {rights:e}, {selector:e}", "setz {known}",
            "lsl {limit:e}, {selector:e}", "setz {limited}",
            rights = inout(reg) rights,
            limit = inout(reg) limit,
            selector = in(reg) u32::from(selector),
            known = out(reg_byte) known,
            limited = out(reg_byte) limited,
            options(nostack),
        );
    }
    (known != 0 && limited != 0).then_some((rights, limit))
}

/// Whether the selectors mean what they do on Linux for a program without segments of its own, whichever
/// they are.
pub fn are_linuxs() -> bool {
    let flat = FLAT.iter().all(|(selector, rights)| look_up(*selector) == Some((*rights, !0)));
    // At level 3, from the global table and the local one.
    let others = (3..=u16::MAX).step_by(4).filter(|selector| *selector >> 3 != PROCESSOR >> 3);
    flat && others.filter(|selector| look_up(*selector).is_some()).count() == FLAT.len()
}

/// The descriptor of the segment that `selector` means, if level 3 may know; with a base of 0.
pub fn descriptor(selector: u16) -> Option<u64> {
    let (rights, limit) = look_up(selector)?;
    let in_pages = rights >> 23 & 1 != 0;
    let limit = if in_pages { limit >> 12 } else { limit };
    let upper = rights & 0x00f0_ff00 | limit & 0x000f_0000;
    Some(u64::from(upper) << 32 | u64::from(limit & 0xffff))
}
