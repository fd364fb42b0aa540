use super::assembler::Assembler;
use super::memory::CodeMemory;
use super::sites::{TARGETS, assemble, assemble_unknown, meet};

/// Three targets, which are never executed.
const CODE: [u64; 3] = [0x10, 0x20, 0x30];

/// Where a site's distances lead: of each target the value and the branch; and the jump behind them.
fn leads(memory: &CodeMemory, site: u64) -> (Vec<[u64; 2]>, u64) {
    let at = |offset| memory.target(site + offset).expect("it is in use");
    ((0..TARGETS).map(|n| [at(16 * n + 3), at(16 * n + 12)]).collect(), at(16 * TARGETS + 1))
}

#[test]
fn a_site_knows_what_it_meets_until_there_is_no_room() {
    let mut memory = CodeMemory::new(4096).expect("executable memory");
    let base = memory.next();
    let code = CODE.map(|offset| base + offset);
    let stub = base + 0x100;
    let mut assembler = Assembler::new(base + 0x200);
    let (site, jump) = assemble(&mut assembler);
    let unknown = assembler.here();
    assembler.bind(jump);
    assemble_unknown(&mut assembler, site, stub);
    let before = memory.add(&[0xcc; 0x200], &[]);
    assert_eq!(before, Some(base));
    memory.add(assembler.bytes(), &[]).expect("room");

    // What is free is not the address of any block's code: those are aligned.
    let free = |n: u64| [site + 16 * n + 7, site + 16 * n + 16];
    assert_eq!(leads(&memory, site), (vec![free(0), free(1)], unknown));
    assert_eq!(memory.target(unknown + 3), Some(site), "the question names it");
    assert_eq!(memory.target(unknown + 8), Some(stub));
    meet(&mut memory, site, code[0]);
    assert_eq!(leads(&memory, site), (vec![[code[0]; 2], free(1)], unknown));
    meet(&mut memory, site, code[1]);
    let full = (vec![[code[0]; 2], [code[1]; 2]], unknown + 12);
    assert_eq!(leads(&memory, site), full, "nothing is asked any more");
    assert_eq!(assembler.bytes()[(unknown + 12 - site) as usize..], [0x41, 0xff, 0xe7]);
    meet(&mut memory, site, code[2]);
    assert_eq!(leads(&memory, site), full);
}

#[test]
fn what_is_no_site_stays() {
    let mut memory = CodeMemory::new(4096).expect("executable memory");
    let at = memory.next();
    meet(&mut memory, at, at);
    assert_eq!(memory.target(at), None);
    assert_eq!(memory.target(at - 1), None);
    memory.add(&[0x90; 64], &[]).expect("room");
    meet(&mut memory, at, at);
    let nops = Some((at + 4).wrapping_add_signed(0x9090_9090_u32 as i32 as i64));
    assert!((0..60).all(|n| memory.target(at + n) == nops.map(|target| target + n)));
}
