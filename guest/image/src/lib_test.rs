//! Tests that what was embedded can be a guest's first process.

use crate::INIT;

fn u16_at(offset: usize) -> u16 {
    u16::from_le_bytes(INIT[offset..][..2].try_into().unwrap())
}

#[test]
fn it_is_a_program_for_x86_64() {
    assert_eq!(INIT[..6], *b"\x7fELF\x02\x01", "ELF, 64 bits, little-endian");
    assert_eq!(u16_at(16), 2, "ET_EXEC: at a fixed address, nothing to relocate at start");
    assert_eq!(u16_at(18), 62, "EM_X86_64");
}

#[test]
fn it_needs_no_interpreter_and_no_library() {
    let table = usize::try_from(u64::from_le_bytes(INIT[32..40].try_into().unwrap())).unwrap();
    let (size, count) = (usize::from(u16_at(54)), usize::from(u16_at(56)));
    assert!(count > 0);
    for header in INIT[table..].chunks(size).take(count) {
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        assert!(kind != 2 && kind != 3, "PT_DYNAMIC or PT_INTERP in a static program");
    }
}

#[test]
fn it_is_small() {
    // Nearly all of it is what every static program of std's and glibc's has.
    assert!(INIT.len() < 3 << 19, "{} bytes", INIT.len());
}
