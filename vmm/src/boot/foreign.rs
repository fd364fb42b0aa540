//! Says what a file is that is no kernel: the answer to "why not?".

/// How many bytes decide whether a file is text.
const TEXT_SAMPLE: usize = 512;
/// How much of a text is shown.
const TEXT_SHOWN: usize = 32;

/// Names what `bytes` seem to be, as in "it is …".
pub(super) fn describe(bytes: &[u8]) -> String {
    if let Some(architecture) = foreign_image(bytes) {
        return format!("a kernel for {architecture}");
    }
    if let Some((_, name)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return (*name).to_string();
    }
    if let Some(name) = pe(bytes) {
        return name;
    }
    if let Some(text) = text(bytes) {
        return format!("a text file (it begins with {text:?})");
    }
    format!("an unknown kind of file (it begins with {:02x?})", &bytes[..bytes.len().min(8)])
}

const MAGIC: [(&[u8], &str); 5] = [
    (b"070701", "a cpio archive: an initial file system"),
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"!<arch>", "an ar archive (a Debian package, perhaps)"),
    (&[0xed, 0xab, 0xee, 0xdb], "an RPM package"),
    (b"hsqs", "a SquashFS image"),
];

/// Flat kernel images of other architectures. See: Linux,
/// Documentation/arch/arm64/booting.rst and arch/riscv/boot-image-header.rst.
fn foreign_image(bytes: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| {
        bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic))
    };
    if at(0x38, b"ARM\x64") {
        Some("64-bit Arm (AArch64)")
    } else if at(0x38, b"RSC\x05") || at(0x30, b"RISCV") {
        Some("64-bit RISC-V")
    } else if at(0x24, &0x016f_2818u32.to_le_bytes()) {
        Some("32-bit Arm")
    } else {
        None
    }
}

/// A PE file that is no `bzImage`. See: Microsoft PE/COFF, 3.3.1.
fn pe(bytes: &[u8]) -> Option<String> {
    let offset = bytes.strip_prefix(b"MZ").and_then(|_| bytes.get(0x3c..)?.first_chunk())?;
    let header = bytes.get(u32::from_le_bytes(*offset) as usize..)?;
    let machine = header.strip_prefix(b"PE\0\0")?.first_chunk().copied()?;
    Some(match u16::from_le_bytes(machine) {
        0x8664 => "an EFI program (of a unified kernel image, extract .linux first)".into(),
        0xaa64 => "an EFI program for 64-bit Arm (AArch64)".into(),
        0x5064 => "an EFI program for 64-bit RISC-V".into(),
        0x6264 => "an EFI program for LoongArch".into(),
        machine => format!("an EFI program for another architecture (PE machine {machine:#x})"),
    })
}

/// The beginning of a text, if it is one.
fn text(bytes: &[u8]) -> Option<String> {
    let sample = &bytes[..bytes.len().min(TEXT_SAMPLE)];
    // A character may be cut at the sample's end.
    let valid = match std::str::from_utf8(sample) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&sample[..e.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let printable = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    if valid.is_empty() || !valid.chars().all(printable) {
        return None;
    }
    let line = valid.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    Some(line.chars().take(TEXT_SHOWN).collect())
}
