//! Several processors, each on a thread of its own: start-up, interrupts between them, atomic
//! updates, and translations that all have to give up. See: Intel SDM vol. 3, 9.4, 9.1.

use guests::paging::{Format, Tables, pte};
use guests::programs::{assemble, end, report, report_number};
use guests::x86::{cr0, cr4, efer};
use guests::{Guest, Hypervisor, IcedError, at, code_asm::*, selector};

use crate::apic::{NMI, enable_x2apic, handler, read, register, send, wait_for, write, write_msr};

/// A part of a program.
type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Commands: INIT, and start-up at the trampoline.
const INIT: u32 = 5 << 8 | 1 << 14;
const START_UP: u32 = 6 << 8 | 1 << 14 | (at::TRAMPOLINE >> 12) as u32;
/// A command's shorthand: all but the sender.
const OTHERS: u32 = 3 << 18;
/// The trampoline's 64-bit part, and its operands.
const ENTRY: u64 = at::TRAMPOLINE + 0x200;
const GDT_POINTER: u64 = at::TRAMPOLINE + 0xf00;
const IDT_POINTER: u64 = at::TRAMPOLINE + 0xf10;
/// Where the other processors' program is.
const OTHER_CODE: u64 = at::CODE + 0x4000;
/// How many processors have started.
const STARTED: u64 = at::DATA + 0xf00;
const VECTOR: u8 = 0x50;
const BACK: u8 = 0x51;

/// A guest of several processors whose others run `program` once [`start`] is executed: in 64-bit
/// mode, with a stack each and x2APIC on.
pub fn guest_with<H: Hypervisor>(
    engine: &H,
    cpus: u32,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Guest<H> {
    let guest = Guest::with_cpus(engine, cpus);
    let pointer = |limit: u16, base: u64| [&limit.to_le_bytes()[..], &base.to_le_bytes()].concat();
    guest.memory.write(GDT_POINTER, &pointer(selector::BEYOND - 1, at::GDT));
    guest.memory.write(IDT_POINTER, &pointer(0xfff, at::IDT));
    let root = guest.tables.root() as u32;
    let (bytes, []) = assemble(16, 0, |a| {
        a.mov(ax, cs)?;
        a.mov(ds, ax)?;
        a.lgdt(fword_ptr((GDT_POINTER - at::TRAMPOLINE) as u32))?;
        a.mov(eax, (cr4::PAE | cr4::PGE | cr4::OSFXSR) as u32)?;
        a.mov(cr4, eax)?;
        a.mov(eax, root)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xc000_0080_u32)?;
        a.mov(eax, (efer::LME | efer::NXE) as u32)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(eax, (cr0::PE | cr0::PG | cr0::WP | cr0::ET | cr0::NE | cr0::MP) as u32)?;
        a.mov(cr0, eax)?;
        let target = (ENTRY as u32).to_le_bytes();
        a.db(&[&[0x66, 0xea][..], &target, &selector::CODE.to_le_bytes()].concat())?;
        Ok([])
    });
    guest.memory.write(at::TRAMPOLINE, &bytes);
    guest.code(ENTRY, |a| {
        a.mov(eax, u32::from(selector::DATA))?;
        for segment in [ds, es, ss] {
            a.mov(segment, eax)?;
        }
        a.lidt(tword_ptr(IDT_POINTER))?;
        // A stack each, by the initial APIC ID.
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.shr(ebx, 24)?;
        a.shl(ebx, 12)?;
        a.lea(rsp, qword_ptr(rbx + 0xa_0000))?;
        enable_x2apic(a)?;
        a.lock().inc(dword_ptr(STARTED))?;
        a.jmp(OTHER_CODE)
    });
    guest.code(OTHER_CODE, program);
    guest
}

/// INIT and two start-ups for `others` other processors; waits until all have started.
pub fn start(a: &mut CodeAssembler, others: u32) -> Result<(), IcedError> {
    enable_x2apic(a)?;
    for command in [INIT, START_UP, START_UP] {
        send(a, 0, command | OTHERS)?;
    }
    spin_until(a, STARTED, others)
}

/// Spins until the doubleword at `address` is at least `value`.
pub fn spin_until(a: &mut CodeAssembler, address: u64, value: u32) -> Result<(), IcedError> {
    let mut wait = a.create_label();
    a.set_label(&mut wait)?;
    a.pause()?;
    a.cmp(dword_ptr(address), value as i32)?;
    a.jb(wait)
}

/// Halts for good.
pub fn halt(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    a.sti()?;
    a.hlt()?;
    a.jmp(top)
}

guests::on_every_irqchip! {
    fn init_and_start_up_bring_the_others_up(engine) {
        let mut guest = guest_with(engine, 3, |a| {
            read(a, register::ID)?;
            a.lock().bts(dword_ptr(at::DATA), eax)?;
            a.lock().inc(dword_ptr(at::DATA + 8))?;
            halt(a)
        });
        guest.code(at::CODE, |a| {
            start(a, 2)?;
            spin_until(a, at::DATA + 8, 2)?;
            end(a)
        });
        guest.run_all();
        assert_eq!(guest.memory.read_u32(at::DATA), 0b110);
        assert_eq!(guest.memory.read_u32(STARTED), 2, "the second start-up is ignored");
    }

    fn start_up_is_ignored_without_init(engine) {
        let mut guest = guest_with(engine, 2, |a| {
            // It runs: start-ups change nothing.
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.inc(dword_ptr(at::DATA))?;
            a.jmp(top)
        });
        guest.code(at::CODE, |a| {
            start(a, 1)?;
            send(a, 1, START_UP)?;
            spin_until(a, at::DATA, 100_000)?;
            end(a)
        });
        guest.run_all();
        assert_eq!(guest.memory.read_u32(STARTED), 1);
    }

    /// INIT stops a processor wherever it is, and start-up begins anew.
    fn init_restarts_a_processor(engine) {
        let mut guest = guest_with(engine, 2, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.jmp(top)
        });
        guest.code(at::CODE, |a| {
            start(a, 1)?;
            send(a, 1, INIT)?;
            send(a, 1, START_UP)?;
            spin_until(a, STARTED, 2)?;
            end(a)
        });
        guest.run_all();
    }

    fn interrupts_go_back_and_forth(engine) {
        const ROUNDS: u32 = 200;
        let mut guest = guest_with(engine, 2, halt);
        handler(&guest, VECTOR, |a| {
            write(a, register::END_OF_INTERRUPT, 0)?;
            send(a, 0, BACK.into())
        });
        handler(&guest, BACK, |a| {
            a.inc(dword_ptr(at::DATA))?;
            write(a, register::END_OF_INTERRUPT, 0)
        });
        guest.code(at::CODE, |a| {
            start(a, 1)?;
            for halted in [true, false] {
                let mut round = a.create_label();
                a.mov(dword_ptr(at::DATA), 0)?;
                a.xor(esi, esi)?;
                a.set_label(&mut round)?;
                a.inc(esi)?;
                send(a, 1, VECTOR.into())?;
                // Until this round's answer has come.
                let (mut wait, mut done) = (a.create_label(), a.create_label());
                a.set_label(&mut wait)?;
                a.cli()?;
                a.cmp(dword_ptr(at::DATA), esi)?;
                a.jae(done)?;
                a.sti()?;
                if halted {
                    a.hlt()?;
                } else {
                    a.pause()?;
                }
                a.jmp(wait)?;
                a.set_label(&mut done)?;
                a.cmp(esi, ROUNDS as i32)?;
                a.jb(round)?;
            }
            end(a)
        });
        guest.run_all();
        assert_eq!(guest.memory.read_u32(at::DATA), ROUNDS);
    }

    fn a_broadcast_reaches_all_others(engine) {
        let mut guest = guest_with(engine, 3, halt);
        handler(&guest, VECTOR, |a| {
            read(a, register::ID)?;
            a.lock().bts(dword_ptr(at::DATA), eax)?;
            a.lock().inc(dword_ptr(at::DATA + 8))?;
            write(a, register::END_OF_INTERRUPT, 0)
        });
        guest.code(at::CODE, |a| {
            start(a, 2)?;
            send(a, 0, OTHERS | u32::from(VECTOR))?;
            spin_until(a, at::DATA + 8, 2)?;
            // Everybody, by the destination.
            send(a, u32::MAX, VECTOR.into())?;
            wait_for(a, at::DATA + 8, 5, false)?;
            end(a)
        });
        guest.run_all();
        assert_eq!(guest.memory.read_u32(at::DATA), 0b111);
    }

    fn logical_destinations_are_sets(engine) {
        let mut guest = guest_with(engine, 4, halt);
        handler(&guest, VECTOR, |a| {
            read(a, register::ID)?;
            a.lock().bts(dword_ptr(at::DATA), eax)?;
            a.lock().inc(dword_ptr(at::DATA + 8))?;
            write(a, register::END_OF_INTERRUPT, 0)
        });
        guest.code(at::CODE, |a| {
            start(a, 3)?;
            send(a, 0b1010, 1 << 11 | u32::from(VECTOR))?;
            spin_until(a, at::DATA + 8, 2)?;
            end(a)
        });
        guest.run_all();
        assert_eq!(guest.memory.read_u32(at::DATA), 0b1010);
    }

    fn an_nmi_wakes_a_processor_that_halts_with_interrupts_off(engine) {
        let mut guest = guest_with(engine, 2, |a| {
            a.mov(dword_ptr(at::DATA), 1)?;
            a.cli()?;
            a.hlt()?;
            report_number(a, 2)?;
            end(a)
        });
        handler(&guest, 2, |a| report_number(a, 1));
        guest.code(at::CODE, |a| {
            start(a, 1)?;
            spin_until(a, at::DATA, 1)?;
            send(a, 1, NMI)?;
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.cli()?;
            a.hlt()?;
            a.jmp(top)
        });
        let values = guest.run_all().values;
        assert_eq!(values, [1, 2]);
    }

    fn locked_updates_of_all_processors_add_up(engine) {
        const TIMES: u32 = 50_000;
        // Aligned, within a line, and across two pages.
        for counter in [at::DATA, at::DATA + 0x21, at::DATA + 0xffe] {
            let add = |a: &mut CodeAssembler| {
                let mut top = a.create_label();
                a.mov(edi, TIMES)?;
                a.set_label(&mut top)?;
                a.mov(eax, 1)?;
                a.lock().xadd(dword_ptr(counter), eax)?;
                a.lock().inc(dword_ptr(counter))?;
                a.dec(edi)?;
                a.jnz(top)?;
                a.lock().inc(dword_ptr(at::DATA + 0x100))
            };
            let mut guest = guest_with(engine, 2, |a| {
                add(a)?;
                halt(a)
            });
            guest.code(at::CODE, |a| {
                start(a, 1)?;
                add(a)?;
                spin_until(a, at::DATA + 0x100, 2)?;
                a.mov(eax, dword_ptr(counter))?;
                report(a)?;
                end(a)
            });
            assert_eq!(guest.run_all().values, [TIMES * 4], "{counter:#x}");
        }
    }

    /// The other processor counts in a page; it is remapped, and the other told to drop its
    /// translation. From its answer on the old page stands still.
    fn a_translation_is_gone_once_the_other_has_answered(engine) {
        let (page, new) = (0x6_0000, 0x6_1000);
        let alias = 0x7000_0000_u64;
        let mut guest = guest_with(engine, 2, |a| {
            let mut top = a.create_label();
            a.sti()?;
            a.set_label(&mut top)?;
            a.inc(dword_ptr(page))?;
            a.inc(dword_ptr(at::DATA))?;
            a.jmp(top)
        });
        handler(&guest, VECTOR, |a| {
            a.invlpg(byte_ptr(page))?;
            write(a, register::END_OF_INTERRUPT, 0)?;
            a.mov(dword_ptr(at::DATA + 8), 1)
        });
        let Guest { tables, memory, .. } = &mut guest;
        tables.map(memory, alias, page, 0x1000, pte::P | pte::W);
        let entry = tables.map(memory, page, page, 0x1000, pte::P | pte::W)[3];
        guest.code(at::CODE, |a| {
            start(a, 1)?;
            spin_until(a, page, 1000)?;
            a.mov(rdx, new | pte::P | pte::W)?;
            a.mov(qword_ptr(entry), rdx)?;
            send(a, 1, VECTOR.into())?;
            spin_until(a, at::DATA + 8, 1)?;
            a.mov(esi, dword_ptr(alias))?;
            a.mov(edi, dword_ptr(at::DATA))?;
            // The other has counted on for a while.
            let mut wait = a.create_label();
            a.set_label(&mut wait)?;
            a.pause()?;
            a.mov(eax, dword_ptr(at::DATA))?;
            a.sub(eax, edi)?;
            a.cmp(eax, 10_000)?;
            a.jb(wait)?;
            a.mov(eax, dword_ptr(alias))?;
            a.sub(eax, esi)?;
            report(a)?;
            end(a)
        });
        assert_eq!(guest.run_all().values, [0]);
        assert!(guest.memory.read_u32(new) >= 9_000);
    }

    /// Code that one processor changes is seen by the other after it has been interrupted.
    fn changed_code_is_seen_after_an_interrupt(engine) {
        let function = 0x6_0000_u64;
        let mut guest = guest_with(engine, 2, |a| {
            let mut top = a.create_label();
            a.sti()?;
            a.set_label(&mut top)?;
            a.call(function)?;
            a.mov(dword_ptr(at::DATA), eax)?;
            a.jmp(top)
        });
        handler(&guest, VECTOR, |a| write(a, register::END_OF_INTERRUPT, 0));
        guest.code(function, |a| {
            a.mov(eax, 1)?;
            a.ret()
        });
        guest.code(at::CODE, |a| {
            start(a, 1)?;
            for number in 1..20 {
                a.mov(dword_ptr(function + 1), number as i32)?;
                send(a, 1, VECTOR.into())?;
                spin_until(a, at::DATA, number)?;
            }
            end(a)
        });
        guest.run_all();
    }

    /// Without an interrupt: the other looks at it anew when it serialises.
    fn changed_code_is_seen_after_a_serialising_instruction(engine) {
        let serialising: [Program; 2] = [
            |a| {
                a.xor(eax, eax)?;
                a.cpuid()
            },
            |a| a.serialize(),
        ];
        let function = 0x6_0000_u64;
        for instruction in serialising {
            let mut guest = guest_with(engine, 2, |a| {
                let mut top = a.create_label();
                a.set_label(&mut top)?;
                instruction(a)?;
                a.call(function)?;
                a.mov(dword_ptr(at::DATA), eax)?;
                a.jmp(top)
            });
            guest.code(function, |a| {
                a.mov(eax, 1)?;
                a.ret()
            });
            guest.code(at::CODE, |a| {
                start(a, 1)?;
                for number in 1..20 {
                    a.mov(dword_ptr(function + 1), number as i32)?;
                    spin_until(a, at::DATA, number)?;
                }
                end(a)
            });
            guest.run_all();
        }
    }

    fn processors_have_tables_and_msrs_of_their_own(engine) {
        let mut guest = guest_with(engine, 2, |a| {
            write_msr(a, 0xc000_0101, 0x1000)?;
            a.mov(rdx, at::MORE_TABLES)?;
            a.mov(cr3, rdx)?;
            a.mov(eax, dword_ptr(0x6_0000))?;
            report(a)?;
            a.mov(dword_ptr(at::DATA), 1)?;
            halt(a)
        });
        let mut other = Tables::new(&guest.memory, Format::FourLevel, at::MORE_TABLES);
        other.identity(&guest.memory, 0, 2 << 20, 0x1000, pte::P | pte::W);
        other.map(&guest.memory, 0x6_0000, 0x6_1000, 0x1000, pte::P);
        guest.memory.write_u64(0x6_0000, 1);
        guest.memory.write_u64(0x6_1000, 2);
        guest.code(at::CODE, |a| {
            start(a, 1)?;
            spin_until(a, at::DATA, 1)?;
            a.mov(eax, dword_ptr(0x6_0000))?;
            report(a)?;
            crate::apic::read_msr(a, 0xc000_0101)?;
            report(a)?;
            end(a)
        });
        assert_eq!(guest.run_all().values, [2, 1, 0]);
    }
}
