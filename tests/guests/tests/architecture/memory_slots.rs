//! Memory that comes, moves, goes, or can't be written to, also while the guest uses it.
//! See: Linux, Documentation/virt/kvm/api.rst, 4.35.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use guests::programs::{end, report};
use guests::x86::{Answer, Data, Exit, gpr};
use guests::{Error, Guest, Hypervisor, Log, Memory, MemoryFlags, Vm, at, code_asm::*, port};

/// Where memory is put that the guest does not have at first, and where it is moved to.
const PLACE: u64 = at::NOWHERE;
const OTHER: u64 = at::NOWHERE + (2 << 20);
const SIZE: u64 = 64 << 10;
const PLAIN: MemoryFlags = MemoryFlags { read_only: false, log_dirty: false };
const READ_ONLY: MemoryFlags = MemoryFlags { read_only: true, ..PLAIN };
/// How long something may take.
const LIMIT: Duration = Duration::from_secs(30);
/// What is in there.
const HERE: u32 = 0x1234_5678;

/// Runs the first vCPU until it ends; gives the exits, each of which `seen` is told, and the log. What is read is nobody's.
fn run_to_end<H: Hypervisor>(
    guest: &mut Guest<H>,
    mut seen: impl FnMut(&Exit),
) -> (Vec<Exit>, Log) {
    let (mut log, mut exits) = (Log::default(), Vec::new());
    loop {
        let exit = guest.run_to_exit(Answer::None, &mut log);
        match exit {
            Exit::Out { port, .. } if u32::from(port) == port::END => return (exits, log),
            _ => {
                seen(&exit);
                exits.push(exit);
            }
        }
    }
}

/// Reads the doubleword at `address` until it is `value`.
fn read_until(a: &mut CodeAssembler, address: u64, value: u32) -> Result<(), guests::IcedError> {
    let mut again = a.create_label();
    a.mov(rbx, address)?;
    a.set_label(&mut again)?;
    a.inc(dword_ptr(at::DATA))?;
    a.mov(eax, dword_ptr(rbx))?;
    a.cmp(eax, value as i32)?;
    a.jne(again)
}

/// The same while it is `value`.
fn read_while(a: &mut CodeAssembler, address: u64, value: u32) -> Result<(), guests::IcedError> {
    let mut again = a.create_label();
    a.mov(rbx, address)?;
    a.set_label(&mut again)?;
    a.inc(dword_ptr(at::DATA))?;
    a.mov(eax, dword_ptr(rbx))?;
    a.cmp(eax, value as i32)?;
    a.je(again)
}

/// A region with [`HERE`] at its start.
fn region(gpa: u64, size: u64) -> Memory {
    let memory = Memory::region(gpa, size);
    memory.write(0, &HERE.to_le_bytes());
    memory
}

/// Waits until the guest's program has come round often enough to be translated, and everything cached.
fn let_it_run(ram: &Memory) {
    let start = ram.read_u32(at::DATA);
    wait_until(|| ram.read_u32(at::DATA).wrapping_sub(start) >= 2000);
}

/// Waits for what the guest does.
pub fn wait_until(mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < LIMIT, "the guest does not get on");
        std::thread::yield_now();
    }
}

fn read_of(gpa: u64) -> Exit {
    Exit::MmioRead { gpa, size: 4 }
}

/// The message of an error.
fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.expect_err("it can't be done").to_string()
}

guests::on_every_engine! {
    /// Before, each access is an exit; from the moment on that it has been added, none is.
    fn memory_can_be_added_while_the_guest_runs(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            read_until(a, PLACE, HERE)?;
            a.mov(dword_ptr(rbx + 4), 7)?;
            end(a)
        });
        let memory = region(PLACE, SIZE);
        let (vm, added, asked) = (guest.vm.clone(), AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The guest has met nothing there, several times.
                wait_until(|| asked.load(Ordering::SeqCst) >= 5);
                vm.add_memory(memory.to_region(), PLAIN).expect("room");
                added.store(true, Ordering::SeqCst);
            });
            let mut was_there = false;
            let (exits, _) = run_to_end(&mut guest, |exit| {
                assert_eq!(*exit, read_of(PLACE));
                assert!(!was_there, "an exit of memory that was there when the vCPU was run");
                asked.fetch_add(1, Ordering::SeqCst);
                was_there = added.load(Ordering::SeqCst);
            });
            assert!(exits.len() >= 5, "{exits:?}");
        });
        assert_eq!(memory.read_u32(4), 7);
    }

    /// The guest is in the middle of it. What is in the region afterwards it never sees, and nothing holds it any longer.
    fn memory_can_be_removed_while_the_guest_runs(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            read_while(a, PLACE, HERE)?;
            report(a)?;
            a.mov(dword_ptr(rbx + 4), 1)?;
            end(a)
        });
        let memory = region(PLACE, SIZE);
        let id = guest.vm.add_memory(memory.to_region(), PLAIN).expect("room");
        assert!(memory.is_shared());
        let (vm, ram) = (guest.vm.clone(), guest.memory.clone());
        let (exits, log) = std::thread::scope(|scope| {
            scope.spawn(|| {
                let_it_run(&ram);
                vm.remove_memory(id).expect("it is there");
                memory.write(0, &[0xaa; SIZE as usize]);
                assert!(!memory.is_shared(), "nobody else has it");
            });
            run_to_end(&mut guest, |_| ())
        });
        let written = Exit::MmioWrite { gpa: PLACE + 4, data: Data::new(&[1, 0, 0, 0]) };
        assert_eq!(exits, [read_of(PLACE), written]);
        assert_eq!(log.values, [u32::MAX]);
        let again = refused(guest.vm.remove_memory(id));
        assert!(again.contains("remove memory of the guest that it does not have"), "{again}");
    }

    /// It was executed, and nobody looks there again when it is gone.
    fn memory_with_code_can_be_removed_and_unmapped(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(rbx, PLACE)?;
            a.call(rbx)?;
            a.mov(rbx, OTHER)?;
            a.mov(eax, dword_ptr(rbx))?;
            report(a)?;
            end(a)
        });
        let memory = Memory::region(PLACE, SIZE);
        memory.write(0, &[0xc3]);
        let id = guest.vm.add_memory(memory.to_region(), PLAIN).expect("room");
        let exit = guest.run_to_exit(Answer::None, &mut Log::default());
        assert_eq!(exit, read_of(OTHER));
        guest.vm.remove_memory(id).expect("it is there");
        assert!(!memory.is_shared(), "nobody else has it");
        drop(memory);
        let (exits, log) = run_to_end(&mut guest, |_| ());
        assert_eq!((exits, log.values), (vec![], vec![u32::MAX]));
    }

    /// The same that is written to, as through translations that were found for writing.
    fn memory_that_is_written_to_can_be_removed(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            let mut again = a.create_label();
            a.mov(rbx, PLACE)?;
            a.lea(rsp, qword_ptr(rbx + 0x2000))?;
            a.set_label(&mut again)?;
            a.inc(dword_ptr(at::DATA))?;
            a.push(rbx)?;
            a.pop(rax)?;
            a.inc(dword_ptr(rbx))?;
            a.jmp(again)
        });
        let memory = region(PLACE, SIZE);
        let id = guest.vm.add_memory(memory.to_region(), PLAIN).expect("room");
        let (vm, ram) = (guest.vm.clone(), guest.memory.clone());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let_it_run(&ram);
                vm.remove_memory(id).expect("it is there");
                memory.write(0, &[0xaa; SIZE as usize]);
            });
            let exit = guest.run_to_exit(Answer::None, &mut Log::default());
            let is_gone = matches!(exit, Exit::MmioWrite { .. } | Exit::MmioRead { .. });
            assert!(is_gone, "{exit:?}");
        });
        assert_eq!(memory.read::<{ SIZE as usize }>(0), [0xaa; SIZE as usize]);
    }

    /// It has the same bytes at another address, and is gone from where it was. On the way it may be at neither.
    fn memory_can_be_moved_while_the_guest_runs(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            read_while(a, PLACE, HERE)?;
            report(a)?;
            read_until(a, OTHER, HERE)?;
            report(a)?;
            a.mov(dword_ptr(rbx + 4), 9)?;
            a.mov(rdi, PLACE)?;
            a.mov(dword_ptr(rdi), 1)?;
            end(a)
        });
        let memory = region(PLACE, SIZE);
        let id = guest.vm.add_memory(memory.to_region(), PLAIN).expect("room");
        let (vm, ram) = (guest.vm.clone(), guest.memory.clone());
        let (exits, log) = std::thread::scope(|scope| {
            scope.spawn(|| {
                let_it_run(&ram);
                vm.move_memory(id, OTHER).expect("room there");
            });
            run_to_end(&mut guest, |_| ())
        });
        let written = Exit::MmioWrite { gpa: PLACE, data: Data::new(&[1, 0, 0, 0]) };
        let others: Vec<_> = exits.into_iter().filter(|exit| *exit != read_of(OTHER)).collect();
        assert_eq!(others, [read_of(PLACE), written]);
        assert_eq!(log.values, [u32::MAX, HERE]);
        assert_eq!((memory.read_u32(0), memory.read_u32(4)), (HERE, 9));
        assert!(memory.is_shared());
        guest.vm.remove_memory(id).expect("it is there");
        assert!(!memory.is_shared());
    }

    /// By less than it is large: where it was and where it is going overlap.
    fn memory_can_be_moved_onto_itself(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(rbx, PLACE)?;
            a.mov(eax, dword_ptr(rbx))?;
            report(a)?;
            a.mov(eax, dword_ptr(rbx + 0x1000))?;
            report(a)?;
            end(a)
        });
        let memory = region(PLACE, SIZE);
        let id = guest.vm.add_memory(memory.to_region(), PLAIN).expect("room");
        guest.vm.move_memory(id, PLACE + 0x1000).expect("it is not in its own way");
        let (exits, log) = run_to_end(&mut guest, |_| ());
        assert_eq!((exits, log.values), (vec![read_of(PLACE)], vec![u32::MAX, HERE]));
    }

    /// A write to it is an exit with what would have been written, whatever instruction it is of.
    fn read_only_memory_is_read_and_executed_but_not_written(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(rbx, PLACE)?;
            a.mov(eax, dword_ptr(rbx))?;
            report(a)?;
            a.mov(rdx, PLACE + 0x1000)?;
            a.call(rdx)?;
            report(a)?;
            a.mov(byte_ptr(rbx), 0x11)?;
            a.mov(rax, 0x8877_6655_4433_2211_u64)?;
            a.mov(qword_ptr(rbx + 8), rax)?;
            a.add(dword_ptr(rbx), 5)?;
            a.lock().inc(dword_ptr(rbx))?;
            a.mov(eax, 3)?;
            a.xchg(dword_ptr(rbx), eax)?;
            report(a)?;
            a.mov(rdi, rbx)?;
            a.mov(esi, at::DATA as u32)?;
            a.mov(word_ptr(at::DATA), 0x2221)?;
            a.mov(ecx, 2)?;
            a.rep().movsb()?;
            a.mov(eax, dword_ptr(rbx))?;
            report(a)?;
            a.call(rdx)?;
            report(a)?;
            end(a)
        });
        let memory = region(PLACE, SIZE);
        let (code, []) = guests::programs::assemble(64, PLACE + 0x1000, |a| {
            a.mov(eax, 0x77)?;
            a.ret()?;
            Ok([])
        });
        memory.write(0x1000, &code);
        let before = memory.read::<{ SIZE as usize }>(0);
        guest.vm.add_memory(memory.to_region(), READ_ONLY).expect("room");
        let (exits, log) = run_to_end(&mut guest, |_| ());
        let write = |offset, bytes: &[u8]| Exit::MmioWrite { gpa: PLACE + offset, data: Data::new(bytes) };
        let expected = [
            write(0, &[0x11]),
            write(8, &0x8877_6655_4433_2211_u64.to_le_bytes()),
            write(0, &(HERE + 5).to_le_bytes()),
            write(0, &(HERE + 1).to_le_bytes()),
            write(0, &3_u32.to_le_bytes()),
            write(0, &[0x21]),
            write(1, &[0x22]),
        ];
        assert_eq!(exits, expected);
        assert_eq!(log.values, [HERE, 0x77, HERE, HERE, 0x77]);
        assert_eq!(memory.read::<{ SIZE as usize }>(0), before);
    }

    /// What this process may not write to itself can be the guest's to read.
    fn a_mapping_without_writes_is_for_read_only_memory(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(rbx, PLACE)?;
            a.mov(eax, dword_ptr(rbx))?;
            report(a)?;
            a.mov(dword_ptr(rbx), 1)?;
            end(a)
        });
        let memory = Memory::read_only_region(PLACE, SIZE);
        let error = refused(guest.vm.add_memory(memory.to_region(), PLAIN));
        assert!(error.contains("may not write to it"), "{error}");
        guest.vm.add_memory(memory.to_region(), READ_ONLY).expect("room");
        let (exits, log) = run_to_end(&mut guest, |_| ());
        let written = Exit::MmioWrite { gpa: PLACE, data: Data::new(&[1, 0, 0, 0]) };
        assert_eq!((exits, log.values), (vec![written], vec![0]));
    }

    /// A machine that is paused, or has never run, is no different.
    fn memory_can_be_changed_while_the_guest_is_paused(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(rbx, PLACE)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(eax, dword_ptr(rbx))?;
            a.out(port::VALUE, eax)?;
            a.out(port::FREE, al)?;
            a.jmp(again)
        });
        let (memory, mut log) = (region(PLACE, SIZE), Log::default());
        let id = guest.vm.add_memory(memory.to_region(), PLAIN).expect("room");
        let out = guest.run_to_exit(Answer::None, &mut log);
        assert!(matches!(out, Exit::Out { .. }), "{out:?}");
        guest.vm.pause();
        guest.vm.remove_memory(id).expect("it is there");
        guest.vm.resume();
        assert_eq!(guest.run_to_exit(Answer::None, &mut log), read_of(PLACE));
        guest.run_to_exit(Answer::None, &mut log);
        guest.vm.pause();
        guest.vm.add_memory(memory.to_region(), PLAIN).expect("room again");
        guest.vm.resume();
        guest.run_to_exit(Answer::None, &mut log);
        assert_eq!(log.values, [HERE, u32::MAX, HERE]);
        assert_eq!(guest.state().gprs[usize::from(gpr::RBX)], PLACE);
    }

    /// What can't be is said, with what to do, and nothing has changed then.
    fn what_is_refused_says_why_and_what_to_do(engine) {
        let guest = Guest::new(engine);
        let add = |gpa, size| guest.vm.add_memory(Memory::region(gpa, size).to_region(), PLAIN);
        let first = add(PLACE, 0x4000).expect("room");
        let second = add(OTHER, 0x4000).expect("room");
        let expected = |error: String, parts: [&str; 3]| {
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        let taken = ["there is other memory of the guest's in this place", "take another address"];
        expected(refused(add(PLACE + 0x3000, 0x4000)), [
            "cannot add memory of the guest at 0xfe003000 (16384 bytes)", taken[0], taken[1],
        ]);
        expected(refused(guest.vm.move_memory(second, PLACE - 0x1000)), [
            "cannot move memory of the guest at 0xfdfff000", taken[0], taken[1],
        ]);
        let whole = ["have to be whole pages of 4096 bytes", "align them"];
        expected(refused(add(PLACE + 0x8800, 0x1000)), ["cannot add", whole[0], whole[1]]);
        expected(refused(add(PLACE + 0x8000, 0x1800)), ["cannot add", whole[0], whole[1]]);
        expected(refused(guest.vm.move_memory(first, PLACE + 1)), ["cannot move", whole[0], whole[1]]);
        expected(refused(guest.vm.move_memory(first, !0xfff)), ["cannot move", whole[0], whole[1]]);
        // More pages than a slot may have; of address space alone.
        expected(refused(add(0x1_0000_0000, (1 << 31) * 0x1000)), ["cannot add", whole[0], whole[1]]);
        let error = refused(guest.vm.take_dirty(first));
        expected(error, ["cannot tell the dirty pages of", "not logged", "switch that on first"]);
        guest.vm.remove_memory(first).expect("it is there");
        for error in [
            refused(guest.vm.move_memory(first, PLACE)),
            refused(guest.vm.log_dirty(first, true)),
            refused(guest.vm.take_dirty(first)),
        ] {
            expected(error, ["cannot", "that it does not have", "name what was added"]);
        }
        // The same slot, but another region.
        add(PLACE, 0x4000).expect("room");
        guest.vm.remove_memory(first).expect_err("that is not this one");
        guest.vm.remove_memory(second).expect("it is where it was");
    }

    /// Numbers of slots are used again: there is no end of it.
    fn memory_can_come_and_go_for_ever(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(rbx, PLACE)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.inc(dword_ptr(rbx))?;
            a.out(port::FREE, al)?;
            a.jmp(again)
        });
        let memory = Memory::region(PLACE, 0x1000);
        const TIMES: u32 = 600;
        for _ in 0..TIMES {
            let id = guest.vm.add_memory(memory.to_region(), PLAIN).expect("room");
            let exit = guest.run_to_exit(Answer::None, &mut Log::default());
            assert!(matches!(exit, Exit::Out { .. }), "{exit:?}");
            guest.vm.remove_memory(id).expect("it is there");
        }
        assert_eq!(memory.read_u32(0), TIMES);
    }

    /// There are only so many regions; one that is removed makes room.
    fn there_may_be_so_many_regions(engine) {
        let guest = Guest::new(engine);
        let memory = Memory::region(1 << 32, 0x1000);
        let mut ids = Vec::new();
        let error = loop {
            let gpa = (1 << 32) + (1 + ids.len() as u64) * 0x1000;
            let added = guest.vm.add_memory(memory.to_region(), PLAIN);
            match added {
                Ok(id) => {
                    guest.vm.move_memory(id, gpa).expect("room");
                    ids.push(id);
                }
                Err(error) => break error.to_string(),
            }
            assert!(ids.len() < 100_000, "no end");
        };
        let parts = ["cannot add", "regions of memory, as many as it can", "remove one, or join some"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(ids.len() >= 500, "{}", ids.len());
        guest.vm.remove_memory(ids[7]).expect("it is there");
        guest.vm.add_memory(memory.to_region(), PLAIN).expect("room for one");
    }
}
