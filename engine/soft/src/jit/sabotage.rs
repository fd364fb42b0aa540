//! Wrong translations, for the tests of what finds them.

use std::cell::RefCell;

thread_local! {
    static REPLACED: RefCell<Option<(Vec<u8>, Vec<u8>)>> = const { RefCell::new(None) };
}

/// From now on this thread's JIT translates `bytes` as if they were `others`, which are as many.
pub fn replace(bytes: &[u8], others: &[u8]) {
    assert_eq!(bytes.len(), others.len());
    REPLACED.set(Some((bytes.to_vec(), others.to_vec())));
}

/// What is to be translated instead of a block.
pub fn corrupted(block: &[u8]) -> Vec<u8> {
    let mut block = block.to_vec();
    REPLACED.with_borrow(|replaced| {
        let Some((bytes, others)) = replaced else { return };
        for at in 0..(block.len() + 1).saturating_sub(bytes.len()) {
            if block[at..].starts_with(bytes) {
                block[at..at + bytes.len()].copy_from_slice(others);
            }
        }
    });
    block
}
