//! Large pages: what a program reads in one is what the page tables say, whatever of it was read before.

use arch_x86::engine::{Engine, Intercept};
use arch_x86::exception;
use arch_x86::regs::{Attr, Regs, Seg, Segment, cr4, gpr, rflags};
use iced_x86::code_asm::*;
use virt::memory::Slot;

use crate::Options;
use crate::large_pages::LargePages;
use crate::run_test::handler;
use crate::test_kernel::{
    ACCESSED, Assembled, Fault, Guest, KERNEL, LOWER, Outside, PDPT, Read, SIZE, Value, large,
    number,
};
use crate::test_machine::{RAM, assemble, at, pte, run, selector};
use crate::test_ways::{in_every_way, uncounted};

in_every_way! {
    a_page_that_is_remapped_is_the_new_one,
    a_page_that_a_program_may_not_read_faults,
    a_page_that_is_split_is_its_parts,
    an_access_may_lie_in_two_pages,
    what_is_not_in_ram_is_not_read,
    each_pcid_has_its_own,
    breakpoints_are_met,
}

/// The program that reads, and what it ends with.
const READER: u64 = at::USER_CODE + 0x2000;
const END: u8 = 0x30;
/// Tables of small pages, and of another address space.
const PT: u64 = 0xa_2000;
const OTHER: [u64; 3] = [0xa_3000, 0xa_4000, 0xa_5000];
/// Pages of 1 GiB.
const HUGE: u64 = LOWER + (1 << 30);

/// What a program's large page is, from `n`th of RAM.
const fn program(n: u64) -> u64 {
    large(n) & !pte::GLOBAL | pte::USER
}

fn guest(options: Options) -> Guest {
    // So that it is interpreted, and seen to read there, before it is translated.
    let options = Options { patience: options.patience.max(2), ..options };
    let guest = Guest::new(options);
    (1..RAM / SIZE).for_each(|n| guest.map(n, program(n)));
    guest.machine.write_u64(PDPT + 8, KERNEL & !pte::GLOBAL | pte::USER);
    guest.machine.write(
        READER,
        &assemble(READER, |a| {
            a.mov(rax, qword_ptr(rbx))?;
            a.int(i32::from(END))
        }),
    );
    handler(&guest.machine, END, |a| a.hlt());
    guest
}

/// A program reads eight bytes.
fn read_once(guest: &mut Guest, address: u64) -> Read {
    let vcpu = &mut guest.vcpu;
    let user = |selector, attr| Segment { base: 0, limit: !0, selector, attr: Attr(attr) };
    vcpu.set_segment(Seg::Cs, user(selector::USER_CODE, 0xafb));
    vcpu.set_segment(Seg::Ss, user(selector::USER_DATA, 0xcf3));
    vcpu.set_cpl(3);
    vcpu.set_rip(READER);
    vcpu.set_gpr(gpr::RBX, address);
    vcpu.set_gpr(gpr::RSP, at::STACK);
    let out = run(vcpu);
    let end = at::HANDLERS + u64::from(END) * 256;
    match out {
        Intercept::Halt { .. } if vcpu.rip() & !0xff == end => Value(vcpu.gpr(gpr::RAX)),
        Intercept::Halt { .. } => Fault(vcpu.gpr(gpr::RDX), vcpu.gpr(gpr::RCX)),
        Intercept::NestedFault { gpa, write: false } => Outside(gpa),
        other => panic!("{other:?}"),
    }
}

/// The same, so often that it is translated; then the kernel goes on.
fn read(guest: &mut Guest, address: u64) -> Read {
    let all = [(); 4].map(|()| read_once(guest, address));
    assert_eq!(all, [all[0]; 4], "{address:#x}");
    let flat = |selector, attr| Segment { base: 0, limit: !0, selector, attr: Attr(attr) };
    guest.vcpu.set_segment(Seg::Cs, flat(selector::CODE, 0xa9b));
    guest.vcpu.set_segment(Seg::Ss, flat(selector::DATA, 0xc93));
    guest.vcpu.set_cpl(0);
    guest.vcpu.set_rflags(rflags::FIXED);
    all[0]
}

fn read_all(guest: &mut Guest) {
    for page in (SIZE..RAM).step_by(SIZE as usize) {
        for distance in [8, 0x12_3450, SIZE - 8] {
            let value = Value(number(page + distance));
            assert_eq!(read(guest, LOWER + page + distance), value, "{page:#x}");
        }
    }
}

/// Ways to drop what is known of a page: of all of its addresses one is in RBX.
const FLUSHES: [fn(&mut CodeAssembler) -> Assembled; 4] = [
    |a| a.invlpg(byte_ptr(rbx)),
    |a| a.invlpg(byte_ptr(rbx + 0x12_3000)),
    |a| {
        a.mov(rdi, cr3)?;
        a.mov(cr3, rdi)
    },
    |a| {
        a.mov(rdi, iced_x86::code_asm::cr4)?;
        a.xor(rdi, cr4::PGE as i32)?;
        a.mov(iced_x86::code_asm::cr4, rdi)?;
        a.xor(rdi, cr4::PGE as i32)?;
        a.mov(iced_x86::code_asm::cr4, rdi)
    },
];

#[test]
fn what_a_program_reads_is_looked_up_there() {
    let mut guest = guest(Options { patience: 3, ..uncounted() });
    read_all(&mut guest);
    assert!(guest.vcpu.tlb.is_in_large(LOWER + 5 * SIZE + 1));
    assert!(!guest.vcpu.tlb.is_in_large(LOWER));
    // Who moves the page sees that it is what was read.
    let place = guest.machine.hva() + 5 * SIZE;
    guest.vcpu.tlb.enter_large(LOWER + 5 * SIZE, place + 16);
    assert_eq!(read(&mut guest, LOWER + 5 * SIZE + 8), Value(number(5 * SIZE + 24)));
}

#[test]
fn a_page_has_the_place_of_others() {
    let mut pages = LargePages::new();
    assert!(pages.is_empty() && !pages.has(0) && !pages.has(SIZE));
    pages.enter(3 * SIZE + 5, 0x1000);
    pages.enter(9 * SIZE, 0x2000);
    assert!(pages.has(3 * SIZE) && pages.has(4 * SIZE - 1) && pages.has(9 * SIZE));
    assert!(!pages.has(4 * SIZE) && !pages.has(2 * SIZE) && !pages.has(67 * SIZE));
    pages.enter(67 * SIZE, 0x3000);
    assert!(pages.has(67 * SIZE) && !pages.has(3 * SIZE) && !pages.is_empty());
    pages.clear();
    assert!(pages.is_empty() && ![67, 9, 3, 0, 1].iter().any(|n| pages.has(n * SIZE)));
}

fn a_page_that_is_remapped_is_the_new_one(options: Options) {
    for flush in FLUSHES {
        let mut guest = guest(options);
        read_all(&mut guest);
        guest.map(5, program(9));
        guest.execute(LOWER + 5 * SIZE, flush);
        for distance in [0, 0x800, 0x10_0000, SIZE - 8] {
            let value = Value(number(9 * SIZE + distance));
            assert_eq!(read(&mut guest, LOWER + 5 * SIZE + distance), value);
        }
        guest.map(5, program(5));
        guest.execute(LOWER + 5 * SIZE, flush);
        read_all(&mut guest);
    }
}

fn a_page_that_a_program_may_not_read_faults(options: Options) {
    for (flush, (entry, error)) in FLUSHES
        .into_iter()
        .flat_map(|flush| [(0, 4), (program(5) & !pte::USER, 5)].map(|entry| (flush, entry)))
    {
        let mut guest = guest(options);
        read_all(&mut guest);
        guest.map(5, entry);
        guest.execute(LOWER + 5 * SIZE, flush);
        for distance in [0, 0x12_3450] {
            let address = LOWER + 5 * SIZE + distance;
            assert_eq!(read(&mut guest, address), Fault(address, error));
        }
        guest.map(5, program(5));
        read_all(&mut guest);
    }
}

fn a_page_that_is_split_is_its_parts(options: Options) {
    let mut guest = guest(options);
    read_all(&mut guest);
    // The other way round.
    for n in 0..512 {
        let entry = (6 * SIZE - (n + 1) * 4096) | pte::RIGHTS | ACCESSED;
        guest.machine.write_u64(PT + n * 8, entry);
    }
    guest.map(5, PT | pte::RIGHTS);
    guest.invlpg(LOWER + 5 * SIZE + 0x1000);
    for n in [0, 1, 100, 511] {
        let value = Value(number(6 * SIZE - (n + 1) * 4096 + 0x18));
        assert_eq!(read(&mut guest, LOWER + 5 * SIZE + n * 4096 + 0x18), value);
    }
    guest.map(5, program(5));
    guest.execute(0, FLUSHES[2]);
    read_all(&mut guest);
}

fn an_access_may_lie_in_two_pages(options: Options) {
    let mut guest = guest(options);
    guest.map(5, program(9));
    guest.execute(0, FLUSHES[2]);
    let two = |low: u64, high: u64| Value(number(low) >> 32 | number(high) << 32);
    for _ in 0..2 {
        let last = read(&mut guest, LOWER + 5 * SIZE - 4);
        assert_eq!(last, two(5 * SIZE - 8, 9 * SIZE));
        let last = read(&mut guest, LOWER + 6 * SIZE - 4);
        assert_eq!(last, two(10 * SIZE - 8, 6 * SIZE));
        // Two small ones.
        let middle = read(&mut guest, LOWER + 4 * SIZE + 0x1ffc);
        assert_eq!(middle, two(4 * SIZE + 0x1ff8, 4 * SIZE + 0x2000));
    }
    guest.map(6, 0);
    guest.invlpg(LOWER + 6 * SIZE);
    assert_eq!(read(&mut guest, LOWER + 6 * SIZE - 4), Fault(LOWER + 6 * SIZE, 4));
    assert_eq!(read(&mut guest, LOWER + 6 * SIZE - 8), Value(number(10 * SIZE - 8)));
}

/// A page of 1 GiB of which RAM has but a part.
fn what_is_not_in_ram_is_not_read(options: Options) {
    let mut guest = guest(options);
    assert_eq!(read(&mut guest, HUGE + SIZE + 8), Value(number(SIZE + 8)));
    assert_eq!(read(&mut guest, HUGE + RAM - 8), Value(number(RAM - 8)));
    assert_eq!(read_once(&mut guest, HUGE + RAM), Outside(RAM));
    assert_eq!(read_once(&mut guest, HUGE + RAM + SIZE), Outside(RAM + SIZE));
    assert_eq!(read(&mut guest, HUGE + SIZE + 0x2000), Value(number(SIZE + 0x2000)));
    assert!(!guest.vcpu.tlb.is_in_large(HUGE + RAM));
    // Behind it there is half of a large page more: again what is at its start.
    let size = SIZE / 2;
    let slot = Slot { id: 1, gpa: RAM, size, hva: guest.machine.hva() + SIZE, ..Slot::default() };
    guest.machine.memory.insert(slot).expect("another slot");
    guest.machine.engine.invalidate(RAM, size);
    for _ in 0..2 {
        assert_eq!(read(&mut guest, HUGE + RAM + 8), Value(number(SIZE + 8)));
        assert_eq!(read_once(&mut guest, HUGE + RAM + size + 8), Outside(RAM + size + 8));
    }
}

fn each_pcid_has_its_own(options: Options) {
    let mut guest = guest(options);
    guest.vcpu.set_cr4(guest.vcpu.cr4() | cr4::PCIDE);
    let [pml4, pdpt, pd] = OTHER;
    // All is the same but for the one page.
    for n in 0..512 {
        guest.machine.write_u64(pml4 + n * 8, guest.machine.read_u64(at::PML4 + n * 8));
        guest.machine.write_u64(pd + n * 8, program(n));
    }
    guest.machine.write_u64(pml4 + (LOWER >> 39 & 511) * 8, pdpt | pte::RIGHTS);
    guest.machine.write_u64(pdpt, pd | pte::RIGHTS);
    guest.machine.write_u64(pd + 5 * 8, program(9));
    let (first, second) = (at::PML4 | 1 << 63, pml4 | 1 | 1 << 63);
    let address = LOWER + 5 * SIZE + 0x4008;
    let switch = |guest: &mut Guest, cr3_value: u64| {
        guest.execute(0, |a| {
            a.mov(rdi, cr3_value)?;
            a.mov(cr3, rdi)
        });
    };
    for _ in 0..3 {
        switch(&mut guest, first);
        assert_eq!(read(&mut guest, address), Value(number(5 * SIZE + 0x4008)));
        switch(&mut guest, second);
        assert_eq!(read(&mut guest, address), Value(number(9 * SIZE + 0x4008)));
    }
    // What was changed there is seen with the next switch that flushes.
    guest.machine.write_u64(pd + 5 * 8, program(7));
    switch(&mut guest, first);
    switch(&mut guest, second & !(1 << 63));
    assert_eq!(read(&mut guest, address), Value(number(7 * SIZE + 0x4008)));
}

fn breakpoints_are_met(options: Options) {
    let mut guest = guest(options);
    handler(&guest.machine, exception::DB, |a| {
        a.inc(r8)?;
        a.iretq()
    });
    read_all(&mut guest);
    let address = LOWER + 6 * SIZE + 0x128;
    // Accesses of eight bytes.
    let on = 0x400 | 1 << 1 | 0b1011 << 16;
    for (control, count) in [(on, 4), (0x400, 0), (on, 4)] {
        guest.vcpu.set_dr(0, address);
        guest.vcpu.set_dr(7, control);
        guest.vcpu.set_gpr(gpr::R8, 0);
        assert_eq!(read(&mut guest, address), Value(number(6 * SIZE + 0x128)));
        assert_eq!(guest.vcpu.gpr(gpr::R8), count, "{control:#x}");
    }
}
