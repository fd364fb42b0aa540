//! Paging permissions as a matrix: every right of a page, mode of the processor and kind of access,
//! against what the manual says. See: Intel SDM vol. 3, 4.6, 4.7.

use guests::paging::{Format, Tables, pte};
use guests::programs::end;
use guests::x86::{Answer, Exit, State, cr0, cr4, efer, gpr, rflags};
use guests::{Guest, Hypervisor, Log, at, code_asm::*, selector, states};

/// The page that is accessed: its place is a multiple of every page size.
const PROBE: u64 = at::FREE;
/// Each access has 64 bytes of code.
const ACCESS_CODE: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read = 0,
    Write = 1,
    Fetch = 2,
}

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// The page-table entry's bits: P, W, U, NX.
    entry: u64,
    write_protect: bool,
    smep: bool,
    smap: bool,
    /// RFLAGS.AC.
    ac: bool,
    user: bool,
    access: Access,
}

impl Case {
    /// Every cell there is.
    fn all(format: Format) -> impl Iterator<Item = Self> {
        let accesses = [Access::Read, Access::Write, Access::Fetch];
        let cells = (0..512_u32).flat_map(move |bits| accesses.map(|access| (bits, access)));
        let cases = cells.map(|(bits, access)| {
            let on = |n: u32| bits >> n & 1 != 0;
            let right = |n, bit| if on(n) { bit } else { 0 };
            Self {
                entry: right(0, pte::P) | right(1, pte::W) | right(2, pte::U) | right(3, pte::NX),
                write_protect: on(4),
                smep: on(5),
                smap: on(6),
                ac: on(7),
                user: on(8),
                access,
            }
        });
        cases.filter(move |case| format.has_nx() || case.entry & pte::NX == 0)
    }

    /// The error code of the page fault that the manual asks for.
    fn fault(self, format: Format) -> Option<u32> {
        let has = |bit| self.entry & bit != 0;
        let writes = self.access == Access::Write;
        let fetches = self.access == Access::Fetch;
        let allowed = has(pte::P)
            && !(fetches && has(pte::NX))
            && if self.user {
                has(pte::U) && (!writes || has(pte::W))
            } else {
                let data_of_user = has(pte::U) && !fetches && self.smap && !self.ac;
                let code_of_user = has(pte::U) && fetches && self.smep;
                let read_only = writes && !has(pte::W) && self.write_protect;
                !data_of_user && !code_of_user && !read_only
            };
        let fetch_is_told = format.has_nx() || self.smep;
        let bit = |n: u32, on: bool| u32::from(on) << n;
        (!allowed).then_some(
            bit(0, has(pte::P))
                | bit(1, writes)
                | bit(2, self.user)
                | bit(4, fetches && fetch_is_told),
        )
    }

    /// The processor's state for it.
    fn state(self, format: Format, root: u64) -> State {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let mut state = match format {
            Format::FourLevel | Format::FiveLevel => states::long_mode(root),
            _ => states::protected_mode(),
        };
        if self.user {
            state = states::user(state);
        }
        state.rip += self.access as u64 * ACCESS_CODE;
        state.cr3 = root;
        state.cr0 = state.cr0 & !cr0::WP | cr0::PG | bit(self.write_protect, cr0::WP);
        state.cr4 |= bit(self.smep, cr4::SMEP) | bit(self.smap, cr4::SMAP);
        state.rflags |= bit(self.ac, rflags::AC);
        match format {
            Format::Legacy32 => state.cr4 |= cr4::PSE,
            Format::Pae => {
                state.cr4 |= cr4::PAE;
                state.efer |= efer::NXE;
            }
            Format::FourLevel => {}
            Format::FiveLevel => state.cr4 |= cr4::LA57,
        }
        state
    }
}

/// Programs that access the page at RBX, for the kernel and for user mode, and what is run there.
fn write_programs<H: Hypervisor>(guest: &Guest<H>, format: Format) {
    let wide = matches!(format, Format::FourLevel | Format::FiveLevel);
    let bits = if wide { 64 } else { 32 };
    for place in [at::CODE, at::USER_CODE] {
        let address = |access: Access| place + access as u64 * ACCESS_CODE;
        guest.code_of_bits(bits, address(Access::Read), 0, |a| {
            a.mov(al, if wide { byte_ptr(rbx + 8) } else { byte_ptr(ebx + 8) })?;
            end(a)
        });
        guest.code_of_bits(bits, address(Access::Write), 0, |a| {
            a.mov(if wide { byte_ptr(rbx + 8) } else { byte_ptr(ebx + 8) }, al)?;
            end(a)
        });
        let jump = |a: &mut CodeAssembler| if wide { a.jmp(rbx) } else { a.jmp(ebx) };
        guest.code_of_bits(bits, address(Access::Fetch), 0, jump);
    }
    guest.code_of_bits(bits, PROBE, 0, end);
}

/// Tables with the programs and, at `linear`, the page to be accessed; gives the latter's entries.
fn map<H: Hypervisor>(
    guest: &Guest<H>,
    format: Format,
    root: u64,
    linear: u64,
    size: u64,
) -> (Tables, Vec<u64>) {
    let memory = &guest.memory;
    let mut tables = Tables::new(memory, format, root);
    tables.identity(memory, 0, at::USER_CODE, 0x1000, pte::P | pte::W);
    tables.identity(memory, at::USER_CODE, at::USER_STACK, 0x1000, pte::ALL);
    let entries = tables.map(memory, linear, PROBE, size, pte::ALL);
    (tables, entries)
}

/// Runs one cell, and compares.
fn check<H: Hypervisor>(guest: &mut Guest<H>, format: Format, root: u64, linear: u64, case: Case) {
    let mut state = case.state(format, root);
    state.gprs[usize::from(gpr::RBX)] = linear;
    let log = guest.run_from(&state);
    let seen = log.faults();
    let expected: Vec<_> = case.fault(format).map(|error| (14, error)).into_iter().collect();
    assert_eq!(seen, expected, "{format:?} {case:x?}");
    if let Some(trap) = log.traps.first() {
        let (address, rip) = match case.access {
            Access::Fetch => (linear, linear),
            _ => (linear + 8, state.rip),
        };
        assert_eq!((trap.cr2, trap.rip), (address, rip), "{case:x?}");
    }
}

fn matrix<H: Hypervisor>(engine: &H, format: Format) {
    let mut guest = Guest::new(engine);
    write_programs(&guest, format);
    for (size, root) in [(0x1000, at::MORE_TABLES), (format.large(), at::MORE_TABLES + 0x8_0000)] {
        let (tables, entries) = map(&guest, format, root, PROBE, size);
        let entry = *entries.last().expect("an entry");
        let frame = tables.read(&guest.memory, entry) & !(pte::ALL | pte::NX);
        for case in Case::all(format) {
            tables.write(&guest.memory, entry, frame | case.entry);
            check(&mut guest, format, root, PROBE, case);
        }
    }
}

/// Loads a segment while the descriptor table lies in a user page; a fault can't be delivered then.
fn load_from_a_user_page<H: Hypervisor>(engine: &H, smap: bool, ac: bool) -> Exit {
    let mut guest = Guest::with_program(engine, |a| {
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(ds, ax)?;
        end(a)
    });
    let table: [u8; selector::BEYOND as usize] = guest.memory.read(at::GDT);
    guest.memory.write(at::USER_DATA, &table);
    let mut state = guest.long_mode();
    state.gdtr.base = at::USER_DATA;
    state.rflags |= if ac { rflags::AC } else { 0 };
    state.cr4 |= if smap { cr4::SMAP } else { 0 };
    guest.set_state(&state);
    guest.run_to_exit(Answer::None, &mut Log::default())
}

guests::on_every_processor! {
    fn rights_of_a_page_with_32_bit_tables(engine) {
        matrix(engine, Format::Legacy32);
    }

    fn rights_of_a_page_with_pae_tables(engine) {
        matrix(engine, Format::Pae);
    }

    fn rights_of_a_page_with_four_levels(engine) {
        matrix(engine, Format::FourLevel);
    }

    fn rights_of_a_page_with_five_levels(engine) {
        matrix(engine, Format::FiveLevel);
    }

    /// A right that any level withholds is withheld, and counts as if the page's own entry did.
    fn every_level_can_withhold_a_right(engine) {
        let format = Format::FiveLevel;
        let mut guest = Guest::new(engine);
        write_programs(&guest, format);
        let (root, linear) = (at::MORE_TABLES, 1 << 48);
        let (tables, entries) = map(&guest, format, root, linear, 0x1000);
        for entry in entries {
            let full = tables.read(&guest.memory, entry);
            for rights in [pte::P | pte::W, pte::P | pte::U, pte::ALL | pte::NX] {
                tables.write(&guest.memory, entry, full & !pte::ALL | rights);
                for case in Case::all(format).filter(|case| case.entry == rights) {
                    check(&mut guest, format, root, linear, case);
                }
            }
            tables.write(&guest.memory, entry, full);
        }
    }

    fn smap_holds_for_the_processors_own_accesses(engine) {
        assert!(matches!(load_from_a_user_page(engine, false, false), Exit::Out { .. }));
        assert_eq!(load_from_a_user_page(engine, true, false), Exit::Shutdown);
    }

    fn smap_holds_for_the_processors_own_accesses_whatever_ac_says(engine) {
        assert_eq!(load_from_a_user_page(engine, true, true), Exit::Shutdown);
    }
}
