//! Functions that use much of the kernel's small stack.
//!
//! The compiler notes each function's frame in the section `.stack_sizes`: for
//! each, eight bytes of address, relocated, and its size as a ULEB128 number.
//! See: LLVM, docs/CodeGenerator.rst, "Emitting function stack size information"

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SymbolKind};
use std::collections::{BTreeMap, HashMap};

/// A kernel stack is 16 KiB; a call may be a dozen functions deep.
const LARGE: u64 = 1024;

/// A function and its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name, as in the source.
    pub function: String,
    /// Bytes of stack.
    pub bytes: u64,
}

/// The functions of an object with a large frame, the largest first. Tests are left out:
/// what they use is measured while they run.
pub fn large(object: &[u8]) -> Result<Vec<Frame>> {
    let object = object::File::parse(object).context("the linked object is no ELF file")?;
    let names = functions(&object)?;
    let mut frames: Vec<Frame> = sizes(&object)?
        .into_iter()
        .filter(|(_, bytes)| *bytes > LARGE)
        .map(|(address, bytes)| Frame {
            function: names.get(&address).cloned().unwrap_or_else(|| format!(".text+{address:#x}")),
            bytes,
        })
        .filter(|frame| !is_test(&frame.function))
        .collect();
    frames.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.function.cmp(&b.function)));
    Ok(frames)
}

/// Whether a function is of a file of test bodies.
fn is_test(function: &str) -> bool {
    function.contains("_test::") || function.contains("selftest::")
}

/// Functions by their offset in `.text`.
fn functions(object: &object::File<'_>) -> Result<HashMap<u64, String>> {
    let text = object.section_by_name(".text").context("the linked object has no code")?;
    Ok(object
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
        .filter(|symbol| symbol.section_index() == Some(text.index()))
        .filter_map(|symbol| Some((symbol.address(), demangle(symbol.name().ok()?))))
        .collect())
}

/// A name without the crates' hashes.
fn demangle(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// Frame sizes by the function's offset in `.text`.
fn sizes(object: &object::File<'_>) -> Result<BTreeMap<u64, u64>> {
    let section = object.section_by_name(".stack_sizes").context("the compiler noted no frames")?;
    let mut data = section.data().context("unreadable .stack_sizes")?;
    let relocations: HashMap<u64, u64> = section
        .relocations()
        .filter_map(|(offset, relocation)| {
            let base = match relocation.target() {
                RelocationTarget::Symbol(index) => object.symbol_by_index(index).ok()?.address(),
                _ => return None,
            };
            Some((offset, base.wrapping_add_signed(relocation.addend())))
        })
        .collect();
    let total = data.len();
    let mut sizes = BTreeMap::new();
    while !data.is_empty() {
        let offset = (total - data.len()) as u64;
        ensure!(data.len() > 8, ".stack_sizes ends within an entry");
        data = &data[8..];
        let bytes = uleb128(&mut data).context(".stack_sizes ends within a number")?;
        if let Some(address) = relocations.get(&offset) {
            sizes.insert(*address, bytes);
        }
    }
    Ok(sizes)
}

/// Takes a number off the front.
fn uleb128(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{is_test, uleb128};

    #[test]
    fn numbers_are_read_seven_bits_a_byte() {
        let mut data: &[u8] = &[0x88, 0x08, 0x05];
        assert_eq!(uleb128(&mut data), Some(0x408));
        assert_eq!(uleb128(&mut data), Some(5));
        assert_eq!(uleb128(&mut data), None);
    }

    #[test]
    fn tests_are_told_apart_by_their_file() {
        assert!(is_test("virt::memory_test::overlaps"));
        assert!(!is_test("virt::memory::Slots::insert"));
    }
}
