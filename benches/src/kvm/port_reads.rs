//! What a port's read and the way back cost: a guest reads a port again and again, looks at the time stamp counter before and
//! after, and prints the difference. So nothing of the monitor's start and end is in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::{LIMIT, attempts};
use crate::transcript::follow;

/// How often the guest reads.
const READS: u32 = 40_000;

/// Where the kernel lies. It starts behind its header. `benches/kvm/bare.c` knows both.
const ADDRESS: u32 = 1 << 20;
const HEADER: u32 = 32;
/// See: Multiboot Specification 0.6.96, 3.1.1.
const MAGIC: u32 = 0x1bad_b002;
/// The header has the addresses.
const ADDRESSES: u32 = 1 << 16;

/// Reads the port 0x80, where nobody is, ECX times. Prints the ticks on COM1, 4 bits a letter from 'a' on, and ends by the debug exit.
const CODE: [u8; 54] = [
    0x0f, 0x31, // rdtsc
    0x89, 0xc6, // mov esi, eax
    0xba, 0x80, 0, 0, 0,    // mov edx, 0x80
    0xec, // 1: in al, dx
    0x49, // dec ecx
    0x75, 0xfc, // jnz 1b
    0x0f, 0x31, // rdtsc
    0x29, 0xf0, // sub eax, esi
    0x89, 0xc6, // mov esi, eax
    0xb9, 0x08, 0, 0, 0, // mov ecx, 8
    0xba, 0xf8, 0x03, 0, 0, // mov edx, 0x3f8
    0xc1, 0xc6, 0x04, // 2: rol esi, 4
    0x89, 0xf0, // mov eax, esi
    0x24, 0x0f, // and al, 15
    0x04, 0x61, // add al, 'a'
    0xee, // out dx, al
    0x49, // dec ecx
    0x75, 0xf3, // jnz 2b
    0xb0, 0x0a, // mov al, '\n'
    0xee, // out dx, al
    0xba, 0xf4, 0, 0, 0,    // mov edx, 0xf4
    0xef, // out dx, eax
    0xf4, // 3: hlt
    0xeb, 0xfd, // jmp 3b
];

/// The kernel's file. Removed with it.
pub struct Kernel(PathBuf);

impl Kernel {
    /// Writes it.
    pub fn new() -> anyhow::Result<Self> {
        let name = format!("unibody-bench-{}-port-reads", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, image())
            .with_context(|| format!("cannot write '{}'", file.display()))?;
        Ok(Self(file))
    }

    /// Where it is.
    pub fn file(&self) -> &Path {
        &self.0
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A Multiboot kernel.
fn image() -> Vec<u8> {
    let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(ADDRESSES);
    let header = [MAGIC, ADDRESSES, checksum, ADDRESS, ADDRESS, 0, 0, ADDRESS + HEADER];
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.push(0xb9); // mov ecx, READS
    bytes.extend(READS.to_le_bytes());
    bytes.extend(CODE);
    bytes
}

/// Ticks that a read takes, given the command that boots the kernel: nanoseconds in the nest.
pub fn ticks(mut command: Command) -> anyhow::Result<f64> {
    attempts(|| {
        let mut printed = None;
        let transcript = follow(&mut command, LIMIT, |line| printed = printed.or(parse(line)))?;
        ensure!(printed.is_some(), "{:?} prints no ticks:\n{}", command, transcript.tail());
        Ok(f64::from(printed.unwrap_or_default()) / f64::from(READS))
    })
}

/// The ticks in what the guest prints.
fn parse(line: &str) -> Option<u32> {
    let digits: Option<Vec<u32>> = line
        .bytes()
        .map(|byte| byte.checked_sub(b'a').filter(|digit| *digit < 16).map(u32::from))
        .collect();
    let digits = digits.filter(|digits| digits.len() == 8)?;
    Some(digits.into_iter().fold(0, |ticks, digit| ticks << 4 | digit))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn ticks_are_eight_letters() {
        assert_eq!(parse("aaaaaabp"), Some(0x1f));
        assert_eq!(parse("aaaabp"), None);
        assert_eq!(parse("aaaaaabq"), None);
        assert_eq!(parse("warning:"), None);
    }
}
