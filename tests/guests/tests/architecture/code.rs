//! Code that is written: by itself, by the kernel, through another mapping, by the host.
//! See: Intel SDM vol. 3, 12.1.3.

use guests::paging::pte;
use guests::programs::{end, report};
use guests::x86::gpr;
use guests::{Guest, Hypervisor, IcedError, at, code_asm::*, port};

/// A function that reports a number: MOV EAX, n; OUT; RET.
const FUNCTION: u64 = 0x6_0000;
/// Another, to be copied from.
const MODEL: u64 = 0x6_4000;
/// A second mapping of [`FUNCTION`]'s page.
const ALIAS: u64 = 0x7000_0000;

fn write_function<H: Hypervisor>(guest: &Guest<H>, place: u64, number: u32) {
    guest.code(place, |a| {
        a.mov(eax, number)?;
        report(a)?;
        a.ret()
    });
}

/// Calls the function, changes it by `change`, and calls it again: what it reported.
fn change<H: Hypervisor>(
    engine: &H,
    change: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u32> {
    let mut guest = Guest::with_program(engine, |a| {
        a.call(FUNCTION)?;
        change(a)?;
        a.call(FUNCTION)?;
        end(a)
    });
    write_function(&guest, FUNCTION, 1);
    write_function(&guest, MODEL, 2);
    let Guest { memory, tables, .. } = &mut guest;
    tables.map(memory, ALIAS, FUNCTION, 0x1000, pte::P | pte::W);
    guest.run().values
}

guests::on_every_processor! {
    fn stores_of_every_kind_change_code(engine) {
        type Change = fn(&mut CodeAssembler) -> Result<(), IcedError>;
        let changes: [(&str, Change); 9] = [
            ("mov", |a| a.mov(byte_ptr(FUNCTION + 1), 2)),
            ("add", |a| a.add(dword_ptr(FUNCTION + 1), 1)),
            ("lock xadd", |a| {
                a.mov(ecx, 1)?;
                a.lock().xadd(dword_ptr(FUNCTION + 1), ecx)
            }),
            ("rep movsb", |a| {
                a.mov(esi, MODEL as u32)?;
                a.mov(edi, FUNCTION as u32)?;
                a.mov(ecx, 16)?;
                a.rep().movsb()
            }),
            ("rep stosb", |a| {
                a.mov(eax, 2)?;
                a.mov(edi, FUNCTION as u32 + 1)?;
                a.mov(ecx, 1)?;
                a.rep().stosb()
            }),
            ("movups", |a| {
                a.movups(xmm1, xmmword_ptr(MODEL))?;
                a.movups(xmmword_ptr(FUNCTION), xmm1)
            }),
            ("push", |a| {
                a.mov(rdx, rsp)?;
                a.mov(rcx, qword_ptr(MODEL))?;
                a.mov(rsp, FUNCTION + 8)?;
                a.push(rcx)?;
                a.mov(rsp, rdx)
            }),
            ("another mapping", |a| a.mov(byte_ptr(ALIAS + 1), 2)),
            ("xchg through another mapping", |a| {
                a.mov(cl, 2)?;
                a.xchg(byte_ptr(ALIAS + 1), cl)
            }),
        ];
        for (name, by) in changes {
            assert_eq!(change(engine, by), [1, 2], "{name}");
        }
    }

    fn the_next_instruction_of_the_same_block_is_changed(engine) {
        let mut guest = Guest::new(engine);
        let place = at::CODE + 0x100;
        let [target] = guest.labelled(place, |a| {
            let mut target = a.create_label();
            a.nop()?;
            a.mov(byte_ptr(rbx), 7)?;
            a.set_label(&mut target)?;
            a.mov(eax, 1)?;
            report(a)?;
            end(a)?;
            Ok([target])
        });
        let mut state = guest.long_mode();
        state.rip = place;
        state.gprs[usize::from(gpr::RBX)] = target + 1;
        assert_eq!(guest.run_from(&state).values, [7]);
    }

    fn an_instruction_may_change_itself(engine) {
        // REP STOSB over itself: the copy goes on although the code is NOPs then.
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(edi, at::CODE as u32 + 64)?;
            a.mov(ecx, 32)?;
            a.mov(al, 0x90)?;
            a.jmp(at::CODE + 64)
        });
        guest.memory.write(at::CODE + 64, &[0xf3, 0xaa]);
        guest.code(at::CODE + 64 + 32, |a| {
            a.mov(eax, ecx)?;
            report(a)?;
            end(a)
        });
        // A processor may stop to look at the code again after any iteration: NOPs follow then.
        let left = guest.run().values;
        assert!(left.len() == 1 && left[0] < 32, "{left:?}");
        let bytes: [u8; 2] = guest.memory.read(at::CODE + 64);
        assert_eq!(bytes[0], 0x90);
    }

    fn a_loop_that_patches_itself(engine) {
        // Adds the immediate, which it increments each time: 1, 2, … 100.
        let (top, add) = (at::CODE + 0x100, at::CODE + 0x120);
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(ecx, 100)?;
            a.xor(eax, eax)?;
            a.jmp(top)
        });
        guest.code(top, |a| {
            a.inc(dword_ptr(add + 1))?;
            a.jmp(add)
        });
        guest.code(add, |a| {
            a.add(eax, 0x1000_0000)?;
            a.dec(ecx)?;
            a.jnz(top)?;
            report(a)?;
            end(a)
        });
        guest.memory.write(add + 1, &[0; 4]);
        assert_eq!(guest.run().values, [5050]);
    }

    fn a_remapped_page_shows_its_own_code(engine) {
        let mut guest = Guest::new(engine);
        let path = guest.tables.map(&guest.memory, FUNCTION, FUNCTION, 0x1000, pte::P | pte::W);
        let entry = path[3];
        guest.code(at::CODE, |a| {
            a.call(FUNCTION)?;
            a.mov(rcx, MODEL | pte::P | pte::W)?;
            a.mov(qword_ptr(entry), rcx)?;
            a.invlpg(byte_ptr(FUNCTION))?;
            a.call(FUNCTION)?;
            end(a)
        });
        write_function(&guest, FUNCTION, 1);
        write_function(&guest, MODEL, 2);
        assert_eq!(guest.run().values, [1, 2]);
    }

    fn code_across_two_pages_follows_both(engine) {
        let place = FUNCTION + 0x1000 - 3;
        let mut guest = Guest::with_program(engine, |a| {
            a.call(place)?;
            a.mov(byte_ptr(place + 1), 2)?;
            a.call(place)?;
            a.mov(byte_ptr(place + 4), 1)?;
            a.call(place)?;
            end(a)
        });
        write_function(&guest, place, 1);
        assert_eq!(guest.run().values, [1, 2, 0x0100_0002]);
    }

    fn the_hosts_writes_between_runs_are_seen(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.call(FUNCTION)?;
            a.out(port::FREE, al)?;
            a.jmp(top)
        });
        let mut log = guests::Log::default();
        for number in 1..20 {
            write_function(&guest, FUNCTION, number);
            guest.run_to_exit(guests::x86::Answer::None, &mut log);
        }
        assert_eq!(log.values, (1..20).collect::<Vec<_>>());
    }

    fn code_that_loses_its_right_to_be_executed_faults(engine) {
        let mut guest = Guest::new(engine);
        let path = guest.tables.map(&guest.memory, FUNCTION, FUNCTION, 0x1000, pte::P | pte::W);
        let entry = path[3];
        guest.code(at::CODE, |a| {
            a.call(FUNCTION)?;
            a.bts(qword_ptr(entry), 63)?;
            a.invlpg(byte_ptr(FUNCTION))?;
            a.call(FUNCTION)
        });
        write_function(&guest, FUNCTION, 1);
        let log = guest.run();
        assert_eq!((log.values.as_slice(), log.faults()), ([1].as_slice(), vec![(14, 0x11)]));
        assert_eq!(log.traps[0].rip, FUNCTION);
    }
}
