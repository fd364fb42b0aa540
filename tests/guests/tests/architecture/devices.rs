//! Ports and addresses that the VMM answers for: one exit each, and its answer.

use guests::paging::pte;
use guests::programs::{end, report};
use guests::x86::{Answer, Data, Exit, gpr, rflags};
use guests::{Guest, Hypervisor, IcedError, Log, at, code_asm::*, port, states};

/// A port of nobody's.
const PORT: u16 = port::FREE as u16;
/// An address of nobody's.
const PLACE: u64 = at::NOWHERE;

/// Runs a program that starts with these registers; gives the exits, which are answered in turn.
fn exits<H: Hypervisor>(
    engine: &H,
    registers: &[(u8, u64)],
    answers: &[&[u8]],
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> (Vec<Exit>, Guest<H>, Log) {
    let mut guest = Guest::with_registers(engine, registers, program);
    let mut log = Log::default();
    let mut exits = Vec::new();
    let mut answers = answers.iter();
    let mut answer = Answer::None;
    loop {
        let exit = guest.run_to_exit(answer, &mut log);
        match exit {
            Exit::Out { port: number, .. } if u32::from(number) == port::END => break,
            _ => exits.push(exit),
        }
        let asks = matches!(exit, Exit::In { .. } | Exit::MmioRead { .. });
        answer = match asks.then(|| answers.next()).flatten() {
            Some(bytes) => Answer::Data(Data::new(bytes)),
            None => Answer::None,
        };
    }
    assert_eq!(answers.next(), None, "{exits:?}");
    (exits, guest, log)
}

fn out(size: u8, bytes: &[u8]) -> Exit {
    Exit::Out { port: PORT, size, data: Data::new(bytes) }
}

fn write(gpa: u64, bytes: &[u8]) -> Exit {
    Exit::MmioWrite { gpa, data: Data::new(bytes) }
}

guests::on_every_engine! {
    fn ports_have_three_sizes(engine) {
        let (seen, ..) = exits(engine, &[(gpr::RDX, PORT.into()), (gpr::RAX, 0x4433_2211)], &[], |a| {
            a.out(dx, al)?;
            a.out(dx, ax)?;
            a.out(u32::from(PORT), eax)
        });
        assert_eq!(seen, [out(1, &[0x11]), out(2, &[0x11, 0x22]), out(4, &[0x11, 0x22, 0x33, 0x44])]);
        let answers: [&[u8]; 3] = [&[0xa1], &[0xb1, 0xb2], &[0xc1, 0xc2, 0xc3, 0xc4]];
        let registers = [(gpr::RDX, u64::from(PORT)), (gpr::RAX, u64::MAX)];
        let (seen, _, log) = exits(engine, &registers, &answers, |a| {
            a.in_(al, dx)?;
            report(a)?;
            a.in_(ax, dx)?;
            report(a)?;
            a.in_(eax, dx)?;
            report(a)?;
            // 32 bits clear the upper half; fewer leave it.
            a.shr(rax, 32)?;
            report(a)
        });
        let ask = |size| Exit::In { port: PORT, size, count: 1 };
        assert_eq!(seen, [ask(1), ask(2), ask(4)]);
        assert_eq!(log.values, [0xffff_ffa1, 0xffff_b2b1, 0xc4c3_c2c1, 0]);
    }

    fn nobodys_port_and_address_read_as_ones(engine) {
        let (_, _, log) = exits(engine, &[(gpr::RBX, PLACE)], &[], |a| {
            a.xor(eax, eax)?;
            a.in_(ax, u32::from(PORT))?;
            report(a)?;
            a.mov(eax, dword_ptr(rbx))?;
            report(a)?;
            a.mov(rax, qword_ptr(rbx + 8))?;
            a.shr(rax, 32)?;
            report(a)
        });
        assert_eq!(log.values, [0xffff, u32::MAX, u32::MAX]);
    }

    fn strings_to_a_port_come_in_buffers(engine) {
        let registers = [(gpr::RDX, u64::from(PORT)), (gpr::RCX, 50), (gpr::RSI, at::DATA)];
        let (seen, guest, _) = exits(engine, &registers, &[], |a| {
            // Two bytes each: 1, 2, 3, …
            a.mov(edi, at::DATA as u32)?;
            a.mov(ebx, 1)?;
            let mut fill = a.create_label();
            a.set_label(&mut fill)?;
            a.mov(byte_ptr(rdi), bl)?;
            a.inc(rdi)?;
            a.inc(ebx)?;
            a.cmp(ebx, 101)?;
            a.jb(fill)?;
            a.rep().outsw()
        });
        let mut bytes = Vec::new();
        for exit in seen {
            let Exit::Out { port: PORT, size: 2, data } = exit else { panic!("{exit:?}") };
            bytes.extend_from_slice(data.as_slice());
        }
        assert_eq!(bytes, (1..=100).collect::<Vec<u8>>());
        let state = guest.state();
        let register = |n: u8| state.gprs[usize::from(n)];
        assert_eq!((register(gpr::RCX), register(gpr::RSI)), (0, at::DATA + 100));
    }

    fn strings_from_a_port_go_to_memory(engine) {
        let registers = [(gpr::RDX, u64::from(PORT)), (gpr::RCX, 3), (gpr::RDI, at::DATA)];
        // An exit carries so many bytes.
        let answers: [&[u8]; 2] = [&[1, 2, 3, 4, 5, 6, 7, 8], &[9, 10, 11, 12]];
        let (seen, guest, _) = exits(engine, &registers, &answers, |a| a.rep().insd());
        let ask = |count| Exit::In { port: PORT, size: 4, count };
        assert_eq!(seen, [ask(2), ask(1)]);
        assert_eq!(guest.memory.read::<13>(at::DATA), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0]);
        assert_eq!(guest.state().gprs[usize::from(gpr::RDI)], at::DATA + 12);
    }

    fn strings_run_backwards_with_the_direction_flag(engine) {
        let registers = [(gpr::RDX, u64::from(PORT)), (gpr::RCX, 2), (gpr::RSI, at::DATA + 1)];
        let (seen, guest, _) = exits(engine, &registers, &[], |a| {
            a.mov(word_ptr(at::DATA), 0x2211)?;
            a.std()?;
            a.rep().outsb()
        });
        assert_eq!(seen, [out(1, &[0x22, 0x11])]);
        assert_ne!(guest.state().rflags & rflags::DF, 0);
        assert_eq!(guest.state().gprs[usize::from(gpr::RSI)], at::DATA - 1);
    }

    fn a_string_of_no_elements_does_nothing(engine) {
        let registers = [(gpr::RDX, u64::from(PORT)), (gpr::RCX, 0), (gpr::RSI, 1 << 47)];
        let (seen, ..) = exits(engine, &registers, &[], |a| a.rep().outsb());
        assert_eq!(seen, []);
    }

    fn a_string_that_faults_reads_no_port(engine) {
        let mut guest = Guest::with_program(engine, |a| a.insb());
        let entry = guest.tables.map(&guest.memory, at::DATA, at::DATA, 0x1000, pte::P)[3];
        assert_ne!(entry, 0);
        let mut state = guest.long_mode();
        state.gprs[usize::from(gpr::RDX)] = PORT.into();
        state.gprs[usize::from(gpr::RDI)] = at::DATA;
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].cr2), (vec![(14, 3)], at::DATA));
    }

    fn addresses_of_devices_have_four_sizes(engine) {
        let registers = [(gpr::RBX, PLACE), (gpr::RAX, 0x8877_6655_4433_2211)];
        let (seen, ..) = exits(engine, &registers, &[], |a| {
            a.mov(byte_ptr(rbx), al)?;
            a.mov(word_ptr(rbx + 2), ax)?;
            a.mov(dword_ptr(rbx + 4), eax)?;
            a.mov(qword_ptr(rbx + 8), rax)
        });
        let bytes = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
        let expected = [(0, 1), (2, 2), (4, 4), (8, 8)];
        assert_eq!(seen, expected.map(|(offset, size)| write(PLACE + offset, &bytes[..size])));
        let answers: [&[u8]; 2] = [&[0x81], &[1, 2, 3, 0x84]];
        let (seen, _, log) = exits(engine, &[(gpr::RBX, PLACE)], &answers, |a| {
            a.movsx(eax, byte_ptr(rbx))?;
            report(a)?;
            a.movsxd(rax, dword_ptr(rbx + 4))?;
            report(a)?;
            a.shr(rax, 32)?;
            report(a)
        });
        let ask = |gpa, size| Exit::MmioRead { gpa, size };
        assert_eq!(seen, [ask(PLACE, 1), ask(PLACE + 4, 4)]);
        assert_eq!(log.values, [0xffff_ff81, 0x8403_0201, u32::MAX]);
    }

    fn instructions_of_every_kind_reach_devices(engine) {
        let answers: [&[u8]; 4] = [&[5, 0, 0, 0], &[7, 0, 0, 0], &[1, 0, 0, 0], &[9, 0, 0, 0]];
        let registers = [(gpr::RBX, PLACE), (gpr::RAX, 3)];
        let (seen, guest, log) = exits(engine, &registers, &answers, |a| {
            a.add(dword_ptr(rbx), eax)?;
            a.xchg(dword_ptr(rbx), eax)?;
            report(a)?;
            a.test(dword_ptr(rbx), 1)?;
            a.setnz(cl)?;
            a.push(qword_ptr(at::DATA))?;
            a.pop(rdx)?;
            a.cmp(dword_ptr(rbx), 9)?;
            a.sete(ch)
        });
        let ask = Exit::MmioRead { gpa: PLACE, size: 4 };
        let expected = [ask, write(PLACE, &[8, 0, 0, 0]), ask, write(PLACE, &[3, 0, 0, 0]), ask, ask];
        assert_eq!(seen, expected);
        assert_eq!(log.values, [7]);
        assert_eq!(guest.state().gprs[usize::from(gpr::RCX)], 0x101);
    }

    fn a_string_is_copied_to_and_from_a_device(engine) {
        let registers = [(gpr::RSI, at::DATA), (gpr::RDI, PLACE), (gpr::RCX, 2)];
        let (seen, ..) = exits(engine, &registers, &[], |a| {
            a.mov(dword_ptr(at::DATA), 0x0201)?;
            a.rep().movsb()
        });
        assert_eq!(seen, [write(PLACE, &[1]), write(PLACE + 1, &[2])]);
        let registers = [(gpr::RSI, PLACE), (gpr::RDI, at::DATA), (gpr::RCX, 2)];
        let (_, guest, _) = exits(engine, &registers, &[&[0x31], &[0x32]], |a| a.rep().movsb());
        assert_eq!(guest.memory.read::<3>(at::DATA), [0x31, 0x32, 0]);
    }

    fn user_mode_reaches_a_device_that_is_mapped_for_it(engine) {
        let mut guest = Guest::new(engine);
        let Guest { tables, memory, .. } = &mut guest;
        tables.map(memory, at::USER_DATA, PLACE, 0x1000, pte::ALL);
        guest.code(at::USER_CODE, |a| {
            a.mov(byte_ptr(at::USER_DATA + 4), 6)?;
            end(a)
        });
        let state = states::user(guest.long_mode());
        guest.set_state(&state);
        let exit = guest.run_to_exit(Answer::None, &mut Log::default());
        assert_eq!(exit, write(PLACE + 4, &[6]));
    }

    fn an_access_that_memory_and_a_device_share(engine) {
        // Two bytes in the last of RAM, two behind it.
        let edge = guests::layout::RAM;
        let mut guest = Guest::new(engine);
        let Guest { tables, memory, .. } = &mut guest;
        tables.map(memory, edge, edge, 2 << 20, pte::P | pte::W);
        guest.code(at::CODE, |a| {
            a.mov(dword_ptr(edge - 2), 0x4433_2211)?;
            end(a)
        });
        let exit = guest.run_to_exit(Answer::None, &mut Log::default());
        assert_eq!(exit, write(edge, &[0x33, 0x44]));
        guest.run();
        assert_eq!(guest.memory.read::<2>(edge - 2), [0x11, 0x22]);
    }
}
