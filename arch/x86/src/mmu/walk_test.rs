//! Tests of the walk: rights as a matrix against an oracle, layouts by example.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use selftest::{Outcome, check, check_eq};

use super::{
    Limits, Mode, NoMemory, PAGE_SIZE, Paging, PhysMemory, Query, Translation, WalkError, walk,
};
use crate::exception::{Exception, page_fault};
use crate::regs::{cr0, cr4, efer};

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;

/// Sparse memory up to `end`; every 32-bit word is zero until written.
struct Memory {
    words: BTreeMap<u64, u32>,
    end: u64,
    /// Entry that another processor changes just before the first compare-exchange.
    race: Option<(u64, u64)>,
}

impl Memory {
    fn new() -> Box<Self> {
        Box::new(Self { words: BTreeMap::new(), end: 1 << 30, race: None })
    }

    fn word(&self, gpa: u64) -> Result<u32, NoMemory> {
        if gpa >= self.end {
            return Err(NoMemory { gpa });
        }
        Ok(self.words.get(&gpa).copied().unwrap_or(0))
    }

    fn get(&self, gpa: u64) -> u64 {
        let word = |at| u64::from(self.words.get(&at).copied().unwrap_or(0));
        word(gpa) | word(gpa + 4) << 32
    }

    fn set(&mut self, gpa: u64, value: u64) {
        self.words.insert(gpa, value as u32);
        self.words.insert(gpa + 4, (value >> 32) as u32);
    }

    fn run_race(&mut self) {
        if let Some((gpa, value)) = self.race.take() {
            self.set(gpa, value);
        }
    }
}

impl PhysMemory for Memory {
    fn read_u32(&mut self, gpa: u64) -> Result<u32, NoMemory> {
        self.word(gpa)
    }
    fn read_u64(&mut self, gpa: u64) -> Result<u64, NoMemory> {
        Ok(u64::from(self.word(gpa)?) | u64::from(self.word(gpa + 4)?) << 32)
    }
    fn compare_exchange_u32(&mut self, gpa: u64, current: u32, new: u32) -> Result<bool, NoMemory> {
        self.run_race();
        let same = self.read_u32(gpa)? == current;
        if same {
            self.words.insert(gpa, new);
        }
        Ok(same)
    }
    fn compare_exchange_u64(&mut self, gpa: u64, current: u64, new: u64) -> Result<bool, NoMemory> {
        self.run_race();
        let same = self.read_u64(gpa)? == current;
        if same {
            self.set(gpa, new);
        }
        Ok(same)
    }
}

const LONG: (u64, u64, u64) =
    (cr0::PE | cr0::PG | cr0::WP, cr4::PAE | cr4::PGE, efer::LME | efer::LMA | efer::NXE);

fn long_mode() -> Paging {
    Paging::new(LONG.0, 0x1000, LONG.1, LONG.2, Limits::default())
}

fn read(linear: u64) -> Query {
    Query { linear, ..Query::default() }
}

fn write(linear: u64) -> Query {
    Query { linear, write: true, ..Query::default() }
}

/// Maps `linear` with four levels, tables at 0x1000 to 0x4000 and the page at 0x5000; gives
/// where the entries are, root first.
fn map_four_levels(memory: &mut Memory, linear: u64, rights: [u64; 4]) -> [u64; 4] {
    let at = |table: u64, shift: u32| table + (linear >> shift & 511) * 8;
    let entries = [at(0x1000, 39), at(0x2000, 30), at(0x3000, 21), at(0x4000, 12)];
    for (n, entry) in entries.iter().enumerate() {
        memory.set(*entry, (n as u64 + 2) << 12 | rights[n]);
    }
    entries
}

const LINEAR: u64 = 0xffff_8123_4567_8abc;

/// The rules of AMD APM vol. 2, 5.6, written down access by access.
fn oracle(page: (bool, bool, bool), paging: &Paging, query: &Query) -> bool {
    let (writable, user_page, nx) = page;
    match (query.user, query.fetch, query.write) {
        (true, true, _) => user_page && !nx,
        (true, false, false) => user_page,
        (true, false, true) => user_page && writable,
        (false, true, _) => {
            if paging.smep && user_page {
                return false;
            }
            !nx
        }
        (false, false, is_write) => {
            if user_page && paging.smap && (query.implicit_supervisor || !query.ac) {
                return false;
            }
            !(is_write && paging.write_protect && !writable)
        }
    }
}

fn all_queries(linear: u64) -> impl Iterator<Item = Query> {
    (0..24_u32).map(move |n| Query {
        linear,
        write: n % 3 == 1,
        fetch: n % 3 == 2,
        user: (n / 3) & 1 != 0,
        implicit_supervisor: (n / 3) & 3 == 2,
        ac: (n / 12) & 1 != 0,
    })
}

fn all_settings() -> impl Iterator<Item = Paging> {
    (0..16_u32).map(|n| Paging {
        write_protect: n & 1 != 0,
        no_execute: n & 2 != 0,
        smep: n & 4 != 0,
        smap: n & 8 != 0,
        ..long_mode()
    })
}

/// One access under one setting, against the oracle: result, error code, A and D bits.
fn check_access(bits: u64, rights: [u64; 4], paging: &Paging, query: Query) -> Outcome {
    let mut memory = Memory::new();
    let entries = map_four_levels(&mut memory, LINEAR, rights);
    let writable = rights.iter().all(|r| r & W != 0);
    let user = rights.iter().all(|r| r & U != 0);
    let nx = rights.iter().any(|r| r & NX != 0);
    let result = walk(paging, query, &mut *memory);
    let after = entries.map(|entry| memory.get(entry) & (A | D));
    if oracle((writable, user, nx), paging, &query) {
        let expected = Translation {
            gpa: 0x5abc,
            page_size: PAGE_SIZE,
            writable,
            user,
            executable: !nx,
            global: false,
            dirty: query.write,
        };
        check_eq!(result, Ok(expected), "{bits:b} {query:?} {paging:?}");
        let leaf = if query.write { A | D } else { A };
        check_eq!(after, [A, A, A, leaf]);
    } else {
        let mut error = page_fault::PRESENT;
        error |= if query.write { page_fault::WRITE } else { 0 };
        error |= if query.user { page_fault::USER } else { 0 };
        let told = query.fetch && (paging.no_execute || paging.smep);
        error |= if told { page_fault::FETCH } else { 0 };
        check_eq!(
            result,
            Err(WalkError::Fault(Exception::pf(LINEAR, error))),
            "{bits:b} {query:?}"
        );
        check_eq!(after, [0; 4], "a faulting access marks nothing");
    }
    Ok(())
}

fn fault(linear: u64, error: u32) -> Result<Translation, WalkError> {
    Err(WalkError::Fault(Exception::pf(linear, error)))
}

selftest::cases! {
    fn rights_of_all_levels_combine_as_the_manual_says() {
        for bits in 0..1_u64 << 12 {
            // Thin out: all combinations of W and U, NX at no or one level.
            let nx = bits >> 8;
            if nx.count_ones() > 1 {
                continue;
            }
            let rights: [u64; 4] = core::array::from_fn(|n| {
                let pick = |from: u64, right| if from & 1 != 0 { right } else { 0 };
                P | pick(bits >> n, W) | pick(bits >> (4 + n), U) | pick(nx >> n, NX)
            });
            // A few settings for each combination, all of them for the telling ones.
            let uniform = matches!(bits & 15, 0 | 15 | 7) && matches!(bits >> 4 & 15, 0 | 15 | 11);
            for (n, paging) in all_settings().enumerate() {
                if nx != 0 && !paging.no_execute || !uniform && n % 5 != bits as usize % 5 {
                    continue;
                }
                for query in all_queries(LINEAR) {
                    check_access(bits, rights, &paging, query)?;
                }
            }
        }
    }

    fn what_a_translation_permits_needs_no_walk() {
        for rights in [P, P | W, P | U, P | W | U, P | NX, P | W | U | NX] {
            for paging in all_settings().filter(|p| p.no_execute) {
                for first in all_queries(LINEAR) {
                    let mut memory = Memory::new();
                    map_four_levels(&mut memory, LINEAR, [P | W | U, P | W | U, P | W | U, rights]);
                    let Ok(cached) = walk(&paging, first, &mut *memory) else { continue };
                    for later in all_queries(LINEAR) {
                        let before = memory.words.clone();
                        let walked = walk(&paging, later, &mut *memory);
                        let untouched = walked.is_ok() && memory.words == before;
                        check_eq!(cached.permits(&paging, &later), untouched, "{first:?} {later:?}");
                        memory.words = before;
                    }
                }
            }
        }
    }

    fn absent_entries_fault_at_every_level() {
        for level in 0..4 {
            let mut memory = Memory::new();
            let entries = map_four_levels(&mut memory, LINEAR, [P | W | U; 4]);
            // Not even a reserved bit counts in an absent entry.
            memory.set(entries[level], 1 << 50);
            check_eq!(walk(&long_mode(), read(LINEAR), &mut *memory), fault(LINEAR, 0));
            let query = Query { user: true, ..write(LINEAR) };
            check_eq!(
                walk(&long_mode(), query, &mut *memory),
                fault(LINEAR, page_fault::WRITE | page_fault::USER)
            );
        }
    }

    fn reserved_bits_fault_before_rights() {
        let reserved = page_fault::PRESENT | page_fault::RESERVED;
        let limits = Limits { phys_bits: 40, gib_pages: false };
        let paging = Paging { limits, ..long_mode() };
        // Address bits above 39; PS in PML4E and, without 1 GiB pages, in PDPE.
        let bad = [1 << 40 | PS, 1 << 51 | PS, 1 << 40, 1 << 45];
        for level in 0..4 {
            for bit in 0..64 {
                let mut rights = [P | W; 4];
                if 1 << bit & bad[level] == 0 {
                    continue;
                }
                rights[level] |= 1 << bit;
                let mut memory = Memory::new();
                map_four_levels(&mut memory, LINEAR, rights);
                // A user may not use the page either, but that is found later.
                let query = Query { user: true, ..read(LINEAR) };
                check_eq!(
                    walk(&paging, query, &mut *memory),
                    fault(LINEAR, reserved | page_fault::USER),
                    "level {level} bit {bit}"
                );
            }
        }
        // NX without EFER.NXE; bits 52 to 62 are the system's own.
        let mut memory = Memory::new();
        let entries = map_four_levels(&mut memory, LINEAR, [P | 1 << 52, P | 1 << 62, P, P | NX]);
        let paging = Paging { no_execute: false, ..long_mode() };
        check_eq!(walk(&paging, read(LINEAR), &mut *memory), fault(LINEAR, reserved));
        memory.set(entries[3], 0x5000 | P);
        check!(walk(&paging, read(LINEAR), &mut *memory).is_ok());
    }

    fn large_pages_of_long_mode() {
        let mut memory = Memory::new();
        let entries = map_four_levels(&mut memory, LINEAR, [P | W; 4]);
        memory.set(entries[2], 0x34_5660_0000 | P | W | PS | G | 1 << 12);
        let found = walk(&long_mode(), write(LINEAR), &mut *memory);
        let Ok(found) = found else { check!(false, "{found:?}"); return Ok(()) };
        check_eq!(found.page_size, 2 << 20);
        check_eq!(found.gpa, 0x34_5660_0000 | LINEAR & 0x1f_ffff);
        check!(found.global && found.dirty && !found.user);
        check_eq!(memory.get(entries[2]) & (A | D), A | D);
        // Bits between PAT and the address are reserved.
        memory.set(entries[2], 1 << 13 | P | PS);
        let reserved = page_fault::PRESENT | page_fault::RESERVED;
        check_eq!(walk(&long_mode(), read(LINEAR), &mut *memory), fault(LINEAR, reserved));

        memory.set(entries[1], 0x40_4000_0000 | P | PS);
        let found = walk(&long_mode(), read(LINEAR), &mut *memory).map(|t| (t.page_size, t.gpa));
        check_eq!(found, Ok((1 << 30, 0x40_4000_0000 | LINEAR & 0x3fff_ffff)));
    }

    fn five_levels() {
        let paging =
            Paging::new(LONG.0, 0x9000, LONG.1 | cr4::LA57, LONG.2, Limits::default());
        check_eq!(paging.mode, Mode::FiveLevel);
        let linear = 0x00ab_8123_4567_8abc;
        let mut memory = Memory::new();
        map_four_levels(&mut memory, linear, [P | W; 4]);
        let root = 0x9000 + (linear >> 48 & 511) * 8;
        memory.set(root, 0x1000 | P | W);
        check_eq!(walk(&paging, read(linear), &mut *memory).map(|t| t.gpa), Ok(0x5abc));
        check_eq!(memory.get(root), 0x1000 | P | W | A);
        memory.set(root, 0x1000 | P | W | PS);
        let reserved = page_fault::PRESENT | page_fault::RESERVED;
        check_eq!(walk(&paging, read(linear), &mut *memory), fault(linear, reserved));
    }

    fn legacy_tables_and_4_mib_pages() {
        let on = cr0::PE | cr0::PG;
        let paging = Paging::new(on, 0x1018, cr4::PSE | cr4::PGE, 0, Limits::default());
        check_eq!(paging.mode, Mode::Legacy32);
        let linear = 0xc012_3456;
        let mut memory = Memory::new();
        let (pde, pte) = (0x1000 + (linear >> 22) * 4, 0x2000 + (linear >> 12 & 1023) * 4);
        memory.words.insert(pde, 0x2000 | (P | W | U) as u32);
        memory.words.insert(pte, 0x0765_4000 | (P | W | U | G) as u32);
        let query = Query { user: true, ..write(linear) };
        let found = walk(&paging, query, &mut *memory);
        check_eq!(found.map(|t| (t.gpa, t.page_size, t.global)), Ok((0x0765_4456, 4096, true)));
        check_eq!(memory.words.get(&pde), Some(&(0x2000 | (P | W | U | A) as u32)));
        check_eq!(memory.words.get(&pte), Some(&(0x0765_4000 | (P | W | U | G | A | D) as u32)));
        // No NX, so a fetch is not told as such.
        memory.words.insert(pte, 0);
        let fetch = Query { fetch: true, ..read(linear) };
        check_eq!(walk(&paging, fetch, &mut *memory), fault(linear, 0));

        // PSE-36: address bits 32 to 39 in bits 13 to 20.
        memory.words.insert(pde, 0xabc0_0000 | 0x12 << 13 | (P | PS) as u32);
        let found = walk(&paging, read(linear), &mut *memory);
        check_eq!(found.map(|t| (t.gpa, t.page_size)), Ok((0x12_abd2_3456, 4 << 20)));
        let narrow = Paging { limits: Limits { phys_bits: 36, gib_pages: true }, ..paging };
        let reserved = page_fault::PRESENT | page_fault::RESERVED;
        check_eq!(walk(&narrow, read(linear), &mut *memory), fault(linear, reserved));
        memory.words.insert(pde, 0xabc0_0000 | 1 << 21 | (P | PS) as u32);
        check_eq!(walk(&paging, read(linear), &mut *memory), fault(linear, reserved));

        // Without CR4.PSE the same bit means nothing.
        memory.words.insert(pde, 0x2000 | (P | PS) as u32);
        memory.words.insert(pte, 0x0765_4000 | P as u32);
        let paging = Paging { page_size_extensions: false, ..paging };
        check_eq!(walk(&paging, read(linear), &mut *memory).map(|t| t.gpa), Ok(0x0765_4456));
    }

    fn pae_tables() {
        let on = cr0::PE | cr0::PG;
        let paging = Paging::new(on, 0x1020, cr4::PAE, efer::NXE, Limits::default());
        check_eq!(paging.mode, Mode::Pae);
        let linear = 0xc034_5678;
        let mut memory = Memory::new();
        let pdpe = 0x1020 + (linear >> 30) * 8;
        let (pde, pte) = (0x2000 + (linear >> 21 & 511) * 8, 0x3000 + (linear >> 12 & 511) * 8);
        memory.set(pdpe, 0x2000 | P);
        memory.set(pde, 0x3000 | P | W | U);
        memory.set(pte, 0x98_7654_3000 | P | W | U | NX);
        let query = Query { user: true, ..write(linear) };
        check_eq!(walk(&paging, query, &mut *memory).map(|t| t.gpa), Ok(0x98_7654_3678));
        check_eq!(memory.get(pdpe), 0x2000 | P, "has no accessed bit");
        check_eq!(memory.get(pde), 0x3000 | P | W | U | A);
        let fetch = Query { fetch: true, ..read(linear) };
        let error = page_fault::PRESENT | page_fault::FETCH;
        check_eq!(walk(&paging, fetch, &mut *memory), fault(linear, error));
        let reserved = page_fault::PRESENT | page_fault::RESERVED;
        for bad in [W, U, A, D, PS, G, 1 << 40, 1 << 52, NX] {
            memory.set(pdpe, 0x2000 | P | bad);
            check_eq!(walk(&paging, read(linear), &mut *memory), fault(linear, reserved));
        }
        memory.set(pdpe, 0x2000 | P);
        memory.set(pte, P | 1 << 52);
        check_eq!(walk(&paging, read(linear), &mut *memory), fault(linear, reserved));
        memory.set(pde, 0x1_0040_0000 | P | PS);
        let found = walk(&paging, read(linear), &mut *memory);
        check_eq!(found.map(|t| (t.gpa, t.page_size)), Ok((0x1_0054_5678, 2 << 20)));
    }

    fn without_paging_linear_is_physical() {
        let paging = Paging::new(cr0::PE, 0x1000, 0, 0, Limits::default());
        let found = walk(&paging, write(0xffff_ffff_0000_1234), &mut *Memory::new());
        check_eq!(found.map(|t| (t.gpa, t.writable, t.dirty)), Ok((0x1234, true, true)));
    }

    fn tables_outside_memory_are_told() {
        let mut memory = Memory::new();
        let entries = map_four_levels(&mut memory, LINEAR, [P | W; 4]);
        memory.set(entries[1], 0x40_0000_0000 | P | W);
        let at = 0x40_0000_0000 + (LINEAR >> 21 & 511) * 8;
        let expected = Err(WalkError::NoMemory { gpa: at });
        check_eq!(walk(&long_mode(), read(LINEAR), &mut *memory), expected);
    }

    fn an_entry_changed_meanwhile_is_read_again() {
        let mut memory = Memory::new();
        let entries = map_four_levels(&mut memory, LINEAR, [P | W; 4]);
        memory.race = Some((entries[3], 0x6000 | P | W));
        check_eq!(walk(&long_mode(), write(LINEAR), &mut *memory).map(|t| t.gpa), Ok(0x6abc));
        check_eq!(memory.get(entries[3]), 0x6000 | P | W | A | D);
        // Or taken away.
        let entries = map_four_levels(&mut memory, LINEAR, [P | W; 4]);
        memory.race = Some((entries[3], 0));
        let error = page_fault::WRITE;
        check_eq!(walk(&long_mode(), write(LINEAR), &mut *memory), fault(LINEAR, error));
        check_eq!(memory.get(entries[3]), 0);
    }
}
