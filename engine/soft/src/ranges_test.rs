//! Ranges: what a kernel reads in its map of all RAM, and its image, is what the page tables say, whatever of it was
//! read before.

use arch_x86::engine::EngineVcpu;
use arch_x86::exception;
use arch_x86::regs::{Attr, Regs, Seg, Segment, cr4, gpr, rflags};
use iced_x86::code_asm::*;

use crate::Options;
use crate::ranges::Ranges;
use crate::run_test::handler;
use crate::test_kernel::{
    ACCESSED, Assembled, DIRECT, Fault, Guest, HUGE, IMAGE, MORE, PAGES, PD, REGIONS, RESULT, SIZE,
    Value, large, number,
};
use crate::test_machine::{RAM, assemble, at, pte, run_to_halt, selector};
use crate::test_ways::{in_every_way, jit, traced, uncounted};

in_every_way! {
    a_page_that_is_remapped_is_the_new_one,
    what_operands_name_is_remapped,
    a_page_that_is_remapped_without_pge_is_the_new_one_after_cr3,
    a_page_that_is_not_global_is_the_new_one_after_cr3,
    a_page_that_is_not_there_any_more_faults,
    a_page_of_user_mode_is_read_if_smap_allows_it,
    no_page_is_accessed_that_was_not,
    user_mode_may_not_read_what_a_kernel_has,
    breakpoints_are_met,
}

#[test]
fn what_a_kernel_reads_is_looked_up_in_ranges() {
    for options in [uncounted(), traced(), jit()] {
        let mut guest = Guest::new(options);
        for (n, region) in [(Ranges::RAM, DIRECT), (Ranges::IMAGE, IMAGE), (2, PAGES)] {
            guest.read_all(region);
            let range = guest.vcpu.tlb.ranges[n];
            assert_eq!((range.tag, range.page), (region, guest.machine.hva()));
            assert_eq!(range.limit, RAM - 63);
        }
        // There are no more.
        guest.read_all(MORE);
        assert!(!guest.vcpu.tlb.ranges.iter().any(|range| range.has(MORE)));
        // Who moves the range sees that it is what was read.
        let moved = match options.patience {
            0 => vec![(Ranges::RAM, DIRECT)],
            // It was seen where instructions read.
            _ => vec![(Ranges::RAM, DIRECT), (Ranges::IMAGE, IMAGE), (2, PAGES)],
        };
        for (n, region) in moved {
            guest.vcpu.tlb.ranges[n].page += 16;
            assert_eq!(guest.read(region + SIZE), Value(number(SIZE + 16)));
        }
    }
}

#[test]
fn ranges_end_where_what_they_map_does() {
    let mut guest = Guest::new(uncounted());
    let range = |guest: &mut Guest, address| {
        guest.vcpu.flush_tlb();
        assert!(matches!(guest.read(address), Value(_)));
        let range = guest.vcpu.tlb.ranges[Ranges::RAM];
        (range.tag, range.limit + 63)
    };
    assert_eq!(range(&mut guest, HUGE + SIZE), (HUGE, RAM));
    // What is not global, there, or a kernel's; and another page than the next one.
    for entry in [large(9) & !pte::GLOBAL, 0, large(9) | pte::USER, large(8), large(9) & !ACCESSED]
    {
        guest.map(9, entry);
        assert_eq!(range(&mut guest, DIRECT + 3 * SIZE), (DIRECT, 9 * SIZE), "{entry:#x}");
        assert_eq!(range(&mut guest, DIRECT + 12 * SIZE), (DIRECT + 10 * SIZE, 6 * SIZE));
    }
}

/// Several ways to drop what is known of a page: of all of its addresses one is in RBX.
const FLUSHES: [fn(&mut CodeAssembler) -> Assembled; 6] = [
    |a| a.invlpg(byte_ptr(rbx)),
    |a| a.invlpg(byte_ptr(rbx + 0x12_3000)),
    toggle_pge,
    |a| {
        a.mov(qword_ptr(RESULT), 0)?;
        a.mov(qword_ptr(RESULT + 8), 0)?;
        a.mov(eax, 2)?;
        a.invpcid(rax, xmmword_ptr(RESULT))
    },
    // A global page is all PCIDs'.
    |a| {
        in_pcid(a, 1)?;
        a.invlpg(byte_ptr(rbx))?;
        in_pcid(a, 0)
    },
    |a| {
        in_pcid(a, 1)?;
        toggle_pge(a)?;
        in_pcid(a, 0)
    },
];

fn toggle_pge(a: &mut CodeAssembler) -> Assembled {
    for _ in 0..2 {
        a.mov(rdi, iced_x86::code_asm::cr4)?;
        a.xor(rdi, cr4::PGE as i32)?;
        a.mov(iced_x86::code_asm::cr4, rdi)?;
    }
    Ok(())
}

fn in_pcid(a: &mut CodeAssembler, pcid: u64) -> Assembled {
    a.mov(rdi, at::PML4 | pcid | 1 << 63)?;
    a.mov(cr3, rdi)
}

fn a_page_that_is_remapped_is_the_new_one(options: Options) {
    for (n, flush) in FLUSHES.into_iter().enumerate() {
        let mut guest = Guest::new(options);
        guest.vcpu.set_cr4(guest.vcpu.cr4() | cr4::PCIDE);
        for region in REGIONS {
            guest.read_all(region);
            guest.map(5, large(9));
            guest.execute(region + 5 * SIZE, flush);
            for distance in [0, 0x800, 0x10_0000, SIZE - 8] {
                let value = Value(number(9 * SIZE + distance));
                assert_eq!(guest.read(region + 5 * SIZE + distance), value, "{region:#x} {n}");
            }
            // Half of the one page, half of the other.
            let straddling = number(5 * SIZE - 8) >> 32 | number(9 * SIZE) << 32;
            assert_eq!(guest.read(region + 5 * SIZE - 4), Value(straddling));
            let straddling = number(10 * SIZE - 8) >> 32 | number(6 * SIZE) << 32;
            assert_eq!(guest.read(region + 6 * SIZE - 4), Value(straddling));
            guest.map(5, large(5));
            guest.execute(region + 5 * SIZE, flush);
            guest.read_all(region);
        }
    }
}

fn reload_cr3(a: &mut CodeAssembler) -> Assembled {
    a.mov(rdi, cr3)?;
    a.mov(cr3, rdi)
}

fn a_page_that_is_remapped_without_pge_is_the_new_one_after_cr3(options: Options) {
    let mut guest = Guest::new(options);
    guest.vcpu.set_cr4(guest.vcpu.cr4() & !cr4::PGE);
    for region in REGIONS {
        guest.read_all(region);
        guest.map(5, large(9));
        guest.execute(0, reload_cr3);
        assert_eq!(guest.read(region + 5 * SIZE), Value(number(9 * SIZE)));
        guest.map(5, large(5));
        guest.execute(0, reload_cr3);
    }
}

fn a_page_that_is_not_global_is_the_new_one_after_cr3(options: Options) {
    let mut guest = Guest::new(options);
    for region in REGIONS {
        guest.map(5, large(5) & !pte::GLOBAL);
        guest.invlpg(region + 5 * SIZE);
        guest.read_all(region);
        guest.map(5, large(9) & !pte::GLOBAL);
        guest.execute(0, reload_cr3);
        assert_eq!(guest.read(region + 5 * SIZE), Value(number(9 * SIZE)));
    }
}

fn a_page_that_is_not_there_any_more_faults(options: Options) {
    let mut guest = Guest::new(options);
    for region in REGIONS {
        guest.read_all(region);
        guest.map(7, 0);
        guest.invlpg(region + 7 * SIZE + 0x1234);
        for distance in [0, 0x5678, SIZE - 8, SIZE - 4] {
            let address = region + 7 * SIZE + distance;
            assert_eq!(guest.read(address), Fault(address, 0));
        }
        assert_eq!(guest.read(region + 7 * SIZE - 4), Fault(region + 7 * SIZE, 0));
        assert_eq!(guest.read(region + 7 * SIZE - 8), Value(number(7 * SIZE - 8)));
        assert_eq!(guest.read(region + 8 * SIZE), Value(number(8 * SIZE)));
        guest.map(7, large(7));
        guest.read_all(region);
    }
}

fn a_page_of_user_mode_is_read_if_smap_allows_it(options: Options) {
    for region in REGIONS {
        let mut guest = Guest::new(options);
        // All else is the kernel's.
        for n in 0..512 {
            guest.machine.write_u64(at::PT + n * 8, n << 12 | pte::PRESENT | pte::WRITABLE);
        }
        guest.read_all(region);
        guest.map(7, large(7) | pte::USER);
        guest.invlpg(region + 7 * SIZE);
        guest.read_all(region);
        guest.vcpu.set_cr4(guest.vcpu.cr4() | cr4::SMAP);
        let address = region + 7 * SIZE + 0x4320;
        let around = [address - SIZE, address + SIZE];
        for _ in 0..2 {
            assert_eq!(guest.read(address), Fault(address, 1));
            for address in around {
                assert_eq!(guest.read(address), Value(number(address - region)));
            }
        }
        // Lifted, and not any more.
        for ac in [rflags::AC, 0] {
            guest.vcpu.set_rflags(rflags::FIXED | ac);
            let value = Value(number(address - region));
            let expected = if ac == 0 { Fault(address, 1) } else { value };
            assert_eq!(guest.read(address), expected);
            guest.vcpu.set_rflags(rflags::FIXED | ac);
            assert_eq!(guest.read(around[0]), Value(number(around[0] - region)));
        }
    }
}

/// Reads eight bytes by GS, an absolute address, and RIP: a kernel's own, and its image's. The code is in the image.
fn read_by_operands(guest: &mut Guest) -> [u64; 3] {
    const CODE: u64 = IMAGE + 13 * SIZE;
    let distance = (5 * SIZE + 24).wrapping_sub(13 * SIZE + 7) as i32;
    let code = assemble(CODE, |a| {
        // mov rdx, [rip + distance].
        a.db(&[&[0x48, 0x8b, 0x15], &distance.to_le_bytes()[..]].concat())?;
        a.mov(rbx, qword_ptr(8).gs())?;
        a.mov(rcx, qword_ptr(IMAGE + 5 * SIZE + 16))?;
        a.hlt()
    });
    guest.machine.write(13 * SIZE, &code);
    let data = guest.vcpu.segment(Seg::Gs);
    guest.vcpu.set_segment(Seg::Gs, Segment { base: DIRECT + 5 * SIZE, ..data });
    let all = [(); 3].map(|()| {
        guest.vcpu.set_rip(CODE);
        run_to_halt(&mut guest.vcpu);
        [gpr::RBX, gpr::RCX, gpr::RDX].map(|n| guest.vcpu.gpr(n))
    });
    assert_eq!(all, [all[0]; 3]);
    all[0]
}

#[test]
fn what_operands_name_is_looked_up_in_ranges() {
    for options in [uncounted(), traced(), jit()] {
        let mut guest = Guest::new(options);
        let expected = [8, 16, 24].map(|n| number(5 * SIZE + n));
        assert_eq!(read_by_operands(&mut guest), expected);
        for n in [Ranges::RAM, Ranges::IMAGE] {
            guest.vcpu.tlb.ranges[n].page += 64;
        }
        let expected = [72, 80, 88].map(|n| number(5 * SIZE + n));
        assert_eq!(read_by_operands(&mut guest), expected);
    }
}

fn what_operands_name_is_remapped(options: Options) {
    let mut guest = Guest::new(options);
    for page in [5, 9, 5, 11] {
        guest.map(5, large(page));
        guest.invlpg(DIRECT + 5 * SIZE);
        guest.invlpg(IMAGE + 5 * SIZE);
        assert_eq!(read_by_operands(&mut guest), [8, 16, 24].map(|n| number(page * SIZE + n)));
    }
}

/// The accessed bit is a page's own: its neighbours are read, and then it is.
fn no_page_is_accessed_that_was_not(options: Options) {
    for region in REGIONS {
        let mut guest = Guest::new(options);
        guest.map(9, large(9) & !ACCESSED);
        for page in [8, 10, 8, 3, 14] {
            assert_eq!(guest.read(region + page * SIZE), Value(number(page * SIZE)));
        }
        assert_eq!(guest.machine.read_u64(PD + 9 * 8) & ACCESSED, 0);
        assert_eq!(guest.read(region + 9 * SIZE), Value(number(9 * SIZE)));
        assert_eq!(guest.machine.read_u64(PD + 9 * 8) & ACCESSED, ACCESSED);
    }
}

fn user_mode_may_not_read_what_a_kernel_has(options: Options) {
    for region in REGIONS {
        let mut guest = Guest::new(options);
        guest.read_all(region);
        let user = |selector, attr| Segment { base: 0, limit: !0, selector, attr: Attr(attr) };
        for _ in 0..3 {
            guest.vcpu.set_segment(Seg::Cs, user(selector::USER_CODE, 0xafb));
            guest.vcpu.set_segment(Seg::Ss, user(selector::USER_DATA, 0xcf3));
            guest.vcpu.set_cpl(3);
            assert_eq!(guest.read_once(3, region + SIZE), Fault(region + SIZE, 5));
        }
        // The handler is the kernel's.
        guest.read_all(region);
    }
}

/// By the host, and by the guest.
fn breakpoints_are_met(options: Options) {
    for (region, by_guest) in
        REGIONS.into_iter().flat_map(|region| [(region, false), (region, true)])
    {
        let mut guest = Guest::new(options);
        handler(&guest.machine, exception::DB, |a| {
            a.inc(r8)?;
            a.iretq()
        });
        guest.read_all(region);
        let address = region + 6 * SIZE + 0x128;
        // Accesses of eight bytes.
        let on = 0x400 | 1 << 1 | 0b1011 << 16;
        for (dr7_value, count) in [(on, 1), (0x400, 0), (on, 1), (0x400, 0)] {
            if by_guest {
                guest.execute(address, |a| {
                    a.mov(rax, dr7_value)?;
                    a.mov(dr0, rbx)?;
                    a.mov(dr7, rax)
                });
            } else {
                guest.vcpu.set_dr(0, address);
                guest.vcpu.set_dr(7, dr7_value);
            }
            guest.vcpu.set_gpr(gpr::R8, 0);
            for round in 1..4 {
                assert_eq!(guest.read_once(3, address), Value(number(address - region)));
                assert_eq!(guest.vcpu.gpr(gpr::R8), round * count, "{region:#x} {dr7_value:#x}");
            }
            guest.vcpu.set_gpr(gpr::R8, 0);
            assert_eq!(guest.read_once(3, address + 8), Value(number(address + 8 - region)));
            assert_eq!(guest.read_once(0, address + 3), guest.read_once(0, address + 3));
            assert_eq!(guest.vcpu.gpr(gpr::R8), 2 * count);
        }
    }
}
