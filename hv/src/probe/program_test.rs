use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::super::{layout, script};
use super::*;

/// The text of each instruction, as it is at `address`.
fn disassembled(address: u64, lines: &[Line]) -> Vec<String> {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    options.set_space_after_operand_separator(true);
    let mut ip = address;
    let text = lines.iter().map(|(bytes, _)| {
        let instruction = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).decode();
        assert_eq!(instruction.len(), bytes.len(), "{bytes:02x?}");
        ip += bytes.len() as u64;
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        text
    });
    text.collect()
}

fn sections() -> Vec<(u64, &'static [Line])> {
    let tries = script::SECTIONS.iter().map(|section| (section.entry, section.program));
    tries
        .chain([
            (script::LOOP_ENTRY, LOOP),
            (layout::at::PAGE_FAULT, PAGE_FAULT),
            (layout::at::INTERRUPT, INTERRUPT_HANDLER),
        ])
        .collect()
}

#[test]
fn the_bytes_are_what_stands_beside_them() {
    for (address, lines) in sections() {
        let written: Vec<_> = lines.iter().map(|(_, text)| *text).collect();
        assert_eq!(disassembled(address, lines), written, "at {address:#x}");
    }
}

#[test]
fn a_section_leads_to_the_next_and_none_lies_on_another() {
    let entries = script::SECTIONS.iter().skip(1).map(|section| section.entry);
    for (section, next) in script::SECTIONS.iter().zip(entries.chain([script::LOOP_ENTRY])) {
        let (_, last) = section.program.last().expect("it has instructions");
        assert_eq!(*last, format!("jmp {next:#x}"));
    }
    let mut ranges: Vec<_> = sections()
        .iter()
        .map(|(start, lines)| (*start, lines.iter().map(|(bytes, _)| bytes.len() as u64).sum()))
        .collect();
    ranges.push((layout::at::EXCEPTIONS, 32 * 16));
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{ranges:x?}");
}
