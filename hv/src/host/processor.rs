//! The host's processor, and what of it a guest is told.
//!
//! Names are those of Linux's /proc/cpuinfo. See: Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix
//! E; for the levels the System V ABI for x86-64, 3.1.1.

use crate::x86::Cpuid;

type Leaf = [u32; 4];

/// The registers, as indices into a leaf.
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// The leaf with the features that AMD introduced.
const EXTENDED: u32 = 0x8000_0001;

/// Extensions of the instruction set and of paging: the name; leaf, register and bit; the
/// level of x86-64 that wants it, or 0.
const EXTENSIONS: &[(&str, u32, usize, u32, u8)] = &[
    ("pni", 1, ECX, 0, 2),
    ("ssse3", 1, ECX, 9, 2),
    ("cx16", 1, ECX, 13, 2),
    ("sse4_1", 1, ECX, 19, 2),
    ("sse4_2", 1, ECX, 20, 2),
    ("popcnt", 1, ECX, 23, 2),
    ("lahf_lm", EXTENDED, ECX, 0, 2),
    ("fma", 1, ECX, 12, 3),
    ("movbe", 1, ECX, 22, 3),
    ("xsave", 1, ECX, 26, 3),
    ("avx", 1, ECX, 28, 3),
    ("f16c", 1, ECX, 29, 3),
    ("bmi1", 7, EBX, 3, 3),
    ("avx2", 7, EBX, 5, 3),
    ("bmi2", 7, EBX, 8, 3),
    ("abm", EXTENDED, ECX, 5, 3),
    ("avx512f", 7, EBX, 16, 4),
    ("avx512dq", 7, EBX, 17, 4),
    ("avx512cd", 7, EBX, 28, 4),
    ("avx512bw", 7, EBX, 30, 4),
    ("avx512vl", 7, EBX, 31, 4),
    ("pclmulqdq", 1, ECX, 1, 0),
    ("pcid", 1, ECX, 17, 0),
    ("x2apic", 1, ECX, 21, 0),
    ("tsc_deadline_timer", 1, ECX, 24, 0),
    ("aes", 1, ECX, 25, 0),
    ("rdrand", 1, ECX, 30, 0),
    ("fsgsbase", 7, EBX, 0, 0),
    ("smep", 7, EBX, 7, 0),
    ("erms", 7, EBX, 9, 0),
    ("invpcid", 7, EBX, 10, 0),
    ("rtm", 7, EBX, 11, 0),
    ("rdseed", 7, EBX, 18, 0),
    ("adx", 7, EBX, 19, 0),
    ("smap", 7, EBX, 20, 0),
    ("clflushopt", 7, EBX, 23, 0),
    ("clwb", 7, EBX, 24, 0),
    ("sha_ni", 7, EBX, 29, 0),
    ("umip", 7, ECX, 2, 0),
    ("pku", 7, ECX, 3, 0),
    ("gfni", 7, ECX, 8, 0),
    ("vaes", 7, ECX, 9, 0),
    ("vpclmulqdq", 7, ECX, 10, 0),
    ("avx512_vnni", 7, ECX, 11, 0),
    ("la57", 7, ECX, 16, 0),
    ("rdpid", 7, ECX, 22, 0),
    ("fsrm", 7, EDX, 4, 0),
    ("serialize", 7, EDX, 14, 0),
    ("avx512_fp16", 7, EDX, 23, 0),
    ("amx_tile", 7, EDX, 24, 0),
    ("svm", EXTENDED, ECX, 2, 0),
    ("vmx", 1, ECX, 5, 0),
    ("sse4a", EXTENDED, ECX, 6, 0),
    ("3dnowprefetch", EXTENDED, ECX, 8, 0),
    ("nx", EXTENDED, EDX, 20, 0),
    ("pdpe1gb", EXTENDED, EDX, 26, 0),
    ("rdtscp", EXTENDED, EDX, 27, 0),
];

/// The host's processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// As CPUID says it: `GenuineIntel`.
    pub vendor: String,
    /// As CPUID says it, without the spaces around it; may be empty.
    pub model: String,
    /// The level of x86-64 that the host has: 1 to 4.
    pub level: u8,
    /// The level that a guest has.
    pub guest_level: u8,
    /// What the host or a guest has.
    pub extensions: Vec<Extension>,
}

/// An extension of the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// As /proc/cpuinfo names it.
    pub name: &'static str,
    /// Whether the host has it.
    pub host: bool,
    /// Whether a guest has it: the hypervisor may do itself what the host lacks.
    pub guest: bool,
}

impl Processor {
    /// This host's, with a guest's answers to CPUID beside it.
    pub(super) fn new(guest: &Cpuid) -> Self {
        Self::compare(host, |function| guest.answer(function, 0))
    }

    fn compare(host: impl Fn(u32) -> Leaf, guest: impl Fn(u32) -> Leaf) -> Self {
        let extensions = EXTENSIONS.iter().map(|(name, function, register, bit, _)| {
            let has = |leaf: Leaf| leaf[*register] >> bit & 1 != 0;
            Extension { name, host: has(host(*function)), guest: has(guest(*function)) }
        });
        let [_, b, c, d] = host(0);
        let model = (0x8000_0002..=0x8000_0004).flat_map(&host);
        Self {
            vendor: text([b, d, c]),
            model: text(model),
            level: level(&host),
            guest_level: level(&guest),
            extensions: extensions.filter(|extension| extension.host || extension.guest).collect(),
        }
    }
}

/// Whether the processor can virtualize by itself.
pub(super) fn has_virtualization() -> bool {
    let announced = announced();
    announced.vmx || announced.svm
}

/// Whether it is SVM.
pub(super) fn has_svm() -> bool {
    host(EXTENDED)[ECX] >> 2 & 1 != 0
}

/// What the processor says that it can virtualize with, whether or not the firmware lets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// AMD's.
    pub(super) svm: bool,
    /// A part of that. See: AMD APM vol. 3, CPUID leaf 8000_000A.
    pub(super) nested_paging: bool,
    /// Intel's.
    pub(super) vmx: bool,
}

/// What this host's does.
pub(super) fn announced() -> Announced {
    let svm = has_svm();
    let nested_paging = svm && host(0x8000_000a)[EDX] & 1 != 0;
    Announced { svm, nested_paging, vmx: host(1)[ECX] >> 5 & 1 != 0 }
}

/// The host's own CPUID, zeros where it has no such leaf.
fn host(function: u32) -> Leaf {
    use core::arch::x86_64::__cpuid_count as cpuid;
    if function > cpuid(function & 0x8000_0000, 0).eax {
        return [0; 4];
    }
    let answer = cpuid(function, 0);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// The highest level of which everything is there.
fn level(cpuid: impl Fn(u32) -> Leaf) -> u8 {
    let has_all = |level: u8| {
        EXTENSIONS
            .iter()
            .filter(|(.., wanted_by)| *wanted_by == level)
            .all(|(_, function, register, bit, _)| cpuid(*function)[*register] >> bit & 1 != 0)
    };
    (2..=4).take_while(|level| has_all(*level)).last().unwrap_or(1)
}

/// The characters in registers.
fn text(registers: impl IntoIterator<Item = u32>) -> String {
    let bytes: Vec<u8> = registers.into_iter().flat_map(u32::to_le_bytes).collect();
    let text = String::from_utf8_lossy(&bytes).replace('\0', "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_up(function: u32) -> Leaf {
        let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
        match function {
            0 => [0x16, word(b"Genu"), word(b"ntel"), word(b"ineI")],
            0x8000_0002 => [word(b"  A "), word(b" CPU"), 0, 0],
            0x8000_0003 | 0x8000_0004 => [0; 4],
            _ => [u32::MAX; 4],
        }
    }

    #[test]
    fn vendor_model_and_levels_are_read() {
        let without_avx = |function| match function {
            1 => [0, 0, !(1 << 28), 0],
            _ => made_up(function),
        };
        let processor = Processor::compare(made_up, without_avx);
        assert_eq!(
            (processor.vendor.as_str(), processor.model.as_str()),
            ("GenuineIntel", "A CPU")
        );
        assert_eq!((processor.level, processor.guest_level), (4, 2));
        let lacking: Vec<_> = processor.extensions.iter().filter(|e| !e.guest).collect();
        assert_eq!(lacking, [&Extension { name: "avx", host: true, guest: false }]);
    }

    #[test]
    fn what_neither_has_is_not_told_and_what_is_emulated_is() {
        let processor = Processor::compare(|_| [0; 4], |_| [0; 4]);
        assert_eq!((processor.level, processor.extensions.len()), (1, 0));
        let x2apic = |function| if function == 1 { [0, 0, 1 << 21, 0] } else { [0; 4] };
        let processor = Processor::compare(|_| [0; 4], x2apic);
        let expected = Extension { name: "x2apic", host: false, guest: true };
        assert_eq!(processor.extensions, [expected]);
    }

    #[test]
    fn this_host_has_what_every_guest_gets() {
        let processor = crate::host::processor().unwrap();
        assert!(!processor.vendor.is_empty());
        assert!((1..=4).contains(&processor.level) && processor.guest_level >= 1);
        assert!(processor.extensions.iter().any(|e| e.name == "nx" && e.guest));
    }
}
