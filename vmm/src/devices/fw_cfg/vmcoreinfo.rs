//! [`Note`]: where the guest's kernel has what a dump of its memory is read by, as it has told in the file `etc/vmcoreinfo`; [`read`] reads it.
//!
//! It is lines such as `OSRELEASE=6.1.0`, `KERNELOFFSET=0` or `SIZE(page)=64`, in an ELF note. See: QEMU, docs/specs/vmcoreinfo.rst; Linux,
//! Documentation/admin-guide/kdump/vmcoreinfo.rst.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The format that there is, in the file's fields: ELF's.
const FORMAT_ELF: u16 = 1;

/// A note has at most as many bytes; Linux's has a page.
const MOST: u32 = 64 << 10;

/// The note's name, with what fills it up to words.
const NAME: &[u8; 12] = b"VMCOREINFO\0\0";

/// Sizes of name and text, and a type: three words before the name.
const HEADER: usize = 12;

/// Bytes of the file.
pub const SIZE: usize = 16;

/// Where the note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Guest-physical.
    pub address: u64,
    /// In bytes.
    pub size: u32,
}

/// The file as the guest finds it: it says which format the host understands.
#[must_use]
pub fn empty() -> [u8; SIZE] {
    let mut file = [0; SIZE];
    file[..2].copy_from_slice(&FORMAT_ELF.to_le_bytes());
    file
}

impl Note {
    /// What a file says that the guest has written. None if it takes back what it has said.
    #[must_use]
    pub fn parse(file: &[u8; SIZE]) -> Option<Self> {
        let word = u128::from_le_bytes(*file);
        let format = (word >> 16) as u16;
        let note = Self { size: (word >> 32) as u32, address: (word >> 64) as u64 };
        (format == FORMAT_ELF).then_some(note)
    }
}

/// The lines of a note. None if it is not in memory, or is none.
#[must_use]
pub fn read(memory: &GuestMemoryMmap, note: Note) -> Option<String> {
    if note.size > MOST {
        return None;
    }
    let mut bytes = vec![0; note.size as usize];
    memory.read_slice(&mut bytes, GuestAddress(note.address)).ok()?;
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let size = u32::from_le_bytes(header[4..8].try_into().ok()?);
    let text = rest.strip_prefix(NAME)?.get(..size as usize)?;
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    Some(String::from_utf8_lossy(&text[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory(bytes: &[u8]) -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        memory.write_slice(bytes, GuestAddress(0x1000)).unwrap();
        memory
    }

    fn note(text: &[u8]) -> Vec<u8> {
        let words = [11, text.len() as u32, 0].map(u32::to_le_bytes).concat();
        [&words, &NAME[..], text].concat()
    }

    #[test]
    fn the_lines_are_read() {
        let bytes = note(b"OSRELEASE=6.1\nPAGESIZE=4096\n\0\0");
        let found = Note { address: 0x1000, size: bytes.len() as u32 };
        let text = read(&memory(&bytes), found).unwrap();
        assert_eq!(text, "OSRELEASE=6.1\nPAGESIZE=4096\n");
        for size in 0..found.size {
            assert_eq!(read(&memory(&bytes), Note { size, ..found }), None, "{size}");
        }
        assert_eq!(read(&memory(&bytes), Note { address: u64::MAX - 3, ..found }), None);
        assert_eq!(read(&memory(&bytes), Note { size: u32::MAX, ..found }), None);
    }

    #[test]
    fn a_file_without_a_format_says_nothing() {
        assert_eq!(Note::parse(&empty()), None);
        let mut file = empty();
        file[2] = 2;
        assert_eq!(Note::parse(&file), None);
    }

    proptest! {
        #[test]
        fn no_note_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), is_named in any::<bool>()) {
            let mut all = if is_named { note(&bytes) } else { bytes };
            if let Some(byte) = all.get_mut(4) {
                *byte = byte.wrapping_mul(3);
            }
            let size = all.len() as u32;
            let text = read(&memory(&all), Note { address: 0x1000, size });
            prop_assert!(text.is_none_or(|text| text.len() <= 3 * all.len()));
        }
    }
}
