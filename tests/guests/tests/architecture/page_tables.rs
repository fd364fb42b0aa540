//! What the processor makes of page tables: accessed and dirty bits, reserved bits, and how long it may
//! keep a translation. See: Intel SDM vol. 3, 4.6–4.10.

use guests::paging::{Format, Tables, pte};
use guests::programs::{end, report, resume_at};
use guests::x86::{cr0, cr4, efer, gpr};
use guests::{Guest, Hypervisor, IcedError, Log, at, code_asm::*, states};

/// A page for the tests, and its alias.
const PAGE: u64 = 0x6_0000;
/// Another.
const OTHER: u64 = 0x6_1000;

/// The address of the entry that maps `linear` in the guest's own tables.
fn entry_of<H: Hypervisor>(guest: &mut Guest<H>, linear: u64) -> u64 {
    let path = guest.tables.map(&guest.memory, linear, linear, 0x1000, pte::P | pte::W);
    path[3]
}

/// Clears A and D in all entries of `path`.
fn clear_marks(tables: &Tables, guest: &Guest<impl Hypervisor>, path: &[u64]) {
    for entry in path {
        let value = tables.read(&guest.memory, *entry);
        tables.write(&guest.memory, *entry, value & !(pte::A | pte::D));
    }
}

/// A and D of all entries of `path`.
fn marks(tables: &Tables, guest: &Guest<impl Hypervisor>, path: &[u64]) -> Vec<(bool, bool)> {
    let value = |entry: &u64| tables.read(&guest.memory, *entry);
    path.iter().map(value).map(|v| (v & pte::A != 0, v & pte::D != 0)).collect()
}

/// The page at [`PAGE`] is read, remapped to [`OTHER`], and read again after `flush`: what
/// was read before and after.
fn remap<H: Hypervisor>(
    engine: &H,
    flags: u64,
    pcid: bool,
    flush: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u32> {
    let mut guest = Guest::new(engine);
    let entry = entry_of(&mut guest, PAGE);
    guest.memory.write_u64(entry, PAGE | pte::P | pte::W | flags);
    guest.memory.write_u64(PAGE, 1);
    guest.memory.write_u64(OTHER, 2);
    guest.code(at::CODE, |a| {
        a.mov(ebx, PAGE as u32)?;
        a.mov(eax, dword_ptr(rbx))?;
        report(a)?;
        a.mov(rcx, OTHER | pte::P | pte::W | flags)?;
        a.mov(qword_ptr(entry), rcx)?;
        flush(a)?;
        a.mov(eax, dword_ptr(rbx))?;
        report(a)?;
        end(a)
    });
    let mut state = guest.long_mode();
    if pcid {
        state.cr4 |= cr4::PCIDE;
        state.cr3 |= 1;
    }
    guest.run_from(&state).values
}

/// Whether the remapped page is seen after `flush`.
fn is_seen<H: Hypervisor>(
    engine: &H,
    flags: u64,
    pcid: bool,
    flush: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> bool {
    let values = remap(engine, flags, pcid, flush);
    assert_eq!((values.len(), values[0]), (2, 1));
    values[1] == 2
}

/// Of each exception, whether it is a page fault for reserved bits.
fn reserved(log: &Log) -> Vec<bool> {
    log.faults().iter().map(|(vector, error)| *vector == 14 && error & 8 != 0).collect()
}

fn reload_cr3(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rdx, cr3)?;
    a.mov(cr3, rdx)
}

/// INVPCID of a type, with PCID 1 and [`PAGE`] in its descriptor.
fn invpcid(a: &mut CodeAssembler, kind: u32, pcid: u32) -> Result<(), IcedError> {
    a.mov(qword_ptr(at::DATA), pcid as i32)?;
    a.mov(qword_ptr(at::DATA + 8), PAGE as i32)?;
    a.mov(edx, kind)?;
    a.invpcid(rdx, xmmword_ptr(at::DATA))
}

/// Flips CR4.PGE twice.
fn toggle_global_pages(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rdx, cr4)?;
    for _ in 0..2 {
        a.xor(rdx, cr4::PGE as i32)?;
        a.mov(cr4, rdx)?;
    }
    Ok(())
}

guests::on_every_processor! {
    /// A read marks every level as accessed; a write marks the page's own entry as dirty besides.
    fn accessed_and_dirty_bits_tell_what_was_done(engine) {
        for (format, size) in [(Format::FourLevel, 0x1000), (Format::FourLevel, 2 << 20),
                               (Format::FourLevel, 1 << 30), (Format::FiveLevel, 0x1000)] {
            let mut guest = Guest::new(engine);
            let mut tables = Tables::new(&guest.memory, format, at::MORE_TABLES);
            tables.identity(&guest.memory, 0, 2 << 20, 0x1000, pte::P | pte::W);
            let linear = 1 << 39;
            let path = tables.map(&guest.memory, linear, 0, size, pte::P | pte::W);
            guest.code(at::CODE, |a| {
                a.mov(eax, dword_ptr(rbx))?;
                end(a)
            });
            guest.code(at::CODE + 0x100, |a| {
                a.mov(dword_ptr(rbx), eax)?;
                end(a)
            });
            let mut state = states::long_mode(tables.root());
            state.cr4 |= if format == Format::FiveLevel { cr4::LA57 } else { 0 };
            state.gprs[usize::from(gpr::RBX)] = linear;
            let depth = path.len();
            for (offset, dirty) in [(0, false), (0x100, true)] {
                clear_marks(&tables, &guest, &path);
                state.rip = at::CODE + offset;
                guest.run_from(&state);
                let mut expected = vec![(true, false); depth];
                expected[depth - 1].1 = dirty;
                assert_eq!(marks(&tables, &guest, &path), expected, "{format:?} {size:#x}");
            }
        }
    }

    fn a_read_and_then_a_write_set_the_dirty_bit(engine) {
        let mut guest = Guest::new(engine);
        let entry = entry_of(&mut guest, PAGE);
        guest.code(at::CODE, |a| {
            for _ in 0..2 {
                a.mov(eax, dword_ptr(PAGE))?;
                a.mov(eax, dword_ptr(entry))?;
                report(a)?;
                a.mov(dword_ptr(PAGE), 1)?;
            }
            end(a)
        });
        let dirty: Vec<_> = guest.run().values.iter().map(|v| u64::from(*v) & pte::D).collect();
        assert_eq!(dirty, [0, pte::D]);
    }

    fn a_write_that_faults_leaves_the_page_clean(engine) {
        let mut guest = Guest::new(engine);
        let entry = entry_of(&mut guest, PAGE);
        guest.memory.write_u64(entry, PAGE | pte::P);
        guest.code(at::CODE, |a| a.mov(dword_ptr(PAGE), 1));
        assert_eq!(guest.run().faults(), [(14, 3)]);
        assert_eq!(guest.memory.read_u64(entry) & pte::D, 0);
    }

    fn reserved_bits_fault_with_their_own_error_bit(engine) {
        let mut guest = Guest::new(engine);
        guest.code(at::CODE, |a| {
            a.mov(eax, dword_ptr(rbx))?;
            end(a)
        });
        let small = guest.tables.map(&guest.memory, PAGE, PAGE, 0x1000, pte::P | pte::W);
        let linear = 1 << 39;
        let large = guest.tables.map(&guest.memory, linear, 0, 2 << 20, pte::P | pte::W);
        let read = |entry| guest.memory.read_u64(entry);
        // A page of 2 MiB that is not aligned; PS in the root; an address beyond the processor's.
        let broken = [
            (linear, large[2], read(large[2]) | 1 << 13),
            (linear, large[0], read(large[0]) | pte::PS),
            (linear, large[2], read(large[2]) | 1 << 51),
            (PAGE, small[3], read(small[3]) | 1 << 51),
        ];
        let mut state = guest.long_mode();
        for (address, entry, value) in broken {
            let whole = guest.memory.read_u64(entry);
            guest.memory.write_u64(entry, value);
            state.gprs[usize::from(gpr::RBX)] = address;
            let log = guest.run_from(&state);
            assert_eq!(reserved(&log), [true], "{value:#x}");
            assert_eq!(log.traps[0].cr2, address);
            guest.memory.write_u64(entry, whole);
        }
        // NX is reserved as long as it is off.
        guest.memory.write_u64(small[3], read_with_nx(&guest, small[3]));
        state.gprs[usize::from(gpr::RBX)] = PAGE;
        assert_eq!(guest.run_from(&state).faults(), []);
        state.efer &= !efer::NXE;
        assert_eq!(reserved(&guest.run_from(&state)), [true]);
    }

    /// Others are not looked at for reserved bits.
    fn an_entry_with_reserved_bits_is_present(engine) {
        let mut guest = Guest::with_program(engine, |a| a.mov(eax, dword_ptr(PAGE)));
        let entry = entry_of(&mut guest, PAGE);
        guest.memory.write_u64(entry, PAGE | pte::P | 1 << 51);
        assert_eq!(guest.run().faults(), [(14, 9)]);
        guest.memory.write_u64(entry, PAGE | 1 << 51);
        let state = guest.long_mode();
        assert_eq!(guest.run_from(&state).faults(), [(14, 0)]);
    }

    fn the_fifth_level_widens_what_is_canonical(engine) {
        let mut guest = Guest::new(engine);
        guest.code(at::CODE, |a| {
            a.mov(eax, dword_ptr(rbx))?;
            end(a)
        });
        let mut tables = Tables::new(&guest.memory, Format::FiveLevel, at::MORE_TABLES);
        tables.identity(&guest.memory, 0, 2 << 20, 0x1000, pte::P | pte::W);
        tables.map(&guest.memory, 1 << 48, PAGE, 0x1000, pte::P);
        let mut four = guest.long_mode();
        four.gprs[usize::from(gpr::RBX)] = 1 << 48;
        assert_eq!(guest.run_from(&four).faults(), [(13, 0)]);
        let mut five = four.clone();
        five.cr3 = tables.root();
        five.cr4 |= cr4::LA57;
        assert_eq!(guest.run_from(&five).faults(), []);
        five.gprs[usize::from(gpr::RBX)] = 1 << 57;
        assert_eq!(guest.run_from(&five).faults(), [(13, 0)]);
    }

    fn an_access_across_two_pages_faults_at_the_second_and_writes_nothing(engine) {
        let mut guest = Guest::new(engine);
        let entry = entry_of(&mut guest, OTHER);
        guest.memory.write_u64(entry, OTHER | pte::P);
        guest.code(at::CODE, |a| {
            a.mov(qword_ptr(OTHER - 3), -1)?;
            end(a)
        });
        let log = guest.run();
        assert_eq!(log.faults(), [(14, 3)]);
        assert_eq!(log.traps[0].cr2, OTHER);
        assert_eq!(guest.memory.read::<4>(OTHER - 4), [0; 4]);
    }

    /// Supervisor code writes a read-only page while CR0.WP is off, and no longer once it is on.
    fn write_protection_takes_effect_at_once(engine) {
        let mut guest = Guest::new(engine);
        let entry = entry_of(&mut guest, PAGE);
        guest.memory.write_u64(entry, PAGE | pte::P);
        guest.code(at::CODE, |a| {
            a.mov(rdx, cr0)?;
            a.btr(rdx, 16)?;
            a.mov(cr0, rdx)?;
            a.inc(dword_ptr(PAGE))?;
            a.bts(rdx, 16)?;
            a.mov(cr0, rdx)?;
            a.inc(dword_ptr(PAGE))
        });
        let state = guest.long_mode();
        assert_ne!(state.cr0 & cr0::WP, 0);
        assert_eq!(guest.run_from(&state).faults(), [(14, 3)]);
        assert_eq!(guest.memory.read_u64(PAGE), 1);
    }

    fn invlpg_shows_a_new_mapping(engine) {
        for flags in [0, pte::G] {
            assert!(is_seen(engine, flags, false, |a| a.invlpg(byte_ptr(rbx + 0x123))));
            assert!(is_seen(engine, flags, true, |a| a.invlpg(byte_ptr(rbx))));
        }
    }

    fn loading_cr3_shows_new_mappings_of_pages_that_are_not_global(engine) {
        assert!(is_seen(engine, 0, false, reload_cr3));
        assert!(is_seen(engine, 0, true, reload_cr3));
    }

    fn toggling_pge_shows_new_mappings_of_global_pages(engine) {
        assert!(is_seen(engine, pte::G, false, toggle_global_pages));
        assert!(is_seen(engine, 0, true, toggle_global_pages));
    }

    fn invpcid_shows_new_mappings(engine) {
        // One address, one context, all with global pages, all without.
        assert!(is_seen(engine, 0, true, |a| invpcid(a, 0, 1)));
        assert!(is_seen(engine, 0, true, |a| invpcid(a, 1, 1)));
        assert!(is_seen(engine, pte::G, true, |a| invpcid(a, 2, 0)));
        assert!(is_seen(engine, 0, true, |a| invpcid(a, 3, 0)));
    }

    fn a_missing_page_needs_no_flush_once_it_is_there(engine) {
        let mut guest = Guest::new(engine);
        let entry = entry_of(&mut guest, PAGE);
        guest.memory.write_u64(entry, 0);
        guest.code(at::CODE, |a| {
            let mut there = a.create_label();
            resume_at(a, there)?;
            a.mov(eax, dword_ptr(PAGE))?;
            a.set_label(&mut there)?;
            a.mov(rcx, PAGE | pte::P)?;
            a.mov(qword_ptr(entry), rcx)?;
            a.mov(eax, dword_ptr(PAGE))?;
            end(a)
        });
        assert_eq!(guest.run().faults(), [(14, 0)]);
    }

    /// Each of two contexts sees its own page at the same address, with and without the
    /// no-flush bit of CR3.
    fn process_contexts_do_not_mix(engine) {
        let mut guest = Guest::new(engine);
        let mut second = Tables::new(&guest.memory, Format::FourLevel, at::MORE_TABLES);
        second.identity(&guest.memory, 0, 2 << 20, 0x1000, pte::P | pte::W);
        second.map(&guest.memory, PAGE, OTHER, 0x1000, pte::P);
        guest.memory.write_u64(PAGE, 1);
        guest.memory.write_u64(OTHER, 2);
        let roots = [guest.tables.root() | 1, second.root() | 2];
        guest.code(at::CODE, |a| {
            for no_flush in [0_u64, 1 << 63, 1 << 63] {
                for root in roots {
                    a.mov(rdx, root | no_flush)?;
                    a.mov(cr3, rdx)?;
                    a.mov(eax, dword_ptr(PAGE))?;
                    report(a)?;
                }
            }
            // The bit is not stored.
            a.mov(rax, cr3)?;
            a.shr(rax, 32)?;
            report(a)?;
            end(a)
        });
        let mut state = guest.long_mode();
        state.cr4 |= cr4::PCIDE;
        assert_eq!(guest.run_from(&state).values, [1, 2, 1, 2, 1, 2, 0]);
    }

    fn rights_taken_away_are_gone_after_invlpg(engine) {
        let mut guest = Guest::new(engine);
        let entry = entry_of(&mut guest, PAGE);
        guest.code(at::CODE, |a| {
            a.inc(dword_ptr(PAGE))?;
            a.and(dword_ptr(entry), !(pte::W as i32))?;
            a.invlpg(byte_ptr(PAGE))?;
            a.inc(dword_ptr(PAGE))
        });
        assert_eq!(guest.run().faults(), [(14, 3)]);
        assert_eq!(guest.memory.read_u64(PAGE), 1);
    }
}

fn read_with_nx(guest: &Guest<impl Hypervisor>, entry: u64) -> u64 {
    guest.memory.read_u64(entry) | pte::NX
}
